"""The collector: Prometheus' own parser takes what it gives, and the numbers are the database's and the callers'."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mppool import PoolManager
from mppool.metrics import BudgetCollector
from mppool.stats import BudgetStats
from tests import servers
from tests.view.snapshots import budget, histogram, member
from tests.waiting import forked, until

client = pytest.importorskip("prometheus_client")
parser = pytest.importorskip("prometheus_client.parser")


def exposed(collector: BudgetCollector) -> dict[str, float]:
    """What a scrape says, read by Prometheus' parser: samples by their name and labels as they are written."""
    registry = client.CollectorRegistry()
    registry.register(collector)
    text = client.generate_latest(registry).decode()
    found = {}
    for family in parser.text_string_to_metric_families(text):
        assert family.documentation
        assert family.type in ("gauge", "counter", "histogram")
        for sample in family.samples:
            key = sample.name + "".join(f",{name}={value}" for name, value in sorted(sample.labels.items()))
            assert key not in found, "a series is there twice"
            found[key] = sample.value
    return found


class Made(BudgetCollector):
    """Tells of budgets made by hand."""

    def __init__(self, *budgets: BudgetStats, processes: int = 100) -> None:
        super().__init__(*(each.name for each in budgets), processes=processes)
        self._made = {each.name: each for each in budgets}

    def _stats(self, name: str) -> BudgetStats | None:
        return self._made[name]


def test_names_labels_and_units() -> None:
    one = member(
        7, 2, 1, 0, 3, oldest_use=1.5, requests_num=10, requests_wait_ms=2500, wait=histogram(0.01, 2.0, 9000.0)
    )
    told = exposed(Made(budget(one, orphans=1, paused=True), budget(name="web")))
    assert told["mppool_connections,budget=shop,state=in_use"] == 2
    assert told["mppool_connections,budget=shop,state=orphaned"] == 1
    assert told["mppool_requests_total,budget=shop"] == 10
    assert told["mppool_requests_total,budget=web"] == 0
    assert told["mppool_paused,budget=shop"] == 1
    assert told["mppool_process_connections,budget=shop,pid=7,state=idle"] == 1
    assert told["mppool_process_requests_waiting,budget=shop,pid=7"] == 3
    assert told["mppool_process_oldest_use_seconds,budget=shop,pid=7"] == 1.5
    assert told["mppool_wait_seconds_sum,budget=shop"] == 2.5


def test_histograms_add_up() -> None:
    times = [0.0, 1e-6, 0.01, 0.01, 0.3, 2.0, 70.0, 9000.0]
    told = exposed(Made(budget(member(7, wait=histogram(*times)))))
    prefix = "mppool_wait_seconds_bucket,budget=shop,le="
    buckets = {float(key.removeprefix(prefix)): value for key, value in told.items() if key.startswith(prefix)}
    assert len(buckets) == 24
    assert buckets == {bound: sum(time < bound for time in times) for bound in buckets}
    assert told["mppool_wait_seconds_count,budget=shop"] == len(times)


def test_the_series_of_processes_are_bounded_and_the_busiest_are_told() -> None:
    members = [member(pid, in_use=pid % 7) for pid in range(1, 51)]
    told = exposed(Made(budget(*members), processes=7))
    pids = {key.partition("pid=")[2] for key in told if key.startswith("mppool_process_requests_waiting")}
    assert pids == {str(pid) for pid in (6, 13, 20, 27, 34, 41, 48)}
    assert not any("pid=" in key for key in exposed(Made(budget(*members), processes=0)))


def test_a_budget_that_does_not_run_is_down_and_comes_up(sqlite_uri: str) -> None:
    collector = BudgetCollector("shop")
    assert exposed(collector) == {"mppool_up,budget=shop": 0}
    with PoolManager(sqlite_uri, 3, "shop"):
        assert exposed(collector)["mppool_up,budget=shop"] == 1
        every = BudgetCollector()
        assert exposed(every)["mppool_max_connections,budget=shop"] == 3
    until(lambda: exposed(collector) == {"mppool_up,budget=shop": 0})
    until(lambda: exposed(every) == {})
    assert collector._managers == every._managers == {}, "nothing is kept of budgets that came and went"


def _work(pool: Any, requests: int) -> None:
    def one(_: int) -> None:
        with pool.connection() as connection:
            connection.query_first("SELECT 1 AS a")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(one, range(requests)))
    pool.stop()


@pytest.fixture
def loaded(postgres_uri: str) -> Iterator[PoolManager]:
    with PoolManager(postgres_uri, 4, "shop") as manager:
        yield manager


def test_a_scrape_agrees_with_the_database_and_the_callers(loaded: PoolManager, postgres_judge: servers.Judge) -> None:
    """Three processes make 600 requests, two of them are gone; one scrape of a fourth says so."""
    collector = BudgetCollector("shop")
    with forked(_work, loaded.pool(), 200) as one, forked(_work, loaded.pool(), 300) as other, loaded.pool() as pool:
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda _: _ask(pool), range(100)))
        assert (one.join(), other.join()) == (0, 0)
        with pool.connection():
            until(lambda: exposed(collector)["mppool_processes,budget=shop"] == 1)
            until(lambda: exposed(collector)["mppool_wait_seconds_count,budget=shop"] == 601)
            told = exposed(collector)
            states = [told[f"mppool_connections,budget=shop,state={state}"] for state in ("in_use", "idle", "opening")]
            assert postgres_judge.wait_for(lambda count: count == sum(states)) == sum(states)
    assert states[0] == 1
    assert told["mppool_requests_total,budget=shop"] == 601
    assert told["mppool_use_seconds_count,budget=shop"] == 600, "one lasts still"
    opened = told["mppool_connection_attempts_total,budget=shop"]
    assert opened - told["mppool_connections_closed_total,budget=shop"] == sum(states)


def _ask(pool: Any) -> None:
    with pool.connection() as connection:
        connection.query_first("SELECT 1 AS a")
