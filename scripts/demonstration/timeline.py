"""What the budget looked like over time: one sample each few milliseconds, from the manager's snapshots."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Counts(NamedTuple):
    """One process's connections, and its callers in line."""

    in_use: int = 0
    idle: int = 0
    opening: int = 0
    waiting: int = 0

    @property
    def held(self) -> int:
        return self.in_use + self.idle + self.opening


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
        sample = Sample((time.monotonic() if now is None else now) - self.start, counts)
        self.peak = max(self.peak, stats.open)
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
