"""The live picture in a terminal: a bar for each process and one for the budget."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mppool.view import lines
from scripts.demonstration.timeline import Counts, Sample
from scripts.demonstration.workload import Plan

COLOURS = ("blue", "cyan", "magenta", "green", "yellow", "red")
WIDTH = 40


def bar(counts: Counts, whole: int, colour: str, width: int = WIDTH) -> Text:
    """In use, opening and idle connections of `whole`, as blocks."""
    parts = ((counts.in_use, "█", colour), (counts.opening, "▒", colour), (counts.idle, "░", f"dim {colour}"))
    text = Text()
    for blocks, style in lines.bar(parts, whole, width):
        text.append(blocks, "bright_black" if style == lines.DIM else style)
    return text


def screen(plan: Plan, sample: Sample, done: Sequence[int]) -> Group:
    """All bars at one moment."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column()
    for _ in range(5):
        rows.add_column(justify="right")
    rows.add_row(
        "",
        Text("█ in use  ▒ opening  ░ idle", "bright_black"),
        *_grey("in use", "opening", "idle", "waiting", "done"),
    )
    for worker, counts in enumerate(sample.workers):
        rows.add_row(
            plan.label(worker),
            bar(counts, plan.max_size, COLOURS[worker % len(COLOURS)]),
            *map(str, (counts.in_use, counts.opening, counts.idle, counts.waiting)),
            f"{done[worker]}/{len(plan.holds[worker])}",
        )
    total = Counts(*map(sum, zip(*sample.workers, strict=True)))
    rows.add_row(
        f"budget {total.held}/{plan.max_size}",
        bar(total, plan.max_size, "white"),
        *map(str, (total.in_use, total.opening, total.idle, total.waiting)),
        f"{sum(done)}/{plan.jobs}",
    )
    return Group(rows, Text(f"{sample.at:5.1f} s of at least {plan.floor:.1f} s", "bright_black"))


def _grey(*words: str) -> list[Text]:
    return [Text(word, "bright_black") for word in words]


class Display:
    """Shows samples: bars on a terminal, a line each second elsewhere."""

    def __init__(self, console: Console, plan: Plan, *, live: bool) -> None:
        self._plan, self._console, self._shown = plan, console, 0.0
        self._live = Live(console=console, auto_refresh=False) if live and console.is_terminal else None

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, sample: Sample, done: Sequence[int], *, last: bool = False) -> None:
        """Draw this sample, if the last drawing is old enough."""
        now = time.monotonic()
        if now - self._shown < (0.08 if self._live else 1.0) and not last:
            return
        self._shown = now
        if self._live:
            self._live.update(screen(self._plan, sample, done), refresh=True)
            return
        held = " ".join(f"{counts.held:2}" for counts in sample.workers)
        waiting = sum(counts.waiting for counts in sample.workers)
        self._console.print(
            f"{sample.at:5.1f} s  open {sample.open:2}/{self._plan.max_size} ({held})  "
            f"waiting {waiting:3}  done {sum(done)}/{self._plan.jobs}",
            highlight=False,
        )
