"""This host's budgets and the folder that holds them, for programs that look at them: ``mppool ls`` and ``doctor``.

Looking changes nothing: no manager is launched, no folder is removed.
"""

from __future__ import annotations

import os
import resource
import stat
from dataclasses import dataclass

from mppool.shared import paths, room
from mppool.shared.identity import space
from mppool.shared.neighbours import Found

__all__ = ["Budget", "RuntimeFolder", "budgets", "is_reserve", "members_within", "runtime_folder"]

NEEDED = 4 << 20  # bytes that a runtime folder should have free: some ledgers


@dataclass(frozen=True)
class Budget:
    """One budget of this user, as its folder shows it.

    Attributes:
        name: of the budget; made up if the program gave none (``own-…``) or if it is a scope's (``scope-…``).
        managed: whether its manager runs.
        members: whether processes of it are, or may be, alive.
        elsewhere: whether its processes are in another PID namespace (another container, say).
        readable: whether this version of mppool can read it.
    """

    name: str
    managed: bool
    members: bool
    elsewhere: bool = False
    readable: bool = True

    @property
    def running(self) -> bool:
        """Whether it has a manager or a member."""
        return self.managed or self.members


@dataclass(frozen=True)
class RuntimeFolder:
    """The folder of all budgets of this user.

    Attributes:
        path: of the folder; empty if the environment names a path that cannot be used.
        chosen: whether the environment variable ``MPPOOL_RUNTIME_DIR`` names it.
        exists: whether it is there; the first budget makes it.
        free: bytes that can still be written there.
        problem: why no budget can be kept there; empty: one can.
    """

    path: str
    chosen: bool
    exists: bool
    free: int
    problem: str = ""


def runtime_folder() -> RuntimeFolder:
    """Look at the folder of all budgets of this user, as the environment of this process names it."""
    chosen = bool(os.environ.get(paths.RUNTIME_DIR))
    try:
        path = paths.root()
    except paths.UnsafeFolder as error:
        return RuntimeFolder("", chosen, False, 0, str(error))
    exists, free, problem = os.path.lexists(path), 0, ""
    try:
        disk = os.statvfs(path if exists else os.path.dirname(path))
        free = disk.f_bavail * disk.f_frsize
        problem = _problem(path, exists) or (f"{path} has {free >> 10} KB free" if free < NEEDED else "")
        space()
    except OSError as error:
        problem = problem or str(error)
    return RuntimeFolder(path, chosen, exists, free, problem)


def _problem(path: str, exists: bool) -> str:
    """What `paths.make_root` would refuse; nothing is made."""
    if not exists:
        place = os.path.dirname(path)
        return "" if os.access(place, os.W_OK | os.X_OK) else f"{place} cannot be written to, and {path} is not there"
    status, forbidden = os.lstat(path), 0o077 if path == paths.usual() else 0o022
    if not stat.S_ISDIR(status.st_mode):
        return f"{path} is not a folder"
    if status.st_uid != os.geteuid():
        return f"{path} belongs to user {status.st_uid}, not to {os.geteuid()}"
    if stat.S_IMODE(status.st_mode) & forbidden:
        return f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):o})"
    return ""


def budgets() -> tuple[Budget, ...]:
    """The budgets of this user that have a folder here, by name, also those whose processes have all been killed.

    Raises: OSError: the folder cannot be read.
    """
    try:
        root = paths.root()
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return ()
    found = (_budget(os.path.join(root, name), name) for name in names if name != paths.LOCK)
    return tuple(budget for budget in found if budget is not None)


def _budget(folder: str, name: str) -> Budget | None:
    try:
        with Found(folder) as found:
            if not found.known:
                return Budget(name, False, False, readable=False)
            return Budget(name, found.has_manager(), found.has_members(), found.elsewhere)
    except OSError:  # it is being made or removed, or is none
        return None


def is_reserve(name: str) -> bool:
    """Whether a budget is the reserve of another, by its name."""
    return name.endswith(paths.RESERVE)


def members_within(manager: int, max_size: int) -> int | None:
    """How many processes a manager can serve within its limit of open files; None: the system does not tell.

    Args:
        manager: its pid.
        max_size: permits of its budget.
    """
    try:
        limit = resource.prlimit(manager, resource.RLIMIT_NOFILE)[1]
    except (AttributeError, OSError):
        return None
    return None if limit < 0 else room.members_within(limit, max_size)
