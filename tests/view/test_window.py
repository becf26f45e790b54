"""Differences of snapshots: rates and quantiles of the last seconds."""

from __future__ import annotations

from mppool.view.window import Window, grown
from tests.view.snapshots import budget, histogram, member


def test_a_rate_is_of_the_window_alone() -> None:
    window = Window(10.0)
    for at in range(100):
        window.add(float(at), budget(moves=at * at))
    assert 10.0 <= window.span <= 11.0
    assert 180 < window.rate("moves") < 190, "about two a second for each second"


def test_quantiles_are_of_the_window_alone() -> None:
    window = Window(10.0)
    slow, fast = histogram(*[1.0] * 100), histogram(*[1.0] * 100, *[0.001] * 50)
    window.add(0.0, budget(member(1, wait=slow)))
    window.add(20.0, budget(member(1, wait=slow)))
    window.add(25.0, budget(member(1, wait=fast)))
    assert window.wait().count == 50
    assert window.wait().quantile(0.99) < 0.002
    assert window.member_wait(1, fast).count == 50
    assert window.member_wait(2, fast).count == 150, "a newcomer: all that it ever had"
    assert window.latest_wait().count == 50


def test_a_counter_that_fell_is_no_negative_rate() -> None:
    window = Window(10.0)
    window.add(0.0, budget(moves=5))
    assert window.rate("moves") == 0.0, "one snapshot is no rate"
    window.add(1.0, budget(moves=3))
    assert window.rate("moves") == 0.0
    assert grown(histogram(1.0), histogram(1.0, 2.0)).count == 0


def test_a_copy_stays_as_it_is() -> None:
    window = Window(10.0)
    window.add(0.0, budget())
    copy = window.copy()
    window.add(1.0, budget(moves=1))
    assert (copy.last.moves, window.last.moves) == (0, 1)
