"""What a benchmark is: a name, units, and one function per peer that measures once.

Every measurement runs in a fresh interpreter, so no peer's imports, threads or runtime disturb another's. A
module of this package offers one as ``BENCHMARK``.
"""

from __future__ import annotations

import os
import socket
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Sample = Mapping[str, float | None]  # a metric's value; None: it never came to it


class Skip(Exception):
    """This peer cannot be measured here; says why."""


@dataclass(frozen=True)
class Setting:
    """Where to measure.

    Args:
        folder: for this measurement's own files.
        postgres: a PostgreSQL uri, or None.
        mysql: a MariaDB or MySQL uri, or None.
    """

    folder: str
    postgres: str | None
    mysql: str | None = None

    @property
    def sqlite_uri(self) -> str:
        return f"sqlite:{self.folder}/bench.db"

    @property
    def postgres_uri(self) -> str:
        if self.postgres is None:
            raise Skip("no PostgreSQL: set MPPOOL_TEST_POSTGRES")
        return self.postgres

    @property
    def mysql_uri(self) -> str:
        if self.mysql is None:
            raise Skip("no MariaDB: set MPPOOL_TEST_MYSQL")
        return self.mysql


@dataclass(frozen=True)
class Benchmark:
    """One question, asked of several peers.

    Args:
        what: the question, one line.
        units: each metric's unit, in the order shown.
        peers: measures once; raises `Skip`. The first is what the others are compared with.
        rounds: how often each is measured, unless the caller says otherwise.
        timeout: seconds for one measurement.
        more_is_better: metrics where a greater value is better.
        compare: whether "times the first" says something.
        tall: a line for each metric and a column for each peer, for many metrics.
    """

    name: str
    what: str
    units: Mapping[str, str]
    peers: Mapping[str, Callable[[Setting], Sample]]
    rounds: int = 5
    timeout: float = 60.0
    more_is_better: frozenset[str] = frozenset()
    compare: bool = True
    tall: bool = False


@dataclass
class Results:
    """All samples of one benchmark, by peer and metric."""

    samples: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, peer: str, sample: Sample) -> None:
        for metric, value in sample.items():
            self.samples.setdefault(peer, {}).setdefault(metric, []).append(value)

    def median(self, peer: str, metric: str) -> float | None:
        """None: not measured, or in most rounds it never came to it."""
        values = self.samples.get(peer, {}).get(metric, [])
        numbers = [value for value in values if value is not None]
        return statistics.median(numbers) if 2 * len(numbers) > len(values) else None


def find_postgres() -> str | None:
    """The server to measure with: from the environment, or the one on its usual local port."""
    return _find("MPPOOL_TEST_POSTGRES", 5432, "postgresql://postgres@127.0.0.1:5432/postgres")


def find_mysql() -> str | None:
    """The same for MariaDB or MySQL."""
    return _find("MPPOOL_TEST_MYSQL", 3306, "mysql://root@127.0.0.1:3306/mysql")


def _find(variable: str, port: int, usual: str) -> str | None:
    if uri := os.environ.get(variable):
        return uri
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            return usual
    return None
