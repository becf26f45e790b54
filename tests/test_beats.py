"""The clock that stands still when the machine does."""

from __future__ import annotations

import time
from array import array

from tests.beats import COMPUTES, STALL, WAITS, Clock, beating
from tests.waiting import until


def test_it_counts_beats_and_not_seconds() -> None:
    cells = array("d", [3.0, 1.0, 2.0, 9.0, 0.0])  # three beats, of which one was long
    clock = Clock(memoryview(cells))
    assert clock.between(0.0, 10.0) == 3 * (WAITS + COMPUTES)
    assert clock.between(1.5, 8.0) == WAITS + COMPUTES
    assert clock.between(2.5, 8.0) == 0.0


def test_it_stands_still_while_a_server_lets_nobody_in() -> None:
    beats = array("d", [4.0, 1.0, 1.1, 1.9, 2.1])
    knocks = array("d", [3.0, 1.05, 2.0, 2.0 + STALL])  # none for a second after 1.05
    clock = Clock(memoryview(beats), memoryview(knocks))
    assert clock.between(0.0, 10.0) == 2 * (WAITS + COMPUTES)
    still = Clock(memoryview(beats), memoryview(array("d", [1.0, 1.5])))
    assert still.between(0.0, 10.0) == 2 * (WAITS + COMPUTES), "since 1.5 it has let nobody in"


def test_it_knocks() -> None:
    knocks: list[int] = []  # the other process's own
    with beating(lambda: knocks.append(1) or time.sleep(0.7 if len(knocks) == 2 else 0.0)) as clock:
        began = time.monotonic()
        until(lambda: clock.since(began) > 0.1)
        until(lambda: clock._stalls())
    assert not knocks


def test_it_goes_no_faster_than_any_other() -> None:
    with beating() as clock:
        began = time.monotonic()
        until(lambda: clock.since(began) > 0.1)
        assert clock.since(began) <= time.monotonic() - began + WAITS + COMPUTES
