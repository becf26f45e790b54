"""Where a budget's files are on this host: in one private folder for each user, with one folder for each budget.

The path must not depend on the environment in which a program is started (a cron job and a shell of one user share a
budget by its name), so it is fixed; only ``MPPOOL_RUNTIME_DIR`` moves it. It is in memory where the system has such a
file system: a ledger on a disk would stall its writers whenever the disk stalls.

For a process that is a member of a budget, and for those forked from it, the path stays the same even if their
environment changes. A process that has changed its user has no access there any more, and is refused.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

RUNTIME_DIR = "MPPOOL_RUNTIME_DIR"
LEDGER, SOCKET, LOG, SEATS = "ledger", "socket", "log", "seats"  # in a budget's folder
HOSTS = "hosts"  # there, too: what `PoolManager.stats` tells of a budget's hosts
FILE_SLOT, ASKING = "slot-", "slot-to-ask-"  # and a number, there: see `file_slots`
RESERVE = ".reserve"  # after a budget's name: the budget that its reserve is
LOCK = ".lock"  # in the root: held while a manager is launched, and while one leaves; no budget can have such a name


class UnsafeFolder(OSError):
    """The folder is not safe for this user's budgets, or would not stay the same."""


class _Home:
    """Where a budget is of which this process is a member, or the process that it was forked from."""

    __slots__ = ("inherited", "root", "seats", "user")

    def __init__(self) -> None:
        self.root, self.user = root(), os.geteuid()
        self.seats: list[Callable[[], bool]] = []  # each tells whether this process is still there
        self.inherited = False


_homes: dict[str, _Home] = {}


def arrived(name: str, stays: Callable[[], bool]) -> None:
    """This process is a member of a budget, or owns it, as long as ``stays()``."""
    home = _home(name)
    if home is None:
        home = _homes[name] = _Home()
    home.seats = [*filter(_call, home.seats), stays]


def _call(stays: Callable[[], bool]) -> bool:
    return stays()


def forked_in_child() -> None:
    """The memberships are the parent's."""
    for home in _homes.values():
        home.inherited, home.seats = True, []


def _home(name: str) -> _Home | None:
    """None: this process is no member, so the budget may be anywhere."""
    home = _homes.get(name)
    if home is None or any(map(_call, home.seats)):
        return home
    if home.inherited and (home.user != os.geteuid() or os.path.exists(os.path.join(home.root, name))):
        return home
    _homes.pop(name, None)
    return None


def changed_user(name: str) -> tuple[int, int] | None:
    """The user of this process when it became a member, and its user now; None: the same."""
    home = _home(name)
    return None if home is None or home.user == os.geteuid() else (home.user, os.geteuid())


def chosen() -> str | None:
    """The folder that the environment names, if any. Raises: UnsafeFolder: it is relative."""
    folder = os.environ.get(RUNTIME_DIR)
    if not folder or os.path.isabs(folder):
        return folder or None
    try:
        meant = f"; perhaps {os.path.abspath(folder)} is meant"
    except OSError:  # the working directory has been deleted
        meant = ""
    raise UnsafeFolder(
        f"the environment variable {RUNTIME_DIR} must be an absolute path, not {folder!r}: another working directory "
        f"would make it another folder, and one budget two{meant}"
    )


def usual() -> str:
    """The folder of all budgets of this user, unless the environment names one."""
    base = "/dev/shm" if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) else "/tmp"
    return f"{base}/mppool-{os.geteuid()}"


def root() -> str:
    """The folder of all budgets of this user. Raises: UnsafeFolder."""
    return os.path.normpath(chosen() or usual())


def folder(name: str) -> str:
    """A budget's folder. Raises: UnsafeFolder."""
    home = _home(name)
    return os.path.join(home.root if home is not None else root(), name)


def make_private(path: str, forbidden: int = 0o077) -> None:
    """Make a folder that only this user can enter, or check that the one there has no ``forbidden`` mode bits.

    Raises: UnsafeFolder.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise UnsafeFolder(f"{path} is not a folder")
    if status.st_uid != os.geteuid():
        raise UnsafeFolder(f"{path} belongs to user {status.st_uid}, not to {os.geteuid()}")
    if stat.S_IMODE(status.st_mode) & forbidden:
        raise UnsafeFolder(f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):o}); make it 700")


def make_folder(name: str) -> str:
    """The budget's folder, made if need be. Raises: UnsafeFolder, OSError."""
    path = folder(name)
    make_root(os.path.dirname(path))
    make_private(path)
    return path


def make_root(base: str | None = None) -> str:
    """The folder of all budgets, made if need be. A chosen one may be readable to others, but not writable."""
    base = base or root()
    make_private(base, 0o077 if base == usual() else 0o022)
    return base


def remove_folder(path: str) -> None:
    """Remove a budget's folder, if it is still there, and the lock with the last one. Only under the lock."""
    try:
        for name in os.listdir(path):
            if name in (SOCKET, LEDGER, LOG, SEATS, HOSTS) or name.startswith(FILE_SLOT):
                os.unlink(os.path.join(path, name))
        os.rmdir(path)
    except OSError:
        pass  # it is gone, or there is a file that is not ours
    base = os.path.dirname(path)
    if os.path.isdir(base) and os.listdir(base) == [LOCK]:
        os.unlink(os.path.join(base, LOCK))  # a process that waits for it sees that it is gone, and makes a new one
