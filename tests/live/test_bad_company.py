"""Hooks, log handlers and waiters are the user's, and may do what they like: raise anything, and use the pool."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from mppool import PySQLXEnginePool, PySQLXEnginePoolSync, errors
from mppool.process import lease as lease_module
from mppool.process.async_pool import TaskWaiter
from mppool.process.attachment import Attachment
from mppool.process.connector import Connector
from mppool.process.local import LocalPool
from mppool.process.sync_pool import ThreadWaiter
from tests.live.crowd import ends, together
from tests.waiting import forked, until

RAISED = (SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, RuntimeError)


class Raises:
    """A hook that raises whenever it is armed."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind, self.armed, self.calls = kind, False, 0

    def __call__(self, connection: Any) -> None:
        self.calls += 1
        if self.armed:
            self.armed = False
            raise self.kind("from a hook")


@pytest.mark.parametrize("kind", RAISED)
@pytest.mark.parametrize("what", ["configure", "check", "reset"])
def test_a_hook_that_raises_costs_no_permit(what: str, kind: type[BaseException], database_uri: str) -> None:
    hook = Raises(kind)
    with PySQLXEnginePoolSync(database_uri, 0, 1, 20.0, **{what: hook}) as pool:  # type: ignore[arg-type]
        for _ in range(3):
            with pool.connection() as conn:
                conn.close()  # so that each has to be opened and configured
            hook.armed = True
            # It waits, and the first that is opened cannot be configured.
            with suppress(errors.ConnectError), pool.connection() as conn:
                assert conn.query_first("SELECT 1 AS a").a == 1
            with pool.connection() as conn:
                assert conn.query_first("SELECT 1 AS a").a == 1
            assert not hook.armed
        until(lambda: pool.stats().in_use == 0)


@pytest.mark.parametrize("kind", RAISED)
@pytest.mark.parametrize("what", ["configure", "check", "reset"])
def test_a_hook_that_raises_costs_a_task_no_permit(what: str, kind: type[BaseException], sqlite_uri: str) -> None:
    hook = Raises(kind)

    async def run() -> None:
        async with PySQLXEnginePool(sqlite_uri, 0, 1, 20.0, **{what: hook}) as pool:  # type: ignore[arg-type]
            for _ in range(3):
                async with pool.connection() as conn:
                    await conn.close()
                hook.armed = True
                with suppress(errors.ConnectError):
                    async with pool.connection() as conn:
                        assert (await conn.query_first("SELECT 1 AS a")).a == 1
                async with pool.connection() as conn:
                    assert (await conn.query_first("SELECT 1 AS a")).a == 1
                assert not hook.armed

    asyncio.run(run())


# -- one borrow, entered twice ---------------------------------------------------------------------------------


def test_one_borrow_is_entered_once(sqlite_uri: str) -> None:
    with PySQLXEnginePoolSync(sqlite_uri, 0, 1) as pool:
        borrow = pool.connection()
        with borrow as conn:
            with pytest.raises(errors.LeaseReusedError, match="entered before"), borrow:
                pass
            assert conn.query_first("SELECT 1 AS a").a == 1
        with pytest.raises(errors.LeaseReusedError), borrow:
            pass
        with pool.connection(0), pytest.raises(errors.PoolTimeoutError), pool.connection(0):
            pass
        until(lambda: pool.stats().in_use == 0)


def test_one_borrow_of_a_task_is_entered_once(sqlite_uri: str) -> None:
    async def run() -> None:
        async with PySQLXEnginePool(sqlite_uri, 0, 1) as pool:
            borrow = pool.connection()
            async with borrow as conn:
                with pytest.raises(errors.LeaseReusedError, match="entered before"):
                    async with borrow:
                        pass
                assert (await conn.query_first("SELECT 1 AS a")).a == 1
            with pytest.raises(errors.LeaseReusedError):
                async with borrow:
                    pass
            async with pool.connection(0):
                pass
            assert pool.stats().in_use == 0

    asyncio.run(run())


# -- nothing of somebody else's under the lock -----------------------------------------------------------------


class Borrows(logging.Handler):
    """A log handler that writes to a table, through the same pool."""

    def __init__(self, pool: PySQLXEnginePoolSync) -> None:
        super().__init__()
        self.pool, self.records = pool, 0

    def emit(self, record: logging.LogRecord) -> None:
        self.records += 1
        with suppress(errors.PoolError), self.pool.connection(0.1) as conn:
            conn.query_first("SELECT 1 AS a")


@contextmanager
def heard_by(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger("mppool")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def stir(pool: PySQLXEnginePoolSync) -> None:
    """All that is told: a timeout, too many waiters, a transaction left open, a hook that fails."""
    with pool.connection() as conn:
        conn.begin()
    with pool.connection(), suppress(errors.PoolTimeoutError), pool.connection(0):
        pass

    def wait() -> None:
        with suppress(errors.TooManyWaitingError), pool.connection():
            pass

    together([wait] * 6, 30)


def told(uri: str) -> None:
    def fails(connection: Any) -> None:
        raise RuntimeError("a hook that fails")

    with PySQLXEnginePoolSync(uri, 0, 1, max_waiting=2, reset=fails) as pool:
        handler = Borrows(pool)
        with heard_by(handler):
            stir(pool)
        assert handler.records >= 3


def test_a_log_handler_may_borrow(sqlite_uri: str) -> None:
    with forked(told, sqlite_uri) as child:
        ends(child, 60)


def test_nothing_slow_and_nothing_foreign_happens_under_the_lock(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[LocalPool] = []
    calls: list[str] = []
    wrong: list[str] = []

    def watch(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def watched(*args: Any, **more: Any) -> Any:
            calls.append(name)
            wrong.extend(name for pool in pools if pool.lock._is_owned())  # type: ignore[attr-defined]
            return real(*args, **more)

        monkeypatch.setattr(owner, name, watched)

    real_init = LocalPool.__init__

    def init(self: LocalPool, *args: Any, **more: Any) -> None:
        real_init(self, *args, **more)
        pools.append(self)

    monkeypatch.setattr(LocalPool, "__init__", init)
    for owner, name in (
        (logging.Logger, "handle"),
        (ThreadWaiter, "wake"),
        (TaskWaiter, "wake"),
        (Attachment, "held_elsewhere"),
        (Connector, "_hook"),
    ):
        watch(owner, name)
    with PySQLXEnginePoolSync(sqlite_uri, 0, 1, max_waiting=2, reset=lambda connection: False) as pool:
        stir(pool)
        apool = PySQLXEnginePool._of(pool._budget, pool.name, pool._settings)

        async def tasks() -> None:
            async def one() -> None:
                async with apool.connection():
                    await asyncio.sleep(0)

            await asyncio.gather(one(), one())
            await apool.stop()

        asyncio.run(tasks())
    assert {"handle", "wake", "held_elsewhere", "_hook"} <= set(calls)
    assert wrong == []


# -- what nobody knows any more --------------------------------------------------------------------------------


def test_a_borrower_that_was_forgotten_comes_home(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """As when Ctrl-C comes before the first operation of an ``__exit__``."""
    with PySQLXEnginePoolSync(sqlite_uri, 0, 1) as pool:
        lease = pool.connection()
        conn = lease.__enter__()
        local: Any = pool._local
        assert lease_module.forgotten(local.machine.borrowed) == []
        del lease
        assert lease_module.forgotten(local.machine.borrowed) == [], "its connection is still in somebody's hands"
        del conn
        with pool.connection(10) as again:
            assert again.query_first("SELECT 1 AS a").a == 1
    assert "forgotten" in caplog.text


def test_a_pool_s_own_thread_does_not_wait_for_itself(sqlite_uri: str) -> None:
    """A finaliser may run there, and borrow."""
    refused: list[BaseException] = []

    def borrow(pool: PySQLXEnginePoolSync) -> None:
        try:
            with pool.connection():
                pass
        except errors.PoolError as error:
            refused.append(error)

    with PySQLXEnginePoolSync(sqlite_uri, 0, 1) as pool, pool.connection():
        agent: Any = pool._local.agent  # type: ignore[union-attr]
        real: Callable[[float], object] = agent._upkeep.finish_for_callers

        def finish_for_callers(now: float) -> None:
            real(now)
            if not refused:
                borrow(pool)

        agent._upkeep.finish_for_callers = finish_for_callers
        agent.wake()
        until(lambda: refused)
        assert isinstance(refused[0], errors.ReentrantBorrowError)
