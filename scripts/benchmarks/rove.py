"""The busy one of eight processes changes every 300 ms, and 40 connections are permitted.

Each process comes in turn, so connections have to follow: to 40 threads with 20 ms queries, which need all of them, or
to 8 threads with 5 ms queries, which mostly find some left from the last time. Without a shared budget each process has
five all the time. With a budget each change costs connects; behind a PgBouncer it costs nothing, and every query a hop.
``queries`` a second; ``p50``, ``p99``, ``longest``: what a caller's time with its connection and its query is longer
than the query's.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial

from scripts.benchmarks import callers, peers
from scripts.benchmarks.bouncer import bouncer
from scripts.benchmarks.contract import Benchmark, Sample, Setting

PERMITS = 40
PLANS = {
    "40 × 20 ms": callers.Plan(processes=8, threads=40, query=0.02, turn=0.3),
    "8 × 5 ms": callers.Plan(processes=8, threads=8, query=0.005, turn=0.3),
}


def ours(plan: callers.Plan, permits: int, setting: Setting) -> Sample:
    """One budget for all processes."""
    from mppool import PoolManager

    with PoolManager(setting.postgres_uri, permits) as manager:
        return callers.measure(plan, partial(peers.mppool_of, manager))


def behind_a_bouncer(plan: callers.Plan, permits: int, setting: Setting) -> Sample:
    """A PgBouncer with so many connections, and one to it for each caller."""
    with bouncer(setting.postgres_uri, permits, setting.folder) as uri:
        return callers.measure(plan, partial(peers.plain_psycopg, uri, plan.threads, 0))


def _shares(plan: callers.Plan, setting: Setting) -> Sample:
    share = PERMITS // plan.processes

    def pool() -> AbstractContextManager[peers.Face]:
        return peers.psycopg_pool(setting.postgres_uri, share, share)

    return callers.measure(plan, pool)


BENCHMARK = Benchmark(
    "rove",
    f"eight processes, the busy one changes every 300 ms; {PERMITS} connections permitted; threads × query",
    {"queries": "/s", "p50": "ms", "p99": "ms", "longest": "ms"},
    {
        f"{title}: {pool}": partial(measure, plan)
        for title, plan in PLANS.items()
        for pool, measure in {
            "mppool": lambda plan, setting: ours(plan, PERMITS, setting),
            "PgBouncer, psycopg": lambda plan, setting: behind_a_bouncer(plan, PERMITS, setting),
            "psycopg_pool, shares of 5": _shares,
        }.items()
    },
    rounds=3,
    more_is_better=frozenset({"queries"}),
    compare=False,
)
