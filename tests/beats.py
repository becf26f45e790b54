"""A clock that stands still when the machine does: it counts the beats of a process beside the test, which over and
over waits for a moment and computes for a moment, and nothing else.

On a machine that is free it goes like any other. On one that is busy with other things its seconds are longer, as
everybody's are; so a bound in them is one on what the code does, and not on what else the machine has to do.

It can stand still when a database server does, too. Another process knocks there over and over: it opens a connection
and closes it. (On a busy machine PostgreSQL's first process, which lets clients in, may be ready to run and not be let
for seconds: Linux schedules sessions as groups, and was seen to starve one.)
"""

from __future__ import annotations

import itertools
import mmap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from tests.waiting import forked, until

__all__ = ["Clock", "beating"]

WAITS, COMPUTES = 0.004, 0.0005  # seconds of each beat
PAUSE = 0.03  # seconds between two knocks
STALL = 0.5  # seconds from the end of one to the end of the next; then the server let nobody in
MOST = 1 << 16  # beats that are remembered: five minutes


class Clock:
    """Reads what the processes beside write: how many beats there were and when each ended; knocks likewise."""

    def __init__(self, beats: memoryview, knocks: memoryview | None = None) -> None:
        self._beats = beats
        self._knocks = knocks

    def between(self, began: float, ended: float) -> float:
        """Seconds of this clock between two moments of the monotonic one."""
        stalls = self._stalls()
        return sum(
            began <= at <= ended and not any(since < at < until for since, until in stalls)
            for at in _times(self._beats)
        ) * (WAITS + COMPUTES)

    def since(self, began: float) -> float:
        """Seconds of this clock since a moment of the monotonic one."""
        return self.between(began, time.monotonic())

    def _stalls(self) -> list[tuple[float, float]]:
        """When the server let nobody in, from and until."""
        if self._knocks is None:
            return []
        times = [*_times(self._knocks), time.monotonic()]
        return [pair for pair in itertools.pairwise(times) if pair[1] - pair[0] > STALL]


def _times(cells: memoryview) -> list[float]:
    return cells[1 : 1 + int(cells[0])].tolist()


def _beat() -> None:
    time.sleep(WAITS)
    began = time.process_time()
    while time.process_time() - began < COMPUTES:
        pass


def _repeat(beat: Callable[[], object], cells: memoryview) -> None:
    for number in range(1, MOST):
        beat()
        cells[number] = time.monotonic()
        cells[0] = number


@contextmanager
def _repeating(beat: Callable[[], object]) -> Iterator[memoryview]:
    """A process that does this over and over; when it had done each."""
    shared = mmap.mmap(-1, 8 * MOST)
    cells = memoryview(shared).cast("d")
    with forked(_repeat, beat, cells):
        until(lambda: cells[0])
        yield cells
    assert cells[0] < MOST - 1, "it has stopped: too long a block"
    cells.release()
    shared.close()


@contextmanager
def beating(knock: Callable[[], object] | None = None) -> Iterator[Clock]:
    """A clock that goes until the end of the block.

    Args:
        knock: opens a connection to a server, and closes it; the clock stands still when that does.
    """

    def knock_again() -> None:
        time.sleep(PAUSE)
        assert knock is not None
        knock()

    with ExitStack() as stack:
        beats = stack.enter_context(_repeating(_beat))
        yield Clock(beats, stack.enter_context(_repeating(knock_again)) if knock is not None else None)
