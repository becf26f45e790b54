"""Turns: at most so many at a time over all processes, each a locked file in the budget's folder.

The kernel unlocks what a process held when it ends, so nobody has to keep books of turns, and none is lost. Who finds
none free asks again: a turn is a matter of milliseconds, and no order is kept among those who ask.
"""

from __future__ import annotations

import fcntl
import os

from mppool.shared import paths

__all__ = ["Turn", "Turns"]


class Turn:
    """One turn, until it is given back.

    Args:
        turns: whose it is; None: one of any number.
        fd: the locked file.
    """

    __slots__ = ("_fd", "_turns")

    def __init__(self, turns: Turns | None = None, fd: int = -1) -> None:
        self._turns, self._fd = turns, fd

    def give_back(self) -> None:
        """Only once."""
        if self._turns is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # a child forked in the meantime has a copy of the descriptor
            self._turns.close(self._fd)


class Turns:
    """One process's way to the turns.

    Args:
        folder: where the files are made.
        what: what their names begin with.
    """

    def __init__(self, folder: str, what: str = paths.TURN) -> None:
        self._folder, self._what = folder, what
        self._fds: set[int] = set()

    def take(self, count: int) -> Turn | None:
        """A turn of ``count``; None: all are taken. Raises: OSError: the folder is gone."""
        for number in range(count):
            path = os.path.join(self._folder, f"{self._what}{number}")
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            self._fds.add(fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self.close(fd)
                if not isinstance(error, BlockingIOError):
                    raise
            else:
                return Turn(self, fd)
        return None

    def close(self, fd: int) -> None:
        self._fds.discard(fd)
        os.close(fd)

    def abandon(self) -> None:
        """In a forked child: close our copies of the parent's."""
        for fd in list(self._fds):
            self.close(fd)
