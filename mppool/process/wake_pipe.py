"""A pipe that wakes a thread that sleeps on a selector."""

from __future__ import annotations

import os

from mppool.shared.descriptors import Owned


class WakePipe:
    """Wakes a selector from any thread. Notified any number of times, it wakes once.

    It needs no descriptor until it is prepared: a process that makes one may have none free just then.
    """

    def __init__(self) -> None:
        self._read: Owned | None = None
        self._write: Owned | None = None
        self._notified = False

    def prepare(self) -> None:
        """From now on it can be slept on. Raises: OSError: there is no free descriptor."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        self._read, self._write = Owned(read), Owned(write)
        self._notified = False

    def is_ready(self) -> bool:
        """Whether it can be slept on: no other code has closed it."""
        ends = self._read, self._write
        return all(end is not None and end.may_be_ours() for end in ends)

    def fileno(self) -> int:
        return -1 if self._read is None else self._read.fd

    def notify(self) -> bool:
        """False: other code has closed it, and it wakes no thread."""
        write = self._write
        if write is None or write.fd < 0:
            self._notified = True  # no thread sleeps on it yet, or any more
        elif not write.may_be_ours():
            return False
        elif not self._notified:
            try:
                self._notified = True
                os.write(write.fd, b"!")
            except OSError:
                pass  # full: it has been notified
            except BaseException:  # Ctrl-C: this one may not have been written, so the next one must be
                self._notified = False
                raise
        return True

    def clear(self) -> None:
        """Before looking at what there is to do, so that what comes later is a notification again."""
        try:
            os.read(self._read.use() if self._read is not None else -1, 64)
        except OSError:
            pass
        self._notified = False

    def close(self) -> None:
        self._notified = True
        for end in (self._read, self._write):
            if end is not None:
                end.close()
