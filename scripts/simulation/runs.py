"""Many runs: scenarios with every pool and seed, on as many processors as there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import median

from scripts.simulation.mppool_model import Mppool, scaled
from scripts.simulation.pools import Ideal, Pool, Proxy, Static
from scripts.simulation.scenarios import SCENARIOS
from scripts.simulation.world import Figures, World

POOLS: dict[str, Callable[[World, int], Pool]] = {"ideal": Ideal, "proxy": Proxy, "static": Static, "mppool": Mppool}


@dataclass(frozen=True)
class Run:
    """One measurement. ``constant`` is ``factor`` times what it usually is; "": all are as usual."""

    scenario: str
    pool: str
    seed: int
    seconds: float
    constant: str = ""
    factor: float = 1.0


@dataclass(frozen=True)
class Summary(Figures):
    """Several seeds' figures: medians, and the longest of the worst waits. Also throughput and p99 ÷ the ideal's."""

    ratio: float
    p99_ratio: float


def measure(run: Run) -> Figures:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == run.scenario)
    with scaled(run.constant, run.factor):
        return scenario.run(POOLS[run.pool], run.seed, run.seconds)


def measure_all(runs: Iterable[Run], jobs: int) -> dict[Run, Figures]:
    sizes = {scenario.name: scenario.processes for scenario in SCENARIOS}
    longest_first = sorted(runs, key=lambda run: -sizes[run.scenario])
    if jobs == 1:
        return {run: measure(run) for run in longest_first}
    with ProcessPoolExecutor(jobs) as executor:
        return dict(zip(longest_first, executor.map(measure, longest_first), strict=True))


def summary(of: Sequence[Figures], ideal: Sequence[Figures]) -> Summary:
    """Both in the order of the seeds."""
    pairs = list(zip(of, ideal, strict=True))
    return Summary(
        per_second=median(each.per_second for each in of),
        p99=median(each.p99 for each in of),
        worst_wait=max(each.worst_wait for each in of),
        moves=median(each.moves for each in of),
        moves_cores=median(each.moves_cores for each in of),
        manager_cores=median(each.manager_cores for each in of),
        ratio=median(each.per_second / best.per_second for each, best in pairs),
        p99_ratio=median(each.p99 / best.p99 for each, best in pairs),
    )
