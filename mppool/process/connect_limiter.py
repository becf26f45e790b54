"""The connect limiter: whether this process may begin to open a connection just now.

While the database cannot be reached it is asked by one open at a time, with pauses between: not by every caller that
waits, and not in step with other processes. And over all processes of a budget only so many opens to a server run at
once: after a restart every process wants all its connections back in the same instant.
"""

from __future__ import annotations

import random
from typing import Protocol

from mppool.core.backoff import Backoff
from mppool.core.pool import PoolMachine
from mppool.database.contract import one_by_one
from mppool.settings import BudgetSettings, PoolSettings
from mppool.shared import paths
from mppool.shared.descriptors import is_short
from mppool.shared.file_slots import FileSlot, FileSlots

AT_ONCE = 16  # connections one process opens at a time
PAUSES = (
    0.05,
    0.5,
)  # seconds between tries, at first and at most: a server that comes back is soon in full use
ASK_AGAIN = (0.005, 0.015)  # seconds until the next try when all turns are taken


class Limited(Protocol):
    """The parts of a local pool that its connect limiter reads. The settings may be replaced while the pool runs."""

    name: str
    budget: BudgetSettings
    settings: PoolSettings
    machine: PoolMachine


class ConnectLimiter:
    """One agent's connect limiter. Used under the pool's lock, but for `enter`, which is the agent's thread's.

    Attributes:
        failures: tries that have failed since one succeeded; those that ran beside another count as one.
    """

    def __init__(self, pool: Limited) -> None:
        self._pool = pool
        self._backoff = Backoff(*PAUSES)
        self._closed_until = 0.0
        # Opening a file burdens no server.
        self._turns = FileSlots(paths.folder(pool.name)) if pool.budget.database.provider != "sqlite" else None

    @property
    def failures(self) -> int:
        return self._backoff.failures

    def opens_at(self, now: float) -> float | None:
        """Before when `enter` need not be tried; None: before one of the opens that run has ended."""
        most = 1 if self.failures or one_by_one(self._pool.budget.database) else AT_ONCE
        if len(self._pool.machine.opening) >= most:
            return None
        return max(now, self._closed_until)

    def enter(self, now: float) -> FileSlot | None:
        """Leave to open one connection, until it is given back; None: not now."""
        if self.opens_at(now) != now:
            return None
        try:
            turn = self._turns.take(self._pool.settings.connect_concurrency) if self._turns is not None else FileSlot()
        except OSError as error:
            if not is_short(error):
                return FileSlot()  # the folder was deleted; there will be another one
            turn = None
        if turn is None:
            self._closed_until = now + random.uniform(*ASK_AGAIN)
        return turn

    def failed(self, now: float) -> float | None:
        """An open failed: the seconds until the next; None: that was known from one beside it."""
        if now < self._closed_until:
            return None
        pause = self._backoff.failed(random.random())
        self._closed_until = now + pause
        return pause

    def succeeded(self) -> int:
        """An open succeeded; how many tries had failed before."""
        failures = self.failures
        if failures:
            self._backoff.succeeded()
            self._closed_until = 0.0
        return failures

    def abandon(self) -> None:
        """In a forked child: the turns are the parent's."""
        if self._turns is not None:
            self._turns.abandon()
