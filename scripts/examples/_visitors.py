"""A server for the web examples, and visitors who ask it and count who answers."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, path: str = "/", patience: float = 20.0) -> str:
    """What the server answers, when it does."""
    end = time.monotonic() + patience
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {body}")
            return body
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        finally:
            connection.close()


def visit(command: Sequence[str], port: int, visits: int = 60) -> None:
    """Run the server, send it visitors, eight at a time, and tell who answered them; each answer ends with a pid."""
    server = subprocess.Popen([sys.executable, *command])
    try:
        ask(port)
        with ThreadPoolExecutor(8) as visitors:
            answers = list(visitors.map(lambda _: ask(port), range(visits)))
        print(f"the last of {visits} answers: {answers[-1].strip()}")
        for pid, count in sorted(Counter(int(answer.split()[-1]) for answer in answers).items()):
            print(f"worker {pid} gave {count} of them")
        print(ask(port, "/budget"))
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
