"""The scenarios. One half is for choosing the policy's constants ("tune"); the other judges the choice ("judge")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scripts.simulation.engine import MS
from scripts.simulation.pools import Pool
from scripts.simulation.world import Choose, Draw, Figures, Program, World

# Fitted: the processor time of a request, to what each server does with plenty of connections in each process.
GTHREAD = Program(before=0.13 * MS, within=0.09 * MS, after=0.07 * MS, client=0.035 * MS, threads=4, favour=0.2)
ASGI = Program(before=0.09 * MS, within=0.07 * MS, after=0.045 * MS, client=0.035 * MS, favour=0.2, batches=True)
LIGHT = Program(before=0.03 * MS, within=0.07 * MS, after=0.02 * MS)  # a loop around a query, without a server

SETTLE = 1.0  # simulated seconds before measuring


@dataclass(frozen=True)
class Scenario:
    """Processes, permits, and a load.

    Attributes:
        use: "tune" or "judge".
        load: adds the clients to a world.
    """

    name: str
    use: str
    processes: int
    permits: int
    program: Program
    load: Callable[[World], object]
    cores: int = 2

    def run(self, pool: Callable[[World, int], Pool], seed: int, seconds: float) -> Figures:
        """Measure one pool for so many simulated seconds."""
        world = World(seed, self.processes, self.program, self.cores)
        world.pool = pool(world, self.permits)
        self.load(world)
        return world.run(SETTLE, seconds)


# -- how long, and where -------------------------------------------------------------------------------------------


def always(seconds: float) -> Draw:
    return lambda random: seconds


def about(mean: float) -> Draw:
    """Exponentially distributed."""
    return lambda random: random.expovariate(1 / mean)


def sometimes(share: float, long: float, short: float) -> Draw:
    return lambda random: long if random.random() < share else short


def at(process: int) -> Choose:
    return lambda random: process


def any_of(processes: int) -> Choose:
    return lambda random: random.randrange(processes)


def zipf_of(processes: int) -> Choose:
    """The second process has half as many requests as the first, the third a third."""
    weights = [1 / (rank + 1) for rank in range(processes)]
    return lambda random: random.choices(range(processes), weights)[0]


# -- loads ---------------------------------------------------------------------------------------------------------


def web(world: World) -> None:
    """What `scripts/bench web` does: 32 clients that ask without pause, a query of 2 ms."""
    world.closed(32, always(2.12 * MS))


def in_each(clients: int, hold: Draw, think: Draw | None) -> Callable[[World], None]:
    """So many clients in each process."""

    def load(world: World) -> None:
        for process in range(world.processes):
            world.closed(clients, hold, think, at(process))

    return load


def one_busy(world: World) -> None:
    world.closed(16, always(10.1 * MS), always(0.0), at(0))


def greedy(world: World) -> None:
    """One process has many more clients than its share of the permits, three have fewer."""
    world.closed(64, always(5.1 * MS), always(0.0), at(0))
    for process in (1, 2, 3):
        world.closed(4, always(5.1 * MS), always(0.0), at(process))


def bursts(rate: float, hold: Draw, on: float, off: float) -> Callable[[World], None]:
    """Each process has times with load and times without."""

    def load(world: World) -> None:
        for process in range(world.processes):
            world.on_off(rate, hold, at(process), on, off)

    return load


def moving(world: World) -> None:
    """One process is busy for 300 ms or so, then another."""
    world.on_off(6000, about(4 * MS), any_of(world.processes), on=0.3, off=0.0)


SCENARIOS = (
    Scenario("gthread, 10 permits", "tune", 8, 10, GTHREAD, web),
    Scenario("asgi, 10 permits", "tune", 8, 10, ASGI, web),
    Scenario("16 on 4, think 50 ms", "tune", 16, 4, LIGHT, in_each(1, always(5.1 * MS), always(50 * MS))),
    Scenario("Poisson, load .8", "tune", 8, 10, ASGI, lambda world: world.poisson(3500, about(2 * MS), any_of(8))),
    Scenario("bursts", "tune", 8, 10, ASGI, bursts(1500, about(2 * MS), on=0.3, off=0.9)),
    Scenario("32 on 10, think 5 ms", "tune", 32, 10, LIGHT, in_each(1, about(2 * MS), about(5 * MS))),
    Scenario("asgi, 40 permits", "judge", 8, 40, ASGI, web),
    Scenario("skew, one of 4 busy", "judge", 4, 16, LIGHT, one_busy),
    Scenario("busy one changes", "judge", 8, 40, LIGHT, moving),
    Scenario("Zipf, load .7", "judge", 8, 10, ASGI, lambda world: world.poisson(3000, about(2 * MS), zipf_of(8))),
    Scenario(
        "long and short",
        "judge",
        8,
        20,
        ASGI,
        lambda world: world.poisson(1500, sometimes(0.05, 100 * MS, 2 * MS), any_of(8)),
    ),
    Scenario("greedy", "judge", 4, 16, LIGHT, greedy),
    Scenario("16 on 4, think 5 ms", "judge", 16, 4, LIGHT, in_each(1, always(5.1 * MS), always(5 * MS))),
    Scenario("16 on 4, CPU-bound", "judge", 16, 4, ASGI, in_each(1, always(0.2 * MS), None)),
    Scenario("100 on 50", "judge", 100, 50, LIGHT, in_each(4, about(5 * MS), about(100 * MS))),
    Scenario("1,000 on 200", "judge", 1000, 200, LIGHT, bursts(40, about(20 * MS), on=2.0, off=14.0), cores=8),
)
