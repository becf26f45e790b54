"""Each kind of leak is told with the place where the connection was borrowed, by threads and by tasks."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from mppool import PoolManager, PySQLXEnginePool, PySQLXEnginePoolSync, errors
from tests.process.flavours import Flavour, run, until
from tests.waiting import until as wait_until


class Logged:
    """What the pools say, from a level on."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def __call__(self, *parts: str) -> list[str]:
        return [text for text in self._caplog.messages if all(part in text for part in parts)]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Logged]:
    with caplog.at_level(logging.INFO, "mppool"):
        yield Logged(caplog)


def here(offset: int = 0) -> str:
    frame = inspect.stack()[1]
    return f"{__file__}:{frame.lineno + offset} in {frame.function} "


def test_a_borrow_that_lasts_too_long_is_told_once_and_when_it_comes_back(logged: Logged, sqlite_uri: str) -> None:
    with PySQLXEnginePoolSync(sqlite_uri, 1, 2, leak_threshold=0.05) as pool:
        with pool.connection():
            place = here(-1) + "(thread MainThread)"
            wait_until(lambda: logged("has been borrowed for"))
            seen = PoolManager.attach(pool.name).stats().members[0]
            assert seen.oldest_use > 0.05
            assert seen.oldest_place in place
            assert seen.oldest_place.startswith("process/test_leaks.py:")
            threshold = seen.oldest_use
            wait_until(lambda: PoolManager.attach(pool.name).stats().members[0].oldest_use > threshold + 0.1)
            assert pool.stats().leaks == 1
        wait_until(lambda: logged("has come back after"))
        wait_until(lambda: PoolManager.attach(pool.name).stats().members[0].oldest_use == 0)
    (late,) = logged("has been borrowed for")
    assert late.startswith(f"pool {pool.name}: process {os.getpid()}: ")
    assert late.endswith(f"(leak_threshold=0.05 s), borrowed at {place}")
    (back,) = logged("has come back after")
    assert back.endswith(f", borrowed at {place}")


def test_a_tasks_borrow_is_told_with_the_task(logged: Logged, sqlite_uri: str) -> None:
    async def checkout(pool: PySQLXEnginePool) -> str:
        async with pool.connection():
            place = here(-1) + "(task cart-7)"
            await until(lambda: logged("has been borrowed for"))
        return place

    async def scenario() -> None:
        async with PySQLXEnginePool(sqlite_uri, 1, 2, leak_threshold=0.05) as pool:
            place = await asyncio.create_task(checkout(pool), name="cart-7")
            assert logged("has been borrowed for", place)
            await until(lambda: logged("has come back after", place))

    run(scenario())


def test_an_exit_stack_borrows_for_its_caller(logged: Logged, sqlite_uri: str) -> None:
    with PySQLXEnginePoolSync(sqlite_uri, 1, 2, leak_threshold=0.05) as pool, ExitStack() as stack:
        stack.enter_context(pool.connection())
        place = here(-1)
        wait_until(lambda: logged("has been borrowed for", place))


def test_what_comes_back_in_time_is_not_told(logged: Logged, flavour: Flavour, sqlite_uri: str) -> None:
    async def scenario() -> None:
        async with flavour.running(sqlite_uri, 1, 2, leak_threshold=30, slow_borrow=30) as pool:
            for _ in range(20):
                async with flavour.connection(pool):
                    pass
            assert pool.stats().leaks == 0

    run(scenario())
    assert not logged()


def forget(pool: Any) -> None:
    lease = pool.connection()
    lease.__enter__()


async def forget_in_a_task(pool: Any) -> None:
    lease = pool.connection()
    await lease.__aenter__()


def test_a_lease_that_nothing_refers_to_is_told_with_its_place_and_comes_home(
    logged: Logged, flavour: Flavour, sqlite_uri: str
) -> None:
    async def scenario() -> None:
        async with flavour.running(sqlite_uri, 1, 1, leak_threshold=2) as pool:
            if flavour.name == "sync":
                await asyncio.to_thread(forget, pool)
            else:
                await forget_in_a_task(pool)
            gc.collect()
            async with flavour.connection(pool, 10):
                pass
            assert pool.stats().leaks == 1

    run(scenario())
    function = forget if flavour.name == "sync" else forget_in_a_task
    line = function.__code__.co_firstlineno + 2
    assert logged("was forgotten", f"borrowed at {__file__}:{line} in {function.__name__} (")


def test_it_comes_home_without_a_threshold_and_its_place_is_not_known(
    logged: Logged, flavour: Flavour, sqlite_uri: str
) -> None:
    async def scenario() -> None:
        async with flavour.running(sqlite_uri, 1, 1) as pool:
            if flavour.name == "sync":
                await asyncio.to_thread(forget, pool)
            else:
                await forget_in_a_task(pool)
            async with flavour.connection(pool, 10):
                pass
            assert pool.stats().leaks == 1

    run(scenario())
    (told,) = logged("was forgotten")
    assert "borrowed at" not in told


def test_a_timeout_names_the_longest_borrows(flavour: Flavour, sqlite_uri: str) -> None:
    async def scenario() -> None:
        async with (
            flavour.running(sqlite_uri, 1, 4, leak_threshold=60) as pool,
            flavour.connection(pool),
            flavour.connection(pool),
            flavour.connection(pool),
            flavour.connection(pool),
        ):
            with pytest.raises(errors.PoolTimeoutError) as caught:
                async with flavour.connection(pool, 0.02):
                    raise AssertionError
            text = str(caught.value)
            assert text.count("borrowed at") == 3, "not all of them"
            # with the sync handle, the test's own helper is on a thread of asyncio's
            assert ("tests/process/flavours.py:" in text) == (flavour.name == "async")

    run(scenario())


def test_a_timeout_without_places_says_for_how_long(sqlite_uri: str) -> None:
    with PySQLXEnginePoolSync(sqlite_uri, 1, 1) as pool, pool.connection():
        with pytest.raises(errors.PoolTimeoutError, match=r"longest borrows here: \d+\.\d s") as caught:
            pool.connection(0.01).__enter__()
        assert "borrowed at" not in str(caught.value)


def test_a_nested_borrow_is_told_with_the_place_of_the_outer_one(sqlite_uri: str) -> None:
    with PySQLXEnginePoolSync(sqlite_uri, 1, 1, leak_threshold=60) as pool, pool.connection() as conn:
        place = here(-1)
        with pytest.raises(errors.PoolTimeoutError, match="the caller itself holds 1 of these connections") as caught:
            pool.connection(0.01).__enter__()
        assert place in str(caught.value)
        assert conn.query_first("SELECT 1 AS a").a == 1


def test_a_slow_borrow_is_told_with_numbers(logged: Logged, flavour: Flavour, sqlite_uri: str) -> None:
    async def scenario() -> None:
        async with flavour.running(sqlite_uri, 1, 1, slow_borrow=0.01) as pool:
            async with flavour.connection(pool):
                with pytest.raises(errors.PoolTimeoutError):
                    async with flavour.connection(pool, 0.03):
                        raise AssertionError
            (told,) = logged("a caller waited")
            assert told.startswith(f"pool {pool.name}: process {os.getpid()}: a caller waited 0.0")
            assert "(slow_borrow=0.01 s); here 1 in use" in told

    run(scenario())


def test_two_handles_have_the_stricter_threshold(logged: Logged, sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 2) as manager:
        tracked, other = manager.pool(leak_threshold=0.05), manager.pool()
        with tracked.connection(), other.connection():
            wait_until(lambda: len(logged("has been borrowed for")) == 2)
        assert len(logged("has been borrowed for", "borrowed at")) == 1
        tracked.stop()
        other.stop()


@pytest.mark.parametrize("name", ["leak_threshold", "slow_borrow"])
def test_a_threshold_is_more_than_zero_seconds(name: str, sqlite_uri: str) -> None:
    for bad, error in ((0, ValueError), (-1, ValueError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(error, match=name):
            PySQLXEnginePoolSync(sqlite_uri, 0, 1, **{name: bad})  # type: ignore[arg-type]


def test_nothing_is_said_of_locks(caplog: pytest.LogCaptureFixture, sqlite_uri: str) -> None:
    with caplog.at_level(logging.DEBUG), PySQLXEnginePoolSync(sqlite_uri, 1, 1) as pool, pool.connection():
        pass
    assert not [record for record in caplog.records if not record.name.startswith("mppool")]
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]
