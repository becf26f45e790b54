"""A real gunicorn under load: the server itself counts that the budget is kept."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.waiting import until

BUDGET, WORKERS, CLIENTS = 6, 4, 12
SECONDS = float(os.environ.get("MPPOOL_TEST_SECONDS", "3"))
LOADS = {
    "preload": {"args": ["--preload"], "env": {}},
    "preload-used": {"args": ["--preload"], "env": {"APP_USE_BEFORE_FORK": "1"}},
    "named": {"args": [], "env": {"APP_NAME": "web"}},
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def gunicorn(uri: str, worker: list[str], load: str) -> Iterator[int]:
    """A gunicorn that answers; its port. Afterwards it has ended, with exit code 0."""
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", "tests.live.apps:app", "-b", f"127.0.0.1:{port}"),
            *("-w", str(WORKERS), "--backlog", "512", "--log-level", "warning", "--no-control-socket"),
            *worker,
            *LOADS[load]["args"],
        ],
        env={**os.environ, "APP_URI": uri, "APP_MAX_SIZE": str(BUDGET), **LOADS[load]["env"]},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: answers(port) or process.poll() is not None, 20)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    assert "Traceback" not in log
    assert "FATAL" not in log


def answers(port: int) -> bool:
    try:
        return get(port)[0] == 200
    except OSError:
        return False


def get(port: int) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def load_for(port: int, seconds: float) -> tuple[list[str], list[BaseException]]:
    """Some clients that ask without pause; their answers, and what went wrong."""
    replies: list[str] = []
    failures: list[BaseException] = []
    end = time.monotonic() + seconds

    def client() -> None:
        try:
            while time.monotonic() < end:
                status, body = get(port)
                assert status == 200, body
                replies.append(body)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return replies, failures


@pytest.mark.parametrize("load", list(LOADS))
@pytest.mark.parametrize("worker", [["-k", "sync"], ["-k", "gthread", "--threads", "4"]], ids=["sync", "gthread"])
def test_gunicorn_keeps_the_budget(postgres_uri: str, postgres_judge: Any, worker: list[str], load: str) -> None:
    with gunicorn(postgres_uri, worker, load) as port, postgres_judge.watch() as seen:
        replies, failures = load_for(port, SECONDS)
    print(f"{worker[1]} {load}: {len(replies)} requests, greatest number of backends {seen.peak} of {BUDGET}")
    assert failures == []
    assert len({reply.split()[1] for reply in replies}) > 1, "several workers answered"
    assert {reply.split()[0] for reply in replies} == {"42"}
    assert 1 < seen.peak <= BUDGET
