"""A real gunicorn under load: the server itself counts that the budget is kept."""

from __future__ import annotations

import http.client
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from tests.live.web import SECONDS, answers, free_port, get, load_for, served, under_load
from tests.waiting import until

BUDGET, WORKERS = (6, 4) if SECONDS < 10 else (10, 8)  # a long load is for more of them
KILLS = WORKERS // 2
#: Not `-m gunicorn`: an upgrade runs the program again as it was called, and would find gunicorn's own folder first.
PROGRAM = os.path.join(os.path.dirname(sys.executable), "gunicorn")
#: What makes the workers' budgets one.
LOADS: dict[str, dict[str, Any]] = {
    "preload": {"args": ["--preload"]},
    "preload-used": {"args": ["--preload"], "env": {"APP_USE_BEFORE_FORK": "1"}},
    "named": {"env": {"APP_NAME": "web"}},
    "scope": {"before": ["-m", "mppool", "run", "--", sys.executable]},
    "conf": {"conf": "from mppool import scope\nscope.begin(name='web')\n"},
    "conf-preload": {"conf": "from mppool import scope\nscope.begin(name='web')\n", "args": ["--preload"]},
    "owned": {
        "conf": "from mppool.integrations import gunicorn\n"
        f"gunicorn.one_budget(globals(), __import__('os').environ['APP_URI'], {BUDGET}, name='web')\n"
    },
}
WORKER_CLASSES: dict[str, list[str]] = {
    "sync": ["-k", "sync", "tests.live.apps:app"],
    "gthread": ["-k", "gthread", "--threads", "4", "tests.live.apps:app"],
    "asgi": ["-k", "asgi", "tests.live.asgi_apps:app"],
    "uvicorn": ["-k", "uvicorn_worker.UvicornWorker", "tests.live.asgi_apps:app"],
}


@dataclass
class Running:
    """A gunicorn that answers.

    Args:
        process: its first master.
        pidfile: the present master's.
    """

    port: int
    process: subprocess.Popen[str]
    pidfile: str

    @property
    def workers(self) -> list[int]:
        """Of the first master."""
        return [child.pid for child in psutil.Process(self.process.pid).children() if _is_worker(child)]

    def wait_until_booted(self) -> None:
        """Wait until all workers have signal handlers of their own. Until then they have the master's, which takes note
        of a SIGTERM and does nothing: gunicorn waits 30 s for such a worker, and kills it then."""
        if os.path.isdir("/proc/self"):
            until(lambda: not any(map(_catches_hup, self.workers)), 20)


def _catches_hup(pid: int) -> bool:
    """As gunicorn's masters do, and its workers do not."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as status:
            caught = next(line.split()[1] for line in status if line.startswith("SigCgt"))
    except (FileNotFoundError, ProcessLookupError):
        return False
    return bool(int(caught, 16) >> (signal.SIGHUP - 1) & 1)


def _is_worker(child: psutil.Process) -> bool:
    try:
        return "gunicorn" in child.name() or any("gunicorn" in word for word in child.cmdline())
    except psutil.NoSuchProcess:
        return False


@contextmanager
def gunicorn(
    uri: str, worker: str, load: str, folder: Any, *more: str, budget: int = BUDGET, quiet: bool = True
) -> Iterator[Running]:
    """Afterwards it has ended, with exit code 0."""
    port, how = free_port(), LOADS[load]
    conf, pidfile = os.path.join(folder, "gunicorn.conf.py"), os.path.join(folder, "pid")
    with open(conf, "w", encoding="utf-8") as file:
        file.write(how.get("conf", ""))
    command = [
        *(*how.get("before", []), PROGRAM, "-b", f"127.0.0.1:{port}", "-c", conf, "-p", pidfile),
        *("-w", str(WORKERS), "--backlog", "512", "--log-level", "warning", "--no-control-socket"),
        *(*how.get("args", []), *more, *WORKER_CLASSES[worker]),
    ]
    environ = {"APP_URI": uri, "APP_MAX_SIZE": str(budget), **how.get("env", {})}
    with served(port, command, environ, quiet=quiet) as process:
        running = Running(port, process, pidfile)
        yield running
        if process.poll() is None:
            running.wait_until_booted()


@pytest.mark.parametrize(
    ("worker", "load"),
    [
        *((worker, load) for worker in ("sync", "gthread") for load in LOADS),
        *((worker, load) for worker in ("asgi", "uvicorn") for load in ("preload", "scope")),
    ],
)
def test_gunicorn_keeps_the_budget(
    postgres_uri: str, postgres_judge: Any, worker: str, load: str, tmp_path: Any
) -> None:
    with gunicorn(postgres_uri, worker, load, tmp_path) as running, postgres_judge.watch() as seen:
        replies, failures = load_for(running.port)
    print(f"{worker} {load}: {len(replies)} requests, greatest number of backends {seen.peak} of {BUDGET}")
    assert failures == []
    assert len({reply.split()[1] for reply in replies}) > 1, "several workers answered"
    assert {reply.split()[0] for reply in replies} == {"42"}
    assert 1 < seen.peak <= BUDGET


@pytest.mark.parametrize(
    ("worker", "load"), [("gthread", "named"), ("sync", "scope"), ("gthread", "conf-preload"), ("asgi", "owned")]
)
def test_reloads_and_kills_keep_it_too(
    postgres_uri: str, postgres_judge: Any, worker: str, load: str, tmp_path: Any
) -> None:
    """HUP, twice as many workers (TTIN), and as many as before (TTOU), cost no request; a killed worker costs those
    that it had, which may be more than its share."""
    chance, killed_at = random.Random(7), []
    with (
        gunicorn(postgres_uri, worker, load, tmp_path) as running,
        postgres_judge.watch() as seen,
        under_load(running.port) as asked,
    ):
        first = set(running.workers)
        running.process.send_signal(signal.SIGHUP)
        until(lambda: len(running.workers) == WORKERS and not first & {*running.workers}, 20)
        for number, counts in (
            (signal.SIGTTIN, range(WORKERS + 1, 2 * WORKERS + 1)),
            (signal.SIGTTOU, range(2 * WORKERS - 1, WORKERS - 1, -1)),
        ):
            for count in counts:
                running.process.send_signal(number)
                until(lambda count=count: len(running.workers) == count, 20)
        assert asked.failures == []
        for _ in range(KILLS):
            killed = chance.choice(running.workers)
            killed_at.append(time.monotonic())
            os.kill(killed, signal.SIGKILL)
            until(lambda killed=killed: len(running.workers) == WORKERS and killed not in running.workers, 20)
    print(
        f"{worker} {load}: {len(asked.replies)} requests, {len(asked.failures)} failures for {KILLS} killed workers, "
        f"greatest number of backends {seen.peak} of {BUDGET}"
    )
    assert all(isinstance(failure.what, Exception) for failure in asked.failures), "no answer was wrong"
    for failure in asked.failures:
        assert any(0 <= failure.at - at < 2 for at in killed_at), failure
    assert {reply.split()[0] for reply in asked.replies} == {"42"}
    assert 1 < seen.peak <= BUDGET


@pytest.mark.parametrize(("worker", "load"), [("gthread", "conf-preload"), ("asgi", "owned")])
def test_an_upgrade_shares_the_budget(
    postgres_uri: str, postgres_judge: Any, worker: str, load: str, tmp_path: Any
) -> None:
    """USR2: two masters at once, whose applications were loaded apart, have one budget between them; it outlives the
    first."""
    with (
        gunicorn(postgres_uri, worker, load, tmp_path) as running,
        postgres_judge.watch() as seen,
    ):
        second = None
        try:
            with under_load(running.port) as asked:
                running.process.send_signal(signal.SIGUSR2)
                second = int(until(lambda: contents(f"{running.pidfile}.2"), 20))
                until(lambda: len({reply.split()[1] for reply in asked.replies}) > WORKERS, 20)  # of both masters
            with under_load(running.port) as without_first:
                running.process.send_signal(signal.SIGTERM)
                until(lambda: running.process.poll() is not None, 20)
            more, _ = load_for(running.port, 0.5)
        finally:
            if second is not None:
                os.kill(second, signal.SIGTERM)
                until(lambda: not psutil.pid_exists(second), 20)
    print(
        f"{worker} {load}: {len(asked.replies)} requests to two masters, {len(without_first.replies)} while the first "
        f"left, greatest number of backends {seen.peak} of {BUDGET}"
    )
    assert asked.failures + without_first.failures == []
    assert len({reply.split()[1] for reply in more}) > 1
    assert 1 < seen.peak <= BUDGET


def test_workers_with_a_budget_each_are_told_so(
    postgres_uri: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each loads the application for itself, and nothing makes their budgets one: all but the first say so."""
    log = os.path.join(tmp_path, "warnings")
    monkeypatch.setitem(LOADS, "apart", {"conf": f"import logging\nlogging.basicConfig(filename={log!r})\n"})
    with gunicorn(postgres_uri, "sync", "apart", tmp_path, budget=1):
        until(lambda: len(contents(log).splitlines()) == WORKERS - 1, 20)
    for line in contents(log).splitlines():
        assert line.startswith("WARNING:mppool.pool:pool own-"), line
        assert "has a budget of its own for the same database, postgresql://" in line
        assert all(way in line for way in ('name="…"', '"mppool run -- COMMAND"', "gunicorn --preload"))


def contents(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def status(port: int, path: str = "/") -> int:
    """0: it could not be had, or its worker was killed before it answered."""
    try:
        return get(port, path)[0]
    except (OSError, http.client.HTTPException):
        return 0


@pytest.mark.parametrize("load", ["preload", "scope"])
def test_a_worker_that_hangs_is_killed_and_its_permit_is_back(
    postgres_uri: str, postgres_judge: Any, load: str, tmp_path: Any
) -> None:
    """gunicorn's timeout: SIGABRT, then SIGKILL; a worker boots within it on a busy machine, too. Each hung one
    holds one of two permits.

    On a busy machine the timeout may strike at the very end, too. gunicorn boots another worker then, and its SIGTERM
    comes to nothing there (`Running.wait_until_booted`): it kills the worker later."""
    more = ("--timeout", "3", "--graceful-timeout", "5")
    with (
        gunicorn(postgres_uri, "sync", load, tmp_path, *more, budget=2, quiet=False) as running,
        postgres_judge.watch() as seen,
        ThreadPoolExecutor(2) as two,
    ):
        hung = [two.submit(status, running.port, "/hang") for _ in range(2)]
        until(lambda: sum("pg_sleep(60)" in text for text in postgres_judge.list().values()) == 2, 20)
        until(lambda: answers(running.port), 20)  # who waits for a permit meanwhile may be killed, too
        assert 200 not in [each.result() for each in hung]
        replies, failures = load_for(running.port, 0.5)
        assert not any("pg_sleep(60)" in text for text in postgres_judge.list().values())
    assert (len(replies) > 0, failures) == (True, [])
    assert seen.peak == 2


def test_workers_that_are_recycled(postgres_uri: str, postgres_judge: Any, tmp_path: Any) -> None:
    more = ["--max-requests", "40", "--max-requests-jitter", "20"]
    with gunicorn(postgres_uri, "sync", "scope", tmp_path, *more) as running, postgres_judge.watch() as seen:
        replies, failures = load_for(running.port)
    assert failures == []
    assert len({reply.split()[1] for reply in replies}) > WORKERS, "some were recycled"
    assert 1 < seen.peak <= BUDGET


REFUSAL = "UnsupportedError: gevent has replaced this process's"


def gevent(uri: str, port: int, *args: str) -> subprocess.Popen[str]:
    pytest.importorskip("gevent")
    command = ["-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-k", "gevent", "-w", "1", "--no-control-socket"]
    return subprocess.Popen(
        [sys.executable, *command, *args, "tests.live.apps:app"],
        env={**os.environ, "APP_URI": uri, "APP_MAX_SIZE": "2"},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_gevent_worker_is_refused_at_its_start(sqlite_uri: str) -> None:
    with gevent(sqlite_uri, free_port()) as process:
        _, log = process.communicate(timeout=30)
    assert process.returncode not in (0, -signal.SIGKILL), "it failed to boot"
    assert REFUSAL in log


def test_a_gevent_worker_that_did_not_load_the_application_is_refused_at_its_first_query(sqlite_uri: str) -> None:
    """The master, where nothing is patched, has started the pool for it: it must not hang."""
    port = free_port()
    with gevent(sqlite_uri, port, "--preload") as process:
        try:
            assert until(lambda: status(port), 20) == 500
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=30)
    assert REFUSAL in log
