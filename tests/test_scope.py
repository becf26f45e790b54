"""A scope: pools without a name, made by processes that inherit nothing of each other, have one budget a database."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mppool import PoolManager, PySQLXEnginePoolSync, errors, scope
from tests.waiting import Whistle, forked

OTHER = "postgresql://u:hunter2@db/shop"


@pytest.fixture
def in_scope(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(scope.SCOPE, "scope-1-test")
    monkeypatch.delenv(scope.MAX_SIZE, raising=False)
    return "scope-1-test"


def borrow(pool: PySQLXEnginePoolSync) -> None:
    with pool.connection(20) as conn:
        assert conn.query_first("SELECT 1 AS a").a == 1


def test_one_budget_a_database(in_scope: str, sqlite_uri: str) -> None:
    one, two = PySQLXEnginePoolSync(sqlite_uri, 0, 3), PoolManager(sqlite_uri, 3)
    other = PySQLXEnginePoolSync(OTHER, 0, 3)
    assert one.name == two.name
    assert one.name != other.name
    assert one.name.startswith(in_scope)
    assert "hunter2" not in other.name
    assert PySQLXEnginePoolSync(sqlite_uri, 0, 3, name="shop").name == "shop", "who says a name means it"


def test_processes_that_make_their_own_share(in_scope: str, sqlite_uri: str) -> None:
    def worker() -> None:
        with PySQLXEnginePoolSync(sqlite_uri, 0, 1) as pool, pool.connection(20):
            ready.blow()
            over.wait()

    with Whistle() as ready, Whistle() as over, forked(worker) as child:
        ready.wait()
        mine = PoolManager(sqlite_uri, 1)
        mine.start()
        with pytest.raises(errors.PoolTimeoutError, match=f"pid {child.pid} 1"), mine.pool().connection(0.1):
            pass
        over.blow()
        borrow(mine.pool())
        assert child.join() == 0
        mine.stop()


def test_who_stops_in_a_scope_stops_only_his_own(in_scope: str, sqlite_uri: str) -> None:
    mine, theirs = PoolManager(sqlite_uri, 2), PoolManager(sqlite_uri, 2)
    mine.start()
    theirs.start()
    pool = theirs.pool()
    mine.stop()
    with pytest.raises(errors.PoolAlreadyClosedError):
        mine.stop()
    borrow(pool)
    with PoolManager(sqlite_uri, 2) as third:
        borrow(third.pool())
    theirs.stop()


def test_a_max_size_for_all(in_scope: str, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(scope.MAX_SIZE, "2")
    pool = PySQLXEnginePoolSync(sqlite_uri, 5, 30)
    assert (pool.max_size, pool.min_size) == (2, 2)
    assert PoolManager(sqlite_uri, 30).pool(min_size=5).min_size == 2
    with pool:
        borrow(pool)
    assert PySQLXEnginePoolSync(sqlite_uri, 5, 30, name="shop").max_size == 30
    with pytest.raises(ValueError, match="min_size"):
        PySQLXEnginePoolSync(sqlite_uri, 31, 30)
    monkeypatch.setenv(scope.MAX_SIZE, "many")
    with pytest.raises(ValueError, match="MPPOOL_MAX_SIZE must be a whole number, not 'many'"):
        PySQLXEnginePoolSync(sqlite_uri, 5, 30)


def test_those_who_mean_different_sizes_are_told(in_scope: str, sqlite_uri: str) -> None:
    with PySQLXEnginePoolSync(sqlite_uri, 0, 3), pytest.raises(errors.BudgetMismatchError, match="max_size is 3"):
        PySQLXEnginePoolSync(sqlite_uri, 0, 4).start()


def test_begin() -> None:
    environ: dict[str, str] = {}
    first = scope.begin(environ=environ)
    assert environ == {scope.SCOPE: first}
    assert scope.begin(7, environ) == first, "a scope in a scope is the same"
    assert environ[scope.MAX_SIZE] == "7"
    assert scope.begin(environ={}) != first
    assert scope.begin(environ=environ, name="web") == first
    assert scope.begin(environ={}, name="web") == "web", "whoever says the name is in it"
    for long in ("a/b", "x" * 60):
        with pytest.raises(ValueError, match="name"):
            scope.begin(environ={}, name=long)
    for wrong in (0, -1, 10_001):
        with pytest.raises(ValueError, match="max_size"):
            scope.begin(wrong, {})
    with pytest.raises(TypeError, match="max_size"):
        scope.begin("7", {})  # type: ignore[arg-type]


# -- the command -------------------------------------------------------------------------------------------------


def command(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if key not in (scope.SCOPE, scope.MAX_SIZE)}
    return subprocess.run(
        [sys.executable, "-m", "mppool", *args],
        env={**kept, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


SHARE = """
import os, subprocess, sys
from mppool import PySQLXEnginePoolSync, errors
pool = PySQLXEnginePoolSync(sys.argv[1], 0, 1)
if len(sys.argv) > 2:
    with pool:
        try:
            with pool.connection(0.1):
                print("two at once")
        except errors.PoolTimeoutError:
            print("none left", pool.max_size)
else:
    with pool, pool.connection():
        subprocess.run([sys.executable, "-c", os.environ["SHARE"], sys.argv[1], "again"], check=True)
sys.exit(7)
"""


def test_run_makes_a_tree_of_processes_one(sqlite_uri: str) -> None:
    code = SHARE.replace("check=True)", "check=False)")
    done = command("run", "--", sys.executable, "-c", code, sqlite_uri, SHARE=code)
    assert (done.stdout, done.returncode) == ("none left 1\n", 7), done.stderr
    done = command("run", "--max-size", "2", sys.executable, "-c", code, sqlite_uri, SHARE=code)
    assert (done.stdout, done.returncode) == ("two at once\n", 7), done.stderr


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["run", "--", "no-such-program"], 127, "cannot run no-such-program: No such file"),
        (["run", "--", "/"], 126, "cannot run /: Permission denied"),
        (["run", "--max-size", "0", "true"], 2, "max_size must be from 1"),
        (["run"], 2, "COMMAND"),
        (["show", "no-such-budget"], 1, "no budget 'no-such-budget' is running"),
        (["show", "a/b"], 1, "name 'a/b' must be"),
    ],
)
def test_what_cannot_be_run_is_said(args: list[str], code: int, says: str) -> None:
    done = command(*args)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_show(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 3, "shop") as manager, manager.pool().connection():
        done = command("show", "shop")
        assert done.returncode == 0, done.stderr
        first, _, mine = done.stdout.splitlines()
        assert first == f"budget shop: 1 of 3 connections open, 2 permits free, 0 wanted; manager {manager.pid}"
        assert mine.split()[:6] == [str(os.getpid()), "1", "1", "0", "0", "0"]
