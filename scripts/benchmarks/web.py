"""A real gunicorn with eight workers on PostgreSQL: one budget of ten for all of them, pools of ten in each, PgBouncer.

32 clients ask without pause (`web_load`): four for each worker, as many as a gthread worker has threads here. Each
request runs ``SELECT 41 + 1 AS a FROM pg_sleep(0.002)``: a connection is then held for some 2 ms, most of which nobody
computes. So eight workers could use more than ten connections, and ten are still enough for several thousand requests
a second, more than this machine's workers can serve: what is measured is what the pools cost and whether callers are
served in time, and not how long a budget that is too small makes them wait.

``mppool``: ``min_size=1``, ``max_size=10``, the budget; the workers inherit the handle (``--preload``), or each loads
the application for itself and a scope makes it one budget (``mppool run``). ``psycopg_pool``: ``max_size=10`` in each
worker, 80 in all, and otherwise as it is for who says nothing else, that is ``min_size=4``. ``PgBouncer``: the same
pool in each worker, transaction pooling, ten connections to the server. All send each statement outside a transaction.

``requests``, ``p50``, ``p99``: of the ``BENCH_SECONDS`` (20) after three seconds that are not counted. ``backends``:
the greatest number of this application's in pg_stat_activity, every 10 ms from gunicorn's start until it has ended.
``failures``: requests answered by anything but 200 and 42, dropped, or refused, from the first one on. Client,
gunicorn and server share the processors. The asgi workers are gunicorn's own, on asyncio or, where it is installed,
uvloop.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from scripts.benchmarks.bouncer import bouncer
from scripts.benchmarks.contract import Benchmark, Sample, Setting
from scripts.benchmarks.web_load import CLIENTS, PATIENCE, SETTLE

WORKERS, BUDGET, EACH = 8, 10, 10
SECONDS = float(os.environ.get("BENCH_SECONDS", "20"))
STARTS, ENDS = 30.0, 40.0  # seconds; gunicorn itself gives its workers 30 to end
CLASSES: dict[str, Sequence[str]] = {
    "sync": ("-k", "sync"),
    "gthread": ("-k", "gthread", "--threads", "4"),
    "asgi": ("-k", "asgi"),
}
BACKENDS = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'"


@contextmanager
def database(uri: str) -> Iterator[str]:
    """A database of this measurement's own, so that its backends can be told from others'."""
    import psycopg

    name = f"mppool_bench_{secrets.token_hex(4)}"
    with psycopg.connect(uri, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    try:
        yield urlunsplit(urlsplit(uri)._replace(path=f"/{name}"))
    finally:
        with psycopg.connect(uri, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


class Watch(threading.Thread):
    """Counts a database's backends, from another one."""

    def __init__(self, uri: str, database: str) -> None:
        super().__init__(name="watch")
        self._uri, self._database = uri, database
        self._over = threading.Event()
        self._peak: int | None = None
        self._error: Exception | None = None

    def run(self) -> None:
        import psycopg

        try:
            with psycopg.connect(self._uri, autocommit=True) as conn:
                while not self._over.wait(0.01):
                    row: Any = conn.execute(BACKENDS, [self._database]).fetchone()
                    self._peak = max(self._peak or 0, row[0])
        except Exception as error:
            self._error = error

    def end(self) -> None:
        self._over.set()
        self.join()

    def peak(self) -> int:
        """The greatest number seen. Raises: RuntimeError: it could not be watched to the end."""
        if self._peak is None or self._error is not None:
            raise RuntimeError("the backends could not be counted") from self._error
        return self._peak


@contextmanager
def _gunicorn(command: Sequence[str], environ: dict[str, str], folder: str) -> Iterator[int]:
    """Yields its port; afterwards it has ended. Raises: RuntimeError: it did not start, or did not end well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    log = os.path.join(folder, "gunicorn.log")
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, *command, "-b", f"127.0.0.1:{port}"],
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C is for us, who then end it
        )
    try:
        deadline = time.monotonic() + STARTS
        while socket.socket().connect_ex(("127.0.0.1", port)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"gunicorn did not start: {_tail(log)}")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(ENDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        raise RuntimeError(f"gunicorn ended with {process.returncode}: {_tail(log)}")


def _tail(log: str) -> str:
    with open(log, errors="replace") as file:
        return file.read().strip()[-600:]


def _load(port: int) -> Sample:
    command = [sys.executable, "-m", "scripts.benchmarks.web_load", str(port), str(SECONDS)]
    limit = SETTLE + SECONDS + PATIENCE + 10
    done = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=limit, check=True)
    sample: Sample = json.loads(done.stdout)
    return sample


def _measure(
    worker: str,
    pool: str,
    size: int,
    setting: Setting,
    *,
    before: Sequence[str] = (),
    args: Sequence[str] = (),
    bounced: bool = False,
) -> Sample:
    """
    Args:
        worker: of `CLASSES`.
        pool: as `web_app` knows it.
        size: its ``max_size``.
        before: goes before ``-m gunicorn``.
        args: go to gunicorn.
        bounced: whether a PgBouncer is in between.
    """
    face = "asgi" if worker == "asgi" else "wsgi"
    command = [
        *(*before, "-m", "gunicorn", "-w", str(WORKERS), "--log-level", "warning", "--no-control-socket"),
        *(*CLASSES[worker], *args, f"scripts.benchmarks.web_app:{face}"),
    ]
    with ExitStack() as stack:
        uri = stack.enter_context(database(setting.postgres_uri))
        watch = Watch(setting.postgres_uri, urlsplit(uri).path[1:])
        if bounced:
            uri = stack.enter_context(bouncer(uri, BUDGET, setting.folder))
        watch.start()
        stack.callback(watch.end)
        environ = {"WEB_POOL": pool, "WEB_URI": uri, "WEB_SIZE": str(size), "WEB_FACE": face}
        with _gunicorn(command, {**environ, "WEB_BOUNCED": str(int(bounced))}, setting.folder) as port:
            sample = _load(port)
        watch.end()
        return {**sample, "backends": watch.peak()}


def _peers(worker: str) -> dict[str, Callable[[Setting], Sample]]:
    scope = ("-m", "mppool", "run", "--", sys.executable)
    ours, theirs = partial(_measure, worker, "mppool", BUDGET), partial(_measure, worker, "psycopg_pool", EACH)
    return {
        f"{worker}: mppool, --preload": partial(ours, args=("--preload",)),
        f"{worker}: mppool, mppool run": partial(ours, before=scope),
        f"{worker}: psycopg_pool, 10 each": theirs,
        f"{worker}: psycopg_pool, PgBouncer": partial(theirs, bounced=True),
    }


BENCHMARK = Benchmark(
    "web",
    f"gunicorn, {WORKERS} workers, {CLIENTS} clients, a query of 2 ms each, 10 connections permitted; {SECONDS:g} s",
    {"requests": "/s", "p50": "ms", "p99": "ms", "backends": "", "failures": ""},
    {peer: measure for worker in CLASSES for peer, measure in _peers(worker).items()},
    rounds=1,
    timeout=STARTS + SETTLE + SECONDS + PATIENCE + ENDS + 60,
    more_is_better=frozenset({"requests"}),
    compare=False,  # across worker classes it would say nothing
)
