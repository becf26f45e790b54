"""The screen of `mppool top`, drawn of hand-made snapshots at sizes that people have."""

from __future__ import annotations

from typing import Any

import pytest

from mppool.stats import BudgetStats
from mppool.view.history import History, Moment
from mppool.view.lines import plain
from mppool.view.processes import Facts
from mppool.view.screen import SORTS, Row, Seen, View, draw
from mppool.view.window import Window
from mppool.view.words import width
from tests.view.snapshots import budget, histogram, member


def seen(stats: BudgetStats) -> Seen:
    found = Seen(Window(10.0), History(100, 1), clock="14:02:11")
    found.window.add(0.0, budget(**dict.fromkeys(("requests_num", "moves"), 0)))
    found.window.add(10.0, stats)
    found.history.add(Moment(stats.in_use, stats.waiting, 0.012))
    facts = Facts("gunicorn: worker [app:app]", 0.23, 64 << 20)
    found.rows = [Row(each, facts, each.wait.quantile(0.99)) for each in stats.members]
    return found


def a_busy_one(processes: int = 3, **more: Any) -> BudgetStats:
    members = [
        member(100 + at, in_use=at % 3, idle=1, waiting=at % 2, share=2.5, wait=histogram(0.01), requests_num=100)
        for at in range(processes)
    ]
    return budget(*members, **more)


def screen(stats: BudgetStats, columns: int = 80, lines: int = 24, **view: Any) -> list[str]:
    return [plain(each) for each in draw(seen(stats), View(**view), columns, lines)]


@pytest.mark.parametrize("size", [(80, 24), (160, 50), (132, 43), (20, 5), (200, 12)])
@pytest.mark.parametrize("processes", [0, 3, 64])
@pytest.mark.parametrize("helped", [False, True])
def test_every_line_is_as_wide_as_the_screen(size: tuple[int, int], processes: int, helped: bool) -> None:
    columns, lines = size
    made = screen(a_busy_one(processes), columns, lines, help=helped)
    assert len(made) == lines
    assert {width(each) for each in made} == {columns}


def test_it_says_who_has_what() -> None:
    stats = a_busy_one(moves=120, move_ms=1.43, requests_timeouts=3, orphans=1)
    made = screen(stats)
    assert made[0].startswith("shop  postgresql://db:5432/shop")
    assert made[0].endswith("manager 4711  14:02:11")
    assert made[1].endswith(" 7/20")
    assert "in use 3  opening 0  idle 3  free 13 │ waiting 1 │ 3 processes │ orphans 1" in made[2]
    assert "30 borrows/s  0% waited" in made[3]
    assert "moves 12/s of 1.4ms" in made[4]
    assert "timeouts 3" in made[4]
    assert made[8].split() == [
        "PID",
        "CPU%",
        "MEM",
        "USE▾",
        "IDLE",
        "OPNG",
        "WAIT",
        "PRM/FAIR",
        "OLDEST",
        "P99",
        "COMMAND",
    ]
    assert made[9].split()[:10] == ["102", "23", "64M", "2", "1", "0", "0", "3/2.5", "-", "12ms"]
    assert made[-1].startswith("q quit  s sort:in use  p pause")


def test_the_place_of_the_oldest_borrow_has_a_column_or_a_key() -> None:
    stats = budget(member(7, in_use=1, oldest_use=75.0, oldest_place="app.py:31 in checkout (thread worker-3)"))
    assert "app.py:31" not in screen(stats)[9]
    assert "app.py:31" in screen(stats, places=True)[9]
    wide = screen(stats, 160, 50)[9]
    assert "gunicorn: worker [app:app]" in wide
    assert "app.py:31 in checkout (thread worker-3)" in wide
    assert "75s" in wide


@pytest.mark.parametrize(
    ("sort", "first"), [("u", 3), ("i", 2), ("w", 1), ("o", 2), ("l", 1), ("n", 1), ("c", 1), ("m", 1)]
)
def test_sorting(sort: str, first: int) -> None:
    members = [
        member(1, waiting=3, wait=histogram(1.0)),
        member(2, idle=4, oldest_use=9.0),
        member(3, in_use=2, wait=histogram(0.1)),
    ]
    made = screen(budget(*members), sort=sort)
    assert made[9].split()[0] == str(first)
    assert f"sort:{SORTS[sort][0]}" in made[-1]
    assert screen(budget(*members), sort="n", reverse=True)[9].split()[0] == "3"


def test_scrolling_stops_at_the_ends_and_the_rest_is_told() -> None:
    stats, view = a_busy_one(64), View(sort="n")
    made = [plain(each) for each in draw(seen(stats), view, 80, 24)]
    assert "50 more ↓" in made[-1]
    view.top = 1000
    made = [plain(each) for each in draw(seen(stats), view, 80, 24)]
    assert view.top == 50
    assert made[-2].split()[0] == "163"


def test_states_and_prompts_are_seen() -> None:
    made = screen(a_busy_one(paused=True, resized=True), frozen=True)
    assert [word for word in made[0].split() if word.isupper()] == ["FROZEN", "PAUSED", "RESIZED"]
    assert "p resume" in made[-1]
    assert "space go on" in made[-1]
    assert screen(a_busy_one(), prompt="resize to? 4")[-1].startswith("resize to? 4")
    assert screen(a_busy_one(), prompt="x" * 100 + " 40")[-1].endswith("x 40"), "what is typed is seen"
    assert screen(a_busy_one(), message="resize 4: done")[-1].startswith("resize 4: done")


def test_more_than_the_budget_is_drawn_too() -> None:
    made = screen(budget(member(1, in_use=30), max_size=20))
    assert made[1] == "█" * 74 + " 30/20"


def test_a_foreign_command_line_cannot_steer_the_terminal() -> None:
    found = seen(budget(member(1)))
    found.rows = [Row(found.window.last.members[0], Facts("evil\x1b[2J\x07", 0, 1), 0.0)]
    for columns in (80, 160):
        assert "\x1b[2J" not in "".join(draw(found, View(), columns, 24))
