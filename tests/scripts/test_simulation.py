"""The simulator: known results of queueing theory, the peers' sanity, the same table for the same seed, and a budget
that is never overspent, with bugs planted to see that it would be noticed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from math import factorial
from typing import Any

import pytest
from click.testing import CliRunner

from mppool.core import policy
from mppool.core.slots import Slot
from mppool.manager.allocator import Allocator
from scripts.simulation import mppool_model, scenarios
from scripts.simulation.__main__ import main
from scripts.simulation.engine import MS, Events, Interpreter, Processors
from scripts.simulation.mppool_model import Mppool, Overspent, Process
from scripts.simulation.pools import HOP, Ideal, Lend, Pool, Proxy, Static
from scripts.simulation.scenarios import LIGHT, SCENARIOS, Scenario, about, always, any_of, at, in_each
from scripts.simulation.world import Figures, Program, World

NOTHING = Program(before=0.0, within=0.0, after=0.0)  # costs no processor time
FOLDER = os.path.dirname(scenarios.__file__)


def figures(
    pool: Callable[[World, int], Pool],
    load: Callable[[World], object],
    *,
    processes: int = 4,
    permits: int = 16,
    program: Program = NOTHING,
    seconds: float = 2.0,
) -> Figures:
    return Scenario("a", "judge", processes, permits, program, load).run(pool, seed=1, seconds=seconds)


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


# -- the engine ------------------------------------------------------------------------------------------------


def ends(cores: int, jobs: list[tuple[Interpreter | None, float]]) -> list[float]:
    """When each job of so many ms ended, in ms."""
    events = Events()
    began, processors = events.now, Processors(events, cores)
    ended = [0.0] * len(jobs)

    def end(number: int) -> None:
        ended[number] = round((events.now - began) / MS, 6)

    for number, (interpreter, ms) in enumerate(jobs):
        processors.run(interpreter, ms * MS, "job", end, number)
    events.run(1.0)
    assert processors.used == {"job": pytest.approx(sum(ms for _, ms in jobs) * MS)}
    return ended


def test_an_interpreter_computes_on_one_core_at_a_time() -> None:
    one, other = Interpreter(), Interpreter()
    assert ends(2, [(one, 0.5), (one, 0.5), (other, 0.5)]) == [0.5, 1.0, 0.5]
    assert ends(2, [(None, 0.5), (None, 0.5), (None, 0.5)]) == [0.5, 0.5, 1.0]


def test_a_long_job_lets_others_in_after_a_quantum() -> None:
    assert ends(1, [(None, 3.0), (None, 0.5)]) == [3.5, 1.5]


# -- known results ---------------------------------------------------------------------------------------------


class Watched(Ideal):
    """Measures how long callers wait, and how many do on average, each in its own way."""

    def __init__(self, world: World, permits: int) -> None:
        super().__init__(world, permits)
        self.waits: list[float] = []
        self.began, self.seen, self.area = world.events.now, world.events.now, 0.0

    def _look(self) -> None:
        now = self.world.events.now
        self.area += len(self._line) * (now - self.seen)
        self.seen = now

    def borrow(self, process: int, lend: Lend) -> None:
        asked = self.world.events.now

        def lent(connection: Any) -> None:
            self.waits.append(self.world.events.now - asked)
            lend(connection)

        self._look()
        super().borrow(process, lent)

    def give_back(self, process: int, connection: Any) -> None:
        self._look()
        super().give_back(process, connection)


def erlang_c(servers: int, load: float) -> float:
    """The probability of waiting in an M/M/c queue."""
    full = load**servers / factorial(servers) * servers / (servers - load)
    return full / (sum(load**k / factorial(k) for k in range(servers)) + full)


def test_the_ideal_queue_waits_as_erlang_computed_and_obeys_littles_law() -> None:
    pools: list[Watched] = []

    def watched(world: World, permits: int) -> Pool:
        pools.append(Watched(world, permits))
        return pools[0]

    rate, hold, permits = 1600.0, 5 * MS, 10
    figures(watched, lambda w: w.poisson(rate, about(hold), any_of(4)), permits=permits, seconds=30.0)
    waits, seconds = pools[0].waits, pools[0].seen - pools[0].began
    mean = sum(waits) / len(waits)
    assert mean == pytest.approx(erlang_c(permits, rate * hold) * hold / (permits - rate * hold), rel=0.1)
    assert pools[0].area / seconds == pytest.approx(len(waits) / seconds * mean, rel=0.001)


def test_clients_of_a_closed_loop_get_what_the_permits_can_serve() -> None:
    """N = X × (R + Z): clients = throughput × (response + think time)."""
    found = figures(Ideal, in_each(4, always(5 * MS), always(5 * MS)), permits=4)
    assert found.per_second == pytest.approx(4 / (5 * MS), rel=0.01)
    assert found.p99 == pytest.approx(16 / found.per_second / MS - 5, rel=0.02)
    assert found.worst_wait == pytest.approx(found.p99 - 5, rel=0.02)


# -- the peers -------------------------------------------------------------------------------------------------


def test_fixed_shares_are_as_good_as_the_ideal_if_all_are_equally_busy() -> None:
    load = in_each(4, always(5 * MS), None)
    assert figures(Static, load) == figures(Ideal, load)


def test_a_busy_process_gets_only_its_fixed_share() -> None:
    def load(world: World) -> None:
        world.closed(16, always(10 * MS), process=at(0))

    assert figures(Static, load).per_second == pytest.approx(figures(Ideal, load).per_second / 4, rel=0.01)
    with pytest.raises(ValueError, match="3 permits cannot be divided among 4 processes"):
        figures(Static, load, permits=3)


def test_a_proxy_is_no_faster_than_its_one_interpreter() -> None:
    load = in_each(16, always(0.1 * MS), None)
    assert figures(Proxy, load, permits=64, seconds=0.5).per_second == pytest.approx(1 / HOP, rel=0.01)


def test_a_proxy_lends_a_connection_again_before_its_client_knows() -> None:
    slow = Program(before=0.0, within=0.5 * MS, after=0.0)
    load = in_each(1, always(2 * MS), None)
    through, ideal = (figures(pool, load, processes=2, permits=1, program=slow) for pool in (Proxy, Ideal))
    assert ideal.per_second == pytest.approx(1 / (2.5 * MS), rel=0.01)
    assert ideal.per_second * 1.1 < through.per_second <= 1 / (2 * MS)


@pytest.mark.parametrize("pool", [Static, Mppool])
def test_nobody_is_better_than_the_ideal(pool: Callable[[World, int], Pool]) -> None:
    load = in_each(8, about(5 * MS), about(5 * MS))
    ideal, found = (figures(each, load, program=LIGHT) for each in (Ideal, pool))
    assert found.per_second <= ideal.per_second * 1.01
    assert found.p99 >= ideal.p99


# -- the real core ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", [each for each in SCENARIOS if each.processes <= 100], ids=lambda each: each.name)
def test_the_budget_is_never_overspent(scenario: Scenario) -> None:
    found = scenario.run(Mppool, seed=1, seconds=0.5)
    assert found.per_second > 0


def lopsided(world: World) -> None:
    world.on_off(2000, about(5 * MS), any_of(4), on=0.2, off=0.0)


def test_connections_move_where_they_are_wanted() -> None:
    found = figures(Mppool, lopsided, program=LIGHT)
    assert found.moves > 0
    assert found.moves_cores == pytest.approx(found.moves * (mppool_model.OPEN + mppool_model.CLOSE), rel=0.2)


def test_a_permit_that_goes_back_before_its_connection_is_closed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed_at_once(process: Process, slot: Slot) -> None:
        process.pool.open += 1  # for as long as it really takes
        process.closed(slot)
        process.events.after(20 * MS, gone, process)

    def gone(process: Process) -> None:
        process.pool.open -= 1

    monkeypatch.setattr(Process, "close", closed_at_once)
    with pytest.raises(Overspent, match="17 connections are open under a budget of 16"):
        figures(Mppool, lopsided, program=LIGHT)


def test_books_that_invent_permits_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Allocator, "__init__", more_by_one(Allocator.__init__))
    with pytest.raises(Overspent):
        figures(Mppool, lopsided, program=LIGHT)


def more_by_one(begin: Callable[..., None]) -> Callable[..., None]:
    return lambda self, ledger, max_size, *rest: begin(self, ledger, max_size + 1, *rest)


# -- the tables ------------------------------------------------------------------------------------------------


QUICK = ("--only", "16 on 4, think", "--seeds", "1", "--seconds", "0.2")


def test_the_same_seed_prints_the_same_table() -> None:
    table = printed(*QUICK, "--jobs", "1")
    assert printed(*QUICK, "--jobs", "1", "--seed", "5") != table
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "scripts.simulation", *QUICK, "--jobs", hash_seed],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.path.join(FOLDER, "..", "..")},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stdout == table


def test_the_table_has_a_line_for_each_scenario() -> None:
    lines = printed(*QUICK, "--jobs", "1").splitlines()
    found = [line for line in lines if line.startswith("16 on 4, think")]
    assert len(found) == sum(scenario.name.startswith("16 on 4, think") for scenario in SCENARIOS)
    assert all("–" in line for line in found)  # sixteen processes have no fixed shares of four permits
    assert "there are only the scenarios" in CliRunner().invoke(main, ["--only", "nothing"]).output


def test_a_sweep_changes_a_constant_and_puts_it_back() -> None:
    names = mppool_model.constants()
    assert names
    usual = {name: getattr(owner, name) for name, owner in names.items()}
    name = next(iter(names))
    output = printed("--only", "think 50", "--seeds", "1", "--seconds", "0.5", "--jobs", "1", "sweep", name)
    assert re.findall(rf"^{name} × (\S+)", output, re.MULTILINE) == ["0.5", "1", "2"]
    assert {name: getattr(owner, name) for name, owner in names.items()} == usual
    assert "there is no constant NOTHING" in CliRunner().invoke(main, ["sweep", "NOTHING"]).output


def test_a_constant_keeps_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "WHOLE", 3, raising=False)
    monkeypatch.setattr(policy, "SECONDS", 3.0, raising=False)
    with mppool_model.scaled("WHOLE", 0.5) as value:
        assert value == policy.WHOLE == 2  # type: ignore[attr-defined]
        assert isinstance(value, int)
    with mppool_model.scaled("SECONDS", 0.5) as value:
        assert value == policy.SECONDS == 1.5  # type: ignore[attr-defined]
    with mppool_model.scaled("OPEN", 2.0) as value:
        assert value == mppool_model.OPEN


def test_scenarios_for_choosing_and_for_judging_are_different_ones() -> None:
    assert {scenario.use for scenario in SCENARIOS} == {"tune", "judge"}
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    assert any(scenario.processes == 1000 and scenario.permits == 200 for scenario in SCENARIOS)


def test_the_readmes_scenario_runs() -> None:
    with open(os.path.join(FOLDER, "README.md")) as file:
        code = file.read().partition("```python\n")[2].partition("```")[0]
    names = dict(vars(scenarios))
    *_, last = code.strip().rpartition("\n\n\n")
    exec(code.replace(last, f"added = {last}"), names)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    assert names["added"].run(Ideal, 1, 0.5).per_second > 0
