"""Other budgets in the same folder: those of killed programs go, and those that were meant to be one are told of."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import filelock
import pytest

from mppool import PySQLXEnginePoolSync
from mppool.membership.member import Member
from mppool.settings import BudgetSettings
from mppool.shared import ledger as L
from mppool.shared import paths
from tests.manager.seats import gone, manager_of
from tests.waiting import Whistle, forked

HOLDS = """
import sys
from mppool import PySQLXEnginePoolSync
pool = PySQLXEnginePoolSync(sys.argv[1], 1, 2)
pool.start()
print(pool.name, flush=True)
sys.stdin.read()
pool.stop()
"""

# -- killed programs -----------------------------------------------------------------------------------------------


def killed_whole(uri: str, folder: str, environ: dict[str, str] | None = None) -> str:
    """The name of the budget of a program that was killed with its manager."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, uri],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environ or {})},
    ) as program:
        assert program.stdout is not None
        name = program.stdout.readline().strip()
        fd = os.open(os.path.join(folder, name, paths.LEDGER), os.O_RDWR)
        ledger = L.Ledger(fd)
        os.close(fd)
        manager = ledger.cells[L.H_MANAGER]
        os.kill(manager, signal.SIGSTOP)
        program.kill()
        program.wait()
        os.kill(manager, signal.SIGKILL)
        gone(manager)
        ledger.close()
    assert os.path.exists(os.path.join(folder, name))
    return name


@pytest.mark.parametrize("environ", [{}, {"MPPOOL_SCOPE": "scope-12-0a1b2c3d"}], ids=["own", "scope"])
def test_the_folder_of_a_killed_program_goes_when_another_begins(
    sqlite_uri: str, runtime_folder: str, environ: dict[str, str]
) -> None:
    names = [killed_whole(sqlite_uri, runtime_folder, environ), killed_whole(sqlite_uri + "2", runtime_folder, environ)]
    with PySQLXEnginePoolSync(sqlite_uri, 1, 2):
        assert not set(names) & set(os.listdir(runtime_folder))


def own(name: str) -> Member:
    return Member(BudgetSettings("sqlite:/tmp/none.db", 2), name, 0, token=5)


@pytest.fixture
def clears(sqlite_uri: str, runtime_folder: str) -> Iterator[Callable[[str], bool]]:
    """Whether a folder is cleared away by a budget that begins now."""

    def cleared(name: str) -> bool:
        with PySQLXEnginePoolSync(sqlite_uri, 1, 2):
            return not os.path.exists(os.path.join(runtime_folder, name))

    yield cleared
    lock = os.path.join(runtime_folder, paths.LOCK)
    with filelock.FileLock(lock):  # the last manager may still be leaving
        for name in set(os.listdir(runtime_folder)) - {paths.LOCK}:
            paths.remove_folder(os.path.join(runtime_folder, name))
        with contextlib.suppress(FileNotFoundError):  # removed with the last folder
            os.unlink(lock)


SOMEBODYS = "own-1-0123abcd"


def test_a_budget_that_is_in_use_stays(clears: Callable[[str], bool]) -> None:
    member = own(SOMEBODYS)
    assert not clears(SOMEBODYS)
    manager = manager_of(member)
    os.kill(manager, signal.SIGKILL)
    gone(manager)
    assert not clears(SOMEBODYS), "its members live"
    member.leave()
    assert clears(SOMEBODYS)


def test_one_that_is_being_born_stays(clears: Callable[[str], bool]) -> None:
    """Its manager listens already, and has written nothing yet: its launcher may have been killed."""
    folder = paths.make_folder(SOMEBODYS)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.join(folder, paths.SOCKET))
        listener.listen()
        assert not clears(SOMEBODYS)
        os.close(L.Ledger.create(os.path.join(folder, paths.LEDGER))[1])
        assert not clears(SOMEBODYS)
    assert clears(SOMEBODYS)


@pytest.mark.parametrize("name", ["shop", "own-shop", "own-1-0123ABCD", "scope-web-1", "owned-1-0123abcd"])
def test_one_that_somebody_named_stays(clears: Callable[[str], bool], name: str) -> None:
    """Whoever says the name again has a use for what is known of the dead: their connections may still be at work."""
    os.close(L.Ledger.create(os.path.join(paths.make_folder(name), paths.LEDGER))[1])
    assert not clears(name)


@pytest.mark.parametrize("name", ["own-1-0123abcd.reserve", "scope-1-0123abcd-0123abcd.reserve"])
def test_the_reserve_of_a_killed_program_goes(clears: Callable[[str], bool], name: str) -> None:
    os.close(L.Ledger.create(os.path.join(paths.make_folder(name), paths.LEDGER))[1])
    assert clears(name)


def test_one_of_another_version_stays(clears: Callable[[str], bool]) -> None:
    ledger, fd = L.Ledger.create(os.path.join(paths.make_folder(SOMEBODYS), paths.LEDGER))
    ledger.cells[L.H_MAGIC] += 1
    os.close(fd)
    assert not clears(SOMEBODYS)


# -- siblings ------------------------------------------------------------------------------------------------------


def worker(uri: str, ready: Whistle, over: Whistle) -> None:
    with PySQLXEnginePoolSync(uri, 1, 2):
        ready.blow()
        over.wait()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.message for each in caplog.records if each.levelno == logging.WARNING]


def test_a_worker_with_a_budget_of_its_own_is_told_once(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    def second() -> None:
        for _ in range(2):
            with PySQLXEnginePoolSync(sqlite_uri, 1, 3) as pool:
                said, *more = warnings(caplog)
                assert not more
                assert pool.name.startswith("own-")
                for words in (f"process {first.pid}", "max_size=3", "name=", "mppool run", "--preload", "sqlite:"):
                    assert words in said

    with Whistle() as ready, Whistle() as over, forked(worker, sqlite_uri, ready, over) as first:
        ready.wait()
        with forked(second) as other:
            assert other.join() == 0
        over.blow()
        assert first.join() == 0


@pytest.mark.parametrize("how", ["another database", "a name", "a child's", "the first has ended"])
def test_who_means_something_else_is_not(sqlite_uri: str, caplog: pytest.LogCaptureFixture, how: str) -> None:
    name = "shop" if how == "a name" else None

    def second() -> None:
        uri = sqlite_uri + "2" if how == "another database" else sqlite_uri
        with PySQLXEnginePoolSync(uri, 1, 3, name=name):
            assert warnings(caplog) == []

    def in_a_child() -> None:
        with forked(second) as child:
            assert child.join() == 0

    with Whistle() as ready, Whistle() as over, forked(worker, sqlite_uri, ready, over) as first:
        ready.wait()
        if how == "the first has ended":
            over.blow()
            assert first.join() == 0
        with forked(in_a_child if how == "a child's" else second) as other:
            assert other.join() == 0
        if how != "the first has ended":
            over.blow()
            assert first.join() == 0


def test_programs_that_a_shell_started_are_not(sqlite_uri: str) -> None:
    one = f"{sys.executable} -c '{HOLDS}' {sqlite_uri}"
    done = subprocess.run(
        ["sh", "-c", f"(sleep 3 | {one}) & (sleep 3 | {one}) & wait"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert (done.stdout.count("own-"), done.stderr) == (2, "")


def test_programs_that_a_python_started_are(sqlite_uri: str) -> None:
    """As uvicorn starts its workers, say."""
    run = [sys.executable, "-c", HOLDS, sqlite_uri]
    with subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        first.stdout.readline()
        second = subprocess.run(run, input="", capture_output=True, text=True, check=True, timeout=30)
        first.communicate()
    assert f"process {first.pid}, which was started by the same parent as this one" in second.stderr
