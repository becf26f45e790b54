"""Which numbers of permits mean the budget that runs, and which do not."""

from __future__ import annotations

import pytest

from mppool.settings import ALWAYS
from mppool.shared import ledger as L
from mppool.shared.sizes import mismatch


def header(max_size: int, resized: int) -> L.Header:
    cells = [0] * L.HEADER
    cells[L.H_MAX_SIZE], cells[L.H_RESIZED] = max_size, resized
    return L.Header(cells, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("resized", "said", "made", "belongs"),
    [
        (0, 10, 5, True),
        (0, None, 5, True),
        (0, 9, 5, False),
        (0, 9, ALWAYS, False),  # of a scope whose processes do not agree
        (7, 9, 5, True),  # it could not know
        (7, 9, ALWAYS, True),
        (7, 9, 8, False),
        (7, 9, L.NEVER, False),
        (7, 10, 8, True),
        (7, None, 8, True),
    ],
)
def test_who_belongs(resized: int, said: int | None, made: int, belongs: bool) -> None:
    assert (mismatch(header(10, resized), said, made) is None) is belongs


def test_what_is_said() -> None:
    assert mismatch(header(10, 0), 9, 5) == "max_size is 10 there and 9 here"
    assert mismatch(header(25, 7), 10, 8, before=10) == (
        "it was resized from 10 to 25 while it ran, and max_size is 10 here: give max_size=25, or max_size=None to "
        "take the budget's"
    )
    assert str(mismatch(header(25, 7), 10, 8)).startswith("it was resized to 25 while")
