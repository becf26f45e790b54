"""One busy host of four, the others idle: how much of what it does alone. 20 permits, 40 threads, queries of 20 ms.

The other three have borrowed once, and then want nothing. ``queries`` a second; ``p50``, ``p99``, ``longest``: what a
caller's time with its connection and its query is longer than the query's.
"""

from __future__ import annotations

from functools import partial

from scripts.benchmarks import callers
from scripts.benchmarks.apart import as_host, need_clusters
from scripts.benchmarks.contract import Benchmark, Sample, Setting
from scripts.benchmarks.engines import KINDS, private_engine

PERMITS, THREADS, QUERY = 20, 40, 0.02
FOREVER = 1e9  # seconds until another host is the busy one


def _plan(hosts: int) -> callers.Plan:
    return callers.Plan(processes=hosts, threads=THREADS, query=QUERY, turn=FOREVER)


def _without(setting: Setting) -> Sample:
    return callers.measure(_plan(1), partial(as_host, setting.postgres_uri, PERMITS, setting.folder, None))


def _with(kind: str, hosts: int, setting: Setting) -> Sample:
    need_clusters()
    with private_engine(kind, setting) as engine:
        engine.ready(PERMITS)
        return callers.measure(_plan(hosts), partial(as_host, setting.postgres_uri, PERMITS, setting.folder, engine))


BENCHMARK = Benchmark(
    "uneven",
    f"one busy host of four, {PERMITS} permits, {THREADS} threads, queries of {QUERY * 1e3:.0f} ms",
    {"queries": "/s", "p50": "ms", "p99": "ms", "longest": "ms"},
    {
        "one host, no engine": _without,
        **{
            f"{kind}: {title}": partial(_with, kind, hosts)
            for kind in KINDS
            for title, hosts in (("a host alone", 1), ("one of four", 4))
        },
    },
    rounds=3,
    timeout=120.0,
    more_is_better=frozenset({"queries"}),
)
