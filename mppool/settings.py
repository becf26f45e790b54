"""Settings: frozen, validated once where the user gives them, then passed on as one object.

A bad value is refused here with the parameter's name, so no other module checks again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from time import monotonic_ns
from typing import Any

from mppool import cluster_url
from mppool.cluster_url import ClusterSource
from mppool.uri import Database, Uri, UriSource
from mppool.uri import ask as ask_for

__all__ = ["LOG_CONFIG", "BudgetSettings", "Database", "LogConfig", "PoolSettings", "Uri"]

MAX_SIZE_LIMIT = 10_000
KEPT = 1  # permits of a budget over several hosts that no host gets: for the connection that counts at the database
ALWAYS = 0  # "made" before any resize of the budget, so that its size counts
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class LogConfig:
    """Switches: what mppool logs about SQL, and how its errors look. One instance, `LOG_CONFIG`, read at every use.

    Attributes:
        PYSQLX_DEV_MODE: log (DEBUG) each statement with its parameters written in, as an aid to the eye.
        PYSQLX_SQL_LOG: log (INFO) each statement and its parameters as sent.
        PYSQLX_USE_COLOR: colour both, and JSON errors, for a terminal, if pygments is installed (``mppool[color]``).
        PYSQLX_ERROR_JSON_FMT: errors of the database render as JSON.

    Each starts from the environment variable of its name (``0`` or unset is off).
    """

    __slots__ = ("PYSQLX_DEV_MODE", "PYSQLX_ERROR_JSON_FMT", "PYSQLX_SQL_LOG", "PYSQLX_USE_COLOR")

    PYSQLX_DEV_MODE: bool
    PYSQLX_SQL_LOG: bool
    PYSQLX_USE_COLOR: bool
    PYSQLX_ERROR_JSON_FMT: bool

    def __init__(self) -> None:
        for switch in self.__slots__:
            setattr(self, switch, os.environ.get(switch, "0") != "0")

    def __repr__(self) -> str:
        return f"LogConfig({', '.join(f'{name}={getattr(self, name)}' for name in self.__slots__)})"


LOG_CONFIG = LogConfig()


def _whole(name: str, value: object, least: int, most: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < least or (most is not None and value > most):
        limit = f"from {least} to {most}" if most is not None else f"at least {least}"
        raise ValueError(f"{name} must be {limit}, not {value}")
    return value


def _seconds(name: str, value: object, *, zero: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not (value > 0 or (zero and value == 0)):  # also refuses NaN
        raise ValueError(f"{name} must be {'zero or more' if zero else 'more than zero'} seconds, not {value}")
    return float(value)


def _least(*values: float | None) -> float | None:
    return min((value for value in values if value is not None), default=None)


def check_keywords(what: str, given: Iterable[str], known: Collection[str]) -> None:
    """Refuse a keyword argument that ``what`` does not have; the error calls it by this name. Raises: TypeError."""
    for name in given:
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, known, 1)
            advice = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            raise TypeError(f"{what} has no parameter {name!r}: {advice}")


def wait_seconds(name: str, value: object) -> float:
    """A per-call timeout: zero (do not wait) or more seconds."""
    return _seconds(name, value, zero=True)


def positive_seconds(name: str, value: object) -> float:
    """A time limit: more than zero seconds."""
    return _seconds(name, value)


@dataclass(frozen=True)
class BudgetSettings:
    """The settings that all members of a budget share.

    Args:
        uri: the database, as PySQLXEngine takes it; or a function that says it, and then what it said last.
        max_size: permits; connections open or being opened over all processes, 1 to 10,000; None: those of the running
            budget.
        name: 1 to 64 letters, digits, ``.``, ``_`` or ``-``; None: a budget of this program's own.
        end_orphans: whether the server is told to end the statements of processes that are gone; the value of the
            process that launches the manager counts.
        reserve: of its permits, those that only callers with priority may take; less than ``max_size``.
        ask: the function that says the uri; None: it stays the same.
        cluster: the url of the engine that keeps the budget over several hosts, or a function that says it, and then
            what it said; None: the budget is this host's alone.
        ask_cluster: that function; None: it stays the same.
        made: when ``max_size`` was said, in ns of the monotonic clock: a budget that is resized later is still meant.
    """

    uri: UriSource = field(repr=False)
    max_size: int | None
    name: str | None = None
    end_orphans: bool = True
    reserve: int = 0
    made: int = field(default_factory=monotonic_ns, repr=False, compare=False)
    ask: Callable[[], Any] | None = field(default=None, repr=False, compare=False)
    cluster: ClusterSource | None = field(default=None, repr=False, compare=False)
    ask_cluster: Callable[[], Any] | None = field(default=None, repr=False, compare=False)
    database: Database = field(init=False)

    def __post_init__(self) -> None:
        if self.max_size is not None:
            check_size(self.max_size)
        if self.name is not None:
            check_name(self.name)
        _whole("reserve", self.reserve, 0, None if self.max_size is None else self.max_size - 1)
        if not isinstance(self.end_orphans, bool):
            raise TypeError(f"end_orphans must be a bool, not {type(self.end_orphans).__name__}")
        uri: object = self.uri
        if callable(uri):
            object.__setattr__(self, "ask", uri)
            uri = ask_for(uri)
        self._know(Database.parse(uri), str(uri))
        if self.cluster is not None:
            self._check_cluster(self.cluster)

    def _check_cluster(self, cluster: object) -> None:
        if callable(cluster):
            object.__setattr__(self, "ask_cluster", cluster)
            cluster = ask_for(cluster)
        object.__setattr__(self, "cluster", Uri(cluster_url.check(cluster)))
        provider = self.database.provider
        if provider != "postgresql":
            why = (
                "a SQLite file is one host's" if provider == "sqlite" else "not yet, since nothing tells whose each is"
            )
            raise ValueError(f"cluster: a budget over several hosts needs a PostgreSQL database, not {provider}: {why}")
        if self.name is None:
            raise ValueError("cluster: a budget over several hosts needs a name, the same on all hosts: name=…")
        if self.reserve:
            raise ValueError("reserve: a budget over several hosts has no reserve yet; leave it 0")
        if self.max_size is not None and self.max_size <= KEPT:
            raise ValueError(f"max_size must be at least {KEPT + 1} with cluster: {KEPT} permit is kept for the judge")

    def cluster_now(self) -> str | None:
        """The url of the engine as it is now: the function is asked again, if there is one.

        Raises: what the function raises; TypeError, ValueError: that names no engine.
        """
        if self.ask_cluster is not None:
            object.__setattr__(self, "cluster", Uri(cluster_url.check(ask_for(self.ask_cluster))))
        return None if self.cluster is None else str(self.cluster)

    def _know(self, database: Database, uri: str) -> None:
        object.__setattr__(self, "database", database)
        object.__setattr__(self, "uri", Uri(uri))

    @property
    def shared(self) -> int | None:
        """Permits that callers without priority share; None: those of the running budget."""
        return None if self.max_size is None else self.max_size - self.reserve

    def of_reserve(self, suffix: str) -> BudgetSettings:
        """The budget that the reserve is. Raises: ValueError: its name is too long with the ``suffix``."""
        return replace(self, max_size=self.reserve, reserve=0, name=None if self.name is None else self.name + suffix)

    def current(self) -> Database:
        """The database by the uri as it is now: the function is asked again, if there is one.

        Raises: what the function raises; TypeError, ValueError: that is no uri, or another database's.
        """
        if self.ask is not None:
            uri = ask_for(self.ask)
            database = Database.parse(uri)
            if database.key != self.database.key:
                raise ValueError(
                    f"it says another database, {database.key}; the budget's is {self.database.key}, and only user, "
                    "password and options may change"
                )
            self._know(database, str(uri))
        return self.database


def check_size(size: object) -> int:
    """Refuse what cannot be a budget's number of permits. Raises: TypeError, ValueError."""
    return _whole("max_size", size, 1, MAX_SIZE_LIMIT)


def check_name(name: object) -> str:
    """Refuse what cannot be a budget's name, which becomes a folder's. Raises: TypeError, ValueError."""
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__}")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"name {name!r} must be 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit"
        )
    return name


@dataclass(frozen=True)
class PoolSettings:
    """The settings of one process's local pool. Times are seconds.

    Args:
        min_size: connections this process keeps warm, as far as its fair share allows.
        conn_timeout: longest wait of a borrower.
        keep_alive: greatest age of a connection (-5 % jitter); never cut while borrowed.
        check_interval: longest pause between upkeep rounds.
        monitor_batch_size: connections closed for their age in one upkeep round.
        max_idle: a connection above ``min_size`` is closed when it has not been used for this time.
        max_waiting: refuse a borrower when this number of callers waits; None: no limit.
        connect_timeout: longest time to open one connection.
        connect_concurrency: connections to a server that all processes of the budget together open at a time.
        configure: called once with each new connection (`PySQLXEngineSync`), on a thread of the pool.
        check: called with a connection before it is lent; False or an exception discards it.
        reset: called with a connection that came back; False or an exception discards it.
        leak_threshold: a borrow that lasts longer is logged, with the place where it was made; None: none is.
        slow_borrow: a wait for a connection that lasts longer is logged; None: none is.
    """

    min_size: int = 0
    conn_timeout: float = 30.0
    keep_alive: float = 900.0
    check_interval: float = 5.0
    monitor_batch_size: int = 10
    max_idle: float = 600.0
    max_waiting: int | None = None
    connect_timeout: float = 5.0
    connect_concurrency: int = 16
    configure: Callable[[Any], object] | None = None
    check: Callable[[Any], object] | None = None
    reset: Callable[[Any], object] | None = None
    leak_threshold: float | None = None
    slow_borrow: float | None = None

    def __post_init__(self) -> None:
        _whole("min_size", self.min_size, 0)
        _whole("monitor_batch_size", self.monitor_batch_size, 1)
        _whole("connect_concurrency", self.connect_concurrency, 1, MAX_SIZE_LIMIT)
        for name in ("conn_timeout", "keep_alive", "check_interval", "max_idle", "connect_timeout"):
            object.__setattr__(self, name, _seconds(name, getattr(self, name)))
        for name in ("leak_threshold", "slow_borrow"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _seconds(name, getattr(self, name)))
        if self.max_waiting is not None:
            _whole("max_waiting", self.max_waiting, 1)
        for name in ("configure", "check", "reset"):
            hook = getattr(self, name)
            if hook is not None and not callable(hook):
                raise TypeError(f"{name} must be callable, not {type(hook).__name__}")

    def stricter(self, other: PoolSettings) -> PoolSettings:
        """The settings of a local pool that two handles of one process share: the stricter value of each.

        Raises: ValueError: the handles have different hooks, of which one would be ignored.
        """
        for hook in ("configure", "check", "reset"):
            if getattr(self, hook) != getattr(other, hook):
                raise ValueError(f"two handles of one budget in one process must have the same {hook} hook")
        return replace(
            self,
            min_size=max(self.min_size, other.min_size),
            keep_alive=min(self.keep_alive, other.keep_alive),
            max_idle=min(self.max_idle, other.max_idle),
            check_interval=min(self.check_interval, other.check_interval),
            connect_concurrency=min(self.connect_concurrency, other.connect_concurrency),
            leak_threshold=_least(self.leak_threshold, other.leak_threshold),
            slow_borrow=_least(self.slow_borrow, other.slow_borrow),
        )

    def within(self, max_size: int | None) -> PoolSettings:
        """The settings in a budget that another process has made smaller than this one says."""
        return self if max_size is None else replace(self, min_size=min(self.min_size, max_size))

    def fits(self, budget: BudgetSettings) -> None:
        """Refuse a ``min_size`` that the budget can never reach. Raises: ValueError."""
        if budget.shared is not None and self.min_size > budget.shared:
            most = f"max_size ({budget.max_size})" + f" less its reserve ({budget.reserve})" * bool(budget.reserve)
            raise ValueError(f"min_size ({self.min_size}) must not be greater than {most}")
