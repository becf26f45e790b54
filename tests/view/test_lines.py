"""Lines exactly as wide as the screen; bars that show what is there."""

from __future__ import annotations

import pytest

from mppool.view.lines import BOLD, RED, bar, line, plain, spark


def test_a_line_is_cut_or_filled_to_its_width() -> None:
    pieces = [("abc", BOLD), ("def", "")]
    assert plain(line(pieces, 8)) == "abcdef  "
    assert plain(line(pieces, 5)) == "abcd…"
    assert line(pieces, 3) == "\x1b[1mabc\x1b[0m"


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert line([("a\x1b[2Jb", ""), ("c", "")], 8) == "a?[2Jbc "


def test_no_color_keeps_bold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert line([("a", f"{BOLD};{RED}"), ("b", RED)], 2) == "\x1b[1ma\x1b[0mb"


def drawn(*sizes: float, whole: float, columns: int) -> str:
    return "".join(
        text for text, _ in bar([(size, char, "") for size, char in zip(sizes, "█▒░", strict=False)], whole, columns)
    )


def test_a_bar_fills_exactly_and_never_more() -> None:
    assert drawn(5, 2, 3, whole=10, columns=10) == "█████▒▒░░░"
    assert drawn(1, whole=10, columns=10) == "█·········"
    assert drawn(40, 5, whole=30, columns=10) == "█" * 10


def test_a_single_connection_of_many_is_seen() -> None:
    assert drawn(1, 1, 1, whole=1000, columns=10) == "█▒░·······"


def test_sparks() -> None:
    assert spark([None, 0, 1, 5, 10], 10) == " ▁▂▅█"
    assert spark([0.0, 0.0], 0.0) == "▁▁"
