"""How the opening of connections goes: who waits in ``start()`` for the first ones, when the next may be opened, and
what is said when one cannot be.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING

from mppool import errors
from mppool.database.contract import is_permanent
from mppool.process.connect_limiter import ConnectLimiter

if TYPE_CHECKING:
    from mppool.core.slots import Waiter
    from mppool.process.lending import Lending

logger = logging.getLogger("mppool.pool")


class Openings:
    """One local pool's. Any thread.

    Args:
        starting: woken when the first connections stand, or with the error if they cannot.
    """

    def __init__(self, pool: Lending, starting: Waiter | None) -> None:
        self._pool = pool
        self.limiter = ConnectLimiter(pool)
        self._starting = [starting] if starting is not None else []
        self._start_failed = False  # before anything was open: the pool is about to be stopped

    # -- those who wait in start() ---------------------------------------------------------------------------

    def tell_when_warm(self, waiter: Waiter) -> None:
        """Wake this waiter when no connection is being opened, or with the error if one cannot be."""
        with self._pool.lock:
            self._starting.append(waiter)
            left = self._pool.left
        if left:
            self.disappoint()
        self._pool.notifier.wake()

    def disappoint(self) -> None:
        """The agent has left: wake those who still wait in start() with an error. Without the lock."""
        pool = self._pool
        with pool.lock:
            starting = self._take_starting()
        for waiter in starting:
            waiter.error = pool.failure or errors.PoolClosedError(f"pool {pool.name!r} was stopped while it started")
            waiter.wake()

    def warm(self) -> list[Waiter]:
        """The first connections stand: those to wake, who wait in start(). From now on ``min_size`` connections are
        kept. In a step."""
        starting = self._take_starting()
        if starting:
            pool = self._pool
            pool.machine.min_size = pool.settings.min_size
            pool.row.publish_warm(pool.machine.min_size)
        return starting

    def _take_starting(self) -> list[Waiter]:
        starting, self._starting = self._starting, []
        return starting

    # -- how an open went ------------------------------------------------------------------------------------

    def succeeded(self) -> int:
        """How many tries had failed before. In a step."""
        self._start_failed = False
        return self.limiter.succeeded()

    def failing(self, error: errors.ConnectError) -> tuple[list[Waiter], float | None]:
        """A connection could not be opened. In the same step as the machine's report, or the agent might take it that
        nothing is being opened because all is done.

        Returns: those to wake, who wait in start(); and what to tell `failed`.
        """
        pause = self.limiter.failed(monotonic())
        starting = self._take_starting()
        for waiter in starting:
            waiter.error = error
        self._start_failed = self._start_failed or bool(starting and not self._pool.opened)
        return starting, None if self._start_failed else pause  # start() tells, and ends what it began

    def refuse(self, error: errors.PoolError) -> None:
        """This process gets no permits as things are: tell those who wait, and those who wait in start()."""
        with self._pool.lock:
            starting = self._take_starting()
        for waiter in starting:
            waiter.error = error
            waiter.wake()
        self._pool.fail_waiting(error)

    def failed(self, error: errors.ConnectError, pause: float | None) -> None:
        """After `failing`, without the lock: try again later, or tell those who wait that it is no use. Logs the 1st,
        2nd, 4th, 8th … failure in a row."""
        pool, failures = self._pool, self.limiter.failures
        permanent = is_permanent(error)
        if pause is not None and not failures & (failures - 1) and not pool.machine.stopped:
            level = logging.ERROR if permanent else logging.WARNING
            text = "pool %s: cannot connect to %s (%d in a row), trying again in %.2f s: %s"
            logger.log(level, text, pool.name, pool.budget.database.key, failures, pause, error)
        if permanent:
            pool.fail_waiting(error)
        pool.notifier.wake()
