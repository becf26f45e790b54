"""Numbers as people read them: short, with a unit, and never wider than a column."""

from __future__ import annotations

import unicodedata

__all__ = ["count", "fit", "memory", "seconds", "width"]


def seconds(value: float) -> str:
    """A time in at most 6 characters: ``0``, ``340µs``, ``1.2ms``, ``12ms``, ``1.4s``, ``3m20s``, ``2h05m``."""
    if value <= 0:
        return "0"
    if value == float("inf"):
        return "∞"
    for factor, unit in ((1e6, "µs"), (1e3, "ms"), (1.0, "s")):
        shown = value * factor
        if shown < 9.95:
            if shown >= 0.95 or unit == "µs":
                return f"{shown:.1f}{unit}"
        elif shown < (999.5 if unit != "s" else 99.5):
            return f"{shown:.0f}{unit}"
    minutes, rest = divmod(round(value), 60)
    if minutes < 100:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 100 else f"{hours // 24}d"


def count(value: float) -> str:
    """A number in at most 6 characters: ``0``, ``3.2``, ``125``, ``12.5k``, ``3.1M``."""
    for factor, unit in ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "G")):
        shown = value / factor
        if shown < 999.5:
            whole = shown == int(shown) if not unit else False
            return f"{shown:.0f}{unit}" if whole or shown >= 99.5 else f"{shown:.1f}{unit}"
    return f"{value:.0e}"


def memory(size: int) -> str:
    """Bytes in at most 5 characters: ``800K``, ``34M``, ``1.2G``."""
    for factor, unit in ((1 << 10, "K"), (1 << 20, "M"), (1 << 30, "G")):
        shown = size / factor
        if shown < 999.5:
            return f"{shown:.1f}{unit}" if unit == "G" and shown < 9.95 else f"{shown:.0f}{unit}"
    return f"{size / (1 << 30):.0f}G"


def width(text: str) -> int:
    """Columns that the text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def fit(text: str, columns: int, right: bool = False) -> str:
    """The text in exactly so many columns; one that is too long ends in ``…``. Control characters become ``?``."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() else "?" for char in text)
    if columns <= 0:
        return ""
    if width(text) > columns:
        if text.isascii():
            text = text[: columns - 1] + "…"
        else:
            while width(text) > columns - 1:
                text = text[:-1]
            text += "…"
    rest = " " * (columns - width(text))
    return rest + text if right else text + rest
