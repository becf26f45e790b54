from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mppool.core.backoff import Backoff


@given(st.lists(st.floats(0, 1), max_size=40))
def test_pauses_grow_within_bounds(draws: list[float]) -> None:
    backoff = Backoff(0.05, 2.0)
    for number, draw in enumerate(draws):
        pause = backoff.failed(draw)
        whole = min(2.0, 0.05 * 2**number)
        assert whole / 2 <= pause <= whole


def test_success_starts_over() -> None:
    backoff = Backoff(0.05, 2.0)
    for _ in range(2000):
        backoff.failed(1.0)  # and no overflow, however long the database is gone
    assert backoff.failed(1.0) == 2.0
    backoff.succeeded()
    assert backoff.failed(1.0) == 0.05
