"""What the budget looked like over time: one sample each few milliseconds, from the manager's snapshots."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mppool.view.recording import Counts

__all__ = ["Counts", "Sample", "Timeline"]


class Sample(NamedTuple):
    """Seconds since the start, and every worker's counts."""

    at: float
    workers: tuple[Counts, ...]

    @property
    def open(self) -> int:
        return sum(counts.held for counts in self.workers)


@dataclass
class Timeline:
    """The samples of one run; `peak` is the most connections ever seen open or being opened."""

    start: float
    pids: tuple[int, ...]
    samples: list[Sample] = field(default_factory=list)
    peak: int = 0

    def note(self, stats: Any, now: float | None = None) -> Sample:
        """Add a snapshot (`mppool.stats.BudgetStats`)."""
        members = {member.pid: member for member in stats.members}
        counts = tuple(
            Counts(m.in_use, m.idle, m.opening, m.waiting) if (m := members.get(pid)) else Counts() for pid in self.pids
        )
        self.peak = max(self.peak, stats.open)
        return self._keep(counts, time.monotonic() if now is None else now)

    def add(self, counts: Sequence[Counts], now: float | None = None) -> Sample:
        """Add what each had, by their own words."""
        sample = self._keep(tuple(counts), time.monotonic() if now is None else now)
        self.peak = max(self.peak, sample.open)
        return sample

    def _keep(self, counts: tuple[Counts, ...], now: float) -> Sample:
        sample = Sample(now - self.start, counts)
        self.samples.append(sample)
        return sample

    def thinned(self, columns: int) -> list[Sample]:
        """At most about so many samples, evenly spread in time; the last one is always among them."""
        if not self.samples:
            return []
        step, chosen, due = self.samples[-1].at / columns, [], 0.0
        for sample in self.samples:
            if sample.at >= due:
                chosen.append(sample)
                due = max(due + step, sample.at)
        if chosen[-1] is not self.samples[-1]:
            chosen.append(self.samples[-1])
        return chosen
