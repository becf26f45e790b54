"""The balance sheet: what is found in the end, and whether it is as it should be."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from mppool.manager.clients import KEPT

MEMORY_GROWTH = (0.10, 4.0)  # of what it was, and MiB


@dataclass
class Jobs:
    """What became of all jobs, by the journals."""

    begun: int = 0
    right: int = 0
    killed: int = 0  # their process was killed, or stopped for good, while they ran
    by_database: int = 0
    by_fault: int = 0  # one on purpose: a signal's handler ended it, or there were no descriptors
    errors: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)  # begun in a process that ended well, and never ended
    waits: list[float] = field(default_factory=list)
    refused: int = 0  # opens that the server refused, to processes that ended well
    faults: Counter[str] = field(default_factory=Counter)  # on purpose

    @classmethod
    def read(cls, folder: str) -> Jobs:
        """From the journals there."""
        jobs = cls()
        for name in sorted(os.listdir(folder)):
            running: set[str] = set()
            ended = False
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                for line in file:
                    kind, job, more = line.rstrip("\n").split(" ", 2)
                    if kind == "b":
                        jobs.begun += 1
                        running.add(job)
                        continue
                    if kind == "f":
                        jobs.faults[more] += 1
                        continue
                    if kind == "r":
                        jobs.refused += int(more)
                        ended = True
                        continue
                    running.remove(job)  # each ends once
                    if kind == "e":
                        jobs.right += 1
                        jobs.waits.append(float(more))
                    elif kind == "d":
                        jobs.by_database += 1
                    elif kind == "s":
                        jobs.by_fault += 1
                    else:
                        jobs.errors.append(f"process {name}, job {job}: {more}")
            if ended:
                jobs.lost += [f"process {name}, job {job}" for job in running]
            else:
                jobs.killed += len(running)
        return jobs


@dataclass
class Usage:
    """Descriptors and memory (MiB) of one process, sampled through the run."""

    descriptors: list[int] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def growth(self) -> tuple[float, float, float]:
        """Of the last third over the second: descriptors, MiB, and how many MiB may be. At first all is still new."""
        third = max(1, len(self.memory) // 3)
        before, after = slice(third, 2 * third), slice(-third, None)
        fds = statistics.median(self.descriptors[after]) - statistics.median(self.descriptors[before])
        was = statistics.median(self.memory[before])
        return fds, statistics.median(self.memory[after]) - was, MEMORY_GROWTH[0] * was + MEMORY_GROWTH[1]


@dataclass
class Sheet:
    """All that is looked at."""

    provider: str
    max_size: int
    cuts: bool  # whether the database's connections were cut on purpose
    jobs: Jobs
    peak_server: int | None  # None: there is none
    peak_ledger: int
    samples: int
    members: int  # at the same time, as many as there may be
    had_in_the_end: int  # permits that one process could have at once
    left_connections: int
    left_processes: list[str]
    left_files: list[str]
    usage: dict[str, Usage]
    chaos: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[tuple[str, str, bool]]:
        """What was looked at, what was found, and whether it is right."""
        jobs, had = self.jobs, self.had_in_the_end
        lines = [
            ("permits to be had in the end", f"{had} of {self.max_size}", had == self.max_size),
            ("most permits assigned at once", f"{self.peak_ledger}", 0 < self.peak_ledger <= self.max_size),
        ]  # fmt: skip
        if self.peak_server is not None:
            lines += [
                ("most connections the server saw", f"{self.peak_server}", 0 < self.peak_server <= self.max_size),
                ("connections left at the server", f"{self.left_connections}", self.left_connections == 0),
            ]
        lines += [
            ("jobs begun", f"{jobs.begun}", jobs.begun > 0),
            ("… with the right answer", f"{jobs.right}", jobs.right > 0),
            ("… whose process was killed", f"{jobs.killed}", True),
            ("… ended by a fault on purpose", f"{jobs.by_fault}", True),
            ("… failed by the database", f"{jobs.by_database}", self.cuts or not jobs.by_database),
            ("… failed by the pool", f"{len(jobs.errors)}", not jobs.errors),
            ("… not accounted for", f"{len(jobs.lost)}", self._adds_up()),
            ("processes left", f"{len(self.left_processes)}", not self.left_processes),
            ("files left", f"{len(self.left_files)}", not self.left_files),
        ]
        # The manager keeps sockets of each member's connections that have ended, until there are many.
        ended = KEPT * self.members if self.peak_server is not None else 0
        for who, usage in self.usage.items():
            fds, grown, most = usage.growth()
            kept = ended if who == "manager" else 0
            lines.append((f"{who}: descriptors more", f"{fds:+.0f}", fds <= self.max_size + kept))
            lines.append((f"{who}: memory more", f"{grown:+.1f} MiB", grown <= most))
        return lines

    def _adds_up(self) -> bool:
        jobs = self.jobs
        accounted = jobs.right + jobs.killed + jobs.by_database + jobs.by_fault + len(jobs.errors)
        return not jobs.lost and accounted == jobs.begun

    @property
    def good(self) -> bool:
        return all(right for _, _, right in self.lines())

    def show(self, console: Console) -> None:
        table = Table(title=f"{self.provider}: the balance sheet", title_justify="left")
        for heading in ("", "found", ""):
            table.add_column(heading, justify="right" if heading == "found" else "left")
        for what, found, right in self.lines():
            table.add_row(what, found, "[green]ok" if right else "[bold red]FAILED")
        console.print(table)
        jobs = self.jobs
        waits = sorted(jobs.waits) or [0.0]
        p50, p99 = (waits[int(part * (len(waits) - 1))] * 1e3 for part in (0.5, 0.99))
        console.print(f"waits: median {p50:.1f} ms, p99 {p99:.1f} ms, longest {waits[-1] * 1e3:.0f} ms")
        console.print(
            f"refused by the server because it was full, and asked again: {jobs.refused}; {self.samples} samples"
        )
        for title, counts in (("chaos", self.chaos), ("faults on purpose", jobs.faults)):
            if counts:
                console.print(f"{title}: " + ", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
        for text in (*jobs.errors[:5], *jobs.lost[:5], *self.left_processes[:5], *self.left_files[:5]):
            console.print(f"[red]{text}", highlight=False)
