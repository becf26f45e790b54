"""The benchmarks' harness: what is counted, what is shown; some run for a moment, to see that they can. No figure is
judged: none is a test."""

from __future__ import annotations

import io
import os
import tempfile
from dataclasses import replace

import pytest
from rich.console import Console

from mppool.cluster.contract import Answer, Request
from mppool.cluster.memory import MemoryEngine
from mppool.shared import ledger
from scripts.benchmarks import served
from scripts.benchmarks.__main__ import NAMES, load, picks, shown, table
from scripts.benchmarks.callers import Plan
from scripts.benchmarks.contract import Benchmark, Results, Setting, Skip
from scripts.benchmarks.engines import begin, private_engine
from scripts.benchmarks.fleet import fleet
from scripts.benchmarks.rove import ours
from scripts.benchmarks.sampler import Row, Sampler, Tally, layout, rows
from scripts.benchmarks.simulated import SimulatedHost
from tests.waiting import until

HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_is_described(name: str) -> None:
    benchmark = load(name)
    assert benchmark.name == name
    assert benchmark.what
    assert benchmark.units
    assert benchmark.peers


def test_a_median_needs_most_rounds_to_come_to_it() -> None:
    results = Results()
    for value in (3.0, None, 1.0):
        results.add("a", {"m": value})
    assert results.median("a", "m") == 2.0
    results.add("a", {"m": None})
    assert results.median("a", "m") is None
    assert results.median("a", "other") is None


def test_the_table_compares_with_the_first() -> None:
    benchmark = Benchmark(
        "b", "what", {"m": "ms"}, {"ours": lambda _: {}, "theirs": lambda _: {}, "gone": lambda _: {}}
    )
    results = Results(notes={"gone": "skipped: not installed"})
    for value in (1.0, 2.0, 3.0):
        results.add("ours", {"m": value})
        results.add("theirs", {"m": 2 * value})
    for tall in (False, True):
        console = Console(width=140, record=True, file=io.StringIO())
        console.print(table(replace(benchmark, tall=tall), results, 3))
        text = console.export_text()
        assert "4.00 (2.00 ×) 2.00–6.00" in text
        assert "skipped: not installed" in text
        line = next(line for line in text.splitlines() if "ours" in line)
        assert ("theirs" in line) == tall


def test_three_digits_are_shown() -> None:
    assert [shown(value) for value in (0.123, 1.234, 12.34, 123.4, -45.67)] == ["0.12", "1.23", "12.3", "123", "-45.7"]


def test_without_a_server_a_peer_is_skipped() -> None:
    with pytest.raises(Skip, match="no PostgreSQL"):
        _ = Setting("/tmp", None).postgres_uri


def test_peers_are_picked_by_parts_of_their_names() -> None:
    name = "gthread 10, 40: psycopg_pool, 10 each"
    assert [picks(part, name) for part in ("gthread", "gthread*40:", "10: ", "each")] == [True, True, False, True]


def test_each_variant_of_web_is_served_as_its_name_says() -> None:
    for name, measure in {**load("web").peers, **load("steady").peers}.items():
        service = measure.args[0]  # type: ignore[attr-defined]
        assert service.worker in name
        assert service.mix == ("mix" in name)
        assert (service.bounced > 0) == ("PgBouncer" in name)
        assert (service.pool == "mppool") == (": " not in name or ": mppool" in name)
        assert ("--preload" in service.command()) == (service.pool == "mppool" and "mppool run" not in name)


# -- what samples of a ledger come to --------------------------------------------------------------------------


def sampled(*moments: tuple[float, list[Row]], old: float = 0.01) -> Tally:
    tally = Tally(old)
    for now, found in moments:
        tally.add(now, found)
    return tally


IDLE, BUSY, LINE = Row(1, 2, 1, 1, 0), Row(1, 2, 2, 0, 0), Row(2, 1, 1, 0, 3)


def test_an_old_idle_connection_beside_a_waiter_elsewhere_is_timed() -> None:
    tally = sampled(*((0.01 * n, [IDLE, LINE]) for n in range(11)))
    assert tally.longest == pytest.approx(0.09), "since it was old"
    assert (tally.samples, tally.beside) == (11, 10)


@pytest.mark.parametrize(
    "moments",
    [
        [(0.01 * n, [IDLE if n % 2 else BUSY, LINE]) for n in range(11)],
        [(0.01 * n, [IDLE]) for n in range(11)],
        [(0.01 * n, [IDLE._replace(waiting=1)]) for n in range(11)],
        [(0.06 * n, [IDLE, LINE]) for n in range(11)],
        [(0.01 * n, [IDLE._replace(idle_since=0.01 * n), LINE]) for n in range(11)],
    ],
    ids=["used in between", "nobody waits", "only its own wait", "not looked at for long", "the ledger knows better"],
)
def test_what_is_not_old_beside_a_waiter_elsewhere(moments: list[tuple[float, list[Row]]]) -> None:
    assert sampled(*moments).longest == 0.0


def test_permits_that_come_are_counted() -> None:
    tally = sampled(*((0.1 * n, [IDLE._replace(credit=has)]) for n, has in enumerate([2, 5, 3, 4])))
    assert (tally.taken, tally.seconds) == (4, pytest.approx(0.3))


def test_the_ledger_is_read_as_it_is(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "ledger")
    book, fd = ledger.Ledger.create(path)
    os.close(fd)
    at = book.offset(1)
    for cell, value in {
        ledger.PID: 7, ledger.CREDIT: 5, ledger.HELD: 4, ledger.IN_USE: 2, ledger.MOVING: 1, ledger.WAITING: 3
    }.items():  # fmt: skip
        book.cells[at + cell] = value
    found = rows(book.cells, layout(None))
    assert [row[:5] for row in found] == [(7, 5, 2, 1, 3)]
    assert [row[:5] for row in rows(book.cells, layout(HOME))] == [(7, 5, 2, 1, 3)], "another checkout's layout"
    sampler = Sampler(path, 0.01)
    sampler.start()
    until(lambda: sampler.tally.samples > 3)
    assert sampler.end().in_use == 2 * sampler.tally.samples
    book.close()


# -- small ones, measured once -----------------------------------------------------------------------------------


def test_callers_of_several_processes_are_measured(postgres_uri: str) -> None:
    plan = Plan(processes=2, threads=2, query=0.002, think=0.001, turn=0.1, seconds=0.5)
    sample = ours(plan, 3, Setting("", postgres_uri))
    assert sample["queries"] > 20
    assert 0 <= sample["p50"] <= sample["p99"] <= sample["longest"]


@pytest.mark.parametrize(("worker", "provider"), [("gthread", "sqlite"), ("asgi", "postgresql"), ("gthread", "mysql")])
def test_a_gunicorn_is_served_and_looked_into(
    worker: str, provider: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = {}
    if provider != "sqlite":
        stem = {"postgresql": "postgres", "mysql": "mysql"}[provider]
        uris = {stem: request.getfixturevalue(f"{stem}_server").uri}
    monkeypatch.setattr(served, "SECONDS", 2.0)
    with tempfile.TemporaryDirectory(prefix="mpp-") as folder:  # short enough for a socket
        setting = Setting(folder, **{"postgres": None, **uris})
        sample = load("steady").peers[f"{provider} {worker} 10 mix"](setting)
    assert sample["failures"] == 0
    assert sample["requests"] > 0
    assert sample["p50"] <= sample["longest"]
    assert {"beside", "share", "moves", "opening", "manager", "cores", "wait"} <= sample.keys()
    assert ("backends" in sample) == (provider != "sqlite")


def simulated(engine: MemoryEngine, name: str) -> SimulatedHost:
    return SimulatedHost(name, 4, engine, lambda host: 0)


def test_simulated_hosts_take_turns_with_the_permits() -> None:
    engine = MemoryEngine()
    begin(engine, 4)
    one, other = simulated(engine, "one"), simulated(engine, "other")
    one.wants(4)
    one.step()
    other.wants(2)
    other.step()
    assert (one.used, other.used) == (4, 0), "it has rung"
    one.hear()
    other.hear()
    assert (one.used, other.used) == (2, 2)
    assert len(other.waits) == 1
    for host in (one, other):
        host.leave()


def test_what_a_simulated_host_gives_up_is_noted_before_another_may_have_it() -> None:
    noted, kept = list[int](), list[int]()

    class Watched(MemoryEngine):
        def exchange(self, request: Request) -> Answer:
            if request.host.startswith("one"):
                assert (noted or [0])[-1] <= request.keep
                kept.append(request.keep)
            return super().exchange(request)

    engine = Watched()
    begin(engine, 4)
    one, other = SimulatedHost("one", 4, engine, lambda host: 0, noted.append), simulated(engine, "other")
    one.wants(4)
    one.step()
    other.wants(2)
    other.step()
    assert noted[-1] == 4
    one.hear()
    assert noted[-1] == kept[-1] == 2
    for host in (one, other):
        host.leave()


@pytest.mark.slow
def test_a_fleet_shares_the_budget_of_an_engine(tmp_path: os.PathLike[str]) -> None:
    with private_engine("Redis", Setting(os.fspath(tmp_path), None)) as engine:
        engine.ready(8)
        before = engine.processor_time()
        with fleet(engine, 4, 8, processes=2) as hosts:
            hosts.want(4)
            assert hosts.have(2, 20.0) is not None
            assert sum(hosts.board.used) <= 8
            assert sum(hosts.board.failures) == 0
        assert engine.processor_time() > before
