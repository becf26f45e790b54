"""The terminal is as it was, however the program ends; keys are what they are; only what changed is written."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from mppool.view.terminal import keys_in
from tests.import_graph import HOME
from tests.view.screens import on_a_terminal
from tests.waiting import until

#: Shows the last key and counts its screens.
ECHO = """
import sys
from mppool.view.terminal import Terminal
with Terminal() as terminal:
    key = "none"
    while key != "q":
        columns, lines = terminal.size
        terminal.show([f"{columns}x{lines} {key}".ljust(columns), *["-" * columns] * (lines - 1)])
        for key in terminal.keys(60.0) or [key]:
            if key == "!":
                raise RuntimeError("broken")
"""


def echo(**more: str):  # type: ignore[no-untyped-def]
    return on_a_terminal([sys.executable, "-c", ECHO], PYTHONPATH=HOME, **more)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("q", ["q"]),
        ("ab", ["a", "b"]),
        ("\x1b[A\x1bOB\x1b[5~\x1b[6~", ["up", "down", "pageup", "pagedown"]),
        ("\x1b", ["escape"]),
        ("\r\x7f", ["enter", "backspace"]),
        ("\x1b[15~x\x1b[1;5Cy", ["x", "y"]),
        ("\x1b[", []),
    ],
)
def test_keys(text: str, keys: list[str]) -> None:
    assert keys_in(text) == keys


def test_keys_are_read_one_by_one_and_a_new_size_is_seen() -> None:
    with echo() as (process, screen):
        screen.until(lambda lines: lines[0].startswith("80x24 none"))
        screen.press("\x1b[A")
        screen.until(lambda lines: lines[0].startswith("80x24 up"))
        assert screen.said.count("-" * 80) == 23, "what is there already is not written again"
        screen.resize(100, 30)
        os.kill(process.pid, signal.SIGWINCH)
        screen.until(lambda lines: lines[0].startswith("100x30") and lines[29] == "-" * 100)
        assert not screen.is_as_before
        screen.press("q")
        assert process.wait(20) == 0
        screen.read(0)
        assert screen.is_as_before


@pytest.mark.parametrize(
    ("end", "code"),
    [(signal.SIGTERM, 128 + 15), (signal.SIGHUP, 128 + 1), (signal.SIGINT, -2), ("!", 1)],
)
def test_it_is_restored_whatever_ends_the_program(end: signal.Signals | str, code: int) -> None:
    with echo() as (process, screen):
        screen.until(lambda lines: lines[0].startswith("80x24 none"))
        if isinstance(end, str):
            screen.press(end)
        else:
            os.kill(process.pid, end)
        assert process.wait(20) == code
        until(lambda: screen.read(0) and screen.is_as_before)


def test_it_is_restored_while_the_program_is_stopped() -> None:
    with echo() as (process, screen):
        screen.until(lambda lines: lines[0].startswith("80x24 none"))
        os.kill(process.pid, signal.SIGTSTP)
        until(lambda: screen.read(0) and screen.is_as_before)
        os.kill(process.pid, signal.SIGCONT)
        until(lambda: screen.read(0) and not screen.is_as_before)
        screen.press("x")
        screen.until(lambda lines: lines[0].startswith("80x24 x"))
