"""`Top` without a terminal: what keys do, and what is seen when the budget ends."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from mppool import errors
from mppool.stats import BudgetStats
from mppool.view.lines import plain
from mppool.view.top import Top
from tests.view.snapshots import budget, member
from tests.waiting import until


class FakeManager:
    """A budget that does what it is told."""

    name = "shop"

    def __init__(self) -> None:
        self.now: BudgetStats | None = budget(member(1, in_use=2))
        self.told: list[Any] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def stats(self) -> BudgetStats:
        if self.now is None:
            raise errors.ManagerUnavailableError("budget 'shop' is not running")
        return self.now

    def resize(self, size: int) -> None:
        if size > 40:
            raise ValueError("the server has no room for 41")
        self.told.append(("resize", size))

    def pause(self) -> None:
        assert self.go_on.wait(10)
        self.told.append("pause")

    def resume(self) -> None:
        self.told.append("resume")


@pytest.fixture
def manager() -> FakeManager:
    return FakeManager()


@pytest.fixture
def top(manager: FakeManager) -> Top:
    made = Top(manager)  # type: ignore[arg-type]
    made.sample(100.0, "12:00:00")
    return made


def press(top: Top, *keys: str) -> None:
    for key in keys:
        top.press(key, 100.0)


def screen(top: Top) -> list[str]:
    return [plain(line) for line in top.frame(80, 24)]


def told(top: Top, manager: FakeManager, what: Any) -> None:
    until(lambda: what in manager.told)
    until(lambda: "done" in top.view.message)


def test_keys_sort_help_and_quit(top: Top) -> None:
    press(top, "w")
    assert "sort:waiting" in screen(top)[-1]
    press(top, "w")
    assert top.view.reverse
    press(top, "s")
    assert (top.view.sort, top.view.reverse) == ("o", False)
    press(top, "?")
    assert any("WAIT callers in line" in line for line in screen(top))
    press(top, "x")
    assert not top.view.help
    assert not top.done
    press(top, "q")
    assert top.done


def test_size_keys(top: Top, manager: FakeManager) -> None:
    press(top, "+")
    told(top, manager, ("resize", 21))
    press(top, "-")
    told(top, manager, ("resize", 19))
    press(top, "r", "3", "4", "x", "backspace")
    assert screen(top)[-1].startswith("resize shop from 20 to how many permits? 34 ")
    press(top, "enter")
    told(top, manager, ("resize", 34))
    press(top, "r", "n", "o", "enter")
    assert "'no' is no number of permits" in top.view.message
    press(top, "r", "5", "escape", "enter")
    assert manager.told == [("resize", 21), ("resize", 19), ("resize", 34)]


def test_what_fails_is_told_and_goes(top: Top) -> None:
    press(top, "r", "4", "1", "enter")
    until(lambda: "no room" in top.view.message)
    assert screen(top)[-1].startswith("resize 41: the server has no room for 41")
    top.sample(top._told + 4.0)
    assert top.view.message
    top.sample(top._told + 6.0)
    assert not top.view.message


def test_pausing_asks_first_and_never_blocks_the_screen(top: Top, manager: FakeManager) -> None:
    press(top, "p", "n", "enter", "p", "escape")
    assert manager.told == []
    manager.go_on.clear()
    press(top, "p", "y", "enter")
    assert screen(top)[-1].startswith("pause …")
    manager.go_on.set()
    told(top, manager, "pause")
    manager.now = budget(paused=True)
    top.sample(101.0)
    press(top, "p")
    told(top, manager, "resume")


def test_a_verb_that_there_is_not_is_told(top: Top) -> None:
    press(top, "d", "y", "enter")
    assert "this version of mppool has no drain" in top.view.message


def test_a_frozen_screen_stays_and_goes_on_with_what_is_then(top: Top, manager: FakeManager) -> None:
    press(top, " ")
    before = screen(top)
    manager.now = budget(member(2, in_use=5))
    top.sample(100.5)
    assert screen(top) == before
    assert "FROZEN" in before[0]
    press(top, " ")
    assert "in use 5" in screen(top)[2]


def test_the_last_picture_stays_when_the_budget_has_ended(top: Top, manager: FakeManager) -> None:
    manager.now = None
    top.sample(100.5)
    assert "in use 2" in screen(top)[2]
    assert screen(top)[-1].startswith("budget 'shop' does not run just now: this is the last of it")
    manager.now = budget(member(3, in_use=1))
    top.sample(1e9)
    assert "in use 1" in screen(top)[2]
