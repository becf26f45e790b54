"""A process that is not where its budget was begun: another user, another folder. One budget, or a clear refusal."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator

import pytest

import mppool
from mppool import PoolManager, PySQLXEnginePoolSync, errors
from mppool.shared import paths
from tests.crash.crew import Books
from tests.waiting import Whistle, forked, until

HOME = os.path.dirname(os.path.dirname(mppool.__file__))
NOBODY = 65_534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def usual_places(monkeypatch: pytest.MonkeyPatch, runtime_folder: str) -> Iterator[str]:
    """Each user has a folder where everybody may have one, as in /dev/shm; its path without the user's number."""
    with tempfile.TemporaryDirectory(prefix="mpp-", dir="/tmp") as shared:
        os.chmod(shared, 0o1777)
        monkeypatch.delenv(paths.RUNTIME_DIR)
        monkeypatch.setattr(paths, "usual", lambda: f"{shared}/mppool-{os.geteuid()}")
        yield f"{shared}/mppool-"
        until(lambda: not any(os.listdir(os.path.join(shared, each)) for each in os.listdir(shared)))


@pytest.fixture
def for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can launch a manager: with an interpreter that anybody may run, which this one may not be."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, shutil.which(version, path="/usr/local/bin:/usr/bin")):
        probe = f"{python} -I -S -c 'import sys; sys.path.append(\"{HOME}\"); import mppool.manager.server'"
        with forked(lambda probe=probe: os.setuid(NOBODY) or os.execv("/bin/sh", ["sh", "-c", probe])) as child:
            if python and child.join() == 0:
                monkeypatch.setattr(sys, "executable", python)
                return
    pytest.skip("nobody cannot run this Python with mppool")


def becomes(change: Callable[[int], None]) -> Callable[[], None]:
    return lambda: change(NOBODY)


USERS = [pytest.param(becomes(os.setuid), id="setuid"), pytest.param(becomes(os.seteuid), id="seteuid")]


def borrow(pool: PySQLXEnginePoolSync) -> None:
    with pool.connection(5) as conn:
        assert conn.query_first("SELECT 1 AS a").a == 1


def refused(act: Callable[[], object]) -> None:
    with pytest.raises(errors.ManagerUnavailableError) as caught:
        act()
    said = str(caught.value)
    assert all(word in said for word in (repr("root"), "(0)", f"({NOBODY})", "second budget", "start")), said


@needs_root
@pytest.mark.parametrize("change", USERS)
@pytest.mark.parametrize("name", [None, "shop"])
@pytest.mark.parametrize("how", ["started", "attached", "owned"])
def test_a_child_that_changes_its_user_is_refused(
    postgres_uri: str, usual_places: str, change: Callable[[], None], name: str | None, how: str
) -> None:
    """It would begin a second budget: as many connections again."""
    manager = PoolManager(postgres_uri, 1, name)
    pool = manager.pool() if how != "started" else PySQLXEnginePoolSync(postgres_uri, 1, 1, name=name)
    (manager if how == "owned" else pool).start()

    def child() -> None:
        change()
        refused(lambda: borrow(pool))
        refused(lambda: PySQLXEnginePoolSync(postgres_uri, 0, 1, name=pool.name).start())
        if how == "owned":
            refused(manager.stats)
        assert not os.path.exists(usual_places + str(NOBODY))

    with forked(child) as process:
        assert process.join() == 0
    borrow(pool)
    (manager if how == "owned" else pool).stop()


@needs_root
@pytest.mark.parametrize("change", USERS)
def test_one_begun_after_the_change_is_fine(
    postgres_uri: str, for_nobody: None, usual_places: str, change: Callable[[], None]
) -> None:
    """gunicorn's `--preload --user nobody` with a pool that was not used before the fork: one budget."""
    pool = PoolManager(postgres_uri, 1).pool()

    def worker(other: Whistle) -> None:
        change()
        with pool.connection(10):
            ready.blow()
            other.wait()

    def late() -> None:
        change()
        ready.wait()
        with pytest.raises(errors.PoolTimeoutError, match="of 1 permits other processes hold: pid"):
            pool.connection(0.1).__enter__()
        over.blow()
        borrow(pool)

    with Whistle() as ready, Whistle() as over, forked(worker, over) as first, forked(late) as second:
        assert [first.join(), second.join()] == [0, 0]


@needs_root
@pytest.mark.parametrize("change", USERS)
def test_who_has_left_may_come_again_as_somebody_else(
    postgres_uri: str, for_nobody: None, usual_places: str, change: Callable[[], None]
) -> None:
    """A service looks at its database as root, and then becomes nobody."""

    def service() -> None:
        for _ in range(2):
            with PySQLXEnginePoolSync(postgres_uri, 1, 1, name="service") as pool:
                borrow(pool)
            if os.geteuid() != NOBODY:
                change()

    with forked(service) as process:
        assert process.join() == 0


@needs_root
def test_who_changes_with_a_seat_keeps_what_he_has(
    postgres_uri: str, usual_places: str, caplog: pytest.LogCaptureFixture
) -> None:
    def service() -> None:
        pool = PySQLXEnginePoolSync(postgres_uri, 1, 1, name="shop")
        pool.start()
        os.setuid(NOBODY)
        borrow(pool)
        ready.blow()
        until(lambda: "user 'root' (0)" in caplog.text)
        borrow(pool)
        pool.stop()

    with Whistle() as ready, forked(service) as process:
        ready.wait()
        books = Books("shop")
        os.kill(books.manager(), signal.SIGKILL)
        books.close()
        assert process.join() == 0
    paths.remove_folder(f"{usual_places}0/shop")  # nobody was left who could


@pytest.mark.parametrize("wish", ["elsewhere", None])
def test_a_child_whose_environment_names_another_folder_shares(
    sqlite_uri: str, runtime_folder: str, wish: str | None
) -> None:
    pool = PySQLXEnginePoolSync(sqlite_uri, 1, 1, name="shop")
    pool.start()
    lease = pool.connection(5)
    lease.__enter__()

    def child() -> None:
        os.environ.pop(paths.RUNTIME_DIR)
        if wish is not None:
            os.environ[paths.RUNTIME_DIR] = os.path.join(runtime_folder, wish)
        with pytest.raises(errors.PoolTimeoutError, match=f"pid {os.getppid()} 1"):
            pool.connection(0.1).__enter__()

    with forked(child) as process:
        assert process.join() == 0
    lease.__exit__(None, None, None)
    pool.stop()


# -- a relative folder ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wish", ["there", "./there", "~/there"])
def test_a_relative_folder_is_refused(
    sqlite_uri: str, runtime_folder: str, monkeypatch: pytest.MonkeyPatch, wish: str
) -> None:
    monkeypatch.chdir(runtime_folder)
    monkeypatch.setenv(paths.RUNTIME_DIR, wish)
    meant = os.path.join(runtime_folder, os.path.normpath(wish))
    said = f"MPPOOL_RUNTIME_DIR must be an absolute path, not '{wish}'.*{meant}"
    with pytest.raises(ValueError, match=said):
        PySQLXEnginePoolSync(sqlite_uri, 1, 1)
    with pytest.raises(ValueError, match=said):
        PoolManager(sqlite_uri, 1, "shop")
    with pytest.raises(errors.ManagerUnavailableError, match=said):
        PoolManager.attach("shop")
    assert os.listdir(runtime_folder) == []


def test_one_that_becomes_relative_later_is_refused_too(
    sqlite_uri: str, runtime_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = PySQLXEnginePoolSync(sqlite_uri, 1, 1)
    monkeypatch.setenv(paths.RUNTIME_DIR, "there")
    with pytest.raises(errors.ManagerUnavailableError, match="absolute"):
        pool.start()


def test_a_working_directory_that_is_gone(sqlite_uri: str, runtime_folder: str) -> None:
    """Nothing of ours needs one: a daemon's may have been a release that was since removed."""
    gone = os.path.join(runtime_folder, "release")

    def service() -> None:
        os.mkdir(gone)
        os.chdir(gone)
        os.rmdir(gone)
        with pytest.raises(FileNotFoundError):
            os.getcwd()
        with PySQLXEnginePoolSync(sqlite_uri, 1, 1) as pool:
            borrow(pool)
        os.environ[paths.RUNTIME_DIR] = "there"
        with pytest.raises(ValueError, match="absolute"):
            PySQLXEnginePoolSync(sqlite_uri, 1, 1)
        with pytest.raises(ValueError, match="must be absolute here, since the working directory"):
            PySQLXEnginePoolSync("sqlite:./x.db", 1, 1)

    with forked(service) as process:
        assert process.join() == 0
