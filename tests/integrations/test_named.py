"""Programs that are not forked from each other and share a budget by its name; and another user's, who does not."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psutil
import pytest

from mppool import PoolManager, errors
from mppool.shared import paths
from tests.waiting import until

HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUDGET, PROGRAMS = 3, 8

#: Does what it is told, line by line, and answers each with a line.
CONSOLE = """
import contextlib, json, os, socket, sys, time
from mppool import PoolManager, PySQLXEnginePoolSync, errors

uri, name, max_size = sys.argv[1], sys.argv[2], int(sys.argv[3])
pool = PySQLXEnginePoolSync(uri, 0, max_size, name=name, conn_timeout=20)
held = contextlib.ExitStack()

def borrow():
    return held.enter_context(pool.connection()).query_first("SELECT 1 AS a").a

def manager():
    return PoolManager.attach(name).stats().manager_pid

def work(times):
    pool.start()
    for _ in range(times):
        with pool.connection() as conn:
            conn.query_first("SELECT 1 AS a")
            time.sleep(0.01)
    return manager()

print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    try:
        answer = eval(line)
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer), flush=True)
if not pool.closed:
    pool.stop()
"""


@pytest.fixture(autouse=True)
def _nobody_waits_for_the_next_comer(runtime_folder: str, balance_sheet: None) -> Iterator[None]:
    """A manager stays for 2 s after the last of its members, unless it is told that nobody will come."""
    yield
    for name in os.listdir(runtime_folder):
        with suppress(errors.PoolError):
            if name != paths.LOCK:
                PoolManager.attach(name).stop()


class Program:
    """A program of its own, as this user or another."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it has ended: {self.process.stderr and self.process.stderr.read()}"
        return json.loads(line)

    def ask(self, line: str) -> Any:
        self.tell(line)
        return self.answer()

    def end(self) -> tuple[str, int]:
        """What it said to standard error, and its exit code."""
        _, said = self.process.communicate(timeout=30)
        return said, self.process.returncode


@contextmanager
def program(
    uri: str, name: str, max_size: int = BUDGET, python: str = sys.executable, **options: Any
) -> Iterator[Program]:
    """A program that is ready. Where nothing else was done with it, it ends afterwards without a complaint."""
    options.setdefault("env", {**os.environ, "PYTHONPATH": HOME})
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [python, "-c", CONSOLE, uri, name, str(max_size)]
    with subprocess.Popen(command, text=True, **pipes, **options) as process:  # type: ignore[call-overload]
        try:
            running = Program(process)
            assert running.answer() == "ready"
            yield running
            if process.returncode is None:
                assert running.end() == ("", 0)
        finally:
            process.kill()


def managers(folder: str) -> list[int]:
    """The managers of budgets in this runtime folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if "mppool.manager.server" in line and f" {folder}/" in line:
            found.append(process.pid)
    return found


def show(name: str) -> tuple[str, dict[int, list[int]]]:
    """The first line of ``mppool show NAME``, and its table by pid."""
    command = [sys.executable, "-m", "mppool", "show", name]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    first, _, *lines = done.stdout.splitlines()
    rows = [[int(word) for word in line.split()[:6]] for line in lines]
    return first, {row[0]: row[1:] for row in rows}


def test_who_comes_first_starts_the_manager(postgres_uri: str, postgres_judge: Any, runtime_folder: str) -> None:
    """Eight at once: one manager, one budget."""
    with ExitStack() as stack:
        crowd = [stack.enter_context(program(postgres_uri, "shop")) for _ in range(PROGRAMS)]
        assert managers(runtime_folder) == []
        with postgres_judge.watch() as seen:
            for each in crowd:
                each.tell("work(10)")
            known = {each.answer() for each in crowd}
        assert managers(runtime_folder) == [*known]
    print(f"{PROGRAMS} programs, greatest number of backends {seen.peak} of {BUDGET}")
    assert 1 < seen.peak <= BUDGET


def test_programs_come_and_go(postgres_uri: str, postgres_judge: Any, runtime_folder: str) -> None:
    """The first ends, the second is killed, the third goes on; ``mppool show`` tells who has what."""
    with ExitStack() as stack:
        first, second, third = (stack.enter_context(program(postgres_uri, "shop")) for _ in range(3))
        assert [each.ask("(pool.start(), borrow())[1]") for each in (first, second, third)] == [1, 1, 1]
        (manager,) = managers(runtime_folder)
        line, table = show("shop")
        assert line == f"budget shop: 3 of 3 connections open, 0 permits free, 0 wanted; manager {manager}"
        assert table == {each.pid: [1, 1, 0, 0, 0] for each in (first, second, third)}
        third.tell("borrow()")  # there is none left
        until(lambda: [each.pid for each in PoolManager.attach("shop").stats().members if each.waiting] == [third.pid])
        assert first.end() == ("", 0)
        assert third.answer() == 1
        os.kill(second.pid, signal.SIGKILL)
        assert second.end() == ("", -signal.SIGKILL)
        assert third.ask("borrow()") == 1
        assert postgres_judge.wait_for(lambda count: count == 3) == 3
        assert show("shop")[1] == {third.pid: [3, 3, 0, 0, 0]}
        assert managers(runtime_folder) == [manager]
    until(lambda: not managers(runtime_folder))
    assert os.listdir(runtime_folder) == []


@pytest.mark.parametrize(
    ("other", "size", "says"),
    [
        ("", BUDGET + 1, r"max_size is 3 there and 4 here"),
        ("_archive", BUDGET, r"database is (\S+/shop) there and (\S+/shop_archive) here"),
    ],
)
def test_who_means_another_budget_is_told(other: str, size: int, says: str, runtime_folder: str) -> None:
    """Nobody connects to that server, which is nowhere: it is said before."""
    uri = "postgresql://clerk:hunter2@127.0.0.1:1/shop"
    with program(uri, "shop") as owner, program(f"{uri}{other}", "shop", size) as stranger:
        owner.ask("globals().update(owner=PoolManager(uri, max_size, name)) or owner.start()")
        told = [stranger.ask(each) for each in ("pool.start()", "PoolManager(uri, max_size, name).start()")]
        assert told[0] == told[1]
        assert told[0].startswith(f"{errors.BudgetMismatchError.__name__}: budget 'shop' runs with other settings: ")
        assert re.search(says, told[0])
        with open(os.path.join(runtime_folder, "shop", "log"), encoding="utf-8") as log:
            assert "hunter2" not in f"{told}{log.read()}{show('shop')}"


# -- another user ------------------------------------------------------------------------------------------------


@pytest.fixture
def as_nobody() -> Iterator[dict[str, Any]]:
    """How to run a program as another user who has nothing of ours but a folder to work in: parameters of `program`."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        pytest.skip("there is no user nobody")
    theirs: dict[str, Any] = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "cwd": "/"}
    places = [HOME, *(path for path in sys.path if path.endswith("-packages"))]
    theirs["env"] = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(places)}
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    said = ""
    for python in (sys.executable, shutil.which(version, path="/usr/local/bin:/usr/bin")):
        if python is None:
            continue
        try:
            probe = [python, "-c", "import mppool.process.registry"]
            done = subprocess.run(probe, capture_output=True, text=True, check=False, timeout=30, **theirs)
        except OSError as error:
            said = str(error)
            continue
        if done.returncode == 0:
            break
        said = done.stderr.strip().rpartition("\n")[2]
    else:
        pytest.skip(f"nobody cannot run this Python with mppool: {said}")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        yield {**theirs, "python": python, "cwd": folder}


def test_another_user_has_a_budget_of_the_same_name(
    as_nobody: dict[str, Any], sqlite_uri: str, runtime_folder: str, request: pytest.FixtureRequest
) -> None:
    name = f"shop-{os.getpid()}"  # in nobody's usual folder
    usual = next((path for path in ("/dev/shm", "/tmp") if os.access(path, os.W_OK)), "/tmp")
    usual = os.path.join(usual, f"mppool-{as_nobody['user']}")
    if not os.path.exists(usual):
        request.addfinalizer(lambda: os.path.exists(usual) and os.rmdir(usual))
    with program(sqlite_uri, name) as ours, program("sqlite:their.db", name, 7, **as_nobody) as theirs:
        assert ours.ask("(pool.start(), borrow())[1]") == 1
        (manager,) = managers(runtime_folder)
        assert theirs.ask("PoolManager.attach(name)") == (
            f"ManagerUnavailableError: no budget '{name}' is running for user {as_nobody['user']} on this host"
        )
        assert theirs.ask("(pool.start(), borrow())[1]") == 1
        assert theirs.ask("PoolManager.attach(name).stats().max_size") == 7
        assert theirs.ask("manager()") != manager
        assert theirs.ask("PoolManager.attach(name).stop()") is None
        assert theirs.end() == ("", 0)
        until(lambda: not os.path.exists(os.path.join(usual, name)))
        assert ours.ask("(manager(), borrow())") == [manager, 1]


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_another_user_cannot_reach_ours(
    as_nobody: dict[str, Any], sqlite_uri: str, runtime_folder: str, mode: int
) -> None:
    """Also when told where it is, and when the folder of all budgets may be read by everybody."""
    os.chmod(runtime_folder, mode)
    theirs: dict[str, Any] = {**as_nobody, "env": {**as_nobody["env"], "MPPOOL_RUNTIME_DIR": runtime_folder}}
    attempts: Sequence[str] = (
        "pool.start()",
        "PoolManager.attach(name)",
        "PoolManager(uri, max_size, name).start()",
        "PoolManager(uri, max_size, name).stop()",
        "PoolManager(uri, max_size, 'their-own').start()",
    )
    with program(sqlite_uri, "shop") as ours, program(sqlite_uri, "shop", **theirs) as stranger:
        assert ours.ask("(pool.start(), borrow())[1]") == 1
        before = show("shop")
        for attempt in attempts:
            told = stranger.ask(attempt)
            print(told)
            assert told.startswith(f"{errors.ManagerUnavailableError.__name__}: budget '"), attempt
            assert runtime_folder in told, attempt
        folder = os.path.join(runtime_folder, "shop")
        assert stranger.ask(f"os.listdir({folder!r})").startswith("PermissionError")
        for file in ("ledger", "log"):
            assert stranger.ask(f"open('{folder}/{file}').read()").startswith("PermissionError")
        assert stranger.ask(f"socket.socket(socket.AF_UNIX).connect('{folder}/socket')").startswith("PermissionError")
        assert show("shop") == before
        assert ours.ask("borrow()") == 1
        stranger.process.kill()
        stranger.process.communicate()
