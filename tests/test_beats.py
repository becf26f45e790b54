"""The clock that stands still when the machine does."""

from __future__ import annotations

import time
from array import array

from tests.beats import COMPUTES, WAITS, Clock, beating
from tests.waiting import until


def test_it_counts_beats_and_not_seconds() -> None:
    cells = array("d", [3.0, 1.0, 2.0, 9.0, 0.0])  # three beats, of which one was long
    clock = Clock(memoryview(cells))
    assert clock.between(0.0, 10.0) == 3 * (WAITS + COMPUTES)
    assert clock.between(1.5, 8.0) == WAITS + COMPUTES
    assert clock.between(2.5, 8.0) == 0.0


def test_it_goes_no_faster_than_any_other() -> None:
    with beating() as clock:
        began = time.monotonic()
        until(lambda: clock.since(began) > 0.1)
        assert clock.since(began) <= time.monotonic() - began + WAITS + COMPUTES
