"""Snapshots add up, and a histogram's quantiles are as good as its buckets."""

from __future__ import annotations

import pickle
import random
from bisect import bisect_right
from itertools import pairwise
from math import inf

import pytest

from mppool.stats import Counters, Histogram, PoolStats


def histogram(values: list[float]) -> Histogram:
    counts = [0] * len(Histogram.bounds)
    for value in values:
        counts[bisect_right(Histogram.bounds, value)] += 1
    return Histogram(tuple(counts))


def test_the_buckets_are_two_an_octave_from_a_microsecond_to_an_hour() -> None:
    bounds = Histogram.bounds
    assert 0.5e-6 < bounds[0] < 1e-6
    assert 3600 < bounds[-2] < bounds[-1] == inf
    assert len(bounds) == len(Histogram().counts) == 66
    assert {round(above / below, 3) for below, above in pairwise(bounds[:-1])} == {1.5, 1.333}


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0])
def test_a_quantile_is_at_most_half_too_great(part: float) -> None:
    rng = random.Random(3)
    values = sorted(rng.lognormvariate(-6, 2) for _ in range(10_000))
    exact = values[max(0, -int(-part * len(values) // 1) - 1)]
    assert exact <= histogram(values).quantile(part) <= 1.5 * exact


def test_no_values_have_no_quantile() -> None:
    assert (Histogram().quantile(0.99), Histogram().count) == (0.0, 0)


def test_histograms_of_parts_add_up_to_the_histogram_of_all() -> None:
    assert histogram([0.0, 0.5]) + histogram([0.5, 9e9]) == histogram([0.0, 0.5, 0.5, 9e9])
    assert (histogram([0.0, 0.5]) + histogram([0.5, 9e9])).count == 4


def test_counters_add_up_and_a_snapshot_is_more_than_its_sums() -> None:
    one = Counters(requests_num=3, usage_ms=5, usage=histogram([0.1]))
    pool = PoolStats(
        name="x",
        pool_min=0,
        pool_max=4,
        in_use=1,
        idle=2,
        opening=3,
        closing=4,
        waiting=5,
        requests_num=7,
        usage=histogram([0.2]),
    )
    assert one + pool == Counters(requests_num=10, usage_ms=5, usage=histogram([0.1, 0.2]))
    assert one + Counters.zero() == one
    assert pool.counters() == Counters(requests_num=7, usage=histogram([0.2]))
    assert (pool.pool_size, pool.pool_available, pool.requests_waiting) == (10, 2, 5)
    assert pickle.loads(pickle.dumps(pool)) == pool
