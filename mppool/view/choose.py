"""Choosing one of several budgets on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mppool.view.lines import BOLD, DIM, REVERSE, Piece, line

if TYPE_CHECKING:
    from mppool.view.terminal import Terminal

__all__ = ["choose", "menu"]


def menu(names: Sequence[str], at: int, columns: int, lines: int) -> list[str]:
    """The screen, with the name at that place marked."""
    room = max(1, lines - 3)
    top = max(0, at - room + 1)
    body: list[list[Piece]] = [[("Which budget?", BOLD)], []]
    body += [
        [(f" {name} ", REVERSE if number == at else "")] for number, name in enumerate(names[top : top + room], top)
    ]
    body = body[: lines - 1] + [[]] * (lines - 1 - len(body))
    return [line(pieces, columns) for pieces in [*body, [("arrows choose  enter shows it  q quits", DIM)]]]


def choose(terminal: Terminal, names: Sequence[str]) -> str | None:
    """The name that was chosen; None: quit, or the terminal is gone."""
    at = 0
    while True:
        columns, lines = terminal.size
        terminal.show(menu(names, at, columns, lines))
        keys = terminal.keys(60.0)
        if keys is None:
            return None
        for key in keys:
            if key == "enter":
                return names[at]
            if key in ("q", "escape"):
                return None
            at = {"up": max(0, at - 1), "down": min(len(names) - 1, at + 1)}.get(key, at)
