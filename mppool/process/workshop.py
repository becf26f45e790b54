"""The workshop: where connections are opened, looked after and closed, by hands and never by callers.

Each piece of work ends with a report to the pool's machine, under the pool's lock, and with doing what the machine
says then. A permit goes back when its connection is really gone, and not before.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from mppool import errors
from mppool.core.backoff import Backoff
from mppool.core.pool import Slot
from mppool.database.connection import PySQLXEngineSync
from mppool.database.opening import open_link
from mppool.database.verdicts import is_full
from mppool.process.hands import Hands
from mppool.process.silence import AFTER, Silence
from mppool.shared.turns import Turn

if TYPE_CHECKING:
    from mppool.database.backends import Lost
    from mppool.database.link import Link
    from mppool.process.local import LocalPool

logger = logging.getLogger("mppool.pool")

# Seconds that a server may go on with a statement that was given up, before its connection is cut and the permit goes
# back all the same: a server that cannot be reached must not keep permits for ever.
BURIAL_PATIENCE = 60.0
FULL_PAUSES = (0.002, 0.5)  # seconds until a server that is full is asked again, at first and at most
CLOSE_PATIENCE = 5.0  # seconds a hand waits for a free descriptor to attend a connection with
SHORT_PAUSES = (0.005, 0.1)  # seconds until a free descriptor is looked for again, at first and at most
RECENT = 8  # opens whose times are kept: the least of them is what an open costs when nothing else slows it down


class Workshop:
    """The slow work of one local pool. Counts are written under the pool's lock."""

    def __init__(self, pool: LocalPool) -> None:
        self._pool = pool
        self._hands = Hands(pool.name)
        self._silence = Silence(pool)
        self.recent: deque[float] = deque(maxlen=RECENT)  # seconds that the last opens took
        self.opened = self.closed = self.connect_errors = self.refused_full = 0
        self.last_connect_error: tuple[float, Exception] | None = None  # why there is none, or no seat

    def open(self, slot: Slot, turn: Turn) -> None:
        """Open a connection. SQLite's takes a tenth of a millisecond and no network: less than to wake a hand."""
        if self._pool.budget.database.provider == "sqlite" and self._pool.settings.configure is None:
            self._open(slot, turn)
        else:
            self._hands.do(lambda: self._open(slot, turn))

    def tend(self, slot: Slot) -> None:
        self._hands.do(lambda: self._tend(slot))

    def close(self, slot: Slot) -> None:
        self._hands.do(lambda: self._close(slot))

    def close_at_once(self, slot: Slot) -> None:
        """Close an idle connection on this thread (the agent's): others wait for its permit."""
        lost = self._take_leave(slot)
        if lost is None or not slot.link.close(0.0):
            self.close(slot)
        elif slot.link.provider == "sqlite":
            self._closed(slot, lost, 0.0)
        else:
            self._hands.do(lambda: self._closed(slot, lost, monotonic() + BURIAL_PATIENCE))

    def publish_cost(self) -> None:
        """Under the pool's lock."""
        if self.recent:
            self._pool.row.publish_cost(min(self.recent))

    def aside(self, piece: Callable[[], None]) -> None:
        """Have something else done that takes a while."""
        self._hands.do(piece)

    def join(self, timeout: float) -> None:
        """No more work will come: wait for what there is, so many seconds at most."""
        self._hands.join(timeout)

    def abandon(self) -> None:
        """In a forked child."""
        self._silence.abandon()

    # -- opening ---------------------------------------------------------------------------------------------

    def _open(self, slot: Slot, turn: Turn) -> None:
        pool = self._pool
        try:
            try:
                link, began = self._connect()
            finally:
                turn.give_back()
        except errors.ConnectError as error:
            self._not_opened(slot, error)
            return
        except BaseException as error:
            logger.exception("pool %s: opening a connection failed", pool.name)
            self._not_opened(slot, errors.ConnectError("0", f"{type(error).__name__}: {error}"))
            return
        now = monotonic()
        expires = now + pool.settings.keep_alive * (1.0 - 0.05 * random.random())  # so that they do not all go at once
        with pool.lock:
            self.opened += 1
            self.recent.append(now - began)
            self.publish_cost()
            shared = pool.agent.watch(link)
            pool.agent.connect_succeeded()
            self.last_connect_error = None
            action = pool.machine.opened(slot, link, now, expires)
            ring = pool.publish()
            wake = not shared or pool.machine.to_open() > 0 or not pool.machine.opening
        if action is not None:
            pool.act(action)
        if ring:
            pool.agent.ring()
        if wake:
            pool.agent.wake()

    def _connect(self) -> tuple[Any, float]:
        """Open and configure one connection; and when that began. A server that is full is asked again for a while:
        permits are exact, but it may take a moment to bury the connection whose place this one takes."""
        pool, settings = self._pool, self._pool.settings
        database, max_size = pool.budget.database, pool.budget.max_size
        backoff = Backoff(*FULL_PAUSES)
        give_up = monotonic() + settings.connect_timeout
        while True:
            began = monotonic()
            try:
                link = open_link(
                    database,
                    connect_timeout=settings.connect_timeout,
                    sqlite_connections=max_size if database.provider == "sqlite" else 0,
                )
                break
            except errors.ConnectError as error:
                if not is_full(error) or monotonic() > give_up or pool.machine.stopped:
                    raise
                with pool.lock:
                    self.refused_full += 1
                    self.last_connect_error = (monotonic(), error)
            time.sleep(backoff.failed(random.random()))
        if settings.configure is not None and not self._hook(settings.configure, "configure", link):
            link.close()
            raise errors.ConnectError("0", "the configure hook failed; the log has its traceback")
        return link, began

    def _not_opened(self, slot: Slot, error: errors.ConnectError) -> None:
        pool = self._pool
        with pool.lock:
            pool.machine.not_opened(slot)
            wanted = pool.agent.put_back()
            starting, pause = pool.agent.failing(error)
            self.connect_errors += 1
            self.last_connect_error = (monotonic(), error)
        for waiter in starting:
            waiter.wake()
        pool.agent.permit_unused(wanted, False)
        pool.agent.connect_failed(error, pause)

    # -- looking after ---------------------------------------------------------------------------------------

    def _tend(self, slot: Slot) -> None:
        pool, link = self._pool, slot.link
        fit = (not link.suspect or link.check()) and link.reset()
        for what, hook in (("reset", pool.settings.reset), ("check", pool.settings.check)):
            fit = fit and (hook is None or self._hook(hook, what, link))
        fit = fit and not link.doubtful and not link.suspect and not link.in_transaction
        with pool.lock:
            action = pool.machine.tended(slot, monotonic(), pool.row.limit, fit=fit)
            another = pool.machine.vet() if pool.vetting and not fit else None
            ring = pool.publish()
        if another is not None:
            pool.act(another)
        if action is not None:
            pool.act(action)
        if ring:
            pool.agent.ring()

    def _hook(self, hook: Callable[[Any], object], what: str, link: Any) -> bool:
        """Call a hook of the user's with a connection. False: it said so, or failed."""
        face = PySQLXEngineSync.lend(link)
        try:
            return hook(face) is not False
        except Exception:
            logger.exception("pool %s: the %s hook failed", self._pool.name, what)
            return False
        finally:
            face._take_back()

    # -- closing ---------------------------------------------------------------------------------------------

    def _take_leave(self, slot: Slot) -> Lost | None:
        """From now on only its burial matters. None: not yet, there is no free descriptor to attend it with."""
        self._pool.agent.unwatch(slot.link)
        attended: bool = slot.link.attend()
        return Silence.noted(slot.link) if attended else None

    def _wait_for_descriptors(self, slot: Slot) -> Lost:
        """A moment without free descriptors must not cost the permit. If it lasts, the connection is closed without
        knowing when the server has ended it."""
        backoff, give_up = Backoff(*SHORT_PAUSES), monotonic() + CLOSE_PATIENCE
        while (lost := self._take_leave(slot)) is None:
            if monotonic() > give_up:
                logger.warning(
                    "pool %s: a connection is closed without a free descriptor to attend it", self._pool.name
                )
                return Silence.noted(slot.link)
            time.sleep(backoff.failed(random.random()))
        return lost

    def _close(self, slot: Slot) -> None:
        link, give_up, pause = slot.link, monotonic() + BURIAL_PATIENCE, AFTER
        lost = self._wait_for_descriptors(slot)
        while not link.close(min(pause, max(0.1, give_up - monotonic()))):
            self._pool.lose(slot)
            if monotonic() >= give_up or self._silence.ended(lost):
                link.break_off()
            else:
                logger.warning(
                    "pool %s: a call still runs on a connection to be closed; waiting for its end", self._pool.name
                )
                pause *= 2
        self._closed(slot, lost, give_up)

    def _closed(self, slot: Slot, lost: Lost, give_up: float) -> None:
        """The connection was dropped: its permit goes back when the server has seen that, or at ``give_up``."""
        pool, link = self._pool, slot.link
        slot.link = None
        if not self._buried(slot, link, lost, give_up):
            logger.warning(
                "pool %s: the server still works for a connection that was closed; its permit goes back after %g s, "
                "so the server may have more than max_size for a while",
                pool.name,
                BURIAL_PATIENCE,
            )
        self._silence.forget(lost)
        with pool.lock:
            pool.machine.closed(slot)
            wanted = pool.agent.put_back()
            self.closed += 1
            wake = pool.machine.stopped or pool.machine.to_open() > 0
        pool.agent.permit_unused(wanted, wake)

    def _buried(self, slot: Slot, link: Link, lost: Lost, give_up: float) -> bool:
        """Whether the server has ended a connection that was dropped. Where it says nothing, it is asked."""
        pause = AFTER
        while not link.buried(min(pause, give_up - monotonic())):
            if monotonic() >= give_up:
                return False
            self._pool.lose(slot)
            if self._silence.ended(lost):
                link.forget_twin()
                return True
            pause *= 2
        return True
