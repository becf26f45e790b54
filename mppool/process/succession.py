"""The search for the manager's successor, while the agent goes on with what its process has.

All members of a manager that died notice it at once. Each looks for the next one; whoever gets the launcher's lock
first launches it, the others find it running. It takes a while, so a hand does it and the agent is woken.
"""

from __future__ import annotations

import logging
import random
import secrets
from time import monotonic
from typing import TYPE_CHECKING

from mppool.core.backoff import Backoff
from mppool.process.member import Member

if TYPE_CHECKING:
    from mppool.process.local import LocalPool

logger = logging.getLogger("mppool.pool")

AGAIN = (0.2, 10.0)  # seconds between tries, at first and at most


class Succession:
    """One agent's search.

    Attributes:
        token: a number by which any manager knows this process's seat again.
        lost: there is no manager just now.
        next_try: when to look again; None: somebody looks, or need not.
    """

    def __init__(self, pool: LocalPool) -> None:
        self._pool = pool
        self._backoff = Backoff(*AGAIN)
        self._found: Member | None = None
        self._closed = False
        self.token = secrets.randbits(62)
        self.lost = False
        self.next_try: float | None = None

    def begin(self, why: str = "the manager is gone; looking for its successor") -> None:
        """There is no manager for us, from now on."""
        logger.warning("pool %s: %s", self._pool.name, why)
        self.lost = True
        self._look()

    def _look(self) -> None:
        self.next_try = None
        self._pool.connector.aside(self._seek)

    def _seek(self) -> None:
        """Find the successor, or launch it. By a hand."""
        pool, found, pause = self._pool, None, 0.0
        try:
            found = Member(pool.budget, pool.name, pool.machine.min_size, self.token, returning=True)
        except Exception as error:
            pause = self._backoff.failed(random.random())
            logger.error(
                "pool %s: there is no manager, and no new one to be had (%s); this process goes on with what it has, "
                "and tries again in %.1f s",
                pool.name,
                error,
                pause,
            )
        with pool.lock:
            if not self._closed:
                self._found, found = found, None
                self.next_try = monotonic() + pause
        if found is not None:
            found.leave()
        pool.agent.wake()

    def found(self, now: float) -> Member | None:
        """A seat with the successor, once there is one; else has it looked for again when it is time."""
        with self._pool.lock:
            found, self._found = self._found, None
        if found is not None:
            self.lost, self.next_try = False, None
            self._backoff.succeeded()
            logger.info("pool %s: there is a manager again", self._pool.name)
        elif self.next_try is not None and now >= self.next_try and not self._pool.machine.stopped:
            self._look()
        return found

    def close(self) -> Member | None:
        """No more; a seat that was found and not taken. Under the pool's lock, or in a forked child."""
        self._closed = True
        found, self._found = self._found, None
        return found
