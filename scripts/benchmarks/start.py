"""What it costs to begin: the import, the first start of a pool, the manager's size and its sleep.

``import`` is added to a bare interpreter, ``names`` with the names that a program uses. ``start`` is the
first `start()` of a handle with one connection to keep warm: SQLite, and PostgreSQL for those that know
nothing else.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from scripts.benchmarks import peers
from scripts.benchmarks.contract import Benchmark, Sample, Setting

IDLE = 5.0


def _run(program: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, stdin=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1e3


def _import(program: str) -> float:
    """Milliseconds over a bare interpreter: the least of five each, taken in turn."""
    _run(program)  # its bytecode is written and its files are in memory
    bare, loaded = zip(*((_run("pass"), _run(program)) for _ in range(5)), strict=True)
    return min(loaded) - min(bare)


def _start(peer: Any, uri: str) -> float:
    opening = peer(uri, 4, 1)
    start = time.perf_counter()
    with opening as (borrow, _):
        passed = (time.perf_counter() - start) * 1e3
        with borrow():
            pass
    return passed


def _mppool(setting: Setting) -> Sample:
    import psutil

    names = "from mppool import PoolManager, PySQLXEnginePool, PySQLXEnginePoolSync"
    sample: dict[str, float | None] = {"import": _import("import mppool"), "names": _import(names)}
    sample["start"] = _start(peers.mppool, setting.sqlite_uri)
    from mppool import PoolManager

    with PoolManager(setting.sqlite_uri, max_size=4) as manager:
        pool = manager.pool(min_size=1)
        with pool.connection():
            pass
        process = psutil.Process(manager.pid)
        time.sleep(0.5)
        before = process.num_ctx_switches()
        time.sleep(IDLE)
        after = process.num_ctx_switches()
        sample["rss"] = process.memory_info().rss / 2**20
        sample["private"] = process.memory_full_info().uss / 2**20
        sample["wakes"] = (sum(after) - sum(before)) / IDLE
        pool.stop()
    return sample


def _pysqlx_engine(setting: Setting) -> Sample:
    added = _import("import pysqlx_engine")
    return {"import": added, "names": added, "start": _start(peers.pysqlx_engine, setting.sqlite_uri)}


def _psycopg_pool(setting: Setting) -> Sample:
    added = _import("import psycopg_pool")
    return {"import": added, "names": added, "start": _start(peers.psycopg_pool, setting.postgres_uri)}


def _sqlalchemy(setting: Setting) -> Sample:
    added = _import("import sqlalchemy, psycopg")
    return {"import": added, "names": added}


BENCHMARK = Benchmark(
    "start",
    "import, first start of a handle, and the manager process: size, wake-ups while nothing happens",
    {"import": "ms", "names": "ms", "start": "ms", "rss": "MiB", "private": "MiB", "wakes": "/s"},
    {
        "mppool": _mppool,
        "pysqlx-engine": _pysqlx_engine,
        "psycopg_pool": _psycopg_pool,
        "SQLAlchemy + psycopg": _sqlalchemy,
    },
    rounds=3,
    compare=False,
)
