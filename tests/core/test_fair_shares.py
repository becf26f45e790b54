"""Fair shares: nobody has more than it demands, and what one does not need is divided among the others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from mppool.core.fair_shares import fair_shares


@pytest.mark.parametrize(
    ("demands", "permits", "shares"),
    [
        ([], 5, []),
        ([3, 4], 10, [3, 4]),
        ([9, 9], 10, [5, 5]),
        ([1, 9, 9], 10, [1, 4.5, 4.5]),
        ([0, 2, 9, 9], 11, [0, 2, 4.5, 4.5]),
    ],
)
def test_what_it_is(demands: list[int], permits: int, shares: list[float]) -> None:
    assert fair_shares(demands, permits) == shares


@given(some.lists(some.integers(0, 50), min_size=1), some.integers(1, 100))
def test_it_is_max_min_fair(demands: list[int], permits: int) -> None:
    shares = fair_shares(demands, permits)
    assert sum(shares) == pytest.approx(min(permits, sum(demands)))
    level = max(shares)
    for demand, share in zip(demands, shares, strict=True):
        assert share == pytest.approx(min(demand, level))
