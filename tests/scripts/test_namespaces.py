"""The pure parts of the soak over hosts: what explains an error, what a journal says, which packets are dropped."""

from __future__ import annotations

import io
import math
import os

import pytest
from rich.console import Console

from scripts.namespaces import network
from scripts.namespaces.network import NoNetwork, check, drops
from scripts.namespaces.sheet import GRACE, STARTING, Event, Failure, Journals, Peaks, Sheet, is_explained

CUT = Event("database cut off", 2, 100.0, 110.0)


def failure(host: int = 2, began: float = 105.0, at: float = 106.0, kind: str = "QueryError") -> Failure:
    return Failure(host, began, at, kind, "")


@pytest.mark.parametrize(
    ("failed", "explained"),
    [
        (failure(), True),
        (failure(host=1), False),
        (failure(began=98.0, at=99.9), False),
        (failure(began=98.0, at=100.1), True),
        (failure(began=110.0 + GRACE, at=140.0), True),
        (failure(began=110.1 + GRACE, at=140.0), False),
        (failure(began=109.0, at=169.0, kind="PoolTimeoutError"), True),
        (failure(began=111.0, at=171.0, kind="PoolTimeoutError"), False),
    ],
)
def test_an_error_is_explained_by_what_cut_its_own_host(failed: Failure, explained: bool) -> None:
    assert is_explained(failed, [CUT]) == explained


def test_what_lasts_still_explains_everything_since() -> None:
    assert is_explained(failure(began=900.0, at=901.0), [CUT._replace(ended=math.inf)])


@pytest.mark.parametrize(
    "kind", ["engine killed", "engine cut off", "agent killed", "manager killed", "process killed"]
)
def test_what_callers_must_not_notice_explains_nothing(kind: str) -> None:
    host = None if kind == "engine killed" else 2
    assert not is_explained(failure(), [Event(kind, host, 100.0, 110.0)])


def test_a_manager_that_was_killed_may_keep_a_process_from_starting() -> None:
    killed = [Event("manager killed", 2, 100.0, 100.0)]
    assert is_explained(failure(kind=f"{STARTING}ManagerUnavailableError"), killed)
    assert not is_explained(failure(kind=f"{STARTING}ManagerUnavailableError"), [])


def test_journals_are_added_up(tmp_path: os.PathLike[str]) -> None:
    lines = {
        "1-77-1": ["n 5.000 10 0.250", "x 6.000 5.500 QueryError it was cut", "n 6.500 3 0.100", "end 7.000 2"],
        "2-78-1": ["n 5.000 4 1.500", "x 1.000 1.000 start: ManagerUnavailableError it ended"],
    }
    for name, said in lines.items():
        with open(os.path.join(tmp_path, name), "w") as file:
            file.write("".join(f"{line}\n" for line in said))
    journals = Journals.read(os.fspath(tmp_path))
    assert (journals.done, journals.longest, journals.refused, journals.ended) == (17, 1.5, 2, 1)
    assert journals.failures == [
        Failure(1, 5.5, 6.0, "QueryError", "it was cut"),
        Failure(2, 1.0, 1.0, f"{STARTING}ManagerUnavailableError", "it ended"),
    ]


def a_sheet(peaks: Peaks | None = None, had: int = 11, refused: int = 0, left: tuple[str, ...] = ()) -> Sheet:
    journals = Journals(done=100, failures=[failure()])
    seen = Peaks(11, 1, 0.5, 11, 5, 5) if peaks is None else peaks
    return Sheet("redis", 12, 11, journals, [CUT], seen, had, refused, [*left])


@pytest.mark.parametrize(
    ("sheet", "good"),
    [
        (a_sheet(), True),
        (a_sheet(Peaks(12, 1, 0.5, 11, 5, 5)), False),
        (a_sheet(Peaks(11, 1, 0.5, 12, 5, 5)), False),
        (a_sheet(Peaks(11, 2, 0.5, 11, 5, 5)), False),
        (a_sheet(Peaks()), False),
        (a_sheet(had=10), False),
        (a_sheet(refused=1), False),
        (a_sheet(left=("a process",)), False),
    ],
)
def test_the_sheet_is_good_if_every_line_is(sheet: Sheet, good: bool) -> None:
    assert sheet.good == good
    console = Console(width=140, record=True, file=io.StringIO())
    sheet.show(console)
    text = console.export_text()
    assert "1 database cut off" in text
    assert ("FAILED" in text) != good


def test_an_error_without_a_cause_is_told() -> None:
    sheet = a_sheet()
    sheet.journals.failures.append(failure(host=1)._replace(text="too bad"))
    console = Console(width=140, record=True, file=io.StringIO())
    sheet.show(console)
    assert not sheet.good
    assert "too bad" in console.export_text()


def test_rules_replace_those_of_before_and_drop_both_ways() -> None:
    rules = drops("10.0.0.1", "10.0.0.2").splitlines()
    assert rules[1].startswith("delete table")
    for address in ("10.0.0.1", "10.0.0.2"):
        assert f"ip saddr {address} drop;" in rules
        assert f"ip daddr {address} drop;" in rules
    assert "drop" not in drops()
    assert all(text.count("{") == text.count("}") for text in (drops(), drops("10.0.0.1")))


def test_who_is_not_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network.os, "geteuid", lambda: 1000)
    with pytest.raises(NoNetwork, match="root"):
        check()


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network.os, "geteuid", lambda: 0)
    monkeypatch.setattr(network.shutil, "which", lambda name, path: None)
    with pytest.raises(NoNetwork, match="ip, nft"):
        check()
