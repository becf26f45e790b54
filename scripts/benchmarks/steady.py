"""Whether sharing holds under steady load: a real gunicorn, and a look into the ledger every 2 ms.

The workers, clients and requests are those of `web`. A peer's name: database, class of the workers, permits, and
``mix`` where a tenth of the requests take 200 ms. With ``BENCH_BASE`` each has another checkout's package beside it.
``BENCH_SECONDS`` (20) and ``--only 'postgresql*40'`` as there. All of them once take eleven minutes with 20 s.

``requests``; ``p99`` and ``longest``, of short requests, as the clients see them; ``wait``, the longest time that any
request waited for its connection, as the application sees it. ``beside``: the longest time for which a process kept a
connection idle for more than three reconnects (and at least four samples) while somebody waited in another process;
``share``: of the samples in which one did. See `sampler` for how an age is inferred. ``moves``: permits that came to
processes, a second, as far as samples show them; ``connects``: what the server counted. ``opening``: % of all cores
that opening so many connections takes, by the least time of an open when nothing else happens; ``manager``: % of one.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from scripts.benchmarks.contract import Benchmark, Sample, Setting
from scripts.benchmarks.sampler import Sampler
from scripts.benchmarks.served import BASE, SECONDS, TIMEOUT, Meter, Service, runtime_folder, serve
from scripts.benchmarks.server import Database, reconnect_cost

OLD = 3  # reconnects; a connection idle for longer should not be beside a waiter elsewhere


def _steady(service: Service, setting: Setting) -> Sample:
    cost = 0.0

    def meters(database: Database) -> Sequence[Meter]:
        nonlocal cost
        cost = reconnect_cost(database.uri)
        return [partial(_look, setting.folder, OLD * cost, BASE if service.base else None)]

    sample = serve(service, setting, meters)
    opens = sample.get("connects") or sample["moves"] or 0.0
    return {**sample, "opening": 100 * opens * cost / (os.cpu_count() or 1)}


def _look(folder: str, old: float, checkout: str | None) -> Callable[[], Sample]:
    """A meter: begins to sample the one budget in the runtime folder."""
    (path,) = glob.glob(os.path.join(runtime_folder(folder), "*", "ledger"))
    sampler = Sampler(path, old, checkout=checkout)
    sampler.start()

    def end() -> Sample:
        tally = sampler.end()
        return {"beside": tally.longest * 1e3, "share": 100 * tally.share, "moves": tally.moves}

    return end


def _services() -> Iterator[tuple[str, Service]]:
    for kind in ("postgresql", "mysql", "sqlite"):
        for worker in ("gthread", "asgi"):
            for permits in (10, 40):
                for mix in (False, True):
                    name = f"{kind} {worker} {permits}{' mix' if mix else ''}"
                    yield name, Service(worker, permits, kind=kind, mix=mix)
                    if BASE:
                        yield f"{name}, base", Service(worker, permits, kind=kind, mix=mix, base=True)


BENCHMARK = Benchmark(
    "steady",
    f"callers without pause, idle connections beside waiters elsewhere, by looking into the ledger; {SECONDS:g} s",
    {
        "requests": "/s",
        "p99": "ms",
        "longest": "ms",
        "wait": "ms",
        "beside": "ms",
        "share": "%",
        "moves": "/s",
        "connects": "/s",
        "opening": "%",
        "manager": "%",
        "failures": "",
    },
    {name: partial(_steady, service) for name, service in _services()},
    rounds=1,
    timeout=TIMEOUT,
    more_is_better=frozenset({"requests"}),
    compare=False,
)
