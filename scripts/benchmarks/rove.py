"""The busy one of eight processes changes every 300 ms: 40 threads with 20 ms queries there, 40 connections permitted.

Each process comes in turn, so connections have to follow. Without a shared budget each has five all the time. With a
budget each change costs connects; behind a PgBouncer it costs nothing, and every query a hop. ``queries`` a second;
``p50``, ``p99``, ``longest``: what a caller's time with its connection and its query is longer than the 20 ms.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial

from scripts.benchmarks import callers, peers
from scripts.benchmarks.bouncer import bouncer
from scripts.benchmarks.contract import Benchmark, Sample, Setting

PERMITS = 40
PLAN = callers.Plan(processes=8, threads=40, query=0.02, turn=0.3)


def ours(plan: callers.Plan, permits: int, setting: Setting) -> Sample:
    """One budget for all processes."""
    from mppool import PoolManager

    with PoolManager(setting.postgres_uri, permits) as manager:
        return callers.measure(plan, partial(peers.mppool_of, manager))


def behind_a_bouncer(plan: callers.Plan, permits: int, setting: Setting) -> Sample:
    """A PgBouncer with so many connections, and one to it for each caller."""
    with bouncer(setting.postgres_uri, permits, setting.folder) as uri:
        return callers.measure(plan, partial(peers.plain_psycopg, uri, plan.threads, 0))


def _shares(setting: Setting) -> Sample:
    share = PERMITS // PLAN.processes

    def pool() -> AbstractContextManager[peers.Face]:
        return peers.psycopg_pool(setting.postgres_uri, share, share)

    return callers.measure(PLAN, pool)


BENCHMARK = Benchmark(
    "rove",
    "eight processes, the busy one changes every 300 ms; 40 threads, 20 ms queries, 40 connections permitted",
    {"queries": "/s", "p50": "ms", "p99": "ms", "longest": "ms"},
    {
        "mppool": partial(ours, PLAN, PERMITS),
        "PgBouncer, psycopg": partial(behind_a_bouncer, PLAN, PERMITS),
        "psycopg_pool, shares of 5": _shares,
    },
    rounds=3,
    more_is_better=frozenset({"queries"}),
)
