"""What a handle promises within one process."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from mppool import PoolManager, PySQLXEnginePool, PySQLXEnginePoolSync, errors
from tests.process.flavours import Flavour, run, until


def test_a_query_through_the_pool(flavour: Flavour, database_uri: str) -> None:
    async def scenario() -> None:
        async with flavour.running(database_uri, 1) as pool, flavour.connection(pool) as conn:
            assert (await conn.query_first("SELECT 1 AS a")).a == 1

    run(scenario())


def test_start_opens_min_size_connections_and_stop_closes_them(flavour: Flavour, database_uri: str) -> None:
    async def scenario() -> None:
        async with flavour.running(database_uri, 2) as pool:
            assert pool.stats().idle == 2
            assert not pool.closed
        assert pool.closed

    run(scenario())


def test_starting_and_stopping_twice_or_too_early(flavour: Flavour, sqlite_uri: str) -> None:
    async def scenario() -> None:
        pool = flavour.make(sqlite_uri)
        assert pool.closed
        with pytest.raises(errors.PoolAlreadyClosedError, match="never started"):
            await flavour.stop(pool)
        with pytest.raises(errors.PoolClosedError, match="not started"):
            async with flavour.connection(pool):
                raise AssertionError
        await flavour.start(pool)
        with pytest.raises(errors.PoolAlreadyStartedError):
            await flavour.start(pool)
        await flavour.stop(pool)
        with pytest.raises(errors.PoolAlreadyClosedError):
            await flavour.stop(pool)
        with pytest.raises(errors.PoolClosedError, match="stopped"):
            async with flavour.connection(pool):
                raise AssertionError

    run(scenario())


def test_a_stopped_pool_can_be_started_again(flavour: Flavour, sqlite_uri: str) -> None:
    async def scenario() -> None:
        pool = flavour.make(sqlite_uri, 1)
        for _ in range(3):
            await flavour.start(pool)
            async with flavour.connection(pool) as conn:
                assert (await conn.query_first("SELECT 1 AS a")).a == 1
            await flavour.stop(pool)

    run(scenario())


def test_first_come_first_served(flavour: Flavour, sqlite_uri: str) -> None:
    async def scenario() -> None:
        served: list[int] = []

        async def caller(number: int) -> None:
            async with flavour.connection(pool):
                served.append(number)

        async with flavour.running(sqlite_uri, 1, 1) as pool:
            async with flavour.connection(pool):
                line = []
                for number in range(8):
                    line.append(asyncio.create_task(caller(number)))
                    await until(lambda: pool.stats().waiting == len(line))
            await asyncio.gather(*line)
        assert served == list(range(8))

    run(scenario())


def test_a_timeout_tells_the_numbers_and_loses_nothing(flavour: Flavour, sqlite_uri: str) -> None:
    async def scenario() -> None:
        async with flavour.running(sqlite_uri, 1, 1, conn_timeout=0.05) as pool:
            async with flavour.connection(pool):
                with pytest.raises(errors.PoolTimeoutError) as caught:
                    async with flavour.connection(pool):
                        raise AssertionError
                text = str(caught.value)
                assert pool.name in text
                assert "0.05 s" in text
                assert "1 in use" in text
                assert "of 1 permits" in text
                with pytest.raises(errors.PoolTimeoutError):
                    async with flavour.connection(pool, 0):
                        raise AssertionError
            assert pool.stats().requests_timeouts == 2
            for _ in range(3):
                async with flavour.connection(pool, 5):
                    pass

    run(scenario())


def test_a_per_call_timeout_overrides_conn_timeout(flavour: Flavour, sqlite_uri: str) -> None:
    async def scenario() -> None:
        async def caller() -> int:
            async with flavour.connection(pool, 10) as conn:
                return int((await conn.query_first("SELECT 7 AS a")).a)

        async with flavour.running(sqlite_uri, 1, 1, conn_timeout=0.01) as pool:
            async with flavour.connection(pool):
                waits = asyncio.create_task(caller())
                await until(lambda: pool.stats().waiting == 1)
            assert await waits == 7

    run(scenario())


def test_more_than_max_waiting_are_refused_at_once(flavour: Flavour, sqlite_uri: str) -> None:
    async def scenario() -> None:
        async def caller() -> None:
            async with flavour.connection(pool):
                pass

        async with flavour.running(sqlite_uri, 1, 1, max_waiting=2) as pool:
            async with flavour.connection(pool):
                line = [asyncio.create_task(caller()) for _ in range(2)]
                await until(lambda: pool.stats().waiting == 2)
                with pytest.raises(errors.TooManyWaitingError, match="max_waiting=2"):
                    await caller()
            await asyncio.gather(*line)

    run(scenario())


def test_stop_tells_those_who_wait(flavour: Flavour, sqlite_uri: str) -> None:
    async def scenario() -> None:
        async def caller() -> None:
            async with flavour.connection(pool):
                raise AssertionError

        async with flavour.running(sqlite_uri, 1, 1) as pool, flavour.connection(pool):
            waits = asyncio.create_task(caller())
            await until(lambda: pool.stats().waiting == 1)
            await flavour.stop(pool)
            with pytest.raises(errors.PoolClosedError):
                await waits
            # what was borrowed is closed when it comes back, and the seat given up: the balance sheet checks it

    run(scenario())


def test_an_open_transaction_is_rolled_back_and_named(
    flavour: Flavour, database_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with flavour.running(database_uri, 1, 1) as pool:
            async with flavour.connection(pool) as conn:
                await conn.raw_cmd("DROP TABLE IF EXISTS left_open")
                await conn.raw_cmd("CREATE TABLE left_open (a INT)")
            async with flavour.connection(pool) as conn:
                await conn.begin()
                await conn.execute("INSERT INTO left_open VALUES (1)")
            async with flavour.connection(pool) as conn:
                assert (await conn.query_first("SELECT COUNT(*) AS n FROM left_open")).n == 0
                await conn.raw_cmd("DROP TABLE left_open")
            stats = pool.stats()
            assert (stats.rollbacks, stats.connections_num) == (1, 1), "the connection is reused"

    with caplog.at_level(logging.WARNING, "mppool"):
        run(scenario())
    assert "left a transaction open" in caplog.text


def test_an_exception_in_the_block_passes_through(flavour: Flavour, sqlite_uri: str) -> None:
    async def scenario() -> None:
        async with flavour.running(sqlite_uri, 1, 1) as pool:
            with pytest.raises(ZeroDivisionError):
                async with flavour.connection(pool):
                    raise ZeroDivisionError
            async with flavour.connection(pool, 1) as conn:
                assert (await conn.query_first("SELECT 1 AS a")).a == 1

    run(scenario())


def test_a_connection_cannot_be_used_after_it_was_given_back(flavour: Flavour, sqlite_uri: str) -> None:
    async def scenario() -> None:
        async with flavour.running(sqlite_uri, 1, 1) as pool:
            async with flavour.connection(pool) as conn:
                pass
            with pytest.raises(errors.NotConnectedError):
                await conn.query_first("SELECT 1 AS a")

    run(scenario())


def test_a_connection_closed_by_its_borrower_is_replaced(flavour: Flavour, sqlite_uri: str) -> None:
    async def scenario() -> None:
        async with flavour.running(sqlite_uri, 1, 1) as pool:
            async with flavour.connection(pool) as conn:
                await conn.close()
            async with flavour.connection(pool, 5) as conn:
                assert (await conn.query_first("SELECT 1 AS a")).a == 1
            assert pool.stats().connections_num == 2

    run(scenario())


def test_old_connections_are_replaced(flavour: Flavour, sqlite_uri: str) -> None:
    async def scenario() -> None:
        async with flavour.running(sqlite_uri, 2, 2, keep_alive=0.05, check_interval=0.01) as pool:
            await until(lambda: pool.stats().connections_num >= 6)
            assert pool.stats().connections_errors == 0
            async with flavour.connection(pool):
                closed = pool.stats().connections_closed
                await until(lambda: pool.stats().connections_closed >= closed + 3)
                assert pool.stats().in_use == 1, "never cut while borrowed"

    run(scenario())


def test_idle_connections_above_min_size_are_closed(flavour: Flavour, sqlite_uri: str) -> None:
    async def scenario() -> None:
        async with flavour.running(sqlite_uri, 1, 4, max_idle=0.05, check_interval=0.01) as pool:
            leases = [flavour.connection(pool) for _ in range(4)]
            for lease in leases:
                await lease.__aenter__()
            assert pool.stats().in_use == 4
            for lease in leases:
                await lease.__aexit__(None, None, None)
            await until(lambda: pool.stats().idle == 1 and pool.stats().closing == 0)
            assert pool.stats().connections_closed == 3

    run(scenario())


def test_hooks(flavour: Flavour, sqlite_uri: str) -> None:
    async def scenario() -> None:
        seen: list[str] = []

        def configure(conn: Any) -> None:
            conn.query("PRAGMA busy_timeout = 1234")
            seen.append("configure")

        def check(conn: Any) -> bool:
            seen.append("check")
            return seen.count("check") != 2

        def reset(conn: Any) -> None:
            seen.append("reset")

        hooks = {"configure": configure, "check": check, "reset": reset}
        async with flavour.running(sqlite_uri, 1, 1, **hooks) as pool:
            for _ in range(3):
                async with flavour.connection(pool, 5) as conn:
                    assert (await conn.query_first("PRAGMA busy_timeout")).timeout == 1234
            assert pool.stats().connections_num == 2, "the connection that failed its check was replaced"
        assert seen.count("configure") == 2
        assert seen.count("reset") >= 2

    run(scenario())


def test_sync_and_async_handles_share_connections(sqlite_uri: str) -> None:
    async def scenario() -> None:
        with PoolManager(sqlite_uri, 1) as manager:
            pool, apool = manager.pool(), manager.async_pool()
            async with apool.connection() as conn:
                assert (await conn.query_first("SELECT 1 AS a")).a == 1
            with pool.connection() as sync_conn:
                assert sync_conn.query_first("SELECT 2 AS a").a == 2
            assert pool.stats().connections_num == 1
            assert manager.stats().open == 1

    run(scenario())


def test_a_cancelled_waiter_hands_on_what_it_got(sqlite_uri: str) -> None:
    """Cancel at every moment around the hand-over: the connection is never lost."""

    async def scenario() -> None:
        async def caller() -> None:
            async with pool.connection():
                pass

        async with Flavour("async").running(sqlite_uri, 1, 1) as pool:
            for spins in range(40):
                async with pool.connection():
                    waits = asyncio.create_task(caller())
                    await until(lambda: pool.stats().waiting == 1)
                for _ in range(spins % 4):
                    await asyncio.sleep(0)
                waits.cancel()
                await asyncio.wait([waits])
                async with pool.connection(5):
                    pass
            assert pool.stats().connections_num == 1

    run(scenario())


def test_a_waiter_whose_loop_is_closed_is_passed_over(sqlite_uri: str) -> None:
    async def wait_for_ever(pool: PySQLXEnginePool) -> None:
        async with pool.connection(30):
            raise AssertionError

    with PoolManager(sqlite_uri, 1) as manager:
        pool, apool = manager.pool(), manager.async_pool()
        with pool.connection():
            loop = asyncio.new_event_loop()
            task = loop.create_task(wait_for_ever(apool))
            while not pool.stats().waiting:
                loop.call_later(0.002, loop.stop)
                loop.run_forever()
            loop.close()  # and nobody cancelled the task
        with pool.connection(5) as conn:
            assert conn.query_first("SELECT 1 AS a").a == 1
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        coroutine = task.get_coro()
        assert coroutine is not None
        with pytest.raises(RuntimeError):
            coroutine.throw(RuntimeError("the end"))  # type: ignore[union-attr]


def test_handles_of_one_budget_in_one_process_must_not_contradict_each_other(sqlite_uri: str) -> None:
    with PySQLXEnginePoolSync(sqlite_uri, 0, 3, name="one"):
        with pytest.raises(errors.BudgetMismatchError, match="max_size is 3 there and 4 here"):
            PySQLXEnginePoolSync(sqlite_uri, 0, 4, name="one").start()
        with pytest.raises(ValueError, match="configure"):
            PySQLXEnginePoolSync(sqlite_uri, 0, 3, name="one", configure=print).start()
        other = PySQLXEnginePoolSync(sqlite_uri, 2, 3, name="one", keep_alive=100)
        other.start()
        assert other.stats().idle >= 1
        other.stop()


def test_repr_and_stats_tell_the_truth_and_no_secret(limited_role: Any) -> None:
    role = limited_role(3)
    with PySQLXEnginePoolSync(role.uri, 1, 3) as pool:
        assert "1 idle" in repr(pool)
        assert "secret" not in repr(pool) + repr(pool.stats()) + repr(pool._budget) + repr(pool._settings)
        with pool.connection() as conn:
            assert "secret" not in repr(conn)


def test_a_pool_whose_handles_nobody_kept_ends_with_its_manager(sqlite_uri: str) -> None:
    """The balance sheet sees to the rest."""
    with PoolManager(sqlite_uri, 3) as manager:
        for _ in range(3):
            with manager.pool().connection() as conn:
                assert conn.query_first("SELECT 1 AS a").a == 1
        assert manager.stats().open == 1, "one after the other, they shared a pool"
