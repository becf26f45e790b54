"""Where a budget lives on this host: one private folder a user, one folder in it a budget.

The place must not depend on the environment a program happens to be started in (a cron job and a shell of one
user share a budget by its name), so it is a fixed one; only ``MPPOOL_RUNTIME_DIR`` moves it. Memory-backed where
that is to be had: a ledger on a disk would stall its writers whenever the disk does.
"""

from __future__ import annotations

import os
import stat

LEDGER, SOCKET, LOG = "ledger", "socket", "log"  # in a budget's folder
TURN, ASKING = "turn-", "turn-to-ask-"  # and a number, there: see `turns`
LOCK = "lock"  # in the root: held while a manager is launched, and while one leaves


class UnsafeFolder(OSError):
    """The folder exists and is somebody else's, or open to others."""


def root() -> str:
    """The folder of all budgets of this user."""
    chosen = os.environ.get("MPPOOL_RUNTIME_DIR")
    if chosen:
        return os.path.abspath(chosen)
    base = "/dev/shm" if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) else "/tmp"
    return f"{base}/mppool-{os.getuid()}"


def folder(name: str) -> str:
    return os.path.join(root(), name)


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
    if status.st_uid != os.getuid():
        raise UnsafeFolder(f"{path} belongs to user {status.st_uid}, not to {os.getuid()}")
    if stat.S_IMODE(status.st_mode) & forbidden:
        raise UnsafeFolder(f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):o}); make it 700")


def make_folder(name: str) -> str:
    """The budget's folder, made if need be. Raises: UnsafeFolder, OSError."""
    make_root()
    path = folder(name)
    make_private(path)
    return path


def make_root() -> str:
    """The folder of all budgets, made if need be. A chosen one may be readable to others, but not writable."""
    base = root()
    make_private(base, 0o022 if os.environ.get("MPPOOL_RUNTIME_DIR") else 0o077)
    return base


def remove_folder(path: str) -> None:
    """Take a budget's folder away, as far as it is still there, and the lock with the last one. Only under the lock."""
    try:
        for name in os.listdir(path):
            if name in (SOCKET, LEDGER, LOG) or name.startswith(TURN):
                os.unlink(os.path.join(path, name))
        os.rmdir(path)
    except OSError:
        pass  # it is gone, or somebody put something there
    base = os.path.dirname(path)
    if os.path.isdir(base) and os.listdir(base) == [LOCK]:
        os.unlink(os.path.join(base, LOCK))  # whoever waits for it sees that it is gone, and makes a new one
