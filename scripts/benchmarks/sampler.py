"""Looks into a budget's ledger all the while: who uses connections, who waits, who keeps idle ones beside whom.

`rows` is the one place that knows the ledger's cells. `Tally` is pure and adds up samples; `Sampler` is the thread
that takes them from a ledger's file. Tests use all three.

A connection's age is not sampled but inferred: a process takes the connection given back last, so what is at the bottom
of its idle ones has been idle since the count of them was last seen at zero. A use that begins and ends between two
samples is missed, so ages are upper bounds: right for ages of many samples, too great now and then for ages of few.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

EVERY = 0.002  # seconds between samples
LEAST_OLD = 4  # samples: what has been seen idle fewer times is not called old
GAP = 0.05  # seconds without a sample, after which nothing is known of what was before
ROWS = 64  # of the ledger that are read: as many processes at most


class Row(NamedTuple):
    """What a process publishes."""

    pid: int
    credit: int
    in_use: int
    idle: int
    waiting: int
    idle_since: float | None = None  # monotonic; of the connection idle longest, where the ledger tells it


def rows(cells: Any, layout: Any) -> list[Row]:
    """The ledger's rows that are somebody's; the only function here that knows its cells.

    Args:
        cells: of a `Ledger`.
        layout: the module `mppool.shared.ledger`, this checkout's or another's.
    """
    width = layout.ROW
    numbers = cells[layout.HEADER : layout.HEADER + ROWS * width].tolist()
    found = []
    for at in range(0, len(numbers), width):
        row = numbers[at : at + width]
        if row[layout.PID] and not row[layout.LEFT]:
            idle = max(0, row[layout.HELD] - row[layout.IN_USE] - row[layout.MOVING])
            since = row[layout.IDLE_SINCE] / 1e9 if hasattr(layout, "IDLE_SINCE") and idle else None
            found.append(Row(row[layout.PID], row[layout.CREDIT], row[layout.IN_USE], idle, row[layout.WAITING], since))
    return found


class Tally:
    """What samples come to. Pure.

    Args:
        old: seconds; a connection idle for longer should not stay beside a waiter elsewhere.

    Attributes:
        spans: by process and from when: until when it kept an old connection while somebody waited in another one.
        taken: permits that came to processes.
        gap: the longest time between two samples.
    """

    def __init__(self, old: float, every: float = EVERY) -> None:
        self._old = max(old, LEAST_OLD * every)
        self.samples = self.beside = self.taken = 0
        self.in_use = self.idle = self.waiting = 0
        self.gap = 0.0
        self.spans: dict[tuple[int, float], float] = {}
        self._began = self._last = 0.0
        self._idle_since: dict[int, float] = {}
        self._beside_since: dict[int, float] = {}
        self._credit: dict[int, int] = {}

    def add(self, now: float, found: Sequence[Row]) -> None:
        self._count(now, found)
        self._note_moves(found)
        waiting = sum(row.waiting for row in found)
        for row in found:
            self._note(now, row, waiting > row.waiting)
        self.beside += bool(self._beside_since)

    def _count(self, now: float, found: Sequence[Row]) -> None:
        if self.samples:
            self.gap = max(self.gap, now - self._last)
            if now - self._last > GAP:
                self._idle_since.clear()
                self._beside_since.clear()
        else:
            self._began = now
        self._last = now
        self.samples += 1
        self.in_use += sum(row.in_use for row in found)
        self.idle += sum(row.idle for row in found)
        self.waiting += sum(row.waiting for row in found)

    def _note_moves(self, found: Sequence[Row]) -> None:
        credit = {row.pid: row.credit for row in found}
        self.taken += sum(max(0, has - self._credit.get(pid, has)) for pid, has in credit.items())
        self._credit = credit

    def _note(self, now: float, row: Row, others_wait: bool) -> None:
        if not row.idle:
            self._idle_since.pop(row.pid, None)
            self._beside_since.pop(row.pid, None)
            return
        seen = self._idle_since.setdefault(row.pid, now)
        since = seen if row.idle_since is None else row.idle_since
        if others_wait and now - since >= self._old:
            self.spans[row.pid, self._beside_since.setdefault(row.pid, now)] = now
        else:
            self._beside_since.pop(row.pid, None)

    @property
    def longest(self) -> float:
        """Seconds of the longest of the spans."""
        return max((until - since for (_, since), until in self.spans.items()), default=0.0)

    @property
    def seconds(self) -> float:
        return self._last - self._began

    @property
    def share(self) -> float:
        """Of the samples, those in which an old idle connection stood beside a waiter elsewhere."""
        return self.beside / max(1, self.samples)

    @property
    def moves(self) -> float:
        """Permits that came to processes, a second; those that came and went between two samples are missing."""
        return self.taken / max(1e-9, self.seconds)

    def __str__(self) -> str:
        each = max(1, self.samples)
        return (
            f"{self.samples} samples in {self.seconds:.1f} s, {self.gap * 1e3:.0f} ms apart at most: on average "
            f"{self.in_use / each:.1f} in use, {self.idle / each:.1f} idle, {self.waiting / each:.1f} waiting; a "
            f"connection idle for {self._old * 1e3:.0f} ms beside a waiter elsewhere: {self.longest * 1e3:.0f} ms at "
            f"most, in {self.share:.1%} of the samples; {self.moves:.0f} permits moved a second"
        )


class Sampler(threading.Thread):
    """Samples a ledger until it is ended; then ask its `tally`.

    Args:
        path: the ledger's file.
        old: see `Tally`.
        checkout: of another version, whose ledger it is; None: this one's.
    """

    def __init__(self, path: str, old: float, every: float = EVERY, checkout: str | None = None) -> None:
        super().__init__(name="sampler", daemon=True)
        self._layout = layout(checkout)
        fd = os.open(path, os.O_RDWR)
        try:
            self._ledger = self._layout.Ledger(fd)
        finally:
            os.close(fd)
        self.tally = Tally(old, every)
        self._every = every
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            self.tally.add(time.monotonic(), rows(self._ledger.cells, self._layout))
            time.sleep(self._every)

    def end(self) -> Tally:
        self._over.set()
        self.join()
        self._ledger.close()
        return self.tally


def layout(checkout: str | None) -> Any:
    """The module that knows a ledger's cells."""
    if checkout is None:
        from mppool.shared import ledger

        return ledger
    spec = importlib.util.spec_from_file_location(
        "base_ledger", os.path.join(checkout, "mppool", "shared", "ledger.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
