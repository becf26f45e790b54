"""The bars of the last minutes."""

from __future__ import annotations

from mppool.view.history import History, Moment


def test_the_greatest_of_a_bars_moments_counts_and_old_bars_go() -> None:
    history = History(length=9, each=3)
    for value in range(12):
        history.add(Moment(value, 0, 0))
    assert history.bars("in_use", 5) == [None, None, 5, 8, 11]
    history.add(Moment(1, 0, 0))
    assert history.bars("in_use", 2) == [11, 1], "the newest bar grows"
    history.add(Moment(4, 2, 0.5))
    assert (history.bars("in_use", 1), history.bars("waiting", 1), history.bars("wait", 1)) == ([4], [2], [0.5])


def test_a_copy_stays_as_it_is() -> None:
    history = History(10, 1)
    history.add(Moment(1, 0, 0))
    copy = history.copy()
    history.add(Moment(2, 0, 0))
    assert (copy.bars("in_use", 2), history.bars("in_use", 2)) == ([None, 1], [1, 2])
