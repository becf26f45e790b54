"""A web server of the tests' own on a free port, and clients that ask it without pause."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tests.waiting import until

__all__ = ["SECONDS", "answers", "free_port", "get", "load_for", "served"]

SECONDS = float(os.environ.get("MPPOOL_TEST_SECONDS", "2"))  # that a load lasts
CLIENTS = 12


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(
    port: int, command: Sequence[str], environ: Mapping[str, str], *, ends_with: int = 0, quiet: bool = True
) -> Iterator[subprocess.Popen[str]]:
    """Run the server until it answers; afterwards it has ended, and complained of nothing.

    Args:
        command: for this interpreter.
        ends_with: the exit code that is as it should be after SIGTERM.
        quiet: False: it may complain.
    """
    process = subprocess.Popen(
        [sys.executable, *command], env={**os.environ, **environ}, stderr=subprocess.PIPE, text=True
    )
    try:
        until(lambda: answers(port) or process.poll() is not None, 20)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    assert process.returncode == ends_with, log
    assert not quiet or "Traceback" not in log, log
    assert "FATAL" not in log, log


def answers(port: int) -> bool:
    try:
        return get(port)[0] == 200
    except OSError:
        return False


def get(port: int, path: str = "/") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def load_for(port: int, seconds: float = SECONDS) -> tuple[list[str], list[Any]]:
    """Some clients that ask without pause; their answers, and what went wrong."""
    replies: list[str] = []
    failures: list[Any] = []
    end = time.monotonic() + seconds

    def client() -> None:
        while time.monotonic() < end:
            try:
                status, body = get(port)
            except (OSError, http.client.HTTPException) as error:
                failures.append(error)
                return
            if status != 200:
                failures.append((status, body))
                return
            replies.append(body)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return replies, failures
