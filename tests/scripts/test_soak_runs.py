"""The soak: a short run ends well, and its sheet finds what is not as it should be."""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mppool import errors
from scripts.soaking import faults
from scripts.soaking.sheet import Jobs, Sheet, Usage
from tests.waiting import Whistle, forked

HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def soak(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.soaking", *args],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False, cwd=HOME,
        env={**os.environ, "COLUMNS": "120"},
    )  # fmt: skip


@pytest.mark.parametrize("provider", ["sqlite", "postgresql", "mysql"])
def test_a_short_run(provider: str, request: pytest.FixtureRequest) -> None:
    args = ["--minutes", "0.07", "--provider", provider]
    if provider != "sqlite":
        stem = {"postgresql": "postgres", "mysql": "mysql"}[provider]
        args += ["--uri", request.getfixturevalue(f"{stem}_server").uri, "--restart"]
    done = soak(*args)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert "8 of 8" in done.stdout
    begun, right = (int(re.search(rf"{what}[ │]+(\d+)", done.stdout)[1]) for what in ("jobs begun", "right answer"))  # type: ignore[index]
    assert begun >= right > 10
    assert re.search(r"\d+ members killed", done.stdout)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--minutes", "0"], "--minutes must be more than 0"),
        (["--restart"], "--restart needs a server"),
        (["--provider", "oracle"], "invalid choice"),
        (["--faults", "hooks,disks"], "no such kind: disks; there are descriptors, hooks, signals"),
    ],
)
def test_bad_options(args: list[str], says: str) -> None:
    done = soak(*args)
    assert done.returncode == 2
    assert says in done.stderr


# -- faults on purpose ---------------------------------------------------------------------------------------


def test_hooks_raise_and_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "HOOK_RAISES", 0.5)
    noted: list[str] = []
    hooks, raised = faults.hooks(noted.append, random.Random(1)), set()
    for _ in range(200):
        try:
            hooks["check"](None)
        except BaseException as error:
            raised.add(type(error))
    assert raised == set(faults.RAISED)
    assert set(noted) == {f"check hooks raised {error.__name__}" for error in faults.RAISED}
    assert hooks.keys() == {"configure", "check", "reset"}


@pytest.fixture
def handlers() -> Iterator[tuple[faults.Handlers, list[str]]]:
    """Handlers of this process's, and what was noted."""
    numbers, noted = (*faults.SIGNALS, signal.SIGALRM), list[str]()
    before = [signal.getsignal(number) for number in numbers]
    installed = faults.Handlers(noted.append, lambda: noted.append("a job"), random.Random(1))
    installed.install()
    try:
        yield installed, noted
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_a_job_is_struck_once_and_only_while_exposed(handlers: tuple[faults.Handlers, list[str]]) -> None:
    installed, noted = handlers
    signal.raise_signal(signal.SIGINT)
    assert not installed.struck
    installed.exposed = True
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    assert installed.struck
    assert noted == ["jobs struck by KeyboardInterrupt"]


def test_a_signal_begins_another_job(handlers: tuple[faults.Handlers, list[str]]) -> None:
    _, noted = handlers
    signal.raise_signal(signal.SIGUSR1)
    assert noted == ["jobs begun by a signal's handler", "a job"]


def test_a_timer_strikes_in_the_midst(
    handlers: tuple[faults.Handlers, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "TIMED", 1.0)
    installed, noted = handlers
    raised = set()
    while len(raised) < 2 or "a job" not in noted:
        installed.struck = False
        try:
            installed.exposed = True
            installed.set_timer()
            signal.sigtimedwait([], 0.01)  # ends early when a handler has run and raised
        except faults.STRIKES as strike:
            raised.add(type(strike))
        installed.exposed = False
    assert raised == set(faults.STRIKES)


def test_want_of_descriptors_is_told_by_the_error_or_its_cause() -> None:
    short, error = OSError(24, os.strerror(24)), errors.PoolError("no seat")
    assert not faults.wants_descriptors(error)
    error.__cause__ = short
    assert faults.wants_descriptors(error)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux")
def test_descriptors_are_withheld_for_a_while() -> None:
    shortages, asks, told = faults.Shortages(random.Random(1)), Whistle(), Whistle()

    def one_more() -> bool:
        try:
            os.close(os.dup(0))
        except OSError:
            return False
        return True

    def child() -> None:
        told.blow()  # what the fork's hooks close, and what is free by that, is closed now
        for free in (False, True):
            asks.wait()
            assert one_more() is free
            told.blow()

    with asks, told, forked(child) as process:
        told.wait()
        assert shortages.begin(process.pid)
        asks.blow()
        told.wait()
        shortages.end_all()
        asks.blow()
        told.wait()
        assert process.join() == 0
    assert not shortages.begin(process.pid)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux")
def test_a_run_with_faults() -> None:
    done = soak("--minutes", "0.05", "--faults", "descriptors,hooks,signals")
    assert done.returncode == 0, done.stdout + done.stderr
    for what in ("moments without descriptors for a member", "SIGUSR1 sent", "hooks raised"):
        assert re.search(rf"\d+\s+.*{what}".replace(" ", r"\s+"), done.stdout), done.stdout


# -- the sheet -----------------------------------------------------------------------------------------------


def sheet(**found: Any) -> Sheet:
    steady = Usage([20] * 30, [50.0] * 30)
    right = {
        "provider": "postgresql",
        "max_size": 8,
        "cuts": False,
        "jobs": Jobs(begun=10, right=9, killed=1),
        "peak_server": 8,
        "peak_ledger": 8,
        "samples": 5,
        "members": 2,
        "had_in_the_end": 8,
        "left_connections": 0,
        "left_processes": [],
        "left_files": [],
        "usage": {"survivor 1": steady, "manager": steady},
    }
    return Sheet(**{**right, **found})


def test_all_is_well() -> None:
    assert sheet().good
    assert sheet(peak_server=None).good, "SQLite has no server"
    ended = {"manager": Usage([20] * 20 + [60] * 10, [50.0] * 30)}
    assert sheet(usage=ended).good, "sockets of connections that have ended, 16 a member"
    assert not sheet(usage=ended, peak_server=None).good
    assert sheet(cuts=True, jobs=Jobs(begun=3, right=1, by_database=2)).good
    assert sheet(jobs=Jobs(begun=3, right=1, by_fault=2)).good


@pytest.mark.parametrize(
    "found",
    [
        {"had_in_the_end": 7},
        {"peak_server": 9},
        {"peak_server": 0},
        {"peak_ledger": 9},
        {"left_connections": 1},
        {"left_processes": ["manager"]},
        {"left_files": ["ledger"]},
        {"jobs": Jobs()},
        {"jobs": Jobs(begun=10, right=9)},
        {"jobs": Jobs(begun=10, right=9, lost=["one"])},
        {"jobs": Jobs(begun=10, right=9, errors=["PoolTimeoutError"])},
        {"jobs": Jobs(begun=10, right=9, by_database=1)},
        {"usage": {"survivor 1": Usage([20] * 20 + [29] * 10, [50.0] * 30)}},
        {"usage": {"manager": Usage([20] * 20 + [61] * 10, [50.0] * 30)}},
        {"usage": {"manager": Usage([20] * 30, [50.0] * 20 + [60.0] * 10)}},
    ],
    ids=str,
)
def test_what_is_wrong_is_found(found: dict[str, Any]) -> None:
    assert not sheet(**found).good


@pytest.fixture
def journal(tmp_path: os.PathLike[str]) -> Callable[[int, str], str]:
    def write(pid: int, lines: str) -> str:
        with open(os.path.join(tmp_path, str(pid)), "w", encoding="utf-8") as file:
            file.write(lines.replace("; ", "\n"))
        return str(tmp_path)

    return write


def test_each_job_is_accounted_for(journal: Callable[[int, str], str]) -> None:
    journal(1, "b 1 ; b 2 ; e 1 0.5; d 2 QueryError; b 3 ; x 3 PoolTimeoutError; r 0 4; ")
    folder = journal(2, "b 1 ; e 1 0.25; b 2 ; ")
    jobs = Jobs.read(folder)
    assert (jobs.begun, jobs.right, jobs.killed, jobs.by_database, jobs.refused) == (5, 2, 1, 1, 4)
    assert jobs.errors == ["process 1, job 3: PoolTimeoutError"]
    assert jobs.waits == [0.5, 0.25]
    assert jobs.lost == []
    journal(3, "b 1 ; f 0 a strike; f 0 a strike; s 1 KeyboardInterrupt; r 0 0; ")
    jobs = Jobs.read(folder)
    assert (jobs.begun, jobs.by_fault, jobs.faults) == (6, 1, {"a strike": 2})
    os.unlink(os.path.join(folder, "3"))
    journal(2, "b 1 ; e 1 0.25; b 2 ; r 0 0; ")
    assert Jobs.read(folder).lost == ["process 2, job 2"], "it was not killed, so where is the job?"
    with pytest.raises(KeyError):
        Jobs.read(journal(3, "b 1 ; e 1 0.1; e 1 0.1; "))
