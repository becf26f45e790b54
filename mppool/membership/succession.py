"""The search for the manager's successor, while the agent goes on with what its process has.

All members of a manager that died notice it at once. Each looks for the next one; the member that gets the launcher's
lock first launches it, the others find it running. It takes a while, so another thread does it and the agent is woken.
"""

from __future__ import annotations

import logging
import random
import secrets
from time import monotonic
from typing import TYPE_CHECKING

from mppool.core.backoff import Backoff
from mppool.membership.member import Member

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from mppool.settings import BudgetSettings

logger = logging.getLogger("mppool.pool")

AGAIN = (0.2, 10.0)  # seconds between tries, at first and at most


class Succession:
    """One agent's search.

    Args:
        budget, name: of the budget.
        lock: the pool's.
        warm: tells how many connections the member would like to be granted on arrival.
        run: has a function run by another thread.
        wake: wakes the agent. Called when the search has ended, with or without a result.

    Attributes:
        token: a number by which any manager recognises this process as the same member.
        lost: there is no manager just now.
        next_try: when to search again; None: a search is under way, or none is needed.
    """

    def __init__(
        self,
        budget: BudgetSettings,
        name: str,
        lock: AbstractContextManager[object],
        warm: Callable[[], int],
        run: Callable[[Callable[[], None]], None],
        wake: Callable[[], None],
    ) -> None:
        self._budget, self._name, self._lock = budget, name, lock
        self._warm, self._run, self._wake = warm, run, wake
        self._backoff = Backoff(*AGAIN)
        self._found: Member | None = None
        self._closed = False
        self.token = secrets.randbits(62)
        self.lost = False
        self.next_try: float | None = None

    def begin(self, why: str = "the manager is gone; looking for its successor") -> None:
        """There is no manager for this member, from now on."""
        logger.warning("pool %s: %s", self._name, why)
        self.lost = True
        self._search()

    def _search(self) -> None:
        self.next_try = None
        self._run(self._seek)

    def _seek(self) -> None:
        """Find the successor, or launch it. On another thread than the agent's."""
        found, pause = None, 0.0
        try:
            found = Member(self._budget, self._name, self._warm(), self.token, returning=True)
        except Exception as error:
            pause = self._backoff.failed(random.random())
            logger.error(
                "pool %s: there is no manager, and no new one to be had (%s); this process goes on with what it has, "
                "and tries again in %.1f s",
                self._name,
                error,
                pause,
            )
        with self._lock:
            if not self._closed:
                self._found, found = found, None
                self.next_try = monotonic() + pause
        if found is not None:
            found.leave()
        self._wake()

    def found(self, now: float, stopped: bool) -> Member | None:
        """A member of the successor's, once there is one. Else search again when it is time, unless the pool has
        ``stopped``."""
        with self._lock:
            found, self._found = self._found, None
        if found is not None:
            self.lost, self.next_try = False, None
            self._backoff.succeeded()
            logger.info("pool %s: there is a manager again", self._name)
        elif self.next_try is not None and now >= self.next_try and not stopped:
            self._search()
        return found

    def close(self) -> Member | None:
        """Stop searching; the member that was found and not used. Under the pool's lock, or in a forked child."""
        self._closed = True
        found, self._found = self._found, None
        return found
