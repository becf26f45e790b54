"""Turns: at most so many at a time over all processes, each a locked file in the budget's folder.

The kernel unlocks what a process held when it ends, so nobody has to keep books of turns, and none is lost. Who finds
none free asks again: a turn is a matter of milliseconds, and no order is kept among those who ask.
"""

from __future__ import annotations

import fcntl
import os

from mppool.shared import paths
from mppool.shared.descriptors import Lost, Owned

__all__ = ["FileSlot", "FileSlots"]


class FileSlot:
    """One turn, until it is given back.

    Args:
        slots: whose it is; None: one of any number.
        file: the locked one.
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
    """One process's way to the turns.

    Args:
        folder: where the files are made.
        what: what their names begin with.
    """

    def __init__(self, folder: str, what: str = paths.FILE_SLOT) -> None:
        self._folder, self._what = folder, what
        self._files: set[Owned] = set()

    def take(self, count: int) -> FileSlot | None:
        """A turn of ``count``; None: all are taken. Raises: OSError: the folder is gone."""
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
