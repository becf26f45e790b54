"""The manager: one thread, one selector, no wake-up while nothing happens.

It learns three kinds of facts (a message or a ring came, a process ended, a time has come), has the allocator settle
once for all that came together, and sleeps again. It never waits for a member. It leaves when no process needs it: no
member is attached and its owner is gone.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import selectors
import signal
import socket
import sys
import time

from mppool.manager.admission import Listener, full, refusal
from mppool.manager.allocator import Allocator, Pace
from mppool.manager.clients import Client, Clients
from mppool.manager.orphans import Orphans
from mppool.shared import identity, messages, paths
from mppool.shared import ledger as L
from mppool.shared.seats import Seats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mppool.manager.connections import Orphan
    from mppool.reaper.launching import Reaper

FIRST_MEMBER = 10.0  # seconds a new manager waits for its launcher, and a leaving one for a client that just came
SOON = 0.05  # seconds until the next try to leave
LONGEST_SLEEP = 3600.0  # seconds; members say when something is due, and a selector cannot sleep for years
_LISTENER = 0  # the listening socket is our standard input


class Manager:
    """Serves one budget until no process needs it.

    Args:
        listener: bound and listening in ``folder``.
        config: name, uri, database, port (of the server, over TCP), max_size, linger (seconds to stay after the last
            member left), path (where the reaper finds its packages), end_orphans (whether there is to be one).
    """

    def __init__(self, listener: socket.socket, folder: str, config: dict[str, Any]) -> None:
        self._folder = folder
        self._config = config
        ledger, self._ledger_fd = L.Ledger.create(os.path.join(folder, paths.LEDGER))
        self._seats = Seats(folder)
        living = ledger.living(self._seats.taken)
        known = [row for row, pid in enumerate(ledger.column(L.PID, L.ROWS)) if pid]
        dead = sorted(set(known).difference(living))
        self._ledger = ledger
        self._allocator = Allocator(ledger, config["max_size"], self._notify, os.cpu_count() or 1)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._selector = selectors.DefaultSelector()
        self._clients = Clients(self._selector, limit if limit >= 0 else sys.maxsize)  # below zero there is no limit
        self._members = self._clients.members
        self._listener = Listener(listener, self._selector, self._clients, config)
        self._orphans = Orphans(config, self._allocator, self._selector, self._freed)
        header = ledger.header
        self._stopping = bool(living and header.stopping)
        header.stopping = self._stopping
        header.space = self._space = identity.space()
        header.database = L.database_key(config["database"])
        self._dirty = False  # something happened that the allocator should see
        self._notified: set[int] = set()  # members that have something new in their rows
        self._pace = Pace()
        self._again_at: float | None = None
        self._leave_at: float | None = time.monotonic() + FIRST_MEMBER
        for row in living:
            self._inherit(row)
        for row in dead:
            self._allocator.inherit(row, time.monotonic())
            self._orphans.await_unshared(row)

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
            self._orphans.upkeep(now)
            if self._dirty or (self._again_at is not None and now >= self._again_at):
                self._pace.settles(now)
                self._settle(now)
            if self._leave_at is not None and now >= self._leave_at and self._leave():
                return

    def _handle(self, speaker: Client | Orphan | Reaper | None, fd: int) -> None:
        """What the selector found readable: the listening socket (None), or the descriptor of something else."""
        if speaker is None:
            self._listener.accept_some()
        elif not isinstance(speaker, Client):
            self._orphans.hear(speaker)
        elif speaker not in self._clients:
            return  # it went a moment ago, in this very round
        elif fd == speaker.notice:
            if speaker.channel is not None:
                self._hear(speaker)  # its last message: perhaps of a connection that it had just opened
            self._gone(speaker)
        else:
            self._hear(speaker)

    def _settle(self, now: float) -> None:
        notified, self._notified, self._dirty = self._notified, set(), False
        self._again_at = self._allocator.settle(now, notified)

    def _pause(self) -> float | None:
        due = [self._again_at, self._leave_at, self._listener.again_at, self._orphans.next_at(), self._clients.look_at]
        times = [at for at in due if at is not None]
        return min(max(0.0, min(times) - time.monotonic()), LONGEST_SLEEP) if times else None

    def _inherit(self, row: int) -> None:
        """A member of the predecessor's will come by itself. Until then only its end is watched for."""
        client = Client(None, self._ledger.row(row).pid)
        try:
            client.notice = identity.death_notice(client.pid)
        except OSError:
            self._allocator.inherit(row, time.monotonic())
            self._orphans.await_unshared(row)  # it has ended since it was looked at
            return
        self._allocator.inherit(row, time.monotonic())
        client.member, self._members[row] = row, client
        self._clients.add(client)
        self._leave_at = None

    # -- facts -----------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        for client in self._clients.look(now):
            try:
                ended = not identity.alive(client.pid, client.started)
            except OSError:
                ended = False  # it cannot be looked at just now
            if ended or (client.channel is None and self._has_left(client.member or 0)):
                self._gone(client)

    def _has_left(self, row: int) -> bool:
        """Whether a member of the predecessor's has left meanwhile, or has become another program (exec)."""
        published = self._ledger.row(row)
        return bool(published.left or (published.token and not self._seats.taken(published.token)))

    def _hear(self, client: Client) -> None:
        assert client.channel is not None
        try:
            heard = client.channel.receive()
            if heard is None:
                self._gone(client)
                return
            for message in heard[0]:
                self._answer(client, message)
            if client.channel.fds and client.channel.whole:
                raise messages.Garbled("descriptors that nobody announced")
        except (ValueError, OSError, KeyError, TypeError):  # Garbled is a ValueError
            self._gone(client)  # it breaks the protocol, or does not read
            return
        if heard[1]:
            self._dirty = True
            if client.member is not None:
                self._notified.add(client.member)

    def _gone(self, client: Client) -> None:
        """A client ended, left or is cut off. A member's account ends with it."""
        if client not in self._clients:
            return
        self._clients.disconnect(client)
        if client.member is not None:
            del self._members[client.member]
            connections = client.connections.leave()
            if client.channel is not None and not self._goes_on(client):
                self._orphans.await_close(client.member, connections)
            else:
                for connection in connections:
                    connection.close()  # without a shutdown: the driver of a process that goes on must not see one
                self._orphans.await_unshared(client.member)
            self._dirty = True
        self._listener.resume()
        self._consider_leaving()

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
        self._dirty = True
        self._consider_leaving()

    def _consider_leaving(self) -> None:
        needed = self._members or self._orphans or any(client.owner for client in self._clients)
        linger = 0.0 if self._stopping else self._config["linger"]
        self._leave_at = None if needed else time.monotonic() + linger

    # -- messages --------------------------------------------------------------------------------------------

    def _answer(self, client: Client, message: dict[str, Any]) -> None:
        assert client.channel is not None
        verb = message["do"]
        if not all(value is None or isinstance(value, (str, int)) for value in message.values()):
            raise messages.Garbled("a request of anything but words and whole numbers")
        if verb == "attach":
            self._attach(client, message)
        elif verb == "own":
            if not self._is_refused(client, message):
                client.owner = True
                self._leave_at = None
                client.channel.send(self._description(), [self._ledger_fd])
        elif verb == "describe":
            client.channel.send(self._description(), [self._ledger_fd])
        elif verb == "opened":
            if client.member is None:
                raise messages.Garbled("a connection of no member's")
            self._clients.share(client)
        elif verb == "declare":
            self._declare(client, message)
        elif verb == "stop":
            self._stopping = True
            self._ledger.header.stopping = 1
            for each in self._clients:
                each.owner = False
            client.channel.send({"ok": True})
            self._consider_leaving()
        else:
            raise messages.Garbled(f"unknown request {verb!r}")

    def _description(self) -> dict[str, Any]:
        shown = {key: self._config[key] for key in ("name", "uri", "database", "max_size", "end_orphans")}
        return {"ok": True, "manager": os.getpid(), **shown}

    def _is_refused(self, client: Client, message: dict[str, Any], returning: bool = False) -> bool:
        """Whether a client means another budget, or comes after the end: then it has been told."""
        assert client.channel is not None
        stopped = self._stopping and not returning and client.pid != self._orphans.reaper
        answer = refusal(self._config, message, self._space, stopped)
        if answer is not None:
            client.channel.send(answer)
        return answer is not None

    def _attach(self, client: Client, message: dict[str, Any]) -> None:
        assert client.channel is not None
        if client.member is not None:
            raise messages.Garbled("attached twice")
        returning = bool(message.get("returning"))  # from the predecessor: it holds connections
        if self._is_refused(client, message, returning):
            return
        now, token = time.monotonic(), int(message.get("token") or 0) % L.NEVER
        if returning and token:
            self._end_earlier(client, token)
        warm = min(max(0, int(message["warm"])), self._config["max_size"])
        why, error_name = f"it has {len(self._members)} members already", "ManagerUnavailableError"
        try:
            row = self._allocator.attach(client.pid, client.started, warm, now, token)
        except OSError as error:
            row, why, error_name = None, f"{why}, and {error.strerror}", "ManagerFullError"
        if row is None:
            client.channel.send(full(self._config, error_name, why))
            return
        absent = self._members.get(row)
        if absent is not None:
            self._clients.disconnect(absent)
        client.member, self._members[row] = row, client
        self._leave_at = None
        if returning:
            self._allocator.awaits(row)
        self._settle(now)  # so that it finds permits at once
        fds = self._allocator.semaphores[row].fds
        answer = {**self._description(), "row": row, "fds": len(fds), "declare": row in self._allocator.undeclared}
        client.channel.send(answer, [self._ledger_fd, *fds])

    def _end_earlier(self, newcomer: Client, token: int) -> None:
        """A member attaches again: other code in its process has closed its descriptors. The end of its earlier channel
        may have gone unnoticed, since a thread that sleeps on it keeps it open."""
        for client in list(self._members.values()):
            same = client.pid == newcomer.pid and client.started == newcomer.started
            if same and client.channel is not None and self._ledger.row(client.member or 0).token == token:
                self._gone(client)

    def _declare(self, client: Client, message: dict[str, Any]) -> None:
        held = int(message["held"])
        if client.member not in self._allocator.undeclared or not 0 <= held <= self._config["max_size"]:
            raise messages.Garbled("a declaration out of place")
        self._allocator.declare(client.member, held, time.monotonic())
        self._dirty = True

    def _notify(self, member: int) -> None:
        channel = self._members[member].channel
        if channel is not None:
            channel.notify()

    # -- the end ---------------------------------------------------------------------------------------------

    def _leave(self) -> bool:
        """Remove the budget's folder, unless a process needs it. False: try again soon."""
        lock_path = os.path.join(os.path.dirname(self._folder), paths.LOCK)
        left = False
        try:
            lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return True  # the folder is gone already
        except OSError:
            pass  # no free descriptor
        else:
            try:
                left = self._remove_folder(lock)
            finally:
                os.close(lock)
        if not left:
            self._leave_at = time.monotonic() + SOON
        return left

    def _remove_folder(self, lock: int) -> bool:
        """False: a client has just come, or a launch is under way, perhaps of this budget. ``lock``: the launchers'."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        just_in = time.monotonic() - FIRST_MEMBER
        coming = self._listener.is_awaited() or any(client.arrived > just_in for client in self._clients)
        if coming or not os.fstat(lock).st_nlink:
            return False
        paths.remove_folder(self._folder)
        self._listener.close()
        return True


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
