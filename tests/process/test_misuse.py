"""What is told to those who use a handle, a lease or a connection in a way that it is not for."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from mppool import PoolManager, PySQLXEngine, PySQLXEnginePool, PySQLXEnginePoolSync, PySQLXEngineSync, errors
from tests.waiting import forked


async def _enter(context: Any) -> None:
    async with context:
        pass


async def _await(thing: Any) -> None:
    await thing


def _with(context: Any) -> None:
    with context:
        pass


@pytest.mark.parametrize(
    ("misuse", "kind", "advice"),
    [
        (lambda pool, _: pool.connection().query("SELECT 1"), AttributeError, "`with pool.connection() as conn:`"),
        (lambda _, apool: apool.connection().query("SELECT 1"), AttributeError, "`async with pool.connection() as"),
        (lambda pool, _: asyncio.run(_enter(pool.connection())), TypeError, "PySQLXEnginePoolSync is for threads"),
        (lambda pool, _: asyncio.run(_await(pool.connection())), TypeError, "PySQLXEnginePoolSync is for threads"),
        (lambda pool, _: asyncio.run(_enter(pool)), TypeError, "In coroutines use PySQLXEnginePool"),
        (lambda _, apool: _with(apool.connection()), TypeError, "PySQLXEnginePool is for coroutines"),
        (lambda _, apool: _with(apool), TypeError, "In threads use PySQLXEnginePoolSync"),
        (lambda _, apool: asyncio.run(_await(apool.connection())), TypeError, "`async with pool.connection() as conn`"),
    ],
)
def test_the_other_kind_of_code(
    misuse: Callable[[Any, Any], object], kind: type[Exception], advice: str, sqlite_uri: str
) -> None:
    manager = PoolManager(sqlite_uri, 1)
    with pytest.raises(kind) as caught:
        misuse(manager.pool(), manager.async_pool())
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        PySQLXEnginePool,
        PySQLXEnginePoolSync,
        PySQLXEngine,
        PySQLXEngineSync,
        lambda: PySQLXEngineSync("sqlite:x", color=1),  # type: ignore[call-arg]
        lambda: PySQLXEnginePoolSync("sqlite:x", uri="sqlite:x", min_size=1),  # type: ignore[misc]
        lambda: PoolManager("sqlite:x").pool(color=1),
        lambda: PoolManager("sqlite:x").async_pool(color=1),
    ],
)
def test_no_private_name_is_told(call: Callable[[], object]) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    told = str(caught.value)
    assert told.startswith(("PySQLXEngine", "PoolManager.")), told


def test_a_method_is_called_by_its_name(sqlite_uri: str) -> None:
    with pytest.raises(TypeError, match=r"^PoolManager\.async_pool has no parameter 'color'"):
        PoolManager(sqlite_uri).async_pool(color=1)


def test_a_borrow_inside_another_that_has_the_last_one(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 1) as manager:
        pool, apool = manager.pool(), manager.async_pool()

        def inner() -> None:
            with pool.connection(0.05):
                pass

        async def tasks() -> None:
            async with apool.connection() as conn, apool.connection(0.05):
                conn.is_healthy()

        with pool.connection() as conn, pytest.raises(errors.PoolTimeoutError, match="itself holds 1 of these"):
            inner()
        assert not conn.connected
        with pytest.raises(errors.PoolTimeoutError, match="itself holds 1 of these"):
            asyncio.run(tasks())


def test_a_borrow_while_another_thread_has_the_last_one(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 1) as manager:
        pool, told = manager.pool(), []

        def other() -> None:
            with pytest.raises(errors.PoolTimeoutError) as caught, pool.connection(0.05):
                pass
            told.append(str(caught.value))

        with pool.connection():
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        assert "itself holds" not in told[0]


def test_a_parameter_too_many(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 1) as manager, manager.pool().connection() as conn:
        with pytest.raises(errors.ParameterInvalidValueError, match="parameter 'b' is not in the statement"):
            conn.query("SELECT :a AS a", {"a": 1, "b": 2})
        with pytest.raises(errors.ParameterInvalidValueError, match="parameter 'a' is missing"):
            conn.query("SELECT :a AS a", {})


def test_after_an_exception_nobody_is_told_to_commit(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    with PoolManager(sqlite_uri, 1) as manager:
        pool, apool = manager.pool(), manager.async_pool()

        async def task() -> None:
            async with apool.connection() as conn:
                await conn.begin()
                await conn.execute("INSERT INTO fish VALUES (2)")
                raise KeyError("task")

        def thread() -> None:
            with pool.connection() as conn:
                conn.begin()
                conn.execute("INSERT INTO fish VALUES (1)")
                raise KeyError("thread")

        with pool.connection() as conn:
            conn.execute("CREATE TABLE fish (a int)")
        with pytest.raises(KeyError):
            thread()
        with pytest.raises(KeyError):
            asyncio.run(task())
        with pool.connection() as conn:
            assert conn.query("SELECT a FROM fish") == []
        assert pool.stats().rollbacks == 2
    assert "left a transaction open" not in caplog.text


def test_in_a_child_that_was_forked_inside_a_block(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 2) as manager:
        pool = manager.pool()

        def child(conn: Any) -> None:
            for use in (lambda: conn.query("SELECT 1 AS a"), lambda: conn.begin(), lambda: conn.uri):
                with pytest.raises(errors.NotConnectedError, match="belongs to the process that this one was forked"):
                    use()
            with pool.connection() as own:
                assert own.query_first("SELECT 1 AS a").a == 1
            os._exit(7)

        with pool.connection() as conn:
            with forked(child, conn) as process:
                assert process.join() == 7
            assert conn.query_first("SELECT 2 AS a").a == 2
        with pytest.raises(errors.NotConnectedError, match="was given back to its pool"):
            _ = conn.uri
