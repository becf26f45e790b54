"""The manager: one thread, one selector, no wake-up while nothing happens.

It learns three kinds of facts (a message or a ring came, a process ended, a time has come), has the allocator settle
once for all that came together, and sleeps again. It never waits for a member. It leaves when no process needs it: no
member is attached and its owner is gone.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import socket
import sys
import time

from mppool.manager.admission import Listener
from mppool.manager.allocator import Allocator, Pace
from mppool.manager.clients import Client, Clients
from mppool.manager.leaving import Leaving
from mppool.manager.orphans import Orphans
from mppool.manager.requests import Requests
from mppool.shared import identity, messages, paths
from mppool.shared import ledger as L
from mppool.shared.seats import Seats
from mppool.shared.statistics import SUCCESSIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mppool.manager.connections import Orphan
    from mppool.manager.share import Share
    from mppool.reaper.launching import Reaper

LONGEST_SLEEP = 3600.0  # seconds; members say when something is due, and a selector cannot sleep for years
_LISTENER = 0  # the listening socket is our standard input


class Manager:
    """Serves one budget until no process needs it.

    Args:
        listener: bound and listening in ``folder``.
        config: name, uri, database, port (of the server, over TCP), max_size (None: the ledger's), made (when that was
            said, see `shared.sizes`), reserve (permits of them that are another's), linger (seconds to stay after
            the last member left), path (where the reaper finds its packages), end_orphans (whether there is to be one).
            Of a budget over several hosts: cluster (the url of its engine; None: it is this host's alone), lease and
            slack (seconds), kept (permits that hosts do not get).
    """

    def __init__(self, listener: socket.socket, folder: str, config: dict[str, Any]) -> None:
        self._folder = folder
        self._config = config
        ledger, fd = L.Ledger.create(os.path.join(folder, paths.LEDGER))
        self._seats = Seats(folder)
        living = ledger.living(self._seats.taken)
        dead = sorted(set(ledger.used()).difference(living))
        self._ledger = ledger
        size = self._size(bool(living))
        self.allocator = Allocator(
            ledger, size, self._notify, os.cpu_count() or 1, lambda row: L.reserve_block(fd, row)
        )
        if ledger.header.manager:  # it was a predecessor's
            ledger.statistics.add(SUCCESSIONS, 1)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._selector = selectors.DefaultSelector()
        self.clients = Clients(self._selector, limit if limit >= 0 else sys.maxsize)  # below zero there is no limit
        self._members = self.clients.members
        self._listener = Listener(listener, self._selector, self.clients, config)
        self.orphans = Orphans(config, self.allocator, self._selector, self._freed)
        self.leaving = Leaving(folder, self.clients, self._listener, config["linger"])
        header = ledger.header
        self.stopping = bool(living and header.stopping)
        header.stopping = self.stopping
        header.space = identity.space()
        header.database = L.database_key(config["database"])
        self._dirty = False  # something happened that the allocator should see
        self._notified: set[int] = set()  # members that have something new in their rows
        self._pace = Pace()
        self._again_at: float | None = None
        for row in living:
            self._inherit(row)
        for row in dead:
            self.allocator.inherit(row, time.monotonic())
            self.orphans.await_unshared(row)
        self.share = self._share(bool(living)) if config["cluster"] else None
        self._requests = Requests(self, config, fd)

    def _share(self, living: bool) -> Share:
        """Of a budget over several hosts: a manager of any other does not import it."""
        from mppool.manager.share import Share

        return Share(self._config, self._folder, self.allocator, self._selector, self.notify_all, living)

    def _size(self, has_members: bool) -> int:
        """Permits of the budget. What a predecessor was resized to counts for its members, and for an owner that knew
        it; a pause, for its members."""
        size, header = self._config["max_size"], self._ledger.header
        if not has_members:
            header.paused = self._pause_of_main()
        if not has_members or self._config["reserve"]:
            header.reserve = self._config["reserve"]
        known = has_members or self._config["made"] < header.resized <= time.monotonic_ns()
        if size is None or (header.resized and known):
            return header.max_size
        header.resized = 0
        return int(size)

    def _pause_of_main(self) -> int:
        """Until when a new budget is paused: a reserve is as long as the budget whose reserve it is. A process that
        pauses that budget does so first, and then looks whether its reserve has a manager that listens."""
        name = self._config["name"].removesuffix(paths.RESERVE)
        if name == self._config["name"]:
            return 0
        from mppool.shared.neighbours import Found  # a manager of any other budget does without it

        try:
            with Found(os.path.join(os.path.dirname(self._folder), name)) as found:
                return found.ledger.header.paused if found.known else 0
        except OSError:
            return 0  # it does not run

    def _is_reachable(self) -> bool:
        """Whether newcomers still find this manager: its folder may have been deleted. Then it ends. The members launch
        a successor in a new folder, or attach to a newcomer's manager, and declare what they hold."""
        try:
            return os.stat(os.path.join(self._folder, paths.SOCKET)).st_ino == self._socket_inode
        except OSError:
            return False

    def run(self) -> None:
        header = self._ledger.header
        header.started = identity.started(os.getpid())
        header.manager = os.getpid()
        self._listener.begin()
        self._socket_inode = os.stat(os.path.join(self._folder, paths.SOCKET)).st_ino
        while True:
            if rest := self._pace.rest(time.monotonic()):
                time.sleep(rest)
            events = self._selector.select(self._pause())
            if not self._is_reachable():
                return
            for key, _ in events:
                self._handle(key.data, key.fd)
            now = time.monotonic()
            if self._listener.again_at is not None and now >= self._listener.again_at:
                self._listener.resume()
            self._look(now)
            self.orphans.upkeep(now)
            if header.paused and time.monotonic_ns() >= header.paused:
                self.resume()
            if self.share is not None and self.share.before_settling(now):
                self._dirty = True
            if not header.paused and (self._dirty or (self._again_at is not None and now >= self._again_at)):
                self._pace.settles(now)
                self.settle(now)
            if self.share is not None:
                self.share.after_settling(now)
            if self.leaving.at is not None and now >= self.leaving.at and self.leaving.leave():
                if self.share is not None:
                    self.share.leave()
                return

    def _handle(self, speaker: Client | Orphan | Reaper | Callable[[], None] | None, fd: int) -> None:
        """What the selector found readable: the listening socket (None), or the descriptor of something else."""
        if speaker is None:
            self._listener.accept_some()
        elif callable(speaker):
            speaker()
        elif not isinstance(speaker, Client):
            self.orphans.hear(speaker)
        elif speaker not in self.clients:
            return  # it went a moment ago, in this very round
        elif fd == speaker.notice:
            if speaker.channel is not None:
                self._hear(speaker)  # its last message: perhaps of a connection that it had just opened
            self.end(speaker)
        elif speaker.channel is not None:
            self._hear(speaker)

    def settle(self, now: float) -> None:
        """Move what permits can be moved."""
        if self._ledger.header.paused:
            self._dirty, self._again_at = True, None  # no permit moves: what is idle is to be there afterwards
            return
        notified, self._notified, self._dirty = self._notified, set(), False
        self._again_at = self.allocator.settle(now, notified)

    def _pause(self) -> float | None:
        paused = self._ledger.header.paused
        due = [self.leaving.at, self._listener.again_at, self.orphans.next_at(), self.clients.look_at]
        due.append(paused / 1e9 if paused else self._again_at)
        if self.share is not None:
            due.append(self.share.next_at(time.monotonic()))
        times = [at for at in due if at is not None]
        return min(max(0.0, min(times) - time.monotonic()), LONGEST_SLEEP) if times else None

    def _inherit(self, row: int) -> None:
        """A member of the predecessor's will come by itself. Until then only its end is watched for."""
        client = Client(None, self._ledger.row(row).pid)
        try:
            client.notice = identity.death_notice(client.pid)
        except OSError:
            self.allocator.inherit(row, time.monotonic())
            self.orphans.await_unshared(row)  # it has ended since it was looked at
            return
        self.allocator.inherit(row, time.monotonic())
        client.member, self._members[row] = row, client
        self.clients.add(client)
        self.leaving.stay()

    # -- facts -----------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        for client in self.clients.look(now):
            try:
                ended = not identity.alive(client.pid, client.started)
            except OSError:
                ended = False  # it cannot be looked at just now
            if ended or (client.channel is None and self._has_left(client.member or 0)):
                self.end(client)

    def _has_left(self, row: int) -> bool:
        """Whether a member of the predecessor's has left meanwhile, or has become another program (exec)."""
        published = self._ledger.row(row)
        return bool(published.left or (published.token and not self._seats.taken(published.token)))

    def _hear(self, client: Client) -> None:
        assert client.channel is not None
        try:
            heard = client.channel.receive()
            if heard is None:
                self.end(client)
                return
            for message in heard[0]:
                self._requests.answer(client, message)
            if client.channel.fds and client.channel.whole:
                raise messages.Garbled("descriptors that nobody announced")
        except (ValueError, OSError, KeyError, TypeError):  # Garbled is a ValueError
            self.end(client)  # it breaks the protocol, or does not read
            return
        if heard[1]:
            self._dirty = True
            if client.member is not None:
                self._notified.add(client.member)

    def end(self, client: Client) -> None:
        """A client ended, left or is cut off. A member's account ends with it, unless the member will come back."""
        if client not in self.clients:
            return
        if client.channel is not None and client.member is not None and self._comes_back(client):
            self.clients.hang_up(client)
            self.allocator.await_return(client.member)
            return
        self.clients.disconnect(client)
        if client.member is not None:
            del self._members[client.member]
            knows = client.channel is not None or bool(client.connections)
            connections = client.connections.leave()
            if knows and not self._goes_on(client):
                self.orphans.await_close(client.member, connections)
            else:
                for connection in connections:
                    connection.close()  # without a shutdown: the driver of a process that goes on must not see one
                self.orphans.await_unshared(client.member)
            self._dirty = True
        self._listener.resume()
        self.consider_leaving()

    def _comes_back(self, client: Client) -> bool:
        """Whether a member has lost its channel but lives and has its seat, or may: only a proven end frees permits.
        For instance it had no descriptor for the manager's answer. It attaches again by its token."""
        row = self._ledger.row(client.member or 0)
        if row.left or not row.token or not self._seats.taken(row.token):
            return False
        try:
            return identity.runs(client.pid, client.started)
        except OSError:
            return True  # it cannot be looked at just now: `_look` does so again

    def _goes_on(self, client: Client) -> bool:
        """Whether a member's process goes on without its channel: other code there has closed all descriptors.

        The manager's copies of its connections are then the last, and still on the driver's epoll instance. Were the
        server to end one of them, the driver would close the number, which may be another file's by now.
        """
        left = self._ledger.row(client.member or 0).left
        try:
            return not left and identity.runs(client.pid, client.started)
        except OSError:
            return False

    def _freed(self) -> None:
        """Permits came free."""
        self.soon()
        self.consider_leaving()

    def soon(self) -> None:
        """Something happened that the allocator should see."""
        self._dirty = True

    def consider_leaving(self) -> None:
        """Whether this manager is needed may have changed."""
        self.leaving.consider(bool(self._members or self.orphans), self.stopping)

    # -- members are notified ----------------------------------------------------------------------------------

    def _notify(self, member: int) -> None:
        channel = self._members[member].channel
        if channel is not None:
            channel.notify()

    def resume(self) -> None:
        """The budget is not paused any more."""
        self._ledger.header.paused = 0
        self.soon()
        self.notify_all()

    def notify_all(self) -> None:
        """The header says something new."""
        for member in self._members:
            self._notify(member)


def _raise_limit() -> None:
    """Raise this process's limit of open files as far as it may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass  # macOS has another limit besides


def main(folder: str) -> None:
    """The process's entry. Standard input is the listening socket, a pipe named by number has the configuration."""
    os.chdir("/")
    os.umask(0o077)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(
            number, signal.SIG_IGN
        )  # a signal to a group or service is for the members; the manager leaves after them
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # its launcher has blocked them
    listener = socket.socket(fileno=os.dup(_LISTENER))
    config_fd = int(sys.argv[3])
    with open(config_fd, "rb") as pipe:
        config = json.loads(pipe.read())
    _raise_limit()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, _LISTENER)
    os.close(null)
    manager = Manager(listener, folder, config)
    try:
        pid = os.fork()
    except BlockingIOError:
        sys.exit(identity.NO_MORE)
    if pid:
        os._exit(0)  # this tells the launcher that all is well; the manager itself is the child of none of ours
    os.setpgid(0, 0)
    manager.run()
