"""The connector: opens connections, checks them and has them closed, on the executor's threads and never on callers'.

Each piece of work ends with a report to the pool's machine, in a step, and with doing what the machine says then. It
ends so whatever is raised: hooks are the user's and may raise anything, SystemExit too.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from mppool import errors
from mppool.core.backoff import Backoff
from mppool.core.slots import Slot
from mppool.database.connection.sync_connection import PySQLXEngineSync
from mppool.database.contract import is_full, open_link
from mppool.process.hosted import check_lease, ready_to_open
from mppool.shared.file_slots import FileSlot

if TYPE_CHECKING:
    from mppool.core.slots import Waiter
    from mppool.database.contract import Link
    from mppool.process.closing import Closing
    from mppool.process.executor import Executor
    from mppool.process.lending import Lending
    from mppool.uri import Database

logger = logging.getLogger("mppool.pool")

FULL_PAUSES = (0.002, 0.5)  # seconds until a server that is full is asked again, at first and at most


class Permits(Protocol):
    """What a connector needs of its process's attachment to the manager. Under the pool's lock."""

    def watch(self, link: Link) -> bool:
        """A connection is open. False: the manager could not be told yet, and the agent has to."""
        ...

    def tell_uri(self) -> None:
        """A connection was opened with the uri that is known last."""

    def put_back(self) -> bool:
        """There is no connection: publish that, its permit is free; whether others wait for it."""
        ...


class Attempts(Protocol):
    """What is told how opening goes: `mppool.process.openings`. Under the pool's lock, but for `failed`."""

    def succeeded(self) -> int: ...
    def failing(self, error: errors.ConnectError) -> tuple[list[Waiter], float | None]: ...
    def failed(self, error: errors.ConnectError, pause: float | None) -> None: ...


class Connector:
    """The slow work of one local pool.

    Args:
        pool: whose machine is told what became of the work, and where it is counted.
        executor: does the work.
        closing: closes connections.
    """

    def __init__(
        self, pool: Lending, executor: Executor, permits: Permits, attempts: Attempts, closing: Closing
    ) -> None:
        self._pool = pool
        self._executor = executor
        self._permits = permits
        self._attempts = attempts
        self._closing = closing

    def open(self, slot: Slot, turn: FileSlot) -> None:
        """Open a connection. SQLite's takes a tenth of a millisecond and no network: less than to wake a thread."""
        if self._pool.budget.database.provider == "sqlite" and self._pool.settings.configure is None:
            self._open(slot, turn)
        else:
            self._executor.do(lambda: self._open(slot, turn))

    def check(self, slot: Slot) -> None:
        self._executor.do(lambda: self._check(slot))

    def close(self, slot: Slot) -> None:
        """Close a connection, as soon as that can be begun without waiting."""
        self._closing.close_at_once(slot)

    def join(self, timeout: float) -> None:
        """No more work will come: wait for what there is, so many seconds at most."""
        self._executor.join(timeout)

    def abandon(self) -> None:
        """In a forked child."""
        self._closing.abandon()

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
            notify = pool.publish()
            pool.opened += 1
            pool.recent.append(now - began)
            pool.connect_time += now - began
            pool.publish_cost()
            failures = self._attempts.succeeded()
            pool.last_connect_error = None
            if pool.budget.ask is not None:
                self._permits.tell_uri()
            shared = self._permits.watch(link)
            wake = not shared or pool.machine.to_open() > 0 or not pool.machine.opening
        pool.follow(action, notify, wake)
        if failures:
            logger.info("pool %s: connected again, after %d tries", pool.name, failures + 1)

    def _connect(self, slot: Slot) -> tuple[Any, float]:
        """Open and configure one connection; and when that began. A server that is full is asked again for a while:
        permits are exact, but it may still be ending the connection whose place this one takes."""
        pool, settings = self._pool, self._pool.settings
        backoff = Backoff(*FULL_PAUSES)
        give_up = monotonic() + settings.connect_timeout
        while True:
            where, began = self._database(), monotonic()
            database, limit = ready_to_open(pool, where, settings.connect_timeout)
            try:
                link = open_link(
                    database,
                    connect_timeout=limit,
                    sqlite_connections=pool.max_size if database.provider == "sqlite" else 0,
                )
                break
            except errors.ConnectError as error:
                if not is_full(error) or monotonic() > give_up or pool.machine.stopped or pool.machine.paused:
                    raise
                with pool.step:
                    pool.refused_full += 1
                    pool.last_connect_error = (monotonic(), error)
            time.sleep(backoff.failed(random.random()))
        try:
            check_lease(pool)
        except errors.ConnectError:
            self._closing.close_and_wait(slot, link)
            raise
        if settings.configure is not None and not self._hook(settings.configure, "configure", link):
            self._closing.close_and_wait(slot, link)
            raise errors.ConnectError("0", "the configure hook failed; the log has its traceback")
        return link, began

    def _database(self) -> Database:
        """Where to connect to; a function that says the uri is asked. Raises: ConnectError: it failed."""
        try:
            return self._pool.budget.current()
        except Exception as error:
            text = f"the function that says the uri failed: {type(error).__name__}: {error}"
            raise errors.ConnectError("0", text) from error

    def _not_opened(self, slot: Slot, error: errors.ConnectError) -> None:
        pool = self._pool
        with pool.step:
            pool.machine.not_opened(slot)
            wanted = self._permits.put_back()
            starting, pause = self._attempts.failing(error)
            pool.connect_errors += 1
            pool.last_connect_error = (monotonic(), error)
        for waiter in starting:
            waiter.wake()
        if wanted:
            pool.notifier.notify_manager()
        self._attempts.failed(error, pause)

    # -- checking ---------------------------------------------------------------------------------------------

    def _check(self, slot: Slot) -> None:
        fit = False
        try:
            fit = self._is_fit(slot.link)
        except BaseException:
            logger.exception("pool %s: checking a connection failed", self._pool.name)
        finally:
            self._checked(slot, fit)

    def _is_fit(self, link: Any) -> bool:
        pool = self._pool
        fit = (not link.suspect or link.check()) and link.reset()
        for what, hook in (("reset", pool.settings.reset), ("check", pool.settings.check)):
            fit = fit and (hook is None or self._hook(hook, what, link))
        return fit and not link.doubtful and not link.suspect and not link.in_transaction

    def _checked(self, slot: Slot, fit: bool) -> None:
        pool = self._pool
        with pool.step:
            action = pool.machine.checked(slot, monotonic(), pool.row.limit, fit=fit)
            pool.connections_lost += not fit
            another = pool.machine.check_next() if pool.checks_before_lending and not fit else None
            notify = pool.publish()
        pool.follow(action, notify, another is not None or pool.machine.paused)

    def _hook(self, hook: Callable[[Any], object], what: str, link: Any) -> bool:
        """Call a hook of the user's with a connection. False: it said so, or failed."""
        face = PySQLXEngineSync.lend(link)
        try:
            return hook(face) is not False
        except BaseException:  # the permit must not be lost by it, and this thread has no caller to raise it to
            logger.exception("pool %s: the %s hook failed", self._pool.name, what)
            return False
        finally:
            face._take_back()
