"""The manager: one thread, one selector, no wake-up while nothing happens.

It learns three kinds of facts (a message or a bell came, a process ended, a time has come), lets the allocator
settle once for all that came together, and sleeps again. It never waits for a member. It leaves when nobody
needs it: no member is attached and its owner is gone.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import selectors
import signal
import socket
import sys
import time

from mppool.manager.allocator import Allocator
from mppool.manager.connections import Shared
from mppool.manager.orphans import Orphans
from mppool.shared import identity, messages, paths, room
from mppool.shared import ledger as L
from mppool.shared.descriptors import is_short
from mppool.shared.seats import Seats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FIRST_MEMBER = 10.0  # seconds a new manager waits for whoever launched it, and a leaving one for who just came in
KEPT = 16  # connections of a member that are kept before those that have ended are looked for
KNOCKS = 32  # guests that are let in at a time
LOOK = 0.2  # seconds between looks at processes of whose end the kernel cannot tell us
SOON = 0.05  # seconds until the next try to leave
LONGEST_SLEEP = 3600.0  # seconds; members say when something is due, and a selector cannot sleep for years
DEAF = 0.5  # seconds until the next try to let somebody in, when the system had no descriptor for one
_LISTENER = 0  # the listening socket is our standard input


class Guest:
    """A connection from a process of ours: a member, an owner, or somebody who asks."""

    __slots__ = ("arrived", "channel", "connections", "member", "notice", "owner", "pid", "started")

    def __init__(self, channel: messages.Channel | None, pid: int) -> None:
        self.channel = channel  # None: a member of the predecessor's that has not come yet
        self.pid = pid
        self.started = identity.started(pid)
        self.arrived = time.monotonic()
        self.member: int | None = None
        self.owner = False
        self.notice: int | None = None  # a descriptor that tells of the process's end
        self.connections = Shared(KEPT)  # to the database; none to SQLite


class Pace:
    """Keeps the manager from settling more often than it helps: a few times in a row, then once a millisecond, for all
    that came together."""

    REST, IN_A_ROW = 0.001, 8

    def __init__(self) -> None:
        self._until = 0.0  # when all would be forgotten

    def settles(self, now: float) -> None:
        self._until = max(now, self._until) + self.REST

    def rest(self, now: float) -> float:
        """Seconds to rest; 0: none."""
        return max(0.0, self._until - now - self.IN_A_ROW * self.REST)


class Manager:
    """Serves one budget until nobody needs it.

    Args:
        listener: bound and listening in ``folder``.
        config: name, uri, database, port (of the server, over TCP), max_size, linger (seconds to stay after the last
            member left), path (where the helper finds its packages), end_orphans (whether there is to be one).
    """

    def __init__(self, listener: socket.socket, folder: str, config: dict[str, Any]) -> None:
        self._listener = listener
        self._folder = folder
        self._config = config
        ledger, self._ledger_fd = L.Ledger.create(os.path.join(folder, paths.LEDGER))
        self._seats = Seats(folder)
        living = ledger.living(self._seats.taken)
        known = [row for row, pid in enumerate(ledger.column(L.PID, L.ROWS)) if pid]
        dead = sorted(set(known).difference(living))
        self._ledger = ledger
        self._allocator = Allocator(ledger, config["max_size"], self._ring, os.cpu_count() or 1)
        self._guests: set[Guest] = set()
        self._look_at = 0.0
        self._unwatched: set[Guest] = set()  # those of whose end the kernel or their channel cannot tell
        self._members: dict[int, Guest] = {}
        self._selector = selectors.DefaultSelector()
        self._orphans = Orphans(config, self._allocator, self._selector, self._freed)
        header = ledger.header
        self._stopping = bool(living and header.stopping)
        header.stopping = self._stopping
        header.space = self._space = identity.space()
        header.database = L.database_key(config["database"])
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._limit = limit if limit >= 0 else sys.maxsize  # below zero it is without limit
        self._deaf_until: float | None = None  # there was no descriptor left for another guest
        self._dirty = False  # something happened that the allocator should see
        self._rang: set[int] = set()  # members that have something new in their rows
        self._pace = Pace()
        self._again_at: float | None = None
        self._leave_at: float | None = time.monotonic() + FIRST_MEMBER
        for row in living:
            self._inherit(row)
        for row in dead:
            self._allocator.inherit(row, time.monotonic())
            self._orphans.mourn(row)

    def _at_home(self) -> bool:
        """Whether newcomers still find us: somebody may have deleted the folder. Then we step down; the members launch
        a successor in a new one, or join a newcomer's, and declare what they hold."""
        try:
            return os.stat(os.path.join(self._folder, paths.SOCKET)).st_ino == self._home
        except OSError:
            return False

    def run(self) -> None:
        header = self._ledger.header
        header.started = identity.started(os.getpid())
        header.manager = os.getpid()
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._home = os.stat(os.path.join(self._folder, paths.SOCKET)).st_ino
        while True:
            if rest := self._pace.rest(time.monotonic()):
                time.sleep(rest)
            events = self._selector.select(self._pause())
            if not self._at_home():
                return
            for key, _ in events:
                guest = key.data
                if guest is None:
                    for _ in range(KNOCKS):
                        if not self._accept():
                            break
                elif not isinstance(guest, Guest):
                    self._orphans.hear(guest)
                elif guest not in self._guests:
                    continue  # it went a moment ago, in this very round
                elif key.fd == guest.notice:
                    if guest.channel is not None:
                        self._hear(guest)  # what it said last: perhaps of a connection that it had just opened
                    self._gone(guest)
                else:
                    self._hear(guest)
            now = time.monotonic()
            if self._deaf_until is not None and now >= self._deaf_until:
                self._listen()
            self._look(now)
            self._orphans.upkeep(now)
            if self._dirty or (self._again_at is not None and now >= self._again_at):
                self._pace.settles(now)
                self._settle(now)
            if self._leave_at is not None and now >= self._leave_at and self._leave():
                return

    def _settle(self, now: float) -> None:
        rang, self._rang, self._dirty = self._rang, set(), False
        self._again_at = self._allocator.settle(now, rang)

    def _pause(self) -> float | None:
        due = self._again_at, self._leave_at, self._deaf_until, self._orphans.next_at()
        times = [at for at in due if at is not None]
        if self._unwatched:
            times.append(self._look_at)
        return min(max(0.0, min(times) - time.monotonic()), LONGEST_SLEEP) if times else None

    def _inherit(self, row: int) -> None:
        """A member of the predecessor's: it will come by itself. Until then only its end is watched for."""
        guest = Guest(None, self._ledger.row(row).pid)
        try:
            guest.notice = identity.death_notice(guest.pid)
        except OSError:
            self._allocator.inherit(row, time.monotonic())
            self._orphans.mourn(row)  # it has ended since we looked
            return
        self._allocator.inherit(row, time.monotonic())
        guest.member, self._members[row] = row, guest
        self._welcome(guest)
        self._leave_at = None

    def _welcome(self, guest: Guest) -> None:
        self._guests.add(guest)
        if guest.channel is None or guest.notice is None:
            self._unwatched.add(guest)
        if guest.channel is not None:
            self._selector.register(guest.channel, selectors.EVENT_READ, guest)
        if guest.notice is not None:
            self._selector.register(guest.notice, selectors.EVENT_READ, guest)

    # -- facts -----------------------------------------------------------------------------------------------

    def _accept(self) -> bool:
        """Let one in that knocks; whether there was one."""
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if is_short(error):
                self._deaf_until = time.monotonic() + DEAF  # the knocking would keep us awake
                self._selector.unregister(self._listener)
            return False
        try:
            pid, uid = messages.peer(sock)
            if uid != os.geteuid() or pid is None:
                raise PermissionError
            if not self._has_room(sock.fileno(), self._limit - room.reserve(self._limit)):
                self._turn_away(sock)
                return True
            guest = Guest(messages.Channel(sock), pid)
            guest.notice = identity.death_notice(pid)
        except OSError:
            sock.close()
            return True
        self._welcome(guest)
        return True

    def _listen(self) -> None:
        """Let newcomers in again."""
        if self._deaf_until is not None:
            self._deaf_until = None
            self._selector.register(self._listener, selectors.EVENT_READ, None)

    def _has_room(self, newest: int, most: int) -> bool:
        """Whether fewer than ``most`` descriptors are used, if need be without those of connections that have ended.
        ``newest``: one just made: the kernel gives out the lowest number that is free."""
        if newest < most:
            return True
        for guest in self._guests:
            guest.connections.prune()
        try:
            probe = os.dup(newest)
        except OSError:
            return False
        os.close(probe)
        return probe < most

    def _turn_away(self, sock: socket.socket) -> None:
        """Say that there is no room just now. It is asked again after a while."""
        text = (
            f"budget {self._config['name']!r} has no descriptor left for another process: its manager may open "
            f"{self._limit} files and has {len(self._members)} members; start it with a higher hard limit of "
            f"open files (ulimit -Hn): {room.needed(L.ROWS, self._config['max_size'])} is enough for {L.ROWS} members"
        )
        with sock:
            sock.setblocking(False)
            sock.send(messages.encode({"ok": False, "error": "ManagerFullError", "message": text}))
            sock.shutdown(socket.SHUT_WR)

    def _share(self, guest: Guest) -> None:
        """Keep a member's connection, to hear of its end. For want of descriptors it is done without: how many of such
        connections the server has not ended the kernel says, should the member be killed."""
        assert guest.channel is not None
        try:
            (fd,) = guest.channel.claim_fds(1)
        except messages.CutShort:
            return
        guest.connections.add(fd)
        if fd >= self._limit // 2 and not self._has_room(fd, self._limit // 2):
            guest.connections.forget_last()  # members come first

    def _look(self, now: float) -> None:
        if not self._unwatched or now < self._look_at:
            return
        self._look_at = now + LOOK
        for guest in list(self._unwatched):
            try:
                ended = not identity.alive(guest.pid, guest.started)
            except OSError:
                ended = False  # it cannot be looked at just now
            if ended or (guest.channel is None and self._stays_away(guest.member or 0)):
                self._gone(guest)

    def _stays_away(self, row: int) -> bool:
        """Whether a member of the predecessor's has left meanwhile, or has become another program (exec)."""
        published = self._ledger.row(row)
        return bool(published.left or (published.token and not self._seats.taken(published.token)))

    def _hear(self, guest: Guest) -> None:
        assert guest.channel is not None
        try:
            heard = guest.channel.receive()
            if heard is None:
                self._gone(guest)
                return
            for message in heard[0]:
                self._answer(guest, message)
            if guest.channel.fds and guest.channel.whole:
                raise messages.Garbled("descriptors that nobody announced")
        except (ValueError, OSError, KeyError, TypeError):  # Garbled is a ValueError
            self._gone(guest)  # it does not speak our language, or does not listen
            return
        if heard[1]:
            self._dirty = True
            if guest.member is not None:
                self._rang.add(guest.member)

    def _gone(self, guest: Guest) -> None:
        """A guest ended, left or was cut off: with it goes its account."""
        if guest not in self._guests:
            return
        self._see_off(guest)
        if guest.member is not None:
            del self._members[guest.member]
            connections = guest.connections.leave()
            if guest.channel is not None and not self._goes_on(guest):
                self._orphans.bury(guest.member, connections)
            else:
                for connection in connections:
                    connection.close()  # without a word: the driver of a process that goes on must not hear of it
                self._orphans.mourn(guest.member)
            self._dirty = True
        self._listen()
        self._consider_leaving()

    def _goes_on(self, guest: Guest) -> bool:
        """Whether a member has lost its seat while its process goes on: other code there has closed all descriptors.

        Our copies of its connections are then the last, and still on the driver's epoll instance. Were the server to
        end one of them, the driver would close the number, which may be somebody else's by now.
        """
        left = self._ledger.row(guest.member or 0).left
        try:
            return not left and identity.runs(guest.pid, guest.started)
        except OSError:
            return False

    def _freed(self) -> None:
        """Permits came free."""
        self._dirty = True
        self._consider_leaving()

    def _see_off(self, guest: Guest) -> None:
        self._guests.remove(guest)
        self._unwatched.discard(guest)
        if guest.channel is not None:
            self._selector.unregister(guest.channel)
            guest.channel.close()
        if guest.notice is not None:
            self._selector.unregister(guest.notice)
            os.close(guest.notice)

    def _consider_leaving(self) -> None:
        needed = self._members or self._orphans or any(guest.owner for guest in self._guests)
        linger = 0.0 if self._stopping else self._config["linger"]
        self._leave_at = None if needed else time.monotonic() + linger

    # -- messages --------------------------------------------------------------------------------------------

    def _answer(self, guest: Guest, message: dict[str, Any]) -> None:
        assert guest.channel is not None
        verb = message["do"]
        if not all(value is None or isinstance(value, (str, int)) for value in message.values()):
            raise messages.Garbled("a request of anything but words and whole numbers")
        if verb == "attach":
            self._attach(guest, message)
        elif verb == "own":
            if not self._refuse(guest, message):
                guest.owner = True
                self._leave_at = None
                guest.channel.send(self._description(), [self._ledger_fd])
        elif verb == "describe":
            guest.channel.send(self._description(), [self._ledger_fd])
        elif verb == "opened":
            if guest.member is None:
                raise messages.Garbled("a connection of nobody's")
            self._share(guest)
        elif verb == "declare":
            self._declare(guest, message)
        elif verb == "stop":
            self._stopping = True
            self._ledger.header.stopping = 1
            for each in self._guests:
                each.owner = False
            guest.channel.send({"ok": True})
            self._consider_leaving()
        else:
            raise messages.Garbled(f"unknown request {verb!r}")

    def _description(self) -> dict[str, Any]:
        shown = {key: self._config[key] for key in ("name", "uri", "database", "max_size", "end_orphans")}
        return {"ok": True, "manager": os.getpid(), **shown}

    def _refuse(self, guest: Guest, message: dict[str, Any], returning: bool = False) -> bool:
        """Say no to somebody who means another budget, or who comes after the end."""
        assert guest.channel is not None
        name, mismatch = self._config["name"], []
        for key in ("max_size", "database"):
            if message.get(key) not in (None, self._config[key]):
                mismatch.append(f"{key} is {self._config[key]} there and {message[key]} here")
        if message.get("space") not in (None, self._space):
            text = f"budget {name!r}: {identity.ELSEWHERE}"
            guest.channel.send({"ok": False, "error": "ManagerUnavailableError", "message": text})
            return True
        if mismatch:
            text = f"budget {name!r} runs with other settings: {'; '.join(mismatch)}"
            guest.channel.send({"ok": False, "error": "BudgetMismatchError", "message": text})
            return True
        if self._stopping and not returning and guest.pid != self._orphans.helper:
            text = f"budget {name!r} was stopped and takes no new members"
            guest.channel.send({"ok": False, "error": "ManagerUnavailableError", "message": text})
            return True
        return False

    def _attach(self, guest: Guest, message: dict[str, Any]) -> None:
        assert guest.channel is not None
        if guest.member is not None:
            raise messages.Garbled("attached twice")
        returning = bool(message.get("returning"))  # from the predecessor: it holds connections
        if self._refuse(guest, message, returning):
            return
        now, token = time.monotonic(), int(message.get("token") or 0) % L.NEVER
        if returning and token:
            self._unseat(guest, token)
        warm = min(max(0, int(message["warm"])), self._config["max_size"])
        full, error_name = f"it has {len(self._members)} members already", "ManagerUnavailableError"
        try:
            row = self._allocator.attach(guest.pid, guest.started, warm, now, token)
        except OSError as error:
            row, full, error_name = None, f"{full}, and {error.strerror}", "ManagerFullError"
        if row is None:
            text = f"budget {self._config['name']!r} takes no more members: {full}"
            guest.channel.send({"ok": False, "error": error_name, "message": text})
            return
        absent = self._members.get(row)
        if absent is not None:
            self._see_off(absent)
        guest.member, self._members[row] = row, guest
        self._leave_at = None
        if returning:
            self._allocator.awaits(row)
        self._settle(now)  # so that it finds permits when it comes in
        fds = self._allocator.semaphores[row].fds
        answer = {**self._description(), "row": row, "fds": len(fds), "declare": row in self._allocator.undeclared}
        guest.channel.send(answer, [self._ledger_fd, *fds])

    def _unseat(self, newcomer: Guest, token: int) -> None:
        """A member attaches again, and has a seat: other code in its process has closed its descriptors. Its end of the
        channel may be kept open by a thread that sleeps on it."""
        for guest in list(self._members.values()):
            same = guest.pid == newcomer.pid and guest.started == newcomer.started
            if same and guest.channel is not None and self._ledger.row(guest.member or 0).token == token:
                self._gone(guest)

    def _declare(self, guest: Guest, message: dict[str, Any]) -> None:
        held = int(message["held"])
        if guest.member not in self._allocator.undeclared or not 0 <= held <= self._config["max_size"]:
            raise messages.Garbled("a declaration out of place")
        self._allocator.declare(guest.member, held, time.monotonic())
        self._dirty = True

    def _ring(self, member: int) -> None:
        channel = self._members[member].channel
        if channel is not None:
            channel.ring()

    # -- the end ---------------------------------------------------------------------------------------------

    def _leave(self) -> bool:
        """Clear the place and go, unless somebody came or is just being launched."""
        lock_path = os.path.join(os.path.dirname(self._folder), paths.LOCK)
        try:
            lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return True  # somebody has cleared the place already
        except OSError:
            self._leave_at = time.monotonic() + SOON
            return False  # no free descriptor
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            just_in = time.monotonic() - FIRST_MEMBER
            coming = self._knocked() or any(guest.arrived > just_in for guest in self._guests)
            if coming or not os.fstat(lock).st_nlink:
                self._leave_at = time.monotonic() + SOON
                return False
            paths.remove_folder(self._folder)
            self._listener.close()
            return True
        except BlockingIOError:  # a launch is under way, perhaps of this very budget
            self._leave_at = time.monotonic() + SOON
            return False
        finally:
            os.close(lock)

    def _knocked(self) -> bool:
        door = select.poll()
        door.register(self._listener, select.POLLIN)
        return bool(door.poll(0))


def _raise_limit() -> None:
    """May we open as many files as this user's processes may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass  # macOS knows another bound besides


def main(folder: str) -> None:
    """The process's entry. Standard input is the listening socket, a pipe named by number has the configuration."""
    os.chdir("/")
    os.umask(0o077)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # signals to a group or service are for the members; we leave after them
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
        os._exit(0)  # so whoever launched us sees that all is well; the manager itself is nobody's child
    os.setpgid(0, 0)
    manager.run()
