"""What a process counts: every borrow, in the right bucket, whoever flushes."""

from __future__ import annotations

import asyncio
import random
import threading
from bisect import bisect_right
from math import inf
from typing import Any

import pytest

from mppool import PySQLXEnginePoolSync, errors
from mppool.process.recorder import Counts, Recorder, count, named
from mppool.shared import statistics as S
from mppool.shared.statistics import Statistics
from mppool.stats import Histogram
from tests.process.flavours import Flavour, run, until
from tests.servers import Judge
from tests.waiting import until as until_now


class Scene:
    """A recorder that publishes in the statistics of a ledger."""

    def __init__(self) -> None:
        self.cells = memoryview(bytearray(8 * (S.START + 4 * S.BLOCK))).cast("q")
        self.statistics = Statistics(self.cells, 0)
        self.statistics.set(S.BORN, 5)
        self.counts = Counts()
        self.recorder = Recorder(self.counts)
        self.sit(1)

    def sit(self, member: int) -> None:
        self.recorder.sit(self.statistics, member)

    def read(self, *members: int) -> dict[str, Any]:
        ended, blocks = self.statistics.read(members)
        return named(list(map(sum, zip(ended, *blocks.values(), strict=True))))


# -- buckets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_a_value_is_counted_below_its_bound(spread: float) -> None:
    rng = random.Random(7)
    values = [rng.lognormvariate(-8, spread) for _ in range(5000)]
    values += [0.0, 1e-300, *Histogram.bounds[:-1], 5000.0, 1e300, inf]
    counts, expected = [0] * S.BUCKETS, [0] * S.BUCKETS
    count(values, counts, 0)
    for value in values:
        expected[min(bisect_right(Histogram.bounds, value), S.BUCKETS - 1)] += 1
    assert counts == expected


def test_nothing_is_counted_of_nothing() -> None:
    counts = [0] * S.BUCKETS
    count([], counts, 0)
    assert not any(counts)


# -- publishing ----------------------------------------------------------------------------------------------


def test_what_is_flushed_can_be_read_by_others() -> None:
    scene = Scene()
    scene.counts.at_once, scene.counts.queued, scene.counts.opened = 3, 2, 4
    scene.counts.connect_time = 0.25
    scene.counts.uses += [0.1, 0.1, 2.0]
    scene.counts.waits += [0.01, 0.02]
    assert scene.recorder.flush(9.0)
    read = scene.read(1)
    assert (read["requests_num"], read["requests_queued"], read["connections_num"]) == (5, 2, 4)
    assert (read["usage_ms"], read["requests_wait_ms"], read["connections_ms"]) == (2200, 30, 250)
    assert (read["usage"].count, read["wait"].count, read["wait"].counts[0]) == (3, 5, 3)
    assert scene.counts.uses == scene.counts.waits == []
    assert scene.counts.flush_at > 9.0
    assert not scene.recorder.flush(10.0), "there is nothing new"
    assert scene.read(1) == read == scene.recorder.counters(11.0)


def test_what_threads_record_while_others_flush_is_counted_once() -> None:
    scene, threads, each = Scene(), 4, 3000

    def work() -> None:
        for turn in range(each):
            scene.counts.uses.append(0.001)
            if turn % 7 == 0:
                scene.recorder.flush(0.0)

    crew = [threading.Thread(target=work) for _ in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    counted = scene.recorder.counters(0.0)
    assert counted["usage"].count == threads * each
    assert counted["usage_ms"] == pytest.approx(threads * each, abs=1)


def test_what_is_recorded_between_two_operations_of_a_flush_stays() -> None:
    class Shared(list[float]):
        def __getitem__(self, index: Any) -> Any:
            copied = super().__getitem__(index)
            self.append(2.0)  # as another thread does
            return copied

    scene = Scene()
    scene.counts.uses = Shared([1.0])
    scene.recorder.flush(0.0)
    assert scene.counts.uses == [2.0]


def test_a_signal_handler_amid_a_flush_leaves_it_alone() -> None:
    scene = Scene()
    scene.counts.uses.append(1.0)
    with scene.recorder._gate:
        scene.recorder.flush(0.0)
        assert scene.counts.uses == [1.0]
    assert scene.recorder.counters(0.0)["usage"].count == 1


def test_an_exception_amid_a_flush_does_not_end_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    with monkeypatch.context() as patch:
        patch.setattr(scene.recorder, "_publish", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scene.recorder.flush(0.0)
    scene.counts.at_once = 1
    other = threading.Thread(target=scene.recorder.flush, args=(0.0,))
    other.start()
    other.join()
    assert scene.read(1)["requests_num"] == 1


def test_a_block_that_is_blank_has_what_came_after_the_one_before() -> None:
    """The account of a process that goes on was closed, and it has come back as a newcomer."""
    scene = Scene()
    scene.counts.at_once = 3
    scene.counts.uses += [0.1] * 3
    scene.recorder.flush(0.0)
    scene.statistics.end(1)
    scene.sit(2)
    scene.counts.at_once = 5
    scene.counts.uses += [0.1] * 2
    scene.recorder.flush(0.0)
    read = scene.read(1, 2)
    assert (read["requests_num"], read["wait"].count, read["usage"].count) == (5, 5, 5)
    assert scene.recorder.counters(0.0)["requests_num"] == 5


def test_a_successor_of_the_manager_finds_the_same_block() -> None:
    scene = Scene()
    scene.counts.at_once = 3
    scene.recorder.flush(0.0)
    scene.sit(1)
    scene.counts.at_once = 5
    scene.recorder.flush(0.0)
    assert scene.read(1)["requests_num"] == 5


def test_another_ledger_has_everything() -> None:
    scene, other = Scene(), Scene()
    other.statistics.set(S.BORN, 6)
    scene.counts.at_once = 3
    scene.recorder.flush(0.0)
    scene.recorder.sit(other.statistics, 2)
    assert other.read(2)["requests_num"] == 3


def test_a_ledger_that_is_closed_is_not_written() -> None:
    scene = Scene()
    scene.cells.release()
    scene.counts.at_once = 3
    assert scene.recorder.counters(0.0)["requests_num"] == 3
    scene.recorder.publish_oldest(1.0, "somewhere")


# -- a pool's ------------------------------------------------------------------------------------------------


def test_requests_are_counted_by_what_became_of_them(flavour: Flavour, sqlite_uri: str) -> None:
    async def scenario() -> None:
        async with flavour.running(sqlite_uri, 1, 1) as pool:
            for _ in range(5):
                async with flavour.connection(pool):
                    pass
            async with flavour.connection(pool):
                with pytest.raises(errors.PoolTimeoutError):
                    async with flavour.connection(pool, 0.02):
                        raise AssertionError
            stats = pool.stats()
            assert (stats.requests_num, stats.requests_queued, stats.requests_timeouts) == (7, 1, 1)
            assert (stats.requests_errors, stats.connections_num, stats.leaks) == (1, 1, 0)
            assert (stats.usage.count, stats.wait.count) == (6, 7)
            assert stats.wait.counts[0] == 6
            assert stats.requests_wait_ms >= 20
            assert stats.usage_ms >= 20
            assert stats.usage.quantile(1.0) >= 0.02
            assert (stats.pool_min, stats.pool_max, stats.pool_size, stats.pool_available) == (1, 1, 1, 1)
            assert stats.credit == 1

    run(scenario())


def test_a_refused_request_is_counted(flavour: Flavour, sqlite_uri: str) -> None:
    async def scenario() -> None:
        async with flavour.running(sqlite_uri, 1, 1, max_waiting=1) as pool:
            async with flavour.connection(pool):
                line = borrowing(flavour, pool)
                await until(lambda: pool.stats().waiting == 1)
                with pytest.raises(errors.TooManyWaitingError):
                    async with flavour.connection(pool):
                        raise AssertionError
            await line
            stats = pool.stats()
            assert (stats.requests_num, stats.requests_queued, stats.requests_errors) == (3, 1, 1)
            assert stats.requests_timeouts == 0

    run(scenario())


def borrowing(flavour: Flavour, pool: Any) -> Any:
    async def borrow() -> None:
        async with flavour.connection(pool, 10):
            pass

    return asyncio.create_task(borrow())


def test_a_bad_return_is_counted(flavour: Flavour, sqlite_uri: str) -> None:
    async def scenario() -> None:
        async with flavour.running(sqlite_uri, 1, 1) as pool:
            async with flavour.connection(pool) as conn:
                (conn.thing if flavour.name == "sync" else conn)._link.distrust()
            await until(lambda: pool.stats().connections_closed == 1)
            assert pool.stats().returns_bad == 1

    run(scenario())


def test_connections_that_the_server_ended_are_counted(postgres_uri: str, postgres_judge: Judge) -> None:
    with PySQLXEnginePoolSync(postgres_uri, 2, 2) as pool:
        until_now(lambda: pool.stats().idle == 2)
        for backend in postgres_judge.list():
            postgres_judge.server.run(f"SELECT pg_terminate_backend({backend})")
        until_now(lambda: pool.stats().connections_lost == 2)
        until_now(lambda: pool.stats().idle == 2)
        assert pool.stats().returns_bad == 0
