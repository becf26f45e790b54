"""A clock that stands still when the machine does: it counts the beats of a process beside the test, which over and
over waits for a moment and computes for a moment, and nothing else.

On a machine that is free it goes like any other. On one that is busy with other things its seconds are longer, as
everybody's are; so a bound in them is one on what the code does, and not on what else the machine has to do.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.waiting import forked, until

__all__ = ["Clock", "beating"]

WAITS, COMPUTES = 0.004, 0.0005  # seconds of each beat
MOST = 1 << 16  # beats that are remembered: five minutes


class Clock:
    """Reads what the process beside writes: how many beats there were, and when each ended."""

    def __init__(self, cells: memoryview) -> None:
        self._cells = cells

    def between(self, began: float, ended: float) -> float:
        """Seconds of this clock between two moments of the monotonic one."""
        times = self._cells[1 : 1 + int(self._cells[0])].tolist()
        return sum(began <= at <= ended for at in times) * (WAITS + COMPUTES)

    def since(self, began: float) -> float:
        """Seconds of this clock since a moment of the monotonic one."""
        return self.between(began, time.monotonic())


def _beat(cells: memoryview) -> None:
    for number in range(1, MOST):
        time.sleep(WAITS)
        began = time.process_time()
        while time.process_time() - began < COMPUTES:
            pass
        cells[number] = time.monotonic()
        cells[0] = number


@contextmanager
def beating() -> Iterator[Clock]:
    """A clock that goes until the end of the block."""
    shared = mmap.mmap(-1, 8 * MOST)
    cells = memoryview(shared).cast("d")
    with forked(_beat, cells):
        until(lambda: cells[0])
        yield Clock(cells)
    assert cells[0] < MOST - 1, "it has stopped: too long a block"
    cells.release()
    shared.close()
