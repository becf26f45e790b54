"""Folders that nobody else can enter, nor have made before us."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

import pytest

from mppool.shared import paths
from mppool.shared.paths import UnsafeFolder

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")


def mode(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.fixture
def fixed_place(monkeypatch: pytest.MonkeyPatch, runtime_folder: str) -> str:
    """The root is where it is without a wish, only that this happens to be in the test's own folder."""
    place = os.path.join(runtime_folder, "fixed")
    monkeypatch.delenv("MPPOOL_RUNTIME_DIR")
    monkeypatch.setattr(paths, "usual", lambda: place)
    return place


# -- where ---------------------------------------------------------------------------------------------------


def test_a_wish_moves_the_root_and_must_be_absolute(monkeypatch: pytest.MonkeyPatch, runtime_folder: str) -> None:
    assert paths.root() == runtime_folder
    assert paths.folder("shop") == os.path.join(runtime_folder, "shop")
    monkeypatch.chdir(runtime_folder)
    monkeypatch.setenv("MPPOOL_RUNTIME_DIR", "there")
    with pytest.raises(UnsafeFolder, match=f"absolute path, not 'there'.*perhaps {runtime_folder}/there is meant"):
        paths.root()


@pytest.mark.parametrize("wish", [None, ""])
@pytest.mark.parametrize("elsewhere", ["TMPDIR", "XDG_RUNTIME_DIR", "HOME"])
def test_nothing_else_in_the_environment_does(
    monkeypatch: pytest.MonkeyPatch, wish: str | None, elsewhere: str
) -> None:
    """A cron job and a shell of one user must find each other."""
    monkeypatch.delenv("MPPOOL_RUNTIME_DIR")
    usual = paths.root()
    assert usual in {f"/dev/shm/mppool-{os.getuid()}", f"/tmp/mppool-{os.getuid()}"}
    if wish is not None:
        monkeypatch.setenv("MPPOOL_RUNTIME_DIR", wish)
    monkeypatch.setenv(elsewhere, "/nowhere")
    assert paths.root() == usual


@pytest.mark.parametrize("lack", ["isdir", "access"])
def test_without_memory_backed_files_it_is_tmp(monkeypatch: pytest.MonkeyPatch, lack: str) -> None:
    monkeypatch.delenv("MPPOOL_RUNTIME_DIR")
    owner = os.path if lack == "isdir" else os
    with monkeypatch.context() as patch:
        patch.setattr(owner, lack, lambda *_: False)
        root = paths.root()
    assert root == f"/tmp/mppool-{os.getuid()}"


def test_a_sockets_path_fits_for_the_longest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPPOOL_RUNTIME_DIR")
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: 2**32 - 2)
        longest = os.path.join(paths.folder("n" * 64), paths.SOCKET)
    assert len(longest) < 104, "the shortest limit there is, macOS's"


# -- whose ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_folders_are_made_private_whatever_the_umask(fixed_place: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        folder = paths.make_folder("shop")
    finally:
        os.umask(before)
    assert folder == os.path.join(fixed_place, "shop")
    assert (mode(fixed_place), mode(folder)) == (0o700, 0o700)
    assert paths.make_folder("shop") == folder, "one that is there and private is taken"


def make_symlink(path: str) -> None:
    os.mkdir(path + ".target", 0o700)
    os.symlink(path + ".target", path)


def make_file(path: str) -> None:
    with open(path, "x"):
        pass


@pytest.fixture(autouse=True)
def _traps_are_removed(runtime_folder: str) -> Iterator[None]:
    yield
    for name in os.listdir(runtime_folder):
        if os.path.isfile(path := os.path.join(runtime_folder, name)):
            os.unlink(path)


def make_foreign(path: str) -> None:
    os.mkdir(path, 0o700)
    os.chown(path, 65_534, 65_534)


def make_open(bits: int) -> Callable[[str], None]:
    def make(path: str) -> None:
        os.mkdir(path)
        os.chmod(path, bits)

    return make


TRAPS = [
    pytest.param(make_symlink, "not a folder", id="symlink"),
    pytest.param(make_file, "not a folder", id="file"),
    pytest.param(make_foreign, "belongs to user 65534", id="foreign", marks=needs_root),
    pytest.param(make_open(0o777), "open to others", id="writable"),
    pytest.param(make_open(0o1777), "open to others", id="sticky"),
]
READABLE = pytest.param(make_open(0o755), "open to others", id="readable")


@pytest.mark.parametrize(("trap", "words"), [*TRAPS, READABLE])
def test_a_folder_made_before_us_is_refused(fixed_place: str, trap: Callable[[str], None], words: str) -> None:
    trap(fixed_place)
    with pytest.raises(UnsafeFolder, match=words) as caught:
        paths.make_folder("shop")
    assert fixed_place in str(caught.value)
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize(("trap", "words"), [*TRAPS, READABLE])
def test_so_is_a_budgets(runtime_folder: str, trap: Callable[[str], None], words: str) -> None:
    trap(os.path.join(runtime_folder, "shop"))
    with pytest.raises(UnsafeFolder, match=words):
        paths.make_folder("shop")


@pytest.mark.parametrize(("trap", "words"), TRAPS)
def test_a_chosen_root_is_checked_too(
    monkeypatch: pytest.MonkeyPatch, runtime_folder: str, trap: Callable[[str], None], words: str
) -> None:
    chosen = os.path.join(runtime_folder, "chosen")
    monkeypatch.setenv("MPPOOL_RUNTIME_DIR", chosen)
    trap(chosen)
    with pytest.raises(UnsafeFolder, match=words):
        paths.make_root()


def test_a_chosen_root_may_be_readable(monkeypatch: pytest.MonkeyPatch, runtime_folder: str) -> None:
    chosen = os.path.join(runtime_folder, "chosen")
    make_open(0o755)(chosen)
    monkeypatch.setenv("MPPOOL_RUNTIME_DIR", chosen)
    assert paths.make_root() == chosen
    assert mode(paths.make_folder("shop")) == 0o700


# -- taking it away ------------------------------------------------------------------------------------------


def test_remove_takes_our_files_and_the_folder(runtime_folder: str) -> None:
    folder = paths.make_folder("shop")
    for name in (paths.LEDGER, paths.LOG):
        make_file(os.path.join(folder, name))
    paths.remove_folder(folder)
    assert os.listdir(runtime_folder) == []
    paths.remove_folder(folder)  # it is gone already
    paths.remove_folder(os.path.join(runtime_folder, "root", "shop"))  # the root with it


def test_the_lock_goes_with_the_last_budget(runtime_folder: str) -> None:
    first, last = paths.make_folder("first"), paths.make_folder("last")
    make_file(os.path.join(runtime_folder, paths.LOCK))
    paths.remove_folder(first)
    assert sorted(os.listdir(runtime_folder)) == [paths.LOCK, "last"]
    paths.remove_folder(last)
    assert os.listdir(runtime_folder) == []


def test_remove_leaves_what_is_not_ours(runtime_folder: str) -> None:
    folder = paths.make_folder("shop")
    for name in (paths.LEDGER, "notes"):
        make_file(os.path.join(folder, name))
    paths.remove_folder(folder)
    assert os.listdir(folder) == ["notes"]
    os.unlink(os.path.join(folder, "notes"))
