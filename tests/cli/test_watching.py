"""`mppool top` on a terminal."""

from __future__ import annotations

import os
import re
import sys

from mppool import PoolManager
from tests.cli.commands import ask
from tests.import_graph import HOME
from tests.view.screens import on_a_terminal

TOP = [sys.executable, "-m", "mppool", "top"]


def test_a_budget_is_watched_until_q(sqlite_uri: str) -> None:
    with (
        PoolManager(sqlite_uri, 3, "shop") as manager,
        manager.pool() as pool,
        on_a_terminal([*TOP, "--interval", "0.1"], PYTHONPATH=HOME) as (process, screen),
    ):
        lines = screen.until(lambda lines: "in use 0" in lines[2])
        assert re.match(rf"shop  sqlite:.* +manager {manager.pid}  \d\d:\d\d:\d\d$", lines[0])
        with pool.connection():
            screen.until(lambda lines: "in use 1" in lines[2] and lines[9].split()[0] == str(os.getpid()))
        screen.press("w")
        screen.until(lambda lines: "sort:waiting" in lines[-1])
        screen.press("q")
        assert process.wait(20) == 0
        screen.read(0)
        assert screen.is_as_before


def test_one_of_several_is_chosen(sqlite_uri: str) -> None:
    with (
        PoolManager(sqlite_uri, 3, "shop"),
        PoolManager(sqlite_uri, 4, "web"),
        on_a_terminal(TOP, PYTHONPATH=HOME) as (process, screen),
    ):
        screen.until(lambda lines: lines[0].startswith("Which budget?") and "web" in lines[3])
        screen.press("\x1b[B\r")
        screen.until(lambda lines: lines[0].startswith("web "))
        screen.press("\x03")
        assert process.wait(20) == 0, "Ctrl-C is a way to quit"
        screen.read(0)
        assert screen.is_as_before


def test_what_cannot_be_watched_is_told() -> None:
    assert "top needs a terminal" in ask("top", "shop", code=1).stderr
    with on_a_terminal([*TOP, "shop"], PYTHONPATH=HOME) as (process, screen):
        assert process.wait(20) == 1
        screen.read(1.0)
        assert "no budget 'shop' is running" in screen.said
        assert "\x1b[?1049h" not in screen.said
    with on_a_terminal(TOP, PYTHONPATH=HOME) as (process, screen):
        assert process.wait(20) == 1
        screen.read(1.0)
        assert "no budget runs for this user" in screen.said
