"""A host that has no room for a manager: no memory for its ledger, no more processes. The error says which, and what to
do; nothing is left behind, and the next try finds what has been made room for."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import threading

import pytest

from mppool import PoolManager, PySQLXEnginePoolSync, errors
from mppool.shared import identity, paths
from tests.waiting import forked

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and become somebody else")
START = """
import sys
from mppool import PySQLXEnginePoolSync, errors
try:
    PySQLXEnginePoolSync(sys.argv[1], 1, 2).start()
except errors.ManagerUnavailableError as error:
    print(error)
"""


@needs_root
@pytest.mark.parametrize("size", ["64k", "4k"])
def test_a_full_dev_shm(sqlite_uri: str, runtime_folder: str, size: str) -> None:
    mount = f'mount -t tmpfs -o size={size},mode=700 none {runtime_folder} && exec "$0" "$@"'
    if subprocess.run(["unshare", "-m", "sh", "-c", mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no folder of a small size can be mounted here")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, sys.executable, "-c", START, sqlite_uri],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert f"in {runtime_folder}/own-" in done.stdout, done
    assert "No space left on device. Make room there, or set MPPOOL_RUNTIME_DIR to another folder" in done.stdout


def test_a_limit_on_the_size_of_files(sqlite_uri: str, runtime_folder: str) -> None:
    def limited() -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        with pytest.raises(errors.ManagerUnavailableError, match=r"cannot write its ledger .*: File too large\. Make"):
            PoolManager(sqlite_uri, 2).start()
        assert os.listdir(runtime_folder) in ([], [paths.LOCK])

    with forked(limited) as child:
        assert child.join() == 0


def as_stranger(runtime_folder: str) -> None:
    """Become a user whom nobody else is, so that his processes can be counted."""
    stranger = 70_000 + os.getpid()
    os.chown(runtime_folder, stranger, stranger)
    os.setuid(stranger)


@needs_root
@pytest.mark.parametrize("more", [0, 1], ids=["no manager can be started", "it cannot become a process of its own"])
def test_no_more_processes(sqlite_uri: str, runtime_folder: str, more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = shutil.which(version, path="/usr/local/bin:/usr/bin")
    if python is None:
        pytest.skip("there is no interpreter that everybody can run")

    def limited() -> None:
        as_stranger(runtime_folder)
        monkeypatch.setattr(sys, "executable", python)
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        resource.setrlimit(resource.RLIMIT_NPROC, (1 + more, hard))
        manager = PoolManager(sqlite_uri, 2)
        with pytest.raises(errors.ManagerUnavailableError) as caught:
            manager.start()
        assert identity.NO_MORE in str(caught.value), caught.value
        assert os.listdir(runtime_folder) in ([], [paths.LOCK])
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
        with manager:
            assert manager.stats().max_size == 2

    with forked(limited) as child:
        assert child.join() == 0
    os.chown(runtime_folder, 0, 0)


def test_no_more_threads(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = PySQLXEnginePoolSync(sqlite_uri, 1, 2)

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for _ in range(3):
            with pytest.raises(errors.PoolError, match="cannot start its thread: this user may have no more processes"):
                pool.start()
    with pool, pool.connection(5) as conn:
        assert conn.query_first("SELECT 1 AS a").a == 1


@pytest.mark.parametrize("name", ["lock", "log", "ledger", "socket", "seats", "slot-0"])
def test_a_name_is_no_file_of_ours(sqlite_uri: str, name: str) -> None:
    with PoolManager(sqlite_uri, 1, name) as manager, manager.pool().connection(5) as conn:
        assert conn.query_first("SELECT 1 AS a").a == 1
        with PoolManager(sqlite_uri, 1, "shop") as other, other.pool().connection(5) as conn:
            assert conn.query_first("SELECT 1 AS a").a == 1
