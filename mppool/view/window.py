"""What happened between two snapshots: counters only ever grow, so their differences are rates and recent quantiles."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from mppool.stats import Histogram

if TYPE_CHECKING:
    from mppool.stats import BudgetStats

__all__ = ["Window", "grown"]


def grown(now: Histogram, then: Histogram) -> Histogram:
    """What came to a histogram between two looks."""
    if now.counts == then.counts:
        return Histogram((0,) * len(now.counts))
    return Histogram(tuple(max(0, new - old) for new, old in zip(now.counts, then.counts, strict=True)))


class Window:
    """The snapshots of the last ``length`` seconds.

    Args:
        length: seconds.
    """

    def __init__(self, length: float) -> None:
        self._length = length
        self._seen: deque[tuple[float, BudgetStats]] = deque()
        self._waits: dict[int, Histogram] = {}

    def add(self, at: float, stats: BudgetStats) -> None:
        """A snapshot taken ``at`` this moment (seconds of a monotonic clock)."""
        seen = self._seen
        seen.append((at, stats))
        while len(seen) > 2 and seen[1][0] <= at - self._length:
            seen.popleft()
        self._waits = {member.pid: member.wait for member in seen[0][1].members}

    def copy(self) -> Window:
        """As it is now."""
        made = Window(self._length)
        made._seen, made._waits = self._seen.copy(), self._waits
        return made

    @property
    def last(self) -> BudgetStats:
        """The newest snapshot."""
        return self._seen[-1][1]

    @property
    def span(self) -> float:
        """Seconds between the oldest snapshot and the newest."""
        return self._seen[-1][0] - self._seen[0][0]

    def rate(self, counter: str) -> float:
        """How often a counter of the budget grew, per second."""
        grew = getattr(self.last, counter) - getattr(self._seen[0][1], counter)
        return max(0.0, grew / self.span) if self.span > 0 else 0.0

    def wait(self) -> Histogram:
        """The waits of all processes in the window."""
        return grown(self.last.wait, self._seen[0][1].wait)

    def usage(self) -> Histogram:
        """How long connections were borrowed, of the borrows that ended in the window."""
        return grown(self.last.usage, self._seen[0][1].usage)

    def latest_wait(self) -> Histogram:
        """The waits between the last two snapshots."""
        return grown(self.last.wait, self._seen[-2 if len(self._seen) > 1 else -1][1].wait)

    def member_wait(self, pid: int, wait: Histogram) -> Histogram:
        """The waits of one process in the window, of which ``wait`` is all that it ever had."""
        then = self._waits.get(pid)
        return wait if then is None else grown(wait, then)
