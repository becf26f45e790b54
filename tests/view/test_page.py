"""The report is one file that needs nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from mppool.view.page import STRIPS, page
from mppool.view.recording import Recording
from tests.view.snapshots import budget, histogram, member

VOID = {"meta", "br", "path"}


class Checked(HTMLParser):
    """Every element that is opened is closed in its turn; texts by element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in {"meta"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], data))


def recorded(processes: int = 3, **more: Any) -> Recording:
    recording = Recording(1.0, lambda pid: f'<app> "{pid}" & co', lambda pid: False)
    for at in range(30):
        members = [
            member(pid, in_use=at % 3, waiting=pid % 2, requests_num=10 * at, wait=histogram(*[0.01] * at))
            for pid in range(1, processes + 1)
            if at < 20 or pid > 1
        ]
        more.setdefault("requests_num", 0)
        recording.note(float(at), budget(*members, **{**more, "requests_num": 100 * at}))
    return recording


def test_it_is_whole_and_needs_no_network() -> None:
    text = page(recorded(database="postgresql://db:5432/shop"), "2026-11-28 09:00:00")
    checked = Checked(text)
    outside = [value for name, value in checked.attributes if name in ("src", "href", "xlink:href", "action")]
    assert outside == []
    assert ("title", '<app> "2" & co') in checked.attributes
    assert "<script" not in text
    assert not re.search(r"@import|url\(", text)
    assert "prefers-color-scheme: dark" in text
    assert '<meta name="viewport"' in text
    assert text.count('role="img"') == text.count("<desc>") == 4 + 3


def test_it_says_what_happened() -> None:
    texts = [text for _, text in Checked(page(recorded(), "2026-11-28 09:00:00")).texts]
    said = " ".join(texts)
    assert "2,900" in said, "borrows"
    assert "process 1 ended, with 1 in use" in said
    assert '<app> "2" & co' in said
    assert "290 borrows" in said
    assert "29 s from 2026-11-28 09:00:00" in said


def test_one_sample_is_enough_and_none_is_refused() -> None:
    recording = Recording(1.0, str, bool)
    with pytest.raises(ValueError, match="nothing"):
        page(recording, "")
    recording.note(0.0, budget())
    Checked(page(recording, "now"))


def test_many_processes_are_not_all_drawn() -> None:
    text = page(recorded(STRIPS + 6), "now")
    assert text.count("<article>") == STRIPS
    assert "6 more processes are not shown" in text
