"""The ledger: cells that outlive whoever wrote them, in a file that nobody else can put in place of it."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from itertools import pairwise

import pytest

from mppool.core.accounts import Account
from mppool.shared import ledger as L
from mppool.shared.ledger import Ledger
from tests.waiting import forked, until

HEADER_CELLS = [value for name, value in vars(L).items() if name.startswith("H_")]
MANAGERS_CELLS = [L.PID, L.STARTED, L.CREDIT, L.TARGET, L.LIMIT, L.KNOWN, L.TOKEN]
MEMBERS_CELLS = [L.HELD, L.IN_USE, L.MOVING, L.CLOSING, L.WAITING, L.SINCE, L.RIPE_AT, L.IDLE_SINCE, L.WARM, L.COST]


@pytest.fixture
def path(tmp_path: os.PathLike[str]) -> str:
    return os.path.join(tmp_path, "ledger")


def create(path: str) -> Ledger:
    ledger, fd = Ledger.create(path)
    os.close(fd)
    return ledger


@pytest.fixture
def ledger(path: str) -> Iterator[Ledger]:
    made = create(path)
    yield made
    made.close()


def test_what_moves_from_row_to_row_is_copied_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is closed in one process and opened in another one while the rows are copied."""
    one, other = ledger.row(3), ledger.row(7)
    one.pid, other.pid, one.held = 30, 70, 1

    class Moving:
        """Cells of which a copy takes long: the first one has the beginning from before the move, and the end after."""

        def __init__(self, cells: memoryview) -> None:
            self.cells = cells

        def __getitem__(self, part: slice) -> memoryview:
            if part.start is not None or not one.held:
                return self.cells[part]
            before = self.cells[: L.HEADER + 5 * L.ROW].tobytes()
            one.held, other.held = 0, 1
            return memoryview(before + self.cells[L.HEADER + 5 * L.ROW : part.stop].tobytes()).cast("q")

    cells = ledger.cells
    monkeypatch.setattr(ledger, "cells", Moving(cells))
    rows = ledger.copied_rows()
    monkeypatch.undo()
    assert {number: row.held for number, row in rows.items()} == {3: 0, 7: 1}
    one.held = 1
    assert rows[3].held == 0


# -- layout --------------------------------------------------------------------------------------------------


def test_header_cells_are_apart_and_inside_the_header() -> None:
    assert len(set(HEADER_CELLS)) == len(HEADER_CELLS) == 19
    assert all(0 <= cell < L.HEADER for cell in HEADER_CELLS)


def test_row_cells_are_apart_inside_the_row_and_the_writers_do_not_share_a_cache_line() -> None:
    cells = MANAGERS_CELLS + MEMBERS_CELLS
    assert len(set(cells)) == len(cells)
    assert all(0 <= cell < L.ROW for cell in cells)
    assert not {cell // 8 for cell in MANAGERS_CELLS} & {cell // 8 for cell in MEMBERS_CELLS}


def test_rows_fill_the_file_without_touching(ledger: Ledger) -> None:
    starts = [ledger.offset(index) for index in range(L.ROWS)]
    assert starts[0] == L.HEADER
    assert {after - before for before, after in pairwise(starts)} == {L.ROW}
    assert starts[-1] + L.ROW == L.STATISTICS
    assert 8 * len(ledger.cells) == L.SIZE


def test_facts_are_the_members_cells_in_the_order_of_an_accounts_reports(ledger: Ledger) -> None:
    """The allocator unpacks them by position into the account's fields of the same names."""
    names = ["held", "in_use", "moving", "closing", "waiting", "since", "ripe_at", "idle_since", "warm", "cost"]
    assert [getattr(L, name.upper()) for name in names] == MEMBERS_CELLS
    assert set(names) <= set(Account.__slots__)
    for row in (0, 7, L.ROWS - 1):
        for value, name in enumerate(names, start=10 * row):
            ledger.cells[ledger.offset(row) + getattr(L, name.upper())] = value
    for row in (0, 7, L.ROWS - 1):
        assert ledger.facts(row) == list(range(10 * row, 10 * row + 10))


def test_never_limits_nothing_and_fits_a_cell(ledger: Ledger) -> None:
    ledger.cells[ledger.offset(0) + L.LIMIT] = L.NEVER
    assert ledger.cells[ledger.offset(0) + L.LIMIT] > 10_000


def test_clear_empties_one_row_and_no_other(ledger: Ledger) -> None:
    for cell in range(L.HEADER, len(ledger.cells)):
        ledger.cells[cell] = cell
    ledger.clear(3)
    empty = range(ledger.offset(3), ledger.offset(4))
    assert [cell for cell in range(L.HEADER, len(ledger.cells)) if ledger.cells[cell] != cell] == list(empty)
    assert not any(ledger.cells[cell] for cell in empty)


# -- the file ------------------------------------------------------------------------------------------------


def test_file_is_for_its_user_alone_and_does_not_pass_an_exec(path: str) -> None:
    before = os.umask(0)
    try:
        made, fd = Ledger.create(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
    assert os.fstat(fd).st_size == L.SIZE
    assert not os.get_inheritable(fd)
    os.close(fd)
    made.close()


@pytest.mark.parametrize("target", ["there", "nowhere"])
def test_a_symlink_in_its_place_is_refused(path: str, tmp_path: os.PathLike[str], target: str) -> None:
    victim = os.path.join(tmp_path, target)
    if target == "there":
        with open(victim, "wb") as file:
            file.write(b"precious")
    os.symlink(victim, path)
    with pytest.raises(OSError):
        Ledger.create(path)
    if target == "there":
        with open(victim, "rb") as file:
            assert file.read() == b"precious"
    else:
        assert not os.path.exists(victim)


def test_what_cannot_be_a_ledger_leaves_no_descriptor_open(path: str) -> None:
    os.mkdir(path)
    with pytest.raises(OSError):
        Ledger.create(path)


def test_taking_over_keeps_what_the_predecessor_wrote(ledger: Ledger, path: str) -> None:
    """A successor must see who was there; nothing but the layout's number is written over."""
    ledger.cells[L.H_MAX_SIZE] = 30
    ledger.cells[ledger.offset(2) + L.CREDIT] = 4
    successor = create(path)
    assert successor.cells[L.H_MAGIC] == L.MAGIC
    assert (successor.cells[L.H_MAX_SIZE], successor.cells[successor.offset(2) + L.CREDIT]) == (30, 4)
    successor.close()


def test_close_ends_the_mapping(ledger: Ledger, path: str) -> None:
    made = create(path)
    made.close()
    with pytest.raises(ValueError):
        made.cells[0]


# -- between processes ---------------------------------------------------------------------------------------


def test_cells_are_shared_both_ways(ledger: Ledger, path: str) -> None:
    ours, theirs = ledger.offset(0) + L.TARGET, ledger.offset(0) + L.HELD

    def child() -> None:
        other = create(path)
        other.cells[theirs] = 1
        until(lambda: other.cells[ours] == 2)

    with forked(child) as process:
        until(lambda: ledger.cells[theirs] == 1)
        ledger.cells[ours] = 2
        assert process.join() == 0


def test_a_descriptor_is_enough_even_when_the_file_is_gone(path: str) -> None:
    """This is how members get it: the folder may be deleted while they work."""
    ledger, fd = Ledger.create(path)
    os.unlink(path)
    twin = Ledger(fd)
    os.close(fd)  # nor is the descriptor needed any more
    twin.cells[twin.offset(5) + L.PID] = 99
    assert ledger.cells[ledger.offset(5) + L.PID] == 99
    twin.close()
    ledger.close()


def test_cells_survive_their_writers_kill(ledger: Ledger, path: str) -> None:
    """Killed in the middle of storing, it leaves each cell whole: one of the two values, never half of each."""
    at = ledger.offset(0)
    values = (0x0101010101010101, 0x7F7F7F7F7F7F7F7F)

    def child() -> None:
        while True:
            for value in values:
                ledger.cells[at + L.HELD] = ledger.cells[at + L.IN_USE] = value

    for _ in range(10):
        with forked(child) as process:
            until(lambda: ledger.cells[at + L.IN_USE])
            assert process.kill() == -signal.SIGKILL
        assert ledger.facts(0)[0] in values
        assert ledger.facts(0)[1] in values
        ledger.clear(0)


def test_a_mapping_does_not_close_what_has_its_number(path: str) -> None:
    """Python keeps a copy of the descriptor for it. Other code may have closed that, and opened a file."""
    before = set(os.listdir("/proc/self/fd"))
    ledger, fd = Ledger.create(path)
    os.close(fd)
    (number,) = [int(each) for each in os.listdir("/proc/self/fd") if each not in before and _opens(each)]
    foreign = os.open(f"{path}-other", os.O_RDWR | os.O_CREAT)
    os.dup2(foreign, number)
    ledger.close()
    assert os.path.samestat(os.fstat(number), os.fstat(foreign)), "it was closed"
    os.close(number)
    os.close(foreign)


def _opens(number: str) -> bool:
    return os.path.exists(f"/proc/self/fd/{number}")


@pytest.mark.parametrize("name", [name for name in vars(L.MemberRow) if hasattr(L, name.upper())])
def test_a_name_of_a_row_is_its_cell(ledger: L.Ledger, name: str) -> None:
    setattr(ledger.row(3), name, 7)
    assert ledger.cells[ledger.offset(3) + getattr(L, name.upper())] == getattr(ledger.row(3), name) == 7


@pytest.mark.parametrize("name", [name for name in vars(L.Header) if hasattr(L, f"H_{name.upper()}")])
def test_a_name_of_the_header_is_its_cell(ledger: L.Ledger, name: str) -> None:
    setattr(ledger.header, name, 7)
    assert ledger.cells[getattr(L, f"H_{name.upper()}")] == getattr(ledger.header, name) == 7


def test_every_cell_has_a_name() -> None:
    assert sum(hasattr(L, name.upper()) for name in vars(L.MemberRow)) == len(
        [*MANAGERS_CELLS, *MEMBERS_CELLS, L.LEFT, L.LOST, L.ACKNOWLEDGED]
    )
    assert sum(hasattr(L, f"H_{name.upper()}") for name in vars(L.Header)) == 19


def test_a_retired_row_stands_for_connections_and_shrinks_with_them(ledger: L.Ledger) -> None:
    row = ledger.row(1)
    row.assign(os.getpid(), 5, 77, 3)
    assert ledger.order(1, 4, 3, 2, 6) == (0, 0, 0)
    row.held, row.in_use, row.moving, row.waiting, row.left = 4, 3, 1, 9, 1
    row.retire(3, 2)
    assert row.key == (os.getpid(), L.NOBODY, 0)
    assert (row.credit, row.held, row.in_use, row.moving, row.waiting, row.left) == (3, 3, 2, 0, 0, 0)
    row.shrink(1)
    assert (row.credit, row.held, row.in_use) == (1, 1, 1)
