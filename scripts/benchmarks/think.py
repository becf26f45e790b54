"""Sixteen processes on four connections: each asks for 5 ms, thinks for 50 or for 5 ms, and asks again.

More processes than connections is where moving one does not pay: thinking 50 ms, four connections would be enough for
1.4 times what is asked; thinking 5 ms, for half of it. ``queries`` a second; ``p50``, ``p99``, ``longest``: what a
caller's time with its connection and its query is longer than the 5 ms. The processes are what the operating system
schedules too, so even with a connection for each some of it is not waiting for one.
"""

from __future__ import annotations

from functools import partial

from scripts.benchmarks.callers import Plan
from scripts.benchmarks.contract import Benchmark
from scripts.benchmarks.rove import behind_a_bouncer, ours

PERMITS = 4
PLANS = {think: Plan(processes=16, threads=1, query=0.005, think=think / 1e3) for think in (50, 5)}

BENCHMARK = Benchmark(
    "think",
    "16 processes on 4 connections, 5 ms queries, thinking 50 or 5 ms in between",
    {"queries": "/s", "p50": "ms", "p99": "ms", "longest": "ms"},
    {
        f"{think} ms: {peer}": partial(measure, plan, PERMITS)
        for think, plan in PLANS.items()
        for peer, measure in {"mppool": ours, "PgBouncer, psycopg": behind_a_bouncer}.items()
    },
    rounds=3,
    more_is_better=frozenset({"queries"}),
    compare=False,
)
