"""A member's semaphore: a count of unused permits that two processes can change and a selector can watch.

Taking and giving are single system calls, so a process that is killed there has done all of it or nothing. The count
lives as long as a process holds one of its descriptors. There are two kinds: an eventfd in semaphore mode (Linux), else
a pipe with a byte for each permit.

A semaphore knows no owners: a taker that dies keeps what it took. The books take care of that.
"""

from __future__ import annotations

import os

from mppool.shared.descriptors import Owned

_EVENTFD = hasattr(os, "eventfd")


class EventSemaphore:
    """One eventfd; its value is the count.

    Args:
        fds: received from the process that made it. In this process other code runs, which may close them, so they are
            checked before each use. None: make it, in a process in which no other code runs.
    """

    def __init__(self, fds: list[int] | None = None) -> None:
        self.fds = self._make() if fds is None else fds
        self._owned = [] if fds is None else [Owned(fd) for fd in fds]

    def _make(self) -> list[int]:
        return [os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)]  # type: ignore[attr-defined, unused-ignore]

    def fileno(self) -> int:
        """Readable while the count is above zero."""
        return self.fds[0]

    def is_ours(self) -> bool:
        """Whether no other code of this process has closed it."""
        return bool(self.fds) and all(each.is_ours() for each in self._owned)

    def may_be_ours(self) -> bool:
        """The same, less surely and faster."""
        return bool(self.fds) and all(each.may_be_ours() for each in self._owned)

    def _use(self, which: int) -> int:
        return self._owned[which].use() if self._owned else self.fds[which]

    def give(self, permits: int = 1) -> None:
        """Raises: Lost."""
        os.eventfd_write(self._use(0), permits)  # type: ignore[attr-defined, unused-ignore]

    def take(self) -> bool:
        """Take one permit if there is one; never waits. Raises: Lost."""
        try:
            os.eventfd_read(self._use(0))  # type: ignore[attr-defined, unused-ignore]
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """May be called again."""
        fds, self.fds = self.fds, []
        if self._owned:
            for each in self._owned:
                each.close()
        else:
            for fd in fds:
                os.close(fd)


class PipeSemaphore(EventSemaphore):
    """A pipe of tokens. Holds as many as the pipe does: 65,536 on Linux, at least 16,384 elsewhere."""

    def _make(self) -> list[int]:
        fds = list(os.pipe())
        for fd in fds:
            os.set_blocking(fd, False)
        return fds

    def give(self, permits: int = 1) -> None:
        os.write(self._use(1), b"." * permits)

    def take(self) -> bool:
        try:
            return os.read(self._use(0), 1) != b""
        except BlockingIOError:
            return False


def make() -> EventSemaphore:
    """A new semaphore with nothing on it, of the best kind that this system has."""
    return EventSemaphore() if _EVENTFD else PipeSemaphore()


def adopt(fds: list[int]) -> EventSemaphore:
    """The semaphore whose descriptors came over a socket."""
    return EventSemaphore(fds) if len(fds) == 1 else PipeSemaphore(fds)
