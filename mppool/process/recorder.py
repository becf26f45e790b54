"""The recorder: what this process counts, and how that gets into its block of the statistics.

A borrow appends its times to plain lists; now and then a caller that has just given a connection back, or the agent,
counts what lies there into buckets and publishes all sums. That takes some 20 µs, not under the pool's lock.
"""

from __future__ import annotations

import sys
import threading
from array import array
from itertools import compress
from operator import sub
from typing import Any

from mppool.shared import statistics as S
from mppool.stats import Histogram

EVERY = 0.1  # seconds between publications, while connections are borrowed
_US = 1e6

_HIGH, _NEXT = (7, 6) if sys.byteorder == "little" else (0, 1)  # of a float's bytes, the first two
_LOW = bytes(byte >> 3 for byte in range(256))  # of the second: the exponent's last four bits, the fraction's first
_BELOW = (1023 - 20) * 2 - 1  # the first bucket begins at 2^-20 s, and is one for all that is less
_TIMES = {"requests_wait": "requests_wait_ms", "usage": "usage_ms", "connections_time": "connections_ms"}
_PLACE_BYTES = 8 * S.PLACE_CELLS


def count(values: list[float], counts: Any, at: int) -> None:
    """Count ``values`` into the buckets from ``counts[at]`` on: two an octave, by a float's exponent and the first
    binary digit of its fraction. The bytes of all values are looked at together: this is half as dear as one by one."""
    raw = array("d", values).tobytes()
    highs, lows = raw[_HIGH::8], raw[_NEXT::8].translate(_LOW)
    for high in set(highs):
        same = highs.count(high) == len(highs)  # as usual
        part = lows if same else bytes(compress(lows, map(high.__eq__, highs)))
        for low in set(part):
            counts[at + min(max(0, (high << 5 | low) - _BELOW), S.BUCKETS - 1)] += part.count(low)


class Counts:
    """What happened since the pool began, written under its lock. `mppool.stats.Counters` explains the names."""

    __slots__ = (
        "at_once", "closed", "connect_errors", "connect_time", "connections_lost", "flush_at", "leaks", "moves",
        "opened", "queued", "refused", "refused_full", "request_errors", "returns_bad", "rollbacks", "timeouts", "uses",
        "waits",
    )  # fmt: skip

    def __init__(self) -> None:
        self.at_once = self.queued = self.refused = 0  # callers that were served at once, stood in line, could not
        self.request_errors = self.timeouts = self.rollbacks = self.returns_bad = self.leaks = 0
        self.opened = self.closed = self.connect_errors = self.refused_full = self.connections_lost = 0
        self.connect_time = 0.0
        self.moves = 0  # connections that were closed because other processes wait
        self.uses: list[float] = []  # seconds that connections were borrowed, which are not in the histogram yet
        self.waits: list[float] = []  # and that callers waited
        self.flush_at = 0.0  # when a caller is to `Recorder.flush`


class Recorder:
    """One local pool's. Any thread, but for `sit`."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._gate = threading.RLock()  # of what follows; nobody waits for it who borrows
        self._counted = array("q", bytes(16 * S.BUCKETS))  # both histograms
        self._sums = array("q", bytes(8 * S.SUMS))
        self._wait = self._usage = 0.0  # seconds
        self._base = array("q")  # what another block of the same ledger has of them
        self._born = 0
        self._block: tuple[Any, int] | None = None

    # -- the block -------------------------------------------------------------------------------------------

    def sit(self, statistics: S.Statistics, member: int) -> None:
        """From now on others read what is published there. On the agent's thread, or in a step of it.

        A block that is blank is a newcomer's: what this process has published before, in a block of the same ledger, is
        among the sums of the ended there.
        """
        cells, block, born = statistics.cells, statistics.block(member), statistics.get(S.BORN)
        if not any(cells[block : block + S.SUMS]):
            self._base = self._sums[:] if born == self._born else array("q")
        self._born, self._block = born, (cells, block)
        self._publish()

    def leave(self) -> None:
        self._block = None

    def publish_oldest(self, since: float, place: str) -> None:
        """Since when the longest borrow lasts, and where it was made; 0: not told."""
        if self._block is None:
            return
        cells, block = self._block
        try:
            cells[block + S.OLDEST] = 0
            if since:
                text = place.encode(errors="replace")[:_PLACE_BYTES].ljust(_PLACE_BYTES, b"\0")
                cells[block + S.PLACE : block + S.PLACE + S.PLACE_CELLS] = memoryview(text).cast("q")
                cells[block + S.OLDEST] = int(since * 1e9)
        except ValueError:
            pass  # the seat was given up just now

    # -- counting --------------------------------------------------------------------------------------------

    def flush(self, now: float, *, wait: bool = False) -> bool:
        """Count what has been recorded, and publish it. Where another thread does so just now, ``wait`` for it. False:
        there was nothing new."""
        gate, before = self._gate, self._sums
        if gate._is_owned():  # type: ignore[attr-defined]  # a signal handler, that has interrupted it
            return True
        try:
            if gate.acquire(wait, 1.0 if wait else -1):
                counts = self._counts
                counts.flush_at = now + EVERY
                self._usage += self._count(counts.uses, S.BUCKETS)
                self._wait += self._count(counts.waits, 0)
                self._publish()
        finally:
            if gate._is_owned():  # type: ignore[attr-defined]
                gate.release()
        return self._sums != before

    def _count(self, values: list[float], at: int) -> float:
        batch = values[:]
        del values[: len(batch)]  # those that were appended in between stay
        count(batch, self._counted, at)
        return sum(batch)

    def _publish(self) -> None:
        counts = self._counts
        numbers = (
            counts.at_once + counts.queued + counts.refused,
            counts.queued,
            int(self._wait * _US),
            counts.request_errors,
            counts.timeouts,
            int(self._usage * _US),
            counts.returns_bad,
            counts.opened + counts.connect_errors + counts.refused_full,
            int(counts.connect_time * _US),
            counts.connect_errors,
            counts.refused_full,
            counts.connections_lost,
            counts.closed,
            counts.rollbacks,
            counts.leaks,
            counts.moves,
        )
        self._sums = sums = array("q", numbers) + self._counted
        sums[S.WAIT] += counts.at_once
        if self._block is None:
            return
        if self._base:
            sums = array("q", map(sub, sums, self._base))
        cells, block = self._block
        try:
            cells[block : block + S.SUMS] = memoryview(sums)
        except ValueError:
            pass  # the seat was given up just now

    def counters(self, now: float) -> dict[str, Any]:
        """All that was counted until now; see `named`."""
        self.flush(now, wait=True)
        return named(self._sums.tolist())


def named(sums: list[int]) -> dict[str, Any]:
    """The sums of a block, by the names and in the units that `mppool.stats.Counters` has."""
    found: dict[str, Any] = dict(zip(S.COUNTERS, sums, strict=False))
    del found["moves"]
    for cell, name in _TIMES.items():
        found[name] = found.pop(cell) // 1000
    found["wait"] = Histogram(tuple(sums[S.WAIT : S.USAGE]))
    found["usage"] = Histogram(tuple(sums[S.USAGE :]))
    return found
