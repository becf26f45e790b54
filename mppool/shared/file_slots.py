"""File slots: a limit over all processes, where each slot is a locked file in the budget's folder.

The kernel unlocks a file when the process that locked it ends, so no slot is lost and no process keeps account of them.
A process that finds none free asks again: a slot is held for milliseconds, and those that ask are served in no order.
"""

from __future__ import annotations

import fcntl
import os

from mppool.shared import paths
from mppool.shared.descriptors import Lost, Owned

__all__ = ["FileSlot", "FileSlots"]


class FileSlot:
    """One slot, until it is given back.

    Args:
        slots: of which it is one; None: there is no limit.
        file: the locked file.
    """

    __slots__ = ("_file", "_slots")

    def __init__(self, slots: FileSlots | None = None, file: Owned | None = None) -> None:
        self._slots, self._file = slots, file

    def give_back(self) -> None:
        """Only once."""
        if self._slots is not None and self._file is not None:
            try:
                fcntl.flock(self._file.use(), fcntl.LOCK_UN)  # a child forked in the meantime has a copy
            except Lost:
                pass  # other code of this process has closed it, which unlocks it
            self._slots.close(self._file)


class FileSlots:
    """The slots, as one process takes them.

    Args:
        folder: where the files are made.
        what: the beginning of their names.
    """

    def __init__(self, folder: str, what: str = paths.FILE_SLOT) -> None:
        self._folder, self._what = folder, what
        self._files: set[Owned] = set()

    def take(self, count: int) -> FileSlot | None:
        """One of ``count`` slots; None: all are taken. Raises: OSError: the folder is gone."""
        for number in range(count):
            path = os.path.join(self._folder, f"{self._what}{number}")
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            file = Owned(fd)
            self._files.add(file)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self.close(file)
                if not isinstance(error, BlockingIOError):
                    raise
            else:
                return FileSlot(self, file)
        return None

    def close(self, file: Owned) -> None:
        self._files.discard(file)
        file.close()

    def abandon(self) -> None:
        """In a forked child: close our copies of the parent's."""
        for file in list(self._files):
            self.close(file)
