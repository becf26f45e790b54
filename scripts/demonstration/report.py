"""The verdict at the end: tables for the reader, an exit code for the machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from scripts.demonstration.server_count import ServerCount
from scripts.demonstration.timeline import Timeline
from scripts.demonstration.workload import Plan, Report


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all are not above; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100).__int__() - 1)] if ordered else 0.0


@dataclass(frozen=True)
class Verdict:
    """All that a run came to.

    Args:
        wall: seconds from the word to go until the last job's end.
        server: the database's own count, where it has one.
    """

    plan: Plan
    reports: tuple[Report, ...]
    timeline: Timeline
    server: ServerCount | None
    wall: float

    @property
    def errors(self) -> list[str]:
        return [error for report in self.reports for error in report.errors]

    @property
    def within_budget(self) -> bool:
        peaks = [self.timeline.peak, self.server.peak if self.server else 0]
        return max(peaks) <= self.plan.max_size

    @property
    def borrows(self) -> int:
        return sum(len(report.waits) for report in self.reports)

    @property
    def complete(self) -> bool:
        return self.borrows == self.plan.jobs

    @property
    def exit_code(self) -> int:
        return 0 if self.within_budget and self.complete and not self.errors else 1

    def print(self, console: Console, database: str) -> None:
        console.print(self._processes())
        console.print(self._summary(database))
        for error, times in Counter(self.errors).most_common(5):
            console.print(f"[red]{times} × {error}", highlight=False)

    def _processes(self) -> Table:
        table = Table(title_justify="left", title="Processes")
        for heading in ("process", "handle", "borrows", "errors", "wait p50", "p95", "p99", "longest"):
            table.add_column(heading, justify="left" if heading in ("process", "handle") else "right")
        every = [wait for report in self.reports for wait in report.waits]
        rows = [
            (f"{pid}", self.plan.kind(worker), report.waits, len(report.errors))
            for worker, (pid, report) in enumerate(zip(self.timeline.pids, self.reports, strict=True))
        ]
        for name, kind, waits, errors in [*rows, ("all", "", every, len(self.errors))]:
            if name == "all":
                table.add_section()
            times = [f"{percentile(waits, percent):.2f} s" for percent in (50, 95, 99, 100)]
            table.add_row(name, kind, f"{len(waits)}", f"{errors}", *times)
        return table

    def _summary(self, database: str) -> Table:
        plan, table = self.plan, Table(show_header=False, title_justify="left", title="The whole")
        table.add_column(style="bright_black")
        table.add_column()
        colour = "green" if self.within_budget else "red"
        table.add_row("database", database)
        table.add_row(
            "jobs done",
            f"{self.borrows} of {plan.jobs}, {len(self.errors)} errors",
        )
        table.add_row(
            "wall time",
            f"[bold]{self.wall:.2f} s[/] = {self.wall / plan.floor:.3f} × the floor of {plan.floor:.2f} s",
        )
        table.add_row("budget", f"{plan.max_size} connections")
        samples = len(self.timeline.samples)
        table.add_row("most ever open, by the ledger", f"[{colour}]{self.timeline.peak}[/] in {samples} samples")
        if self.server:
            count = f"[{colour}]{self.server.peak}[/] in {self.server.samples} samples"
            table.add_row("… and by the server itself", self.server.trouble or count)
        return table
