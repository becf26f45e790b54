"""The driver's sockets: exactly those that its runtime's epoll instance watches.

The driver does not expose its file descriptors. Linux does: ``/proc/self/fdinfo`` of an epoll descriptor lists each
descriptor that it watches with its inode, so a number that was closed and used again is recognised. Elsewhere there is
no such list. The process's sockets to the database's port are taken instead, which may include another driver's.
"""

from __future__ import annotations

import os
import re
import select
import socket
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep

from mppool.shared.descriptors import Lost, Owned, OwnedSocket, never_close, told, unlike_any
from mppool.shared.tcp_state import peer_ended

__all__ = ["Endings", "Twin", "Watch", "is_open", "keep_alive", "lent", "local_port", "shut_down"]

_WATCHED = re.compile(r"tfd:\s*(\d+)\s+events:\s*([0-9a-f]+).*?ino:\s*([0-9a-f]+)")
LOOK_EVERY = 0.01  # seconds
# Seconds that a server may take to see that a connection is reset. The kernel resets one when the server speaks on it
# after it was shut down for reading: the server was at work then, and ends it when it looks.
RESET = 0.1
_EDGE_TRIGGERED = 1 << 31  # the driver's runtime asks for it, asyncio and uvloop do not

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
    """Raises: OSError: there is no free descriptor to look with."""
    return [
        (int(fd), int(inode, 16), bool(int(events, 16) & _EDGE_TRIGGERED))
        for fd, events, inode in _WATCHED.findall(told(epoll))
    ]


def is_open(descriptor: Descriptor) -> bool:
    """Is this number still the same socket?"""
    try:
        status = os.fstat(descriptor[0])
    except OSError:
        return False
    return status.st_ino == descriptor[1] and stat.S_ISSOCK(status.st_mode)


@contextmanager
def lent(descriptor: Descriptor) -> Iterator[socket.socket]:
    """For a ``with`` block, the driver's socket as a Python socket. Needs no descriptor. Raises: Lost: it is closed."""
    if not is_open(descriptor):
        raise Lost(descriptor[0])
    borrowed = socket.socket(fileno=descriptor[0])
    try:
        yield borrowed
    finally:
        borrowed.detach()


def shut_down(descriptor: Descriptor, how: int = socket.SHUT_RDWR) -> None:
    """Shut this socket down, in all processes that share it. A call in flight fails at once."""
    try:
        with lent(descriptor) as borrowed:
            borrowed.shutdown(how)
    except OSError:
        pass  # it was closed, or never connected: nothing to end


def local_port(descriptor: Descriptor) -> int | None:
    """Our end's port; None when it is closed or not TCP."""
    try:
        with lent(descriptor) as borrowed:
            name = borrowed.getsockname()
    except OSError:
        return None
    return name[1] if isinstance(name, tuple) and len(name) >= 2 else None


KEEP_ALIVE = (  # seconds until the first probe of an idle connection; seconds between probes; their number
    ("TCP_KEEPIDLE", 60),
    ("TCP_KEEPINTVL", 60),
    ("TCP_KEEPCNT", 120),
)


def keep_alive(descriptor: Descriptor) -> None:
    """Have the kernel probe an idle connection, so that no firewall forgets it.

    The kernel closes a connection after 120 probes without an answer, which is as late as it would without probes. An
    earlier close would look like the server's, while the server still counts the connection.
    """
    try:
        with lent(descriptor) as ours:
            if ours.family in (socket.AF_INET, socket.AF_INET6):
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for name, value in KEEP_ALIVE:
                    if hasattr(socket, name):
                        ours.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    except OSError:
        pass  # it was closed just now


class Twin:
    """A second descriptor of a connection's socket, made before the driver closes its own. It can shut the connection
    down, and it tells when the server has ended its side. From then on the server no longer counts the connection.

    Raises: OSError: there is no free descriptor.
    """

    __slots__ = ("_socket",)

    def __init__(self, descriptor: Descriptor) -> None:
        self._socket = OwnedSocket(socket.socket(fileno=os.dup(descriptor[0])))

    def hang_up(self) -> None:
        """Tell the server that nothing more will come. What it still sends can be read."""
        try:
            self._socket.use().shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server was faster

    def ended(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until the server has ended its side. Call it only after the driver has closed
        its own descriptor, for it reads and discards what the server still sends."""
        deadline = monotonic() + timeout
        poll = select.poll()
        try:
            poll.register(self._socket.use(), select.POLLIN)
            while (left := deadline - monotonic()) > 0:
                if poll.poll(left * 1000) and not self._socket.use().recv(65536):
                    if peer_ended(self._socket.use()):
                        return True
                    sleep(min(left, LOOK_EVERY))  # our side is shut down for reading: nothing tells of the server's
        except ConnectionResetError:
            sleep(min(max(0.0, deadline - monotonic()), RESET))
            return True
        except OSError:
            return True  # it was closed from outside
        return False

    def close(self) -> None:
        self._socket.close()


class Endings:
    """Tells when a server has ended its side of an idle connection. Where there is epoll, and `prepare` was called, its
    descriptor is readable then; elsewhere call `among` from time to time."""

    __slots__ = ("_epoll", "_owned")

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._owned: Owned | None = None

    def prepare(self, mark: int) -> None:
        """Make the epoll instance. Raises: OSError: there is no free descriptor.

        Args:
            mark: a descriptor of our own, with an inode of its own, which no other epoll instance watches; without it
                all epoll instances would look alike.
        """
        if sys.platform == "linux":
            self._epoll = select.epoll()
            self._epoll.register(mark, 0)
            self._owned = Owned(self._epoll.fileno(), f"ino:{os.fstat(mark).st_ino:x} ")

    def fileno(self) -> int:
        return -1 if self._epoll is None else self._epoll.fileno()

    def _use(self) -> select.epoll | None:
        """None: there is none, or it was closed from outside."""
        if self._owned is None or not self._owned.is_ours():
            if self._epoll is not None:
                never_close(self._epoll)  # it would close the number
            self._epoll = self._owned = None
        return self._epoll

    def watch(self, descriptor: Descriptor) -> None:
        """Tell once, when the server ends this connection."""
        if (epoll := self._use()) is not None:
            try:
                epoll.register(descriptor[0], select.EPOLLRDHUP | select.EPOLLONESHOT)
            except OSError:
                pass  # no memory: `among` finds its end

    def forget(self, descriptor: Descriptor) -> None:
        """We are about to close this connection."""
        if (epoll := self._use()) is not None:
            try:
                epoll.unregister(descriptor[0])
            except OSError:
                pass  # it was never watched

    def hear(self) -> None:
        """Call this before `among`, so that later ends make the descriptor readable again."""
        if (epoll := self._use()) is not None:
            epoll.poll(0)

    @staticmethod
    def among(descriptors: Iterable[Descriptor]) -> set[Descriptor]:
        """Those of which the server has ended its side, or that the driver has closed. Reads nothing from them."""
        poll, watched, ended = select.poll(), {}, set()
        for descriptor in descriptors:
            if is_open(descriptor):
                poll.register(descriptor[0], getattr(select, "POLLRDHUP", 0))  # elsewhere: both sides have ended
                watched[descriptor[0]] = descriptor
            else:
                ended.add(descriptor)
        return ended | {watched[number] for number, _ in poll.poll(0)}

    def close(self) -> None:
        if (epoll := self._use()) is not None:
            epoll.close()
        self._epoll = self._owned = None


class Watch:
    """The sockets of one runtime. Make a `Watch` just before the runtime starts, and call `started` just after."""

    __slots__ = ("_before", "_epoll", "_gone", "_guard", "_waker", "ports")

    def __init__(self) -> None:
        self._epoll: int | None = None
        self._waker: Owned | None = None  # the descriptor that wakes the runtime
        self._guard: Owned | None = (
            None  # a descriptor of ours, checked by one system call in place of all of the runtime's
        )
        self._gone = False
        self._before: set[Descriptor] = _epolls() if sys.platform == "linux" else set()
        self.ports: set[int] = set()  # where there is no epoll: the databases' ports

    def started(self) -> None:
        """Find the epoll instance that is new. Raises: OSError: there is no free descriptor to look with."""
        if sys.platform == "linux":
            self._epoll = min((fd for fd, _ in _epolls() - self._before), default=None)
            self._guard = Owned(unlike_any())
            if self._epoll is not None:
                self._waker = next((Owned(fd) for fd, _, _ in _watched(self._epoll)), None)

    def gone(self, *, surely: bool = False) -> bool:
        """Has other code closed the runtime's descriptors? Then the runtime is dead, and must not even be dropped: it
        would close the files that have the numbers now.

        Args:
            surely: use more than one system call, which also finds out where only some were closed.
        """
        if self._guard is not None and not self._gone:
            self._gone = not self._guard.may_be_ours() or (
                surely and self._waker is not None and not self._waker.is_ours()
            )
        return self._gone

    def took_away(self, descriptor: Descriptor) -> bool:
        """Was this descriptor, which is closed, closed by other code? The driver takes it off its epoll instance before
        it closes it. Raises: OSError: there is no free descriptor to look with."""
        return self.gone(surely=True) or descriptor in self._candidates()

    def sockets(self) -> set[Descriptor]:
        """All sockets of the runtime, also those still connecting.

        In a forked child: those the parent had at the fork, as far as they are still the same here.

        Raises: OSError: there is no free descriptor to look with.
        """
        return {pair for pair in self._candidates() if is_open(pair)}

    def _candidates(self) -> set[Descriptor]:
        if self._epoll is None:
            return self._by_port()
        if self.gone(surely=True):
            return set()
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
