"""The benchmarks' harness: what is counted, what is shown. No benchmark runs here; none is a test."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from scripts.benchmarks.__main__ import NAMES, load, shown, table
from scripts.benchmarks.contract import Benchmark, Results, Setting, Skip


@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_is_described(name: str) -> None:
    benchmark = load(name)
    assert benchmark.name == name
    assert benchmark.what
    assert benchmark.units
    assert benchmark.peers


def test_a_median_needs_most_rounds_to_come_to_it() -> None:
    results = Results()
    for value in (3.0, None, 1.0):
        results.add("a", {"m": value})
    assert results.median("a", "m") == 2.0
    results.add("a", {"m": None})
    assert results.median("a", "m") is None
    assert results.median("a", "other") is None


def test_the_table_compares_with_the_first() -> None:
    benchmark = Benchmark(
        "b", "what", {"m": "ms"}, {"ours": lambda _: {}, "theirs": lambda _: {}, "gone": lambda _: {}}
    )
    results = Results(notes={"gone": "skipped: not installed"})
    for value in (1.0, 2.0, 3.0):
        results.add("ours", {"m": value})
        results.add("theirs", {"m": 2 * value})
    for tall in (False, True):
        console = Console(width=140, record=True, file=io.StringIO())
        console.print(table(replace(benchmark, tall=tall), results, 3))
        text = console.export_text()
        assert "4.00 (2.00 ×) 2.00–6.00" in text
        assert "skipped: not installed" in text
        line = next(line for line in text.splitlines() if "ours" in line)
        assert ("theirs" in line) == tall


def test_three_digits_are_shown() -> None:
    assert [shown(value) for value in (0.123, 1.234, 12.34, 123.4, -45.67)] == ["0.12", "1.23", "12.3", "123", "-45.7"]


def test_without_a_server_a_peer_is_skipped() -> None:
    with pytest.raises(Skip, match="no PostgreSQL"):
        _ = Setting("/tmp", None).postgres_uri
