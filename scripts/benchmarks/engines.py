"""Engines of a measurement's own: a private Redis or PostgreSQL, with the processor time that it has taken.

PostgreSQL runs with ``fsync`` and ``synchronous_commit`` on, Redis without persistence.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from mppool.cluster.contract import Engine, Report, Request
from scripts.benchmarks.contract import Setting, Skip
from tests.private_servers import NoServer, Postgres, Redis

KINDS = ("Redis", "PostgreSQL")
LEASE = 10.0


class PrivateEngine:
    """One server, and engines of one budget on it.

    Args:
        kind: of `KINDS`.
        folder: for its files.

    Raises: NoServer.
    """

    def __init__(self, kind: str, folder: str) -> None:
        self.kind, self.name = kind, f"bench-{secrets.token_hex(4)}"
        place = os.path.join(folder, "engine")
        self._server: Any = Redis(place, "--maxclients", "9000") if kind == "Redis" else _postgres(place)
        self.uri: str = self._server.url if kind == "Redis" else self._server.uri
        self._process = psutil.Process(self._server.start())

    def stop(self) -> None:
        """End it, as an administrator does; returns when it is gone."""
        self._server.stop()

    def start(self) -> None:
        """Start it again where it was; returns when it answers."""
        self._process = psutil.Process(self._server.start())

    def client(self, name: str = "", timeout: float = 5.0) -> Engine:
        """A host's engine.

        Args:
            name: of the budget; "": this measurement's usual one.
            timeout: seconds for a call; generous, since here many hosts share two cores.
        """
        if self.kind == "Redis":
            from mppool.cluster.redis_engine import RedisEngine

            return RedisEngine(self.uri, name or self.name, timeout=timeout)
        from mppool.cluster.postgres_engine import PostgresEngine

        return PostgresEngine(self.uri, name or self.name, timeout=timeout)

    def ready(self, max_size: int, name: str = "") -> None:
        """Begin a budget, see `begin`."""
        engine = self.client(name)
        begin(engine, max_size)
        engine.close()

    def processor_time(self) -> float:
        """Seconds that the server's living processes have taken so far."""
        taken = 0.0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                taken += _processor_time(process)
            except (OSError, psutil.Error):
                continue  # it has just ended
        return taken


def begin(engine: Engine, max_size: int) -> None:
    """Begin a budget, and end its learning at once: nobody has anything yet."""
    request = Request("first", "", 1, 0, 0, Report(), max_size, LEASE)
    epoch = engine.exchange(request).epoch
    answer = engine.exchange(request._replace(epoch=epoch, seq=2))
    engine.learned(epoch, answer.number, {})
    engine.bury(epoch, "first", answer.number, 0)


def _processor_time(process: psutil.Process) -> float:
    """Linux tells nanoseconds for each thread; others hundredths of a second."""
    if not os.path.exists("/proc/self/schedstat"):
        return sum(process.cpu_times()[:2])
    nanoseconds = 0
    for thread in os.listdir(f"/proc/{process.pid}/task"):
        with open(f"/proc/{process.pid}/task/{thread}/schedstat") as file:
            nanoseconds += int(file.read().split()[0])
    return nanoseconds / 1e9


def _postgres(folder: str) -> Postgres:
    import psycopg

    return Postgres(folder, lambda uri: psycopg.connect(uri).close(), fsync="on", max_connections="300")


@contextmanager
def private_engine(kind: str, setting: Setting) -> Iterator[PrivateEngine]:
    """
    Args:
        kind: of `KINDS`.

    Raises: Skip.
    """
    try:
        engine = PrivateEngine(kind, setting.folder)
    except (NoServer, ImportError) as error:
        raise Skip(str(error)) from None
    try:
        yield engine
    finally:
        engine.stop()
