"""A web server of the tests' own on a free port, and clients that ask it without pause."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from tests.waiting import until

__all__ = ["Failure", "answers", "free_port", "get", "load_for", "served", "under_load"]

SECONDS = float(os.environ.get("MPPOOL_TEST_SECONDS", "2"))  # that a load lasts
CLIENTS = 12

# asyncio closes a loop's pipe before it takes its signal handlers off. This is what a signal in between leads to, in a
# worker that ends anyway.
AMID_CLOSE = re.compile(
    r"^Exception ignored when trying to write to the signal wakeup fd:\nTraceback.*\n(?: .*\n|\n)+OSError: .*\n", re.M
)


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
    log = AMID_CLOSE.sub("", log)
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


class Failure(NamedTuple):
    """A request that did not get what it should.

    Args:
        at: monotonic time.
        what: an exception, or (status, body).
    """

    at: float
    what: object


class Load:
    """Some clients that ask without pause; one that failed asks again."""

    def __init__(self, port: int) -> None:
        self.replies: list[str] = []
        self.failures: list[Failure] = []
        self._port, self._over = port, threading.Event()
        self._threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _client(self) -> None:
        while not self._over.is_set():
            try:
                status, body = get(self._port)
            except (OSError, http.client.HTTPException) as error:
                self._failed(error)
            else:
                if status == 200:
                    self.replies.append(body)
                else:
                    self._failed((status, body))

    def _failed(self, what: object) -> None:
        self.failures.append(Failure(time.monotonic(), what))
        self._over.wait(0.02)

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def under_load(port: int, seconds: float = SECONDS) -> Iterator[Load]:
    """What the block does is done under load, which lasts so long at the least."""
    began, load = time.monotonic(), Load(port)
    try:
        yield load
        time.sleep(max(0.0, began + seconds - time.monotonic()))
    finally:
        load.end()


def load_for(port: int, seconds: float = SECONDS) -> tuple[list[str], list[Failure]]:
    """A load for so long; the answers, and what went wrong."""
    with under_load(port, seconds) as load:
        pass
    return load.replies, load.failures
