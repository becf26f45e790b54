"""A budget over time: samples for charts, and what happened. Memory is bounded, however long it lasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mppool.view.window import Window, grown

if TYPE_CHECKING:
    from mppool.stats import BudgetStats, Histogram, MemberStats

__all__ = ["Counts", "Event", "Process", "Recording", "Sample"]

MOST = 1200  # samples; when there are more, every other one is forgotten
EVENTS = 500  # that are kept
SPAN = 1.0  # seconds of which a sample's rates and quantiles are


class Counts(NamedTuple):
    """One process's connections, and its callers in line."""

    in_use: int = 0
    idle: int = 0
    opening: int = 0
    waiting: int = 0

    @property
    def held(self) -> int:
        """Connections open or being opened."""
        return self.in_use + self.idle + self.opening


class Sample(NamedTuple):
    """One moment: seconds since the recording began; quantiles (seconds) and rates (a second) of the last second;
    None at the very beginning, and quantiles also where nobody asked."""

    at: float
    processes: dict[int, Counts]
    max_size: int
    p50: float | None
    p99: float | None
    moves: float | None
    opens: float | None

    @property
    def total(self) -> Counts:
        """Over all processes."""
        return Counts(*map(sum, zip(*self.processes.values(), strict=True))) if self.processes else Counts()


class Event(NamedTuple):
    """What happened: when, which kind (``came``, ``left``, ``ended``, ``succession``, ``resize``, ``pause``,
    ``resume``, ``drain``), and in words."""

    at: float
    kind: str
    text: str


@dataclass
class Process:
    """What is known of one process, over the recording."""

    pid: int
    command: str
    first: MemberStats
    last: MemberStats
    most: int = 0  # connections held at once

    @property
    def borrows(self) -> int:
        """Requests in the recording."""
        return self.last.requests_num - self.first.requests_num

    @property
    def wait(self) -> Histogram:
        """Waits in the recording."""
        return grown(self.last.wait, self.first.wait)


@dataclass
class Recording:
    """Takes a budget's snapshots; `samples`, `events` and `processes` are what it made of them.

    Args:
        every: seconds between two samples that are kept, at first.
        command: the command line of a process.
        alive: whether a process is still there: one that has left a budget and goes on is no victim.
    """

    every: float
    command: Callable[[int], str]
    alive: Callable[[int], bool]
    samples: list[Sample] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    processes: dict[int, Process] = field(default_factory=dict)
    peak: int = 0
    first: BudgetStats | None = None
    last: BudgetStats | None = None
    seconds: float = 0.0
    _start: float = 0.0
    _window: Window = field(default_factory=lambda: Window(SPAN))

    def note(self, now: float, stats: BudgetStats) -> None:
        """A snapshot taken ``now`` (seconds of a monotonic clock)."""
        if self.first is None or self.last is None:
            self.first, self._start = stats, now
        else:
            self.events += _events(self.last, stats, now - self._start, self.alive)
            del self.events[EVENTS:]
        self.last, self.seconds, self.peak = stats, now - self._start, max(self.peak, stats.open)
        for member in stats.members:
            known = self.processes.get(member.pid)
            if known is None:
                known = Process(member.pid, self.command(member.pid), member, member)
                self.processes[member.pid] = known
            known.last, known.most = member, max(known.most, member.held)
        self._window.add(now, stats)
        if not self.samples or self.seconds - self.samples[-1].at >= self.every * 0.99:
            self.samples.append(self._sample(stats))
            if len(self.samples) > MOST:
                del self.samples[1::2]
                self.every *= 2

    def _sample(self, stats: BudgetStats) -> Sample:
        counts = {m.pid: Counts(m.in_use, m.idle, m.opening, m.waiting) for m in stats.members}
        window, wait = self._window, self._window.wait()
        if window.span < SPAN / 2:
            return Sample(self.seconds, counts, stats.max_size, None, None, None, None)
        rates = window.rate("moves"), window.rate("connections_num")
        p50, p99 = (wait.quantile(part) if wait.count else None for part in (0.5, 0.99))
        return Sample(self.seconds, counts, stats.max_size, p50, p99, *rates)


def _events(old: BudgetStats, new: BudgetStats, at: float, alive: Callable[[int], bool]) -> list[Event]:
    """What must have happened between two snapshots."""
    found = []
    before, after = ({member.pid: member for member in stats.members} for stats in (old, new))
    for pid in after.keys() - before.keys():
        found.append(Event(at, "came", f"process {pid} came"))
    for pid in before.keys() - after.keys():
        if alive(pid):
            found.append(Event(at, "left", f"process {pid} left the budget"))
        else:
            held = before[pid].in_use
            found.append(Event(at, "ended", f"process {pid} ended" + (f", with {held} in use" if held else "")))
    if new.manager_pid != old.manager_pid:
        found.append(Event(at, "succession", f"manager {new.manager_pid} took over from {old.manager_pid}"))
    if new.max_size != old.max_size:
        found.append(Event(at, "resize", f"resized from {old.max_size} to {new.max_size} permits"))
    if new.paused != old.paused:
        found.append(Event(at, *(("pause", "paused") if new.paused else ("resume", "resumed"))))
    if new.generation != old.generation:
        found.append(Event(at, "drain", "drained: every connection is replaced"))
    return found
