"""Numbers in columns: short, never wider than they may be."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as some

from mppool.view.words import count, fit, memory, seconds, width


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (3e-6, "3.0µs"), (340e-6, "340µs"), (0.00123, "1.2ms"), (0.0123, "12ms"), (0.9996, "1.0s"),
        (1.44, "1.4s"), (12.4, "12s"), (99.4, "99s"), (200, "3m20s"), (7500, "2h05m"), (math.inf, "∞"), (1e6, "11d"),
    ],
)  # fmt: skip
def test_seconds(value: float, text: str) -> None:
    assert seconds(value) == text


@given(some.floats(0, 1e8))
def test_seconds_fit_into_six_columns(value: float) -> None:
    assert 1 <= len(seconds(value)) <= 6


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (3.24, "3.2"),
        (125.4, "125"),
        (999, "999"),
        (999.6, "1.0k"),
        (12_540, "12.5k"),
        (3.1e6, "3.1M"),
    ],
)
def test_counts(value: float, text: str) -> None:
    assert count(value) == text


@given(some.floats(0, 1e11))
def test_counts_fit_into_six_columns(value: float) -> None:
    assert len(count(value)) <= 6


def test_memory() -> None:
    assert [memory(size) for size in (800 << 10, 34 << 20, 1300 << 20, 40 << 30)] == ["800K", "34M", "1.3G", "40G"]


@given(some.text(max_size=40), some.integers(1, 30), some.booleans())
def test_a_text_is_fitted_exactly_whatever_it_is(text: str, columns: int, right: bool) -> None:
    made = fit(text, columns, right)
    assert width(made) == columns
    assert made.isprintable(), "no control character reaches the terminal"


def test_wide_characters_take_two_columns_and_a_cut_is_seen() -> None:
    assert width("日本") == 4
    assert fit("日本語", 4) == "日… "
    assert fit("command", 4) == "com…"
    assert fit("7", 3, right=True) == "  7"
