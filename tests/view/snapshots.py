"""Snapshots made by hand: what a budget might look like."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from mppool.stats import BudgetStats, Counters, Histogram, MemberStats

__all__ = ["budget", "histogram", "member"]


def histogram(*values: float) -> Histogram:
    """These times, in seconds."""
    counts = [0] * len(Histogram.bounds)
    for value in values:
        counts[bisect_right(Histogram.bounds, value)] += 1
    return Histogram(tuple(counts))


def member(pid: int, in_use: int = 0, idle: int = 0, opening: int = 0, waiting: int = 0, **more: Any) -> MemberStats:
    """A process; its credit is what it holds unless something else is said."""
    more.setdefault("credit", in_use + idle + opening)
    return MemberStats(pid=pid, in_use=in_use, idle=idle, opening=opening, waiting=waiting, **more)


def budget(*members: MemberStats, **more: Any) -> BudgetStats:
    """A budget of 20 permits; its sums are those of its processes unless something else is said."""
    given = {"name": "shop", "database": "postgresql://db:5432/shop", "max_size": 20, "manager_pid": 4711, "short": 0}
    total = sum((each.counters() for each in members), Counters.zero())
    sums = {name: getattr(total, name) for name in Counters.__dataclass_fields__}
    return BudgetStats(**{**sums, **given, **more, "members": members})
