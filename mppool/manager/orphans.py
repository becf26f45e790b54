"""Connections that their processes left behind.

A server goes on with the statement of a process that was killed, and as long as it does, the connection counts there.
So each member shares its connections' sockets with the manager. When the member ends, the manager hangs up on them and
waits for the server's end of file, which is the server's own word that a connection is gone: idle ones go at once,
PostgreSQL looks for its client during a statement, others end with the statement. What has not ended in a moment is
ended by a helper (`ending`). The manager never speaks to a database.

The connections of a member that was killed together with its manager are nobody's: the successor mourns it. Idle ones
are gone in a moment, and so is all that PostgreSQL has; of those that were busy on another server the helper counts
how many are left.
"""

from __future__ import annotations

import os
import selectors
import socket
import time

from mppool.manager.connections import Orphan
from mppool.manager.ending import REAP, Ending
from mppool.shared import ledger as L

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mppool.manager.treasury import Treasury

__all__ = ["Orphans"]

ORPHANED = 60.0  # seconds that a server may go on with the statement of a member that ended, before its permit is free
ENDING = 0.25  # seconds until it is told to end it: PostgreSQL, which looks for its clients, has done so by then
# Seconds that a server gets to end the connections of a member that ended when no manager had them: PostgreSQL looks
# for its client every 0.1 s.
MOURNED = 0.3
# Seconds that a helper waits for a permit like everybody, before it is lent one of those that it is to see about; at
# once when those are all there are. The server may then have one connection too many, for some milliseconds.
LEND = 2.0
_LOOKS = "client_connection_check_interval"  # in a uri: whether PostgreSQL looks for its client is the user's choice

MOST = 1000  # connections that one helper is told of


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
        self._max_size: int = config["max_size"]
        self._treasury = treasury
        self._selector = selector
        self._freed = freed
        self._on_a_server = not config["database"].startswith("sqlite")
        self._goes_on = not config["database"].startswith("postgresql:") or _LOOKS in config["uri"]
        self._ends: bool = config["end_orphans"]
        self._orphans: set[Orphan] = set()
        self._mourned: list[tuple[float, int]] = []  # accounts that are all free at that time but for busy connections
        self._watched: dict[int, float] = {}  # accounts of which those are left, and since when
        self._unseen: list[tuple[float, int]] = []  # accounts with one permit each that is free at that time
        self._ending = Ending(config, self._wanted, self._count)
        self._seat: int | None = None  # the account of a helper that is to count
        self._lend_at: float | None = None
        self._lent: int | None = None  # the account of which it has a permit

    def __bool__(self) -> bool:
        return bool(self._orphans or self._mourned or self._watched or self._unseen or self._ending.pid)

    @property
    def helper(self) -> int | None:
        """The pid of the helper that is at work."""
        return self._ending.pid

    # -- facts -----------------------------------------------------------------------------------------------

    def bury(self, member: int, connections: list[socket.socket]) -> None:
        """A member has ended: its permits are free, but for those whose connections the server has not ended yet.

        One that it had not told us of was just being opened, or is of a kind that has no socket to be found: nothing
        runs there, and it gets a moment.
        """
        if member == self._seat:
            if self._lent in self._watched:
                self._treasury.take_back(self._lent)
            self._seat = self._lend_at = self._lent = None
        orphans = []
        for connection in connections:
            orphan = Orphan(connection, member, time.monotonic())
            if orphan.listen():
                orphan.close()
            else:
                orphans.append(orphan)
        cells, at = self._treasury.ledger.cells, self._treasury.ledger.row(member)
        held = cells[at + L.HELD] if self._on_a_server and not cells[at + L.LEFT] else 0
        credit = self._treasury.books.accounts[member].credit
        unseen = max(0, min(held - len(connections), credit - len(orphans)))
        if not orphans and not unseen:
            self._treasury.leave(member)
            return
        self._treasury.bury(member, len(orphans) + unseen, len(orphans))
        self._unseen += [(time.monotonic() + MOURNED, member)] * unseen
        for orphan in orphans:
            self._orphans.add(orphan)
            self._selector.register(orphan, selectors.EVENT_READ, orphan)

    def mourn(self, row: int) -> None:
        """A member of the predecessor's has ended, and nobody has its connections any more to hear of their end."""
        cells, at = self._treasury.ledger.cells, self._treasury.ledger.row(row)
        held = cells[at + L.HELD] if self._on_a_server and not cells[at + L.LEFT] else 0
        self._treasury.bury(row, max(0, held), max(0, cells[at + L.IN_USE] + cells[at + L.MOVING]))
        if self._treasury.books.accounts[row].credit > 0:
            self._mourned.append((time.monotonic() + MOURNED, row))
        else:
            self._treasury.leave(row)

    def _watch(self, row: int, now: float) -> None:
        """What was idle is gone, after a moment. What was busy, the server may go on with."""
        busy = self._treasury.ledger.cells[self._treasury.ledger.row(row) + L.IN_USE] if self._goes_on else 0
        if busy > 0:
            self._treasury.bury(row, busy)
            self._watched[row] = now
        else:
            self._treasury.leave(row)
        self._freed()

    def seated(self, pid: int, member: int) -> None:
        """Somebody has become a member."""
        if pid == self._ending.pid and self._to_count():
            self._seat = member
            accounts = self._treasury.books.accounts
            mourned = sum(accounts[row].credit for row in (*self._watched, *(row for _, row in self._mourned)))
            self._lend_at = time.monotonic() + (LEND if mourned < self._max_size else 0.0)
            if self._mourned:
                self._lend_at = max(self._lend_at, self._mourned[-1][0])

    def _to_count(self) -> bool:
        """Whether anything is mourned that only a helper can know the end of."""
        return bool(self._watched or (self._goes_on and self._mourned))

    def _lend(self, seat: int) -> None:
        accounts = self._treasury.books.accounts
        row = next((row for row in self._watched if accounts[row].credit > 0), None)
        if row is not None and not accounts[seat].credit:
            self._treasury.lend(row, seat)
            self._lent = row

    def _count(self, left: int) -> None:
        """The helper has looked: so many connections are left that nobody has."""
        accounts = self._treasury.books.accounts
        if self._goes_on:  # what is gone by now need not be waited for
            self._watched.update({row: time.monotonic() for _, row in self._mourned})
            self._mourned.clear()
        free = sum(accounts[row].credit for row in self._watched) - left
        if free >= 0:
            self._lent = None  # that permit is free as well
        for row in list(self._watched):
            while free > 0 and accounts[row].credit > 1:
                self._treasury.buried(row)
                free -= 1
            if accounts[row].credit <= min(free, 1):
                free -= accounts[row].credit
                self._forget(row)
        self._freed()

    def _forget(self, row: int) -> None:
        """Nothing is left of a mourned member."""
        del self._watched[row]
        self._treasury.leave(row)
        if not self._orphans and not self._watched:
            self._ending.succeeded()

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
        self._treasury.buried(orphan.member)
        if not self._orphans and not self._watched:
            self._ending.succeeded()
        self._freed()

    def _wanted(self) -> dict[str, Any]:
        places = [orphan.place for orphan in self._orphans if orphan.place is not None]
        return {"places": places[:MOST], "end": self._ends, "count": self._to_count()}

    # -- time ------------------------------------------------------------------------------------------------

    def upkeep(self, now: float) -> None:
        """What is due."""
        for orphan in [orphan for orphan in self._orphans if now >= orphan.since + ORPHANED]:
            os.write(2, b"a server still has a connection whose process ended %d s ago\n" % ORPHANED)
            self._buried(orphan)
        while self._mourned and now >= self._mourned[0][0]:
            self._watch(self._mourned.pop(0)[1], now)
        while self._unseen and now >= self._unseen[0][0]:
            self._treasury.buried(self._unseen.pop(0)[1])
            self._freed()
        for row in [row for row, since in self._watched.items() if now >= since + ORPHANED]:
            self._forget(row)
            self._freed()
        if self._seat is not None and self._lend_at is not None and now >= self._lend_at:
            self._lend_at = None
            self._lend(self._seat)
        if self._ending.dying:
            self._ending.reap()
            if not self._ending.pid:
                self._freed()
        end_at = self._end_at()
        if end_at is not None and now >= end_at and self._ending.launch(now):
            self._selector.register(self._ending, selectors.EVENT_READ, self._ending)

    def next_at(self) -> float | None:
        """When `upkeep` is due."""
        times = [orphan.since + ORPHANED for orphan in self._orphans]
        times += [since + ORPHANED for since in self._watched.values()]
        times += [at for at, _ in (*self._mourned[:1], *self._unseen[:1])]
        times += [at for at in (self._lend_at, self._end_at()) if at is not None]
        if self._ending.dying:
            times.append(time.monotonic() + REAP)
        return min(times, default=None)

    def _end_at(self) -> float | None:
        """When to send a helper; None: there is nothing for it to do, or no permit that it could get."""
        if self._ending.useless or self._ending.pid:
            return None
        times = list(self._watched.values())
        if self._goes_on:  # it takes its time to come
            times += [at - MOURNED for at, _ in self._mourned]
        if self._ends and self._treasury.spare:
            times += [orphan.since + ENDING for orphan in self._orphans if orphan.place is not None]
        return max(min(times), self._ending.again_at) if times else None
