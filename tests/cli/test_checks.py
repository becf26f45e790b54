"""What the doctor thinks of what it found."""

from __future__ import annotations

from typing import Any

import pytest

from mppool.cli.checks import Finding, Server, of_budget, of_folder, of_members, of_neighbours, of_server, of_versions
from mppool.host import Budget, RuntimeFolder
from tests.view.snapshots import budget, member


def wrong(findings: list[Finding]) -> list[str]:
    return [f"{each.what} -> {each.remedy}" for each in findings if each.remedy]


@pytest.mark.parametrize(
    ("python", "core", "count"),
    [
        ((3, 11), "0.2.3", 0),
        ((3, 10), "0.2.17", 0),
        ((3, 9), "0.2.3", 1),
        ((3, 14), "0.3.0", 2),
        ((3, 13), "0.2.2", 1),
        ((3, 12), None, 1),
    ],
)
def test_versions(python: tuple[int, int], core: str | None, count: int) -> None:
    found = of_versions(python, core, ">=0.2.3,<0.3")
    assert len(wrong(found)) == count
    assert len(found) == 2


@pytest.mark.parametrize(
    ("problem", "remedy"),
    [
        ("", ""),
        ("/run/x is open to others (mode 755)", "chmod 700 /run/x"),
        ("/run/x belongs to user 5, not to 0", "as its owner"),
        ("/run/x has 12 KB free", "make room"),
        ("/run/x is not a folder", "MPPOOL_RUNTIME_DIR"),
        ("/proc shows the processes of another PID namespace", "mount /proc"),
    ],
)
def test_the_folder(problem: str, remedy: str) -> None:
    found = of_folder(RuntimeFolder("/run/x", True, True, 5 << 30, problem))
    assert remedy in found.remedy
    assert bool(found.remedy) == bool(problem)


def test_budgets_by_their_folders() -> None:
    assert of_budget(Budget("shop", True, True)) is None
    for budget_, word in (
        (Budget("shop", False, True), "no manager"),
        (Budget("shop", False, False, readable=False), "another version"),
        (Budget("shop", True, True, elsewhere=True), "PID namespace"),
        (Budget("shop", False, False), "nothing runs"),
    ):
        found = of_budget(budget_)
        assert found is not None
        assert word in found.what
        assert bool(found.remedy) == (word != "nothing runs")


@pytest.mark.parametrize(
    ("more", "room", "word"),
    [
        ({}, None, ""),
        ({"paused": True}, None, "mppool resume shop"),
        ({"resized": True}, None, "change max_size in the code too"),
        ({"orphans": 2}, None, "2 connections of ended processes"),
        ({"connections_refused": 7}, None, "the server was full 7 times"),
        ({"max_size": 3}, None, "all 3 connections are in use, the oldest for 75 s by process 1"),
        ({}, 1000, ""),
        ({}, 2, "is enough for 2 processes, and it has 2"),
    ],
)
def test_running_budgets(more: dict[str, Any], room: int | None, word: str) -> None:
    stats = budget(member(1, in_use=2, waiting=1, oldest_use=75.0), member(2, in_use=1), **more)
    found = wrong(of_members(stats, room))
    assert len(found) == bool(word), found
    assert not word or word in found[0]


SERVER = Server(most=100, reserved=3, role="app", role_limit=None, database_limit=None, used=10, ours=5)


@pytest.mark.parametrize(
    ("more", "size", "word"),
    [
        ({}, 20, ""),
        ({}, 92, ""),
        ({}, 93, "others leave 92"),
        ({}, 98, "lower max_size to less than 97"),
        ({"role_limit": 10}, 20, "role app may have 10 connections"),
        ({"database_limit": 19}, 20, "the database may have 19 connections"),
        ({"role_limit": 20, "database_limit": 20}, 20, ""),
    ],
)
def test_the_server_has_room_or_not(more: dict[str, Any], size: int, word: str) -> None:
    found = wrong(of_server("shop", size, SERVER._replace(**more)))
    assert len(found) == bool(word), found
    assert not word or word in found[0]


def test_budgets_of_one_server_add_up() -> None:
    one, other = "postgresql://db:5432", "postgresql://other:5432"
    fits = [("shop", one, 50, SERVER), ("web", one, 47, SERVER), ("far", other, 90, SERVER)]
    assert of_neighbours(fits) == []
    found = wrong(of_neighbours([*fits, ("cron", one, 1, SERVER)]))
    assert len(found) == 1
    assert "the budgets shop (50), web (47), cron (1) add up to 98 connections, and 97 can be had there" in found[0]
    assert of_neighbours([("shop", one, 98, SERVER), ("web", one, 1, SERVER)]) == [], "said of that budget alone"
