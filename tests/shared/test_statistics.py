"""The statistics: sums of members that have ended are neither lost nor doubled, whenever the manager is killed."""

from __future__ import annotations

from typing import Any

import pytest

from mppool.shared import ledger as L
from mppool.shared import statistics as S
from mppool.shared.statistics import Statistics
from mppool.stats import Counters, Histogram


class Killed(Exception):
    pass


class Cells:
    """The ledger's cells; the process is killed before store number ``left``."""

    def __init__(self) -> None:
        self.real = memoryview(bytearray(8 * (S.START + 4 * S.BLOCK))).cast("q")
        self.left: float = float("inf")
        self.stores = 0

    def __getitem__(self, index: Any) -> Any:
        return self.real[index]

    def __setitem__(self, index: int, value: int) -> None:
        if self.stores >= self.left:
            raise Killed
        self.stores += 1
        self.real[index] = value

    def kill_at(self, store: float) -> None:
        self.stores, self.left = 0, store


def fill(cells: Cells, statistics: Statistics, member: int, factor: int) -> None:
    block = statistics.block(member)
    for cell in range(S.SUMS):
        cells.real[block + cell] = factor * (cell + 1)


def total(statistics: Statistics, *members: int) -> list[int]:
    ended, blocks = statistics.read(members)
    return [sum(each) for each in zip(ended, *blocks.values(), strict=True)]


def expected(factor: int) -> list[int]:
    return [factor * (cell + 1) for cell in range(S.SUMS)]


def test_the_sums_of_the_ended_stay() -> None:
    cells = Cells()
    statistics = Statistics(cells, 0)  # type: ignore[arg-type]
    fill(cells, statistics, 0, 1)
    fill(cells, statistics, 3, 2)
    assert total(statistics, 0, 3) == expected(3)
    statistics.end(3)
    assert total(statistics, 0) == total(statistics, 0, 3) == expected(3)
    statistics.end(3)
    statistics.end(0)
    assert total(statistics) == expected(3)
    fill(cells, statistics, 0, 10)
    statistics.end(0)
    assert total(statistics) == expected(13)


def test_a_manager_killed_at_any_store_neither_loses_nor_doubles_anything() -> None:
    cells = Cells()
    statistics = Statistics(cells, 0)  # type: ignore[arg-type]
    fill(cells, statistics, 0, 5)
    statistics.end(0)
    cells.kill_at(float("inf"))
    fill(cells, statistics, 1, 7)
    statistics.end(1)
    stores = cells.stores
    assert stores > 2 * S.SUMS
    for kill in range(stores):
        cells = Cells()
        statistics = Statistics(cells, 0)  # type: ignore[arg-type]
        fill(cells, statistics, 0, 5)
        statistics.end(0)
        fill(cells, statistics, 1, 7)
        cells.kill_at(kill)
        with pytest.raises(Killed):
            statistics.end(1)
        assert total(statistics, 1) == expected(12), f"as a reader sees it after store {kill}"
        cells.kill_at(float("inf"))
        statistics.complete()
        assert total(statistics, 1) == expected(12), f"once the successor has begun, after store {kill}"
        statistics.end(1)  # it finds that the member has ended
        assert total(statistics) == expected(12), f"after store {kill}"


def test_a_reader_that_the_manager_overtakes_begins_anew() -> None:
    class Overtaken(Cells):
        due = False

        def __getitem__(self, index: Any) -> Any:
            if self.due and isinstance(index, slice) and index.start == statistics.block(1):
                self.due = False
                statistics.end(1)  # the reader has the sums of the ended from before that
            return super().__getitem__(index)

    cells = Overtaken()
    statistics = Statistics(cells, 0)  # type: ignore[arg-type]
    fill(cells, statistics, 1, 7)
    cells.due = True
    assert total(statistics, 1) == expected(7)
    assert not cells.due


def test_nonsense_of_a_member_does_not_keep_the_manager_from_its_work() -> None:
    cells = Cells()
    statistics = Statistics(cells, 0)  # type: ignore[arg-type]
    for value, sum_ in ((-5, 0), ((1 << 63) - 1, 1 << 62), ((1 << 63) - 1, 1 << 62)):
        cells.real[statistics.block(0)] = value
        statistics.end(0)
        assert total(statistics)[0] == sum_


def test_a_member_tells_where_its_longest_borrow_was_made() -> None:
    cells = Cells()
    statistics = Statistics(cells, 0)  # type: ignore[arg-type]
    assert statistics.oldest(2) == (0, "")
    block, text = statistics.block(2), b"app.py:31 in checkout".ljust(8 * S.PLACE_CELLS, b"\0")
    cells.real[block + S.PLACE : block + S.PLACE + S.PLACE_CELLS] = memoryview(text).cast("q")
    assert statistics.oldest(2) == (0, ""), "it has not said since when"
    cells.real[block + S.OLDEST] = 5
    assert statistics.oldest(2) == (5, "app.py:31 in checkout")
    statistics.end(2)
    assert statistics.oldest(2) == (0, "")


def test_blocks_fill_the_file_and_hold_what_snapshots_have() -> None:
    assert S.PLACE + S.PLACE_CELLS <= S.BLOCK
    assert max(S.SWITCH, S.BORN, S.GRANTS, S.RECALLS, S.SUCCESSIONS) < S.HEADER
    statistics = Statistics(memoryview(bytearray(8)).cast("q"), L.STATISTICS)
    assert statistics.block(0) == L.BLOCKS
    assert 8 * statistics.block(L.ROWS) == L.SIZE
    assert len(Histogram.bounds) == S.BUCKETS
    fields = [name for name in Counters.__annotations__ if name not in ("wait", "usage")]
    times = {"requests_wait": "requests_wait_ms", "usage": "usage_ms", "connections_time": "connections_ms"}
    assert [times.get(name, name) for name in S.COUNTERS] == [*fields, "moves"]
