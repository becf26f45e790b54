"""Which sockets belong to the core: exactly those that its runtime's epoll instance watches.

The core never tells its file descriptors. Linux does: ``/proc/self/fdinfo`` of an epoll descriptor lists each
descriptor it watches with its inode, so a number that was closed and used again is recognised. Elsewhere
there is no such list; the process's sockets to the database's port are taken instead, which may include
another driver's.
"""

from __future__ import annotations

import os
import re
import select
import socket
import stat
import sys
from collections.abc import Iterable
from time import monotonic

__all__ = ["Endings", "Twin", "Watch", "is_open", "keep_alive", "local_port", "shut_down"]

_WATCHED = re.compile(r"tfd:\s*(\d+)\s+events:\s*([0-9a-f]+).*?ino:\s*([0-9a-f]+)")
_EDGE_TRIGGERED = 1 << 31  # the core's runtime asks for it, asyncio and uvloop do not

Descriptor = tuple[int, int]  # number, inode


def _epolls() -> set[Descriptor]:
    """The process's epoll descriptors that watch edge-triggered."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventpoll]":
                # every epoll has the same inode; a pair (number, 0) is enough to compare before and after
                found.add((int(name), 0))
        except OSError:
            continue  # closed since the listing
    return {epoll for epoll in found if any(edge for _, _, edge in _watched(epoll[0]))}


def _watched(epoll: int) -> list[tuple[int, int, bool]]:
    try:
        with open(f"/proc/self/fdinfo/{epoll}") as file:
            text = file.read()
    except OSError:
        return []
    return [
        (int(fd), int(inode, 16), bool(int(events, 16) & _EDGE_TRIGGERED))
        for fd, events, inode in _WATCHED.findall(text)
    ]


def is_open(descriptor: Descriptor) -> bool:
    """Is this number still the very socket it was?"""
    try:
        status = os.fstat(descriptor[0])
    except OSError:
        return False
    return status.st_ino == descriptor[1] and stat.S_ISSOCK(status.st_mode)


def shut_down(descriptor: Descriptor) -> None:
    """End the conversation on this socket for everybody who shares it; a call in flight fails at once."""
    if not is_open(descriptor):
        return
    try:
        with socket.socket(fileno=os.dup(descriptor[0])) as twin:
            twin.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it was closed, or never connected: nothing to end


def local_port(descriptor: Descriptor) -> int | None:
    """Our end's port; None when it is closed or not TCP."""
    try:
        with socket.socket(fileno=os.dup(descriptor[0])) as twin:
            name = twin.getsockname()
    except OSError:
        return None
    return name[1] if isinstance(name, tuple) and len(name) >= 2 else None


KEEP_ALIVE = (  # seconds until a probe on a connection that nobody uses, and then from one to the next; how many
    ("TCP_KEEPIDLE", 60),
    ("TCP_KEEPINTVL", 60),
    ("TCP_KEEPCNT", 120),
)


def keep_alive(descriptor: Descriptor) -> None:
    """Have the kernel say something now and then on an idle connection, so that no firewall forgets it.

    So many probes may stay without an answer that the kernel gives a connection up as late as it would have: its word
    would pass for the server's, which counts the connection still.
    """
    try:
        with socket.socket(fileno=os.dup(descriptor[0])) as twin:
            if twin.family in (socket.AF_INET, socket.AF_INET6):
                twin.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for name, value in KEEP_ALIVE:
                    if hasattr(socket, name):
                        twin.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    except OSError:
        pass  # it was closed just now


class Twin:
    """A second descriptor of a connection's socket, made before the driver closes its own: with it one can hang up,
    and be told when the server has ended its side too, which is when the connection no longer counts there."""

    __slots__ = ("_socket",)

    def __init__(self, descriptor: Descriptor) -> None:
        self._socket = socket.socket(fileno=os.dup(descriptor[0]))

    def hang_up(self) -> None:
        """Tell the server that nothing more will come. What it still sends can be read."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server was faster

    def ended(self, timeout: float) -> bool:
        """Wait for the server's end, so many seconds at most. Only once the driver has let go: what comes until then
        is read and thrown away."""
        deadline = monotonic() + timeout
        try:
            while (left := deadline - monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(65536):
                    return True
        except TimeoutError:
            pass
        except OSError:
            return True  # it was reset
        return False

    def close(self) -> None:
        self._socket.close()


class Endings:
    """Tells when a server has ended its side of a connection that nobody asks anything just now. Readable then, where
    there is epoll; elsewhere one has to look."""

    __slots__ = ("_epoll",)

    def __init__(self) -> None:
        self._epoll = select.epoll() if sys.platform == "linux" else None

    def fileno(self) -> int:
        return -1 if self._epoll is None else self._epoll.fileno()

    def watch(self, descriptor: Descriptor) -> None:
        """Tell, once, when this one ends."""
        if self._epoll is not None:
            self._epoll.register(descriptor[0], select.EPOLLRDHUP | select.EPOLLONESHOT)

    def forget(self, descriptor: Descriptor) -> None:
        """It is about to be closed by us."""
        if self._epoll is not None:
            try:
                self._epoll.unregister(descriptor[0])
            except OSError:
                pass  # it was never watched

    def hear(self) -> None:
        """Before looking, so that what comes later is told again."""
        if self._epoll is not None:
            self._epoll.poll(0)

    @staticmethod
    def among(descriptors: Iterable[Descriptor]) -> set[Descriptor]:
        """Those of which the server has ended its side; none of what it said before is read. The driver may have
        noticed, and closed its own side."""
        poll, watched, ended = select.poll(), {}, set()
        for descriptor in descriptors:
            if is_open(descriptor):
                poll.register(descriptor[0], getattr(select, "POLLRDHUP", 0))  # elsewhere: both sides have ended
                watched[descriptor[0]] = descriptor
            else:
                ended.add(descriptor)
        return ended | {watched[number] for number, _ in poll.poll(0)}

    def close(self) -> None:
        if self._epoll is not None:
            self._epoll.close()


class Watch:
    """The sockets of one runtime. Make one just before the runtime starts, then call `started` just after."""

    __slots__ = ("_before", "_epoll", "ports")

    def __init__(self) -> None:
        self._epoll: int | None = None
        self._before: set[Descriptor] = _epolls() if sys.platform == "linux" else set()
        self.ports: set[int] = set()  # where there is no epoll: the databases' ports

    def started(self) -> None:
        """Find the epoll instance that has come since."""
        if sys.platform == "linux":
            self._epoll = min((fd for fd, _ in _epolls() - self._before), default=None)

    def sockets(self) -> set[Descriptor]:
        """All sockets of the runtime, also those still connecting.

        In a forked child: those the parent had at the fork, as far as they are still the same here.
        """
        return {pair for pair in self._candidates() if is_open(pair)}

    def _candidates(self) -> set[Descriptor]:
        if self._epoll is None:
            return self._by_port()
        return {(fd, inode) for fd, inode, _ in _watched(self._epoll)}

    def _by_port(self) -> set[Descriptor]:
        if not self.ports:
            return set()
        import psutil

        found = set()
        own = psutil.Process()
        list_all = getattr(own, "net_connections", None) or own.connections  # its name before psutil 6
        for peer in list_all():
            if peer.fd >= 0 and peer.raddr and getattr(peer.raddr, "port", None) in self.ports:
                try:
                    found.add((peer.fd, os.fstat(peer.fd).st_ino))
                except OSError:
                    continue
        return found
