"""Connections that their processes left behind.

A server goes on with the statement of a process that was killed, and as long as it does, the connection counts there.
So each member shares its connections' sockets with the manager. When the member ends, the manager hangs up on them and
waits for the server's end of file, which is the server's own word that a connection is gone: idle ones go at once,
PostgreSQL looks for its client during a statement, others end with the statement. What has not ended in a moment is
ended by a helper (`ending`). The manager never speaks to a database.

The connections of a member that was killed together with its manager, and those that it had not shared yet, are
nobody's: they are mourned. How many of such connections a server has not ended yet the kernel knows (`hangups`), so
that many permits are kept. It may count others' too, to the same server, for a minute: then a permit comes late.
"""

from __future__ import annotations

import os
import selectors
import socket
import time

from mppool.manager.connections import Orphan
from mppool.manager.ending import REAP, Ending
from mppool.manager.hangups import hung_up
from mppool.shared import ledger as L

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mppool.manager.treasury import Treasury
    from mppool.shared.places import Place

__all__ = ["Orphans"]

ORPHANED = 60.0  # seconds that a server may go on with the statement of a member that ended, before its permit is free
ENDING = 0.25  # seconds until it is told to end it: PostgreSQL, which looks for its clients, has done so by then
LOOK = (0.005, 0.25)  # seconds between looks at what is mourned, at first and at most
COSTLY = 20  # times as long as a look takes is the least pause before the next: a host may have many connections
# Where the kernel does not tell: seconds that a server gets to end what was idle. PostgreSQL looks for its client every
# 0.1 s, so all that it had is gone by then.
MOURNED = 0.3
_LOOKS = "client_connection_check_interval"  # in a uri: whether PostgreSQL looks for its client is the user's choice

# Seconds without sight of a mourned connection until it counts as ended: the kernel forgets one at once when something
# comes on it, or had come, that its process does not live to read (it is reset). The server was idle then, or about to
# be, and ends it when it sees that, which takes a busy host's server a while.
RESET = 1.0

MOST = 1000  # connections that one helper is told of


class Mourned:
    """What is left of one member's connections that nobody has.

    Args:
        member: whose account the permits are on.
        left: that the server may not have ended.
        busy: as many of them may have been at work.
        since: monotonic time of the member's end, or when it was known.
    """

    __slots__ = ("busy", "left", "member", "since")

    def __init__(self, member: int, left: int, busy: int, since: float) -> None:
        self.member, self.left, self.busy, self.since = member, left, busy, since


class Orphans:
    """All that members left behind at the server, and what becomes of it. True: there is something.

    Args:
        config: the manager's.
        treasury: where their permits are.
        selector: its keys' ``data`` is an `Orphan` or the `Ending`: both have it heard by `hear`.
        freed: called when permits came free, or a helper is gone.
    """

    def __init__(
        self,
        config: dict[str, Any],
        treasury: Treasury,
        selector: selectors.BaseSelector,
        freed: Callable[[], None],
    ) -> None:
        self._treasury = treasury
        self._selector = selector
        self._freed = freed
        self._on_a_server = not config["database"].startswith("sqlite")
        self._port: int | None = config["port"]
        self._goes_on = not config["database"].startswith("postgresql:") or _LOOKS in config["uri"]
        self._ends: bool = config["end_orphans"]
        self._orphans: set[Orphan] = set()
        self._mourned: list[Mourned] = []  # the oldest first
        self._look_at = self._pause = 0.0
        self._sights: dict[int, float] = {}  # ports of connections that the kernel listed: when it last did
        self._ending = Ending(config, self._places)

    def __bool__(self) -> bool:
        return bool(self._orphans or self._mourned or self._ending.pid)

    @property
    def helper(self) -> int | None:
        """The pid of the helper that is at work."""
        return self._ending.pid

    # -- facts -----------------------------------------------------------------------------------------------

    def bury(self, member: int, connections: list[socket.socket]) -> None:
        """A member has ended: its permits are free, but for those whose connections the server has not ended yet.

        One that it had not told us of was just being opened, or is of a kind that has no socket to be found: nothing
        runs there.
        """
        orphans = []
        for connection in connections:
            orphan = Orphan(connection, member, time.monotonic())
            if orphan.listen():
                orphan.close()
            else:
                orphans.append(orphan)
        credit = self._treasury.books.accounts[member].credit
        unseen = max(0, min(self._held(member) - len(connections), credit - len(orphans)))
        if not orphans and not unseen:
            self._treasury.leave(member)
            return
        self._treasury.bury(member, len(orphans) + unseen, time.monotonic(), len(orphans))
        self._mourn(member, unseen, 0)
        for orphan in orphans:
            self._orphans.add(orphan)
            self._selector.register(orphan, selectors.EVENT_READ, orphan)

    def mourn(self, row: int) -> None:
        """A member of the predecessor's has ended, and nobody has its connections any more to hear of their end."""
        cells, at = self._treasury.ledger.cells, self._treasury.ledger.row(row)
        busy = max(0, cells[at + L.IN_USE] + cells[at + L.MOVING])
        self._treasury.bury(row, self._held(row), time.monotonic(), busy)
        left = self._treasury.books.accounts[row].credit
        if left:
            self._mourn(row, left, cells[at + L.IN_USE])
        else:
            self._treasury.leave(row)

    def _held(self, member: int) -> int:
        """Connections to a server that a member had when it ended, by its own word."""
        cells, at = self._treasury.ledger.cells, self._treasury.ledger.row(member)
        return max(0, cells[at + L.HELD]) if self._on_a_server and not cells[at + L.LEFT] else 0

    def _mourn(self, member: int, left: int, busy: int) -> None:
        if left:
            self._mourned.append(Mourned(member, left, busy, time.monotonic()))
            self._look_at, self._pause = 0.0, LOOK[0]

    def hear(self, speaker: Orphan | Ending) -> None:
        """One of them has something to say."""
        if isinstance(speaker, Ending):
            if not speaker.hear():
                self._selector.unregister(speaker)
                speaker.let_go(time.monotonic())
                self._freed()
        elif speaker in self._orphans and speaker.listen():
            self._buried(speaker)

    def _buried(self, orphan: Orphan) -> None:
        self._orphans.remove(orphan)
        self._selector.unregister(orphan)
        orphan.close()
        self._treasury.buried(orphan.member, time.monotonic())
        if not self._orphans:
            self._ending.succeeded()
        self._freed()

    def _places(self) -> list[Place]:
        return [orphan.place for orphan in self._orphans if orphan.place is not None][:MOST]

    # -- time ------------------------------------------------------------------------------------------------

    def upkeep(self, now: float) -> None:
        """What is due."""
        for orphan in [orphan for orphan in self._orphans if now >= orphan.since + ORPHANED]:
            _say_so()
            self._buried(orphan)
        if self._mourned and now >= self._look_at:
            self._look(now)
        if self._ending.dying:
            self._ending.reap()
            if not self._ending.pid:
                self._freed()
        end_at = self._end_at()
        if end_at is not None and now >= end_at and self._ending.launch(now):
            self._selector.register(self._ending, selectors.EVENT_READ, self._ending)

    def _look(self, now: float) -> None:
        """Let go of what is mourned and has ended."""
        began = time.monotonic()
        try:
            ports = hung_up(self._port) if self._port is not None else None
        except OSError:
            self._look_at = now + LOOK[1]  # no free descriptor: that says nothing of connections
            return
        old = [mourned for mourned in self._mourned if now >= mourned.since + RESET]
        some = self._ended(old, ports, now) if ports is not None else 0
        for mourned in list(self._mourned):
            if now >= mourned.since + ORPHANED:
                _say_so()
                count = mourned.left
            elif ports is None:
                count = mourned.left - mourned.busy * self._goes_on if now >= mourned.since + MOURNED else 0
            else:
                count = min(some, mourned.left) if mourned in old else 0
                some -= count
            self._let_go(mourned, count)
        self._pause = min(LOOK[1], self._pause * 1.5)
        self._look_at = now + max(self._pause, COSTLY * (time.monotonic() - began))

    def _ended(self, old: list[Mourned], ports: list[int], now: float) -> int:
        """As many of those the server has ended at the least, by the ports of all that it has not."""
        self._sights.update(dict.fromkeys(ports, now))
        self._sights = {port: at for port, at in self._sights.items() if now < at + RESET}
        known = {orphan.place[1] for orphan in self._orphans if orphan.place is not None}
        return max(0, sum(mourned.left for mourned in old) - len(self._sights.keys() - known))

    def _let_go(self, mourned: Mourned, count: int) -> None:
        if not count:
            return
        mourned.left -= count
        if not mourned.left:
            self._mourned.remove(mourned)
        for _ in range(count):
            self._treasury.buried(mourned.member, time.monotonic())
        self._freed()  # the last: whether the manager may leave depends on what there is

    def next_at(self) -> float | None:
        """When `upkeep` is due."""
        times = [orphan.since + ORPHANED for orphan in self._orphans]
        if self._mourned:
            times.append(self._look_at)
        end_at = self._end_at()
        if end_at is not None:
            times.append(end_at)
        if self._ending.dying:
            times.append(time.monotonic() + REAP)
        return min(times, default=None)

    def _end_at(self) -> float | None:
        """When to send a helper; None: there is nothing for it to do, or no permit that it could get."""
        times = [orphan.since + ENDING for orphan in self._orphans if orphan.place is not None]
        if not times or not self._ends or self._ending.useless or self._ending.pid or not self._treasury.spare:
            return None
        return max(min(times), self._ending.again_at)


def _say_so() -> None:
    os.write(2, b"a server still has a connection whose process ended %d s ago\n" % ORPHANED)
