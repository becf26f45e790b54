"""Seats: the kernel tells whether a member is still there, across PID namespaces and beyond an exec.

A member locks the byte of its token in a file of the budget before it attaches. The lock ends with the descriptor: when
the process ends, however it ends, and when it becomes another program. A pid and a start time tell less: they survive
an exec, and in another PID namespace they mean another process. The lock belongs to the open file, which a forked child
has, too. A child that has not closed its copy keeps a dead member's lock, so a pid that is gone still proves death.

Other systems than Linux have no such locks: there nothing is known of a seat, and pid and start time must do.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from mppool.shared import paths

__all__ = ["Seat", "Seats"]

_SET, _GET = getattr(fcntl, "F_OFD_SETLK", None), getattr(fcntl, "F_OFD_GETLK", None)
_FLOCK = struct.Struct("hhqqi0q")  # struct flock: type, whence, start, length, pid


def _open(folder: str) -> int:
    path = os.path.join(folder, paths.SEATS)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


class Seat:
    """One member's seat, until it is released, or its process ends or becomes another program. Several may have the
    same token.

    Raises: OSError.
    """

    def __init__(self, folder: str, token: int) -> None:
        self._fd = _open(folder)
        status = os.fstat(self._fd)
        self._file = status.st_dev, status.st_ino
        if _SET is None:
            return
        try:
            fcntl.fcntl(self._fd, _SET, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, token, 1, 0))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                self.release()
                raise  # else this kernel or file system has no such locks

    def release(self) -> None:
        """Close this process's copy. Its number may be another file's by now, if other code has closed it."""
        try:
            status = os.fstat(self._fd)
        except OSError:
            return
        if (status.st_dev, status.st_ino) == self._file:
            os.close(self._fd)
        self._file = (-1, -1)


class Seats:
    """A budget's seats, as its manager and the launcher of one see them.

    Args:
        folder: the budget's.
    """

    def __init__(self, folder: str) -> None:
        self._fd = _open(folder)

    def taken(self, token: int) -> bool:
        """Whether the member of that token may still be there."""
        return self._locked(token, 1) is not False

    def any_taken(self) -> bool:
        """Whether any member may still be there, in any PID namespace."""
        return self._locked(0, 0) is not False

    def _locked(self, start: int, length: int) -> bool | None:
        if _GET is None:
            return None
        try:
            found = fcntl.fcntl(self._fd, _GET, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0))
        except OSError:
            return None
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        os.close(self._fd)
