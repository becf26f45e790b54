"""What is told of this host's budgets and their folder."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from mppool import PoolManager, host
from mppool.shared import ledger as L
from mppool.shared import paths
from tests.waiting import forked


def test_budgets_are_found_by_their_folders(sqlite_uri: str, runtime_folder: str) -> None:
    assert host.budgets() == ()
    with PoolManager(sqlite_uri, 3, "shop") as manager, manager.pool().connection():
        os.mkdir(os.path.join(runtime_folder, "empty"))
        assert host.budgets() == (host.Budget("shop", True, True),)
        assert host.budgets()[0].running
        os.rmdir(os.path.join(runtime_folder, "empty"))


def test_a_killed_program_and_another_version_are_told_apart(runtime_folder: str) -> None:
    for name, magic in (("dead", L.MAGIC), ("other", 7)):
        os.mkdir(os.path.join(runtime_folder, name))
        ledger, fd = L.Ledger.create(os.path.join(runtime_folder, name, paths.LEDGER))
        ledger.header.magic = magic
        ledger.close()
        os.close(fd)
    dead, other = host.budgets()
    assert (dead.name, dead.running, dead.readable) == ("dead", False, True)
    assert (other.name, other.running, other.readable) == ("other", False, False)
    for name in ("dead", "other"):
        paths.remove_folder(os.path.join(runtime_folder, name))


def test_the_folder(runtime_folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = host.runtime_folder()
    assert (found.path, found.chosen, found.exists, found.problem) == (runtime_folder, True, True, "")
    assert found.free > 0
    os.chmod(runtime_folder, 0o722)
    assert "open to others (mode 722)" in host.runtime_folder().problem
    os.chmod(runtime_folder, 0o700)
    (tmp_path / "file").touch()
    for path, problem in ((tmp_path / "new", ""), (tmp_path / "file", "is not a folder"), ("/nope/x", "No such file")):
        monkeypatch.setenv(paths.RUNTIME_DIR, str(path))
        assert problem in host.runtime_folder().problem
        assert bool(host.runtime_folder().problem) == bool(problem)
    monkeypatch.setenv(paths.RUNTIME_DIR, "relative")
    assert host.runtime_folder().path == ""
    assert "must be an absolute path" in host.runtime_folder().problem
    monkeypatch.delenv(paths.RUNTIME_DIR)
    assert host.runtime_folder().path == paths.usual()


def test_room_for_members() -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
        assert host.members_within(os.getpid(), 10) == (200 - 64 - 10) // 3

    with forked(few) as child:
        assert child.join() == 0
    assert host.members_within(1 << 30, 10) is None
