"""This process's row of the ledger: it publishes its facts there, and reads the manager's orders.

All under the pool's lock. Facts are written first, then the orders are read: `core.notifications` says why. Cells that
are written or read at each borrow or hand-over go by their numbers, which saves a call each; all others by their names.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import Any

from mppool.core import notifications
from mppool.core.pool import PoolMachine
from mppool.shared import ledger as L
from mppool.shared import tenure

_NS = 1e9
_TELLING = L.H_TELLING
_CLUSTER = (L.H_LEASE, L.H_CLUSTER, L.H_CAP, *range(L.HOST, L.HOST + L.HOST_CELLS))


class Row:
    """The row of a member; without one, cells of our own, by which there are no orders, no other process waits and none
    has to be notified."""

    __slots__ = ("_at", "_idle_since", "_in_use", "_lost", "_named", "at_limit", "cells", "header")

    def __init__(self) -> None:
        self.leave()

    def sit(self, cells: Any, at: int) -> None:
        """From now on others read what is published. ``at``: the row's first cell."""
        self.cells = cells
        self.header, self._named = L.Header(cells, 0), L.MemberRow(cells, at)
        self._at = at
        self.at_limit, self._in_use, self._idle_since = at + L.LIMIT, at + L.IN_USE, at + L.IDLE_SINCE
        self._lost = -1  # as was last written

    def leave(self) -> None:
        self.sit([*self._kept(), *[0] * L.ROW], L.HEADER)
        named = self._named
        named.credit = named.target = named.limit = named.known = L.NEVER

    def _kept(self) -> list[int]:
        """The header of a process without a member: of what the last manager said, only what stays true without it."""
        before, header = getattr(self, "cells", None), [0] * L.HEADER
        if before is not None:
            for cell in (L.H_MAX_SIZE, L.H_RESIZED, L.H_GENERATION, L.H_PAUSED, *_CLUSTER):
                header[cell] = before[cell]
        return header

    @property
    def drained(self) -> float:
        """When the budget was last drained, monotonic; 0: never."""
        return self.header.generation / _NS

    @property
    def paused_until(self) -> float:
        """Until when the budget is paused, monotonic; 0: it is not."""
        return self.header.paused / _NS

    @property
    def is_leased(self) -> bool:
        """Whether this host may open connections just now."""
        return tenure.is_open(self.header)

    def acknowledge_pause(self) -> None:
        """Nothing is lent, opened or checked here from now on, until the budget goes on."""
        self._named.acknowledged = self.header.paused

    # -- facts -----------------------------------------------------------------------------------------------

    def publish(self, machine: PoolMachine) -> bool:
        """Write all facts but those that change seldom. True: notify the manager, for there is an idle
        connection now."""
        cells, at, held, in_use = self.cells, self._at, len(machine.slots), len(machine.borrowed)
        cells[at + L.HELD] = held
        cells[at + L.IN_USE] = in_use
        cells[at + L.MOVING] = held - in_use - len(machine.idle)
        cells[at + L.CLOSING] = len(machine.closing)
        if self._lost != len(machine.lost):  # seldom
            self._lost = self._named.lost = len(machine.lost)
        was_idle = cells[self._idle_since]
        cells[self._idle_since] = int(machine.idle[0].idle_since * _NS) if machine.idle else 0
        self.publish_line(machine)
        return bool(machine.idle) and not was_idle and bool(cells[_TELLING])

    def publish_line(self, machine: PoolMachine) -> None:
        cells, at = self.cells, self._at
        cells[at + L.WAITING] = len(machine.waiters)
        cells[at + L.SINCE] = int(machine.shortage.since * _NS)
        cells[at + L.RIPE_AT] = int(machine.shortage.ripe_at * _NS)

    def publish_lent(self, machine: PoolMachine) -> None:
        """An idle connection has been lent, and nothing else has changed."""
        self.cells[self._in_use] = len(machine.borrowed)
        if not machine.idle:
            self.cells[self._idle_since] = 0

    def publish_idle(self, machine: PoolMachine) -> bool:
        """A connection has come back and lies idle, and nothing else has changed. True: notify the manager."""
        cells, idle = self.cells, machine.idle
        cells[self._in_use] = len(machine.borrowed)
        if len(idle) > 1:
            return False
        cells[self._idle_since] = monotonic_ns()  # cheaper than to convert what the slot says, and never earlier
        return cells[_TELLING] != 0  # type: ignore[no-any-return]

    def publish_warm(self, connections: int) -> None:
        """``connections``: how many are to be kept open."""
        self._named.warm = connections

    def publish_cost(self, seconds: float) -> None:
        """``seconds``: what opening a connection takes here."""
        self._named.cost = int(seconds * _NS)

    # -- orders ----------------------------------------------------------------------------------------------

    @property
    def limit(self) -> int:
        """Slots this process may keep."""
        return self._named.limit

    @property
    def credit(self) -> int:
        """Permits of this process; 0 without a seat."""
        credit = self._named.credit
        return credit if credit < L.NEVER else 0

    @property
    def target(self) -> int:
        """Slots this process is to come down to by closing idle connections."""
        return self._named.target

    @property
    def may_take(self) -> bool:
        """Whether no permit is called back. The credit is read before the target: a grant writes it last."""
        credit = self._named.credit
        return self._named.target >= credit

    @property
    def cost(self) -> float:
        """Seconds that a reconnect takes in this budget; 0: not measured yet."""
        return self.header.cost / _NS

    @property
    def short(self) -> bool:
        """Whether other processes wait for permits: the manager must be notified of a permit that is put back."""
        return bool(self.header.short)

    def lacks(self, machine: PoolMachine) -> bool:
        """Whether the manager must be notified of callers in line."""
        return notifications.lacks(machine.demand, self._named.known, self._named.credit)

    def spares(self, machine: PoolMachine) -> bool:
        """Whether the manager must be notified of permits that callers here need no more."""
        named = self._named
        return self.short and notifications.spares(machine.demand, len(machine.slots), named.known, named.credit)

    def given_up(self, machine: PoolMachine) -> bool:
        """Whether the manager counts on callers that wait no more."""
        return notifications.given_up(machine.demand, self._named.known)
