"""The list of budgets."""

from __future__ import annotations

from typing import Any

import pytest

from mppool.view.choose import choose, menu
from mppool.view.lines import plain


class Scripted:
    """A terminal on which these keys are pressed."""

    size = (40, 10)

    def __init__(self, *keys: str) -> None:
        self._keys = list(keys)

    def show(self, lines: list[str]) -> None:
        self.shown = lines

    def keys(self, timeout: float) -> list[str] | None:
        return [self._keys.pop(0)] if self._keys else None


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        (["enter"], "a"),
        (["down", "enter"], "b"),
        (["up", "down", "down", "down", "down", "enter"], "c"),
        (["x", "down", "up", "enter"], "a"),
        (["q"], None),
        ([], None),
    ],
)
def test_choosing(keys: list[str], chosen: str | None) -> None:
    terminal: Any = Scripted(*keys)
    assert choose(terminal, ["a", "b", "c"]) == chosen


def test_a_long_list_scrolls() -> None:
    made = [plain(line) for line in menu([f"n{number}" for number in range(50)], 30, 20, 10)]
    assert [line.strip() for line in made[2:9]] == [f"n{number}" for number in range(24, 31)]
