"""How soon a permit is with another host that asks for it: the engine and the host machines alone, no connections.

One permit, 40 simulated hosts in two processes. One host after the other wants it, 90 ms apart, and the last one that
did still has it, unused: it is rung for it, gives it back, and rings in return. No host has been rung in the last 3 s,
for which it would give back at once what it does not need. Loaded: 60 hosts of another budget on the same engine want
another number of permits twice a second each. All share this machine with the engine.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial

from scripts.benchmarks.contract import Benchmark, Sample, Setting
from scripts.benchmarks.engines import private_engine
from scripts.benchmarks.fleet import Fleet, fleet

HOSTS, ROUNDS, APART = 40, 8, 0.09
LOAD = 60
PATIENCE = 10.0


def _pass_on(hosts: Fleet) -> list[float]:
    """Seconds that each host waited for the permit, shortest first."""
    hosts.vary(0, 0)
    for turn in range(HOSTS * ROUNDS):
        number = turn % HOSTS
        hosts.one(number, 1)
        hosts.until(lambda board, at=number: board.used[at] == 1, PATIENCE)  # type: ignore[misc]
        hosts.one(number, 0)
        time.sleep(APART)
    return hosts.waits()


def measure(kind: str, loaded: bool, setting: Setting) -> Sample:
    with ExitStack() as stack:
        engine = stack.enter_context(private_engine(kind, setting))
        engine.ready(1)
        hosts = stack.enter_context(fleet(engine, HOSTS, 1, processes=2))
        hosts.want(0)
        if loaded:
            engine.ready(2 * LOAD, "load")
            others = stack.enter_context(fleet(engine, LOAD, 2 * LOAD, "load", processes=2))
            others.want(0)
            others.vary(0.5, 4)
        time.sleep(1.0)
        waits = _pass_on(hosts)
        return {
            "moved": len(waits),
            **{f"p{part}": waits[len(waits) * part // 100] * 1e3 for part in (50, 90, 99)},
            "longest": waits[-1] * 1e3,
        }


BENCHMARK = Benchmark(
    "transit",
    "a permit from one host to another, without the connections; 40 hosts",
    {"moved": "times", "p50": "ms", "p90": "ms", "p99": "ms", "longest": "ms"},
    {
        f"{kind}, {'loaded' if loaded else 'idle'}": partial(measure, kind, loaded)
        for loaded in (False, True)
        for kind in ("Redis", "PostgreSQL")
    },
    rounds=3,
    timeout=150.0,
)
