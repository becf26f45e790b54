"""Lines of a terminal: pieces of text with a style each, made exactly as wide as the screen."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from mppool.view.words import fit, width

__all__ = ["BOLD", "DIM", "GREEN", "RED", "REVERSE", "YELLOW", "Piece", "bar", "line", "plain", "spark"]

Piece = tuple[str, str]  # text and style
BOLD, DIM, REVERSE = "1", "2", "7"
RED, GREEN, YELLOW, BLUE, CYAN = "31", "32", "33", "34", "36"
_LEVELS = "▂▃▄▅▆▇█"
_STYLES = re.compile(r"\x1b\[[0-9;]*m")


def line(pieces: Iterable[Piece], columns: int) -> str:
    """One line of so many columns; what does not fit is cut off. ``NO_COLOR`` in the environment leaves out colours."""
    done, left = [], columns
    plain_colours = bool(os.environ.get("NO_COLOR"))
    for text, style in pieces:
        if left <= 0:
            break
        if not text.isprintable() or width(text) > left:
            text = fit(text, min(left, len(text)))
        left -= width(text)
        if plain_colours:
            style = ";".join(part for part in style.split(";") if part in (BOLD, DIM, REVERSE))
        done.append(f"\x1b[{style}m{text}\x1b[0m" if style else text)
    return "".join(done) + " " * left


def plain(text: str) -> str:
    """A line without its styles."""
    return _STYLES.sub("", text)


def bar(parts: Sequence[tuple[float, str, str]], whole: float, columns: int) -> list[Piece]:
    """A bar: each part is its size, its character and its style; the rest is ``·``. A part above nothing shows."""
    pieces, used, drawn = [], 0.0, 0
    for size, char, style in parts:
        used += size
        cells = min(columns, round(used * columns / max(whole, 1e-9))) - drawn
        cells = max(cells, 1 if size and drawn < columns else 0)
        if cells:
            pieces.append((char * cells, style))
        drawn += cells
    return [*pieces, ("·" * (columns - drawn), DIM)]


def spark(values: Sequence[float | None], top: float) -> str:
    """One character for each value: a space for none, ``▁`` for zero, ``█`` for ``top``."""
    return "".join(
        " " if value is None else "▁" if value <= 0 else _LEVELS[min(6, int(value / max(top, 1e-12) * 6.999))]
        for value in values
    )
