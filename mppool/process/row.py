"""This process's row of the ledger: it publishes its facts there, and reads the manager's orders.

All under the pool's lock. Facts are written first, then the orders are read: `core.notifications` says why.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import Any

from mppool.core import notifications
from mppool.core.pool import PoolMachine
from mppool.shared import ledger as L

_NS = 1e9
_TELLING = L.H_TELLING


class Row:
    """The row of a seat; without a seat, cells of our own: no orders, nobody waits, and nobody has to be told."""

    __slots__ = (
        "_credit",
        "_held",
        "_idle_since",
        "_in_use",
        "_known",
        "_lost",
        "_target",
        "_waiting",
        "at_limit",
        "cells",
    )

    def __init__(self) -> None:
        self.leave()

    def sit(self, cells: Any, at: int) -> None:
        """From now on others read what is published. ``at``: the row's first cell."""
        self.cells = cells
        self._credit, self._target, self._known = at + L.CREDIT, at + L.TARGET, at + L.KNOWN
        self.at_limit = at + L.LIMIT
        self._held, self._in_use, self._waiting = at + L.HELD, at + L.IN_USE, at + L.WAITING
        self._idle_since = at + L.IDLE_SINCE
        self._lost = -1  # as was last written

    def leave(self) -> None:
        self.sit([0] * (L.HEADER + L.ROW), L.HEADER)
        for cell in (self._credit, self._target, self.at_limit, self._known):
            self.cells[cell] = L.NEVER

    # -- facts -----------------------------------------------------------------------------------------------

    def publish(self, machine: PoolMachine) -> bool:
        """Write all facts but those that change seldom. True: ring, for there is an idle connection now."""
        cells, held = self.cells, len(machine.slots)
        at, in_use = self._held - L.HELD, len(machine.borrowed)
        cells[self._held] = held
        cells[self._in_use] = in_use
        cells[at + L.MOVING] = held - in_use - len(machine.idle)
        cells[at + L.CLOSING] = len(machine.closing)
        if self._lost != len(machine.lost):  # seldom
            self._lost = cells[at + L.LOST] = len(machine.lost)
        was_idle = cells[self._idle_since]
        cells[self._idle_since] = int(machine.idle[0].idle_since * _NS) if machine.idle else 0
        self.publish_line(machine)
        return bool(machine.idle) and not was_idle and bool(cells[L.H_TELLING])

    def publish_line(self, machine: PoolMachine) -> None:
        cells, at = self.cells, self._held - L.HELD
        cells[self._waiting] = len(machine.waiters)
        cells[at + L.SINCE] = int(machine.shortage.since * _NS)
        cells[at + L.RIPE_AT] = int(machine.shortage.ripe_at * _NS)

    def publish_lent(self, machine: PoolMachine) -> None:
        """An idle connection has been lent, and nothing else has changed."""
        self.cells[self._in_use] = len(machine.borrowed)
        if not machine.idle:
            self.cells[self._idle_since] = 0

    def publish_idle(self, machine: PoolMachine) -> bool:
        """A connection has come back and lies idle, and nothing else has changed. True: ring."""
        cells, idle = self.cells, machine.idle
        cells[self._in_use] = len(machine.borrowed)
        if len(idle) > 1:
            return False
        cells[self._idle_since] = monotonic_ns()  # cheaper than to convert what the slot says, and never earlier
        return cells[_TELLING] != 0  # type: ignore[no-any-return]

    def publish_warm(self, connections: int) -> None:
        """``connections``: as many are to be kept warm."""
        self.cells[self._held - L.HELD + L.WARM] = connections

    def publish_cost(self, seconds: float) -> None:
        """``seconds``: what opening a connection takes here."""
        self.cells[self._held - L.HELD + L.COST] = int(seconds * _NS)

    # -- orders ----------------------------------------------------------------------------------------------

    @property
    def limit(self) -> int:
        """Slots this process may keep."""
        limit: int = self.cells[self.at_limit]
        return limit

    @property
    def target(self) -> int:
        """Slots this process is to come down to by closing idle connections."""
        target: int = self.cells[self._target]
        return target

    @property
    def may_take(self) -> bool:
        """Whether no permit is called back. The credit is read before the target: a grant writes it last."""
        credit = self.cells[self._credit]
        return bool(self.cells[self._target] >= credit)

    @property
    def cost(self) -> float:
        """Seconds that a reconnect takes in this budget; 0: nobody has measured it."""
        return float(self.cells[L.H_COST] / _NS)

    @property
    def short(self) -> bool:
        """Whether other processes wait for permits: a permit that is put back must be told of."""
        return bool(self.cells[L.H_SHORT])

    def lacks(self, machine: PoolMachine) -> bool:
        """Whether the manager must be told of callers in line."""
        return notifications.lacks(machine.demand, self.cells[self._known], self.cells[self._credit])

    def spares(self, machine: PoolMachine) -> bool:
        """Whether the manager must be told of permits that callers here need no more."""
        cells = self.cells
        return self.short and notifications.spares(
            machine.demand, len(machine.slots), cells[self._known], cells[self._credit]
        )

    def given_up(self, machine: PoolMachine) -> bool:
        """Whether the manager counts on callers that wait no more."""
        return notifications.given_up(machine.demand, self.cells[self._known])
