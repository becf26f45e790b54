"""A real gunicorn of a benchmark's own, under load: what `web` and `steady` have in common.

``BENCH_SECONDS`` (20) are measured after three that are not counted. ``BENCH_BASE`` is the path of another checkout:
its package, not this one's, then serves the same application in the peers called "mppool, base".
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from scripts.benchmarks.bouncer import bouncer
from scripts.benchmarks.contract import Sample, Setting
from scripts.benchmarks.server import Database, Watch, own_database
from scripts.benchmarks.web_load import PATIENCE, SETTLE

SECONDS = float(os.environ.get("BENCH_SECONDS", "20"))
BASE = os.environ.get("BENCH_BASE")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WORKERS = 8
LONG_SHARE = 0.1  # of the requests, in a mix
STARTS, ENDS = 30.0, 40.0  # seconds; gunicorn itself gives its workers 30 to end
TIMEOUT = STARTS + SETTLE + SECONDS + PATIENCE + ENDS + 60
CLASSES: dict[str, Sequence[str]] = {
    "sync": ("-k", "sync"),
    "gthread": ("-k", "gthread", "--threads", "4"),
    "asgi": ("-k", "asgi"),
}
#: Begins to measure something; what it returns ends that, and says what was measured.
Meter = Callable[[], Callable[[], Sample]]


@dataclass(frozen=True)
class Service:
    """What is served, and how.

    Args:
        worker: of `CLASSES`.
        size: the pool's ``max_size``.
        pool: as `web_app` knows it.
        kind: of database, as `own_database` knows it.
        mix: whether a tenth of the requests take 200 ms.
        inherits: whether the workers inherit the pool from gunicorn's first process (``--preload``); mppool's otherwise
            share a scope (``mppool run``).
        bounced: connections of a PgBouncer in between; 0: there is none.
        base: whether it is the other checkout's package.
    """

    worker: str
    size: int
    pool: str = "mppool"
    kind: str = "postgresql"
    mix: bool = False
    inherits: bool = True
    bounced: int = 0
    base: bool = False

    @property
    def face(self) -> str:
        return "asgi" if self.worker == "asgi" else "wsgi"

    def command(self) -> list[str]:
        ours = self.pool == "mppool"
        before = () if not ours or self.inherits else ("-m", "mppool", "run", "--", sys.executable)
        after = ("--preload",) if ours and self.inherits else ()
        return [
            *(*before, "-m", "gunicorn", "-w", str(WORKERS), "--log-level", "warning", "--no-control-socket"),
            *(*CLASSES[self.worker], *after, f"scripts.benchmarks.web_app:{self.face}"),
        ]

    def environ(self, uri: str, folder: str) -> dict[str, str]:
        paths = [ROOT]
        if self.base:
            assert BASE is not None
            paths.insert(0, _only_the_package(BASE, folder))
        return {
            "WEB_POOL": self.pool,
            "WEB_URI": uri,
            "WEB_SIZE": str(self.size),
            "WEB_FACE": self.face,
            "WEB_BOUNCED": str(int(self.bounced > 0)),
            "PYTHONPATH": os.pathsep.join(paths),
            "MPPOOL_RUNTIME_DIR": runtime_folder(folder),
        }


def _only_the_package(checkout: str, folder: str) -> str:
    """A folder to import that checkout's mppool from, and nothing else of it."""
    place = os.path.join(folder, "base")
    os.makedirs(place, exist_ok=True)
    if not os.path.exists(os.path.join(place, "mppool")):
        os.symlink(os.path.join(os.path.abspath(checkout), "mppool"), os.path.join(place, "mppool"))
    return place


def runtime_folder(folder: str) -> str:
    return os.path.join(folder, "run")


def serve(service: Service, setting: Setting, meters: Callable[[Database], Sequence[Meter]] = lambda _: ()) -> Sample:
    """Serve and load it, once; the clients' figures, those of the meters, and the greatest number of backends.

    Args:
        meters: those that measure while the clients do, beside the processors' and the server's own.
    """
    with ExitStack() as stack:
        database = stack.enter_context(own_database(service.kind, setting))
        watch = Watch(database) if database.admin else None
        uri = database.uri
        if service.bounced:
            uri = stack.enter_context(bouncer(uri, service.bounced, setting.folder))
        if watch is not None:
            watch.start()
            stack.callback(watch.end)
        every = [processors(setting.folder), *([connects(database)] if database.admin else ()), *meters(database)]
        with _gunicorn(service.command(), service.environ(uri, setting.folder), setting.folder) as port:
            sample = _load(port, LONG_SHARE if service.mix else 0.0, every)
        if watch is not None:
            watch.end()
            sample["backends"] = watch.peak()
        return sample


@contextmanager
def _gunicorn(command: Sequence[str], environ: Mapping[str, str], folder: str) -> Iterator[int]:
    """Yields its port; afterwards it has ended. Raises: RuntimeError: it did not start, or did not end well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    log = os.path.join(folder, "gunicorn.log")
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, *command, "-b", f"127.0.0.1:{port}"],
            env={**os.environ, **environ},
            cwd=folder,  # gunicorn imports from where it is, before all else
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C is for us, who then end it
        )
    try:
        deadline = time.monotonic() + STARTS
        while not _answers(port):
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


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _tail(log: str) -> str:
    with open(log, errors="replace") as file:
        return file.read().strip()[-600:]


def _load(port: int, long_share: float, meters: Sequence[Meter]) -> dict[str, float | None]:
    command = [sys.executable, "-m", "scripts.benchmarks.web_load", str(port), str(SECONDS), str(long_share)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONPATH": ROOT}
    )
    timer = threading.Timer(STARTS + SETTLE + SECONDS + PATIENCE + 10, process.kill)
    timer.start()
    sample: dict[str, float | None] = {}
    running: list[Callable[[], Sample]] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "begin\n":
                running = [begin() for begin in meters]
            elif line == "end\n":
                for end in running:
                    sample.update(end())
                running = []
            else:
                sample.update(json.loads(line))
    finally:
        timer.cancel()
        process.kill()
        code = process.wait()
        if process.stdout is not None:
            process.stdout.close()
        for end in running:
            end()
    if "requests" not in sample:
        raise RuntimeError(f"the clients ended with {code}")
    return sample


# -- meters ------------------------------------------------------------------------------------------------------


def processors(folder: str) -> Meter:
    """``cores``: busy on average, with everything that runs on this machine; ``manager``: % of one, of the budget's."""

    def begin() -> Callable[[], Sample]:
        manager, began = _manager(folder), time.monotonic()
        busy, own = _busy(), _used(manager)

        def end() -> Sample:
            seconds, used = time.monotonic() - began, _used(manager)
            share = None if own is None or used is None else 100 * (used - own) / seconds
            sample: dict[str, float | None] = {"cores": (_busy() - busy) / seconds}
            return sample if manager is None else {**sample, "manager": share}

        return end

    return begin


def _manager(folder: str) -> psutil.Process | None:
    """The manager whose budget is in the runtime folder there."""
    runtime = runtime_folder(folder)
    for process in psutil.process_iter(["cmdline"]):
        words: list[str] = process.info["cmdline"] or []
        if any("mppool.manager.server" in word for word in words) and any(word.startswith(runtime) for word in words):
            return process
    return None


def _used(process: psutil.Process | None) -> float | None:
    try:
        return None if process is None else sum(process.cpu_times()[:2])
    except psutil.NoSuchProcess:
        return None


def _busy() -> float:
    times: Any = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def connects(database: Database) -> Meter:
    """``connects``: connections that the server took, a second."""

    def begin() -> Callable[[], Sample]:
        ask, began = database.asks("connects"), time.monotonic()
        before = ask()

        def end() -> Sample:
            sample = {"connects": (ask() - before) / (time.monotonic() - began)}
            ask.close()
            return sample

        return end

    return begin
