"""Snapshots: frozen, made in one go, safe to keep, compare, add and send. They hold numbers and names, no secrets."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from itertools import accumulate
from math import inf
from operator import add
from typing import ClassVar, TypeVar

__all__ = ["BudgetStats", "Counters", "Histogram", "HostStats", "MemberStats", "PoolStats"]

C = TypeVar("C", bound="Counters")

# Two buckets an octave, from about 1 µs to more than 1 h. `shared.statistics` counts into them.
_BOUNDS = tuple(2.0**octave * part for octave in range(-20, 12) for part in (1.0, 1.5))


@dataclass(frozen=True)
class Histogram:
    """How often something took how long. The buckets are the same in every process, so histograms can be added.

    Attributes:
        counts: how often, for each bucket; as many as there are `bounds`.
        bounds: the upper bound of each bucket, in seconds; the last one is infinite. A value equal to a bound is in the
            bucket above it.
    """

    counts: tuple[int, ...] = (0,) * (len(_BOUNDS) + 2)

    bounds: ClassVar[tuple[float, ...]] = (*_BOUNDS, 2.0**12, inf)

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self.counts)

    def quantile(self, part: float) -> float:
        """A time, in seconds, that ``part`` (0 to 1) of all values are below: the upper bound of the bucket in which
        the quantile lies, which is at most half as much again. 0.0: there are no values."""
        rank = max(1e-9, part * self.count)
        return next(
            (bound for bound, sum_ in zip(self.bounds, accumulate(self.counts), strict=True) if sum_ >= rank), 0.0
        )

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(tuple(map(add, self.counts, other.counts)))


@dataclass(frozen=True, kw_only=True)
class Counters:
    """Sums since the pool, or the budget, was made. Names are those of psycopg_pool where it has one.

    Attributes:
        requests_num: connections that callers asked for.
        requests_queued: requests that had to wait.
        requests_wait_ms: time that they waited, in ms.
        requests_errors: requests that failed: timeouts, too many waiting, a stopped pool, a failed connect.
        requests_timeouts: requests that waited in vain.
        usage_ms: time that connections were borrowed, in ms.
        returns_bad: connections that came back broken or in doubt, and were closed.
        connections_num: attempts to open a connection.
        connections_ms: time that the successful ones took, in ms.
        connections_errors: attempts that failed.
        connections_refused: attempts that the server refused because it was full; they were made again.
        connections_lost: connections found dead by a check, or ended by the server.
        connections_closed: connections closed.
        rollbacks: transactions that borrowers left open.
        leaks: borrows held for longer than ``leak_threshold``, or never given back.
        wait: seconds that requests waited, also those that were served at once.
        usage: seconds that connections were borrowed.
    """

    requests_num: int = 0
    requests_queued: int = 0
    requests_wait_ms: int = 0
    requests_errors: int = 0
    requests_timeouts: int = 0
    usage_ms: int = 0
    returns_bad: int = 0
    connections_num: int = 0
    connections_ms: int = 0
    connections_errors: int = 0
    connections_refused: int = 0
    connections_lost: int = 0
    connections_closed: int = 0
    rollbacks: int = 0
    leaks: int = 0
    wait: Histogram = field(default_factory=Histogram)
    usage: Histogram = field(default_factory=Histogram)

    @classmethod
    def zero(cls) -> Counters:
        """Nothing counted yet."""
        return Counters()

    def counters(self) -> Counters:
        """The sums alone, of any snapshot."""
        return Counters(**{each.name: getattr(self, each.name) for each in fields(Counters)})

    def __add__(self, other: Counters) -> Counters:
        """The sums of both; of snapshots only what they count."""
        return Counters(
            **{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(Counters)}
        )


@dataclass(frozen=True, kw_only=True)
class MemberStats(Counters):
    """One process at a budget.

    Attributes:
        pid: of the process.
        credit: permits that the process has, used or not.
        in_use: connections that are borrowed.
        idle: connections that are open and not borrowed.
        opening: connections that are being opened, checked or closed.
        waiting: callers that wait for a connection.
        share: permits that are its fair share at this moment.
        waiting_for: seconds that its first caller in line has waited; 0: none waits.
        oldest_use: seconds that its longest borrow has lasted; 0: there is none, or the process does not tell.
        oldest_place: where that borrow was made, as in ``app.py:31 in checkout (thread worker-3)``; empty unless the
            process has a ``leak_threshold``.
    """

    pid: int
    credit: int
    in_use: int
    idle: int
    opening: int
    waiting: int
    share: float = 0.0
    waiting_for: float = 0.0
    oldest_use: float = 0.0
    oldest_place: str = ""

    @property
    def held(self) -> int:
        """Connections open or being opened."""
        return self.in_use + self.idle + self.opening


@dataclass(frozen=True, kw_only=True)
class HostStats:
    """One host of a budget over several, as the host that tells it saw it last.

    Attributes:
        name: of this incarnation of the host.
        credit: connections that it may have.
        in_use: connections that were borrowed there.
        waiting: callers that waited there.
        wanted: permits that it would like to have.
        lease_age: seconds since it was heard of, as far as it is known here.
        ghost: it is gone; ``credit`` is what the database still counted of it.
        here: it is the host that tells this.
    """

    name: str
    credit: int
    in_use: int
    waiting: int
    wanted: int
    lease_age: float
    ghost: bool
    here: bool


@dataclass(frozen=True, kw_only=True)
class BudgetStats(Counters):
    """A budget as its ledger shows it; its sums are over all processes, also those that have ended. It is read while
    others write: each number is true, their sum nearly so.

    Attributes:
        name: of the budget.
        database: the database's key: type, host, port and name, without credentials.
        max_size: permits of the budget.
        reserve: of these, those for callers with priority. They are the budget NAME.reserve: it has its own snapshot.
        manager_pid: the pid of the manager process.
        short: permits that processes want and that the manager could not grant when it last tried.
        members: the processes that are attached.
        orphans: connections of ended processes that the server has not ended.
        grants: permits granted to processes.
        recalls: permits taken back from processes that did not use them.
        moves: permits that went from one process to another, at the cost of a reconnect each.
        move_ms: what a reconnect costs as measured, in ms; 0: not measured.
        successions: managers that took over from one that had died.
        paused: whether the budget is paused.
        resized: whether the budget was resized.
        generation: another number after each `PoolManager.drain`; 0: there was none.
        cluster: the place of the engine that keeps the budget for several hosts; empty: it is this host's alone. All
            that is not of ``hosts`` is told of this host alone.
        cap: permits that this host may use just now, of a budget over several hosts.
        hosts: all hosts, as this one saw them last.
        learning: the engine's data are new: no host gets more until it is known what is open.
        cluster_lost: the engine has not answered for longer than a lease, or refuses this host: it opens nothing.
        cluster_error: what the engine, or the count at the database, failed with last; empty: it works.
    """

    name: str
    max_size: int
    manager_pid: int
    short: int
    members: tuple[MemberStats, ...]
    database: str = ""
    reserve: int = 0
    orphans: int = 0
    grants: int = 0
    recalls: int = 0
    moves: int = 0
    move_ms: float = 0.0
    successions: int = 0
    paused: bool = False
    resized: bool = False
    generation: int = 0
    cluster: str = ""
    cap: int = 0
    hosts: tuple[HostStats, ...] = ()
    learning: bool = False
    cluster_lost: bool = False
    cluster_error: str = ""

    @property
    def open(self) -> int:
        """Connections open or being opened, over all processes."""
        return sum(member.held for member in self.members) + self.orphans

    @property
    def in_use(self) -> int:
        """Connections that are borrowed, over all processes."""
        return sum(member.in_use for member in self.members)

    @property
    def idle(self) -> int:
        """Connections that are open and not borrowed, over all processes."""
        return sum(member.idle for member in self.members)

    @property
    def opening(self) -> int:
        """Connections that are being opened, checked or closed, over all processes."""
        return sum(member.opening for member in self.members)

    @property
    def waiting(self) -> int:
        """Callers that wait for a connection, over all processes."""
        return sum(member.waiting for member in self.members)

    @property
    def free(self) -> int:
        """Permits that no process has been given; those of the reserve are not among them. Of several hosts: of those
        that this one may use."""
        usable = self.cap if self.cluster else self.max_size - self.reserve
        return usable - sum(member.credit for member in self.members) - self.orphans


@dataclass(frozen=True, kw_only=True)
class PoolStats(Counters):
    """One process's local pool: what is there now, and its sums.

    Attributes:
        name: of the budget.
        pool_min: connections that this process keeps warm.
        pool_max: permits of the budget, over all processes.
        in_use: connections that are borrowed.
        idle: connections that are open and not borrowed.
        opening: connections that are being opened or checked.
        closing: connections that are being closed.
        waiting: callers that wait for a connection.
        credit: permits that this process has, used or not; 0: it has no seat at the budget yet.
        last_connect_error: why the last attempt to open a connection failed; None: it succeeded.
        manager_lost: True: there is no manager at this moment; the process goes on with the permits that it has.
        paused: True: the budget is paused, and nothing is lent.
    """

    name: str
    pool_min: int
    pool_max: int
    in_use: int
    idle: int
    opening: int
    closing: int
    waiting: int
    credit: int = 0
    last_connect_error: str | None = None
    manager_lost: bool = False
    paused: bool = False

    @property
    def pool_size(self) -> int:
        """Connections of this process, open or being opened or closed."""
        return self.in_use + self.idle + self.opening + self.closing

    @property
    def pool_available(self) -> int:
        """Connections that are open and not borrowed: `idle`, by psycopg_pool's name."""
        return self.idle

    @property
    def requests_waiting(self) -> int:
        """Callers that wait for a connection: `waiting`, by psycopg_pool's name."""
        return self.waiting
