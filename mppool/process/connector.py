"""The connector: where connections are opened, looked after and closed, by hands and never by callers.

Each piece of work ends with a report to the pool's machine, in a step, and with doing what the machine says then. It
ends so whatever is raised: hooks are the user's and may raise anything, SystemExit too. A permit goes back when its
connection is really gone, and not before.
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
from mppool.database.connection.sync_connection import PySQLXEngineSync
from mppool.database.contract import is_full, open_link
from mppool.process.executor import Executor
from mppool.process.silent_connections import AFTER, SilentConnections
from mppool.shared.file_slots import FileSlot

if TYPE_CHECKING:
    from mppool.database.contract import Link, Lost
    from mppool.process.local import LocalPool

logger = logging.getLogger("mppool.pool")

# Seconds that a server may go on with a statement that was given up, before its connection is cut and the permit goes
# back all the same: a server that cannot be reached must not keep permits for ever.
BURIAL_PATIENCE = 60.0
FULL_PAUSES = (0.002, 0.5)  # seconds until a server that is full is asked again, at first and at most
CLOSE_PATIENCE = 5.0  # seconds a hand waits for a free descriptor to attend a connection with
SHORT_PAUSES = (0.005, 0.1)  # seconds until a free descriptor is looked for again, at first and at most
RECENT = 8  # opens whose times are kept: the least of them is what an open costs when nothing else slows it down


class Connector:
    """The slow work of one local pool. Counts are written under the pool's lock."""

    def __init__(self, pool: LocalPool) -> None:
        self._pool = pool
        self._executor = Executor(pool.name)
        self._silent = SilentConnections(pool)
        self.recent: deque[float] = deque(maxlen=RECENT)  # seconds that the last opens took
        self.opened = self.closed = self.connect_errors = self.refused_full = 0
        self.last_connect_error: tuple[float, Exception] | None = None  # why there is none, or no seat

    def open(self, slot: Slot, turn: FileSlot) -> None:
        """Open a connection. SQLite's takes a tenth of a millisecond and no network: less than to wake a hand."""
        if self._pool.budget.database.provider == "sqlite" and self._pool.settings.configure is None:
            self._open(slot, turn)
        else:
            self._executor.do(lambda: self._open(slot, turn))

    def tend(self, slot: Slot) -> None:
        self._executor.do(lambda: self._tend(slot))

    def close(self, slot: Slot) -> None:
        self._executor.do(lambda: self._close(slot))

    def close_at_once(self, slot: Slot) -> None:
        """Close a connection on this thread (the agent's): others wait for its permit. One that may not be at rest is
        closed by a hand."""
        link = slot.link
        if link.doubtful or link.suspect or link.in_transaction:
            self.close(slot)
            return
        lost = self._take_leave(link)
        if lost is None or not link.close(0.0):
            self.close(slot)
        elif link.provider == "sqlite":
            self._closed(slot)
        else:
            slot.link = None
            self._executor.do(lambda: self._bury(slot, link, lost))

    def publish_cost(self) -> None:
        """Under the pool's lock."""
        if self.recent:
            self._pool.row.publish_cost(min(self.recent))

    def aside(self, piece: Callable[[], None]) -> None:
        """Have something else done that takes a while."""
        self._executor.do(piece)

    def join(self, timeout: float) -> None:
        """No more work will come: wait for what there is, so many seconds at most."""
        self._executor.join(timeout)

    def abandon(self) -> None:
        """In a forked child."""
        self._silent.abandon()

    # -- opening ---------------------------------------------------------------------------------------------

    def _open(self, slot: Slot, turn: FileSlot) -> None:
        link, began = None, 0.0
        error = errors.ConnectError("0", "opening a connection was broken off")
        try:
            try:
                link, began = self._connect(slot)
            finally:
                turn.give_back()
        except errors.ConnectError as failure:
            error = failure
        except BaseException as failure:
            error = errors.ConnectError("0", f"{type(failure).__name__}: {failure}")
            logger.exception("pool %s: opening a connection failed", self._pool.name)
        finally:
            if link is None:
                self._not_opened(slot, error)
            else:
                self._opened(slot, link, began)

    def _opened(self, slot: Slot, link: Any, began: float) -> None:
        pool, now = self._pool, monotonic()
        expires = now + pool.settings.keep_alive * (1.0 - 0.05 * random.random())  # so that they do not all go at once
        with pool.step:
            action = pool.machine.opened(slot, link, now, expires)
            ring = pool.publish()
            self.opened += 1
            self.recent.append(now - began)
            self.publish_cost()
            failures = pool.agent.connect_succeeded()
            self.last_connect_error = None
            shared = pool.agent.watch(link)
            wake = not shared or pool.machine.to_open() > 0 or not pool.machine.opening
        pool.follow(action, ring, wake)
        if failures:
            logger.info("pool %s: connected again, after %d tries", pool.name, failures + 1)

    def _connect(self, slot: Slot) -> tuple[Any, float]:
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
                with pool.step:
                    self.refused_full += 1
                    self.last_connect_error = (monotonic(), error)
            time.sleep(backoff.failed(random.random()))
        if settings.configure is not None and not self._hook(settings.configure, "configure", link):
            self._lay_to_rest(slot, link)
            raise errors.ConnectError("0", "the configure hook failed; the log has its traceback")
        return link, began

    def _not_opened(self, slot: Slot, error: errors.ConnectError) -> None:
        pool = self._pool
        with pool.step:
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
        fit = False
        try:
            fit = self._is_fit(slot.link)
        except BaseException:
            logger.exception("pool %s: looking after a connection failed", self._pool.name)
        finally:
            self._tended(slot, fit)

    def _is_fit(self, link: Any) -> bool:
        pool = self._pool
        fit = (not link.suspect or link.check()) and link.reset()
        for what, hook in (("reset", pool.settings.reset), ("check", pool.settings.check)):
            fit = fit and (hook is None or self._hook(hook, what, link))
        return fit and not link.doubtful and not link.suspect and not link.in_transaction

    def _tended(self, slot: Slot, fit: bool) -> None:
        pool = self._pool
        with pool.step:
            action = pool.machine.tended(slot, monotonic(), pool.row.limit, fit=fit)
            another = pool.machine.vet() if pool.vetting and not fit else None
            ring = pool.publish()
        pool.follow(action, ring, another is not None)

    def _hook(self, hook: Callable[[Any], object], what: str, link: Any) -> bool:
        """Call a hook of the user's with a connection. False: it said so, or failed."""
        face = PySQLXEngineSync.lend(link)
        try:
            return hook(face) is not False
        except BaseException:  # the permit must not be lost by it, and this thread has nobody else to tell
            logger.exception("pool %s: the %s hook failed", self._pool.name, what)
            return False
        finally:
            face._take_back()

    # -- closing ---------------------------------------------------------------------------------------------

    def _take_leave(self, link: Link) -> Lost | None:
        """From now on only its burial matters. None: not yet, there is no free descriptor to attend it with."""
        self._pool.agent.unwatch(link)
        return SilentConnections.noted(link) if link.prepare_close() else None

    def _wait_for_descriptors(self, link: Link) -> Lost:
        """A moment without free descriptors must not cost the permit. If it lasts, the connection is closed without
        knowing when the server has ended it."""
        backoff, give_up = Backoff(*SHORT_PAUSES), monotonic() + CLOSE_PATIENCE
        while (lost := self._take_leave(link)) is None:
            if monotonic() > give_up:
                logger.warning(
                    "pool %s: a connection is closed without a free descriptor to attend it", self._pool.name
                )
                return SilentConnections.noted(link)
            time.sleep(backoff.failed(random.random()))
        return lost

    def _close(self, slot: Slot) -> None:
        link, slot.link = slot.link, None
        try:
            self._lay_to_rest(slot, link)
        except BaseException:
            logger.exception("pool %s: closing a connection failed", self._pool.name)
            link.drop()
        finally:
            self._closed(slot)

    def _lay_to_rest(self, slot: Slot, link: Link) -> None:
        """Close a connection, and wait until its server has seen that."""
        give_up, pause = monotonic() + BURIAL_PATIENCE, AFTER
        lost = self._wait_for_descriptors(link)
        try:
            while not link.close(min(pause, max(0.1, give_up - monotonic()))):
                self._pool.lose(slot)
                if monotonic() >= give_up or self._silent.ended(lost):
                    link.break_off()
                else:
                    logger.warning(
                        "pool %s: a call still runs on a connection to be closed; waiting for its end", self._pool.name
                    )
                    pause *= 2
            self._await_burial(slot, link, lost, give_up)
        finally:
            self._silent.forget(lost)

    def _await_burial(self, slot: Slot, link: Link, lost: Lost, give_up: float) -> None:
        """The connection was dropped: its permit goes back when the server has seen that, or at ``give_up``."""
        if not self._buried(slot, link, lost, give_up):
            logger.warning(
                "pool %s: the server still works for a connection that was closed; its permit goes back after %g s, "
                "so the server may have more than max_size for a while",
                self._pool.name,
                BURIAL_PATIENCE,
            )

    def _bury(self, slot: Slot, link: Link, lost: Lost) -> None:
        try:
            self._await_burial(slot, link, lost, monotonic() + BURIAL_PATIENCE)
        finally:
            self._silent.forget(lost)
            self._closed(slot)

    def _closed(self, slot: Slot) -> None:
        """The permit goes back."""
        pool = self._pool
        slot.link = None
        with pool.step:
            pool.machine.closed(slot)
            wanted = pool.agent.put_back()
            self.closed += 1
            wake = pool.machine.stopped or pool.machine.to_open() > 0
        pool.agent.permit_unused(wanted, wake)

    def _buried(self, slot: Slot, link: Link, lost: Lost, give_up: float) -> bool:
        """Whether the server has ended a connection that was dropped. Where it says nothing, it is asked."""
        pause = AFTER
        while not link.await_close(min(pause, give_up - monotonic())):
            if monotonic() >= give_up:
                return False
            self._pool.lose(slot)
            if self._silent.ended(lost):
                link.forget_twin()
                return True
            pause *= 2
        return True
