"""A real gunicorn with eight workers: one budget of ten for all of them, pools of ten in each, PgBouncer.

32 clients ask without pause (`web_load`): four for each worker, as many as a gthread worker has threads here. Each
request runs ``SELECT 41 + 1 AS a FROM pg_sleep(0.002)``: a connection is then held for some 2 ms, most of which nobody
computes. So eight workers could use more than ten connections, and ten are still enough for several thousand requests
a second, more than this machine's workers can serve: what is measured is what the pools cost and whether callers are
served in time, and not how long a budget that is too small makes them wait.

A peer's name: the class of the workers; the connections permitted (10, 12, and 40, more than there are clients);
``mix``: a tenth of the requests take 200 ms; ``mariadb`` instead of PostgreSQL; the pool. ``--only 'gthread 10:'``,
``--only 'asgi*40'`` or ``--only mix`` picks some of them; ``BENCH_SECONDS=5`` shortens each. All of them once take some
15 minutes with the 20 s of who says nothing.

``mppool``: ``min_size=1``, ``max_size`` the budget; the workers inherit the handle (``--preload``), or each loads
the application for itself and a scope makes it one budget (``mppool run``). ``mppool, base``: where ``BENCH_BASE`` is
the path of another checkout, that one's package. ``psycopg_pool``: ``max_size=10`` in each worker, 80 in all, and
otherwise as it is for who says nothing else, that is ``min_size=4``; it stands beside 10 and 40 permits. ``PgBouncer``:
the same pool in each worker, transaction pooling, ten connections to the server. All send each statement outside a
transaction. For MariaDB there is no PgBouncer, and an SQLAlchemy of ten in each worker is the peer.

``requests``, ``p50``, ``p99``, ``longest``: of the ``BENCH_SECONDS`` (20) after three seconds that are not counted; the
times of short requests only, as the clients see them. ``backends``: the greatest number of this application's that the
server shows, every 10 ms from gunicorn's start until it has ended. ``connects``: to the server, a second (with a
PgBouncer: of the PgBouncer). ``cores``: busy on average, with client, gunicorn and server, which share the processors.
``manager``: mppool's, % of one. ``failures``: requests answered by anything but 200 and 42, dropped, or refused, from
the first one on. The asgi workers are gunicorn's own, on asyncio or, where it is installed, uvloop.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from scripts.benchmarks.contract import Benchmark
from scripts.benchmarks.served import BASE, CLASSES, SECONDS, TIMEOUT, WORKERS, Service, serve
from scripts.benchmarks.web_load import CLIENTS

BUDGET, EACH, BIT_MORE, ENOUGH = 10, 10, 12, 40


def _ours(title: str, service: Service) -> Iterator[tuple[str, Service]]:
    yield f"{title}: mppool", service
    if BASE:
        yield f"{title}: mppool, base", Service(**{**vars(service), "base": True})


def _services(worker: str) -> Iterator[tuple[str, Service]]:
    yield from _ours(f"{worker} 10", Service(worker, BUDGET))
    yield f"{worker} 10: mppool, mppool run", Service(worker, BUDGET, inherits=False)
    yield f"{worker} 10: psycopg_pool, PgBouncer", Service(worker, EACH, "psycopg_pool", bounced=BUDGET)
    yield f"{worker} 10, 40: psycopg_pool, 10 each", Service(worker, EACH, "psycopg_pool")
    if worker != "sync":  # whose eight workers can use eight
        yield from _ours(f"{worker} 12", Service(worker, BIT_MORE))
        yield from _ours(f"{worker} 40", Service(worker, ENOUGH))
        yield from _mixes(worker)
    yield from _ours(f"{worker} 10 mariadb", Service(worker, BUDGET, kind="mysql"))
    if worker != "asgi":
        yield f"{worker} 10 mariadb: SQLAlchemy, 10 each", Service(worker, EACH, "sqlalchemy", kind="mysql")


def _mixes(worker: str) -> Iterator[tuple[str, Service]]:
    for permits in (BUDGET, ENOUGH):
        yield from _ours(f"{worker} {permits} mix", Service(worker, permits, mix=True))
    yield (
        f"{worker} 10 mix: psycopg_pool, PgBouncer",
        Service(worker, EACH, "psycopg_pool", mix=True, bounced=BUDGET),
    )
    yield f"{worker} 10, 40 mix: psycopg_pool, 10 each", Service(worker, EACH, "psycopg_pool", mix=True)


BENCHMARK = Benchmark(
    "web",
    f"gunicorn, {WORKERS} workers, {CLIENTS} clients, a query of 2 ms each, 10 to 40 permits; {SECONDS:g} s",
    {
        "requests": "/s",
        "p50": "ms",
        "p99": "ms",
        "longest": "ms",
        "backends": "",
        "connects": "/s",
        "cores": "",
        "manager": "%",
        "failures": "",
    },
    {name: partial(serve, service) for worker in CLASSES for name, service in _services(worker)},
    rounds=1,
    timeout=TIMEOUT,
    more_is_better=frozenset({"requests"}),
    compare=False,  # across worker classes it would say nothing
)
