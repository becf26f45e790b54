"""A member's semaphore: a count of unused permits that two processes can change and a selector can watch.

Taking and giving are single system calls, so a process killed in between has done all of it or nothing. The count
lives as long as a process holds one of its descriptors. Two makes of the same thing: an eventfd in semaphore mode
where there is one (Linux), else a pipe with a byte for each permit.

It does not know owners: a taker that dies keeps what it took. That is the books' business, not the semaphore's.
"""

from __future__ import annotations

import os

_EVENTFD = hasattr(os, "eventfd")


class EventSemaphore:
    """One eventfd; its value is the count."""

    def __init__(self, fds: list[int] | None = None) -> None:
        if fds is None:
            fds = [os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)]  # type: ignore[attr-defined, unused-ignore]
        self.fds = fds

    def fileno(self) -> int:
        """Readable while the count is above zero."""
        return self.fds[0]

    def give(self, permits: int = 1) -> None:
        os.eventfd_write(self.fds[0], permits)  # type: ignore[attr-defined, unused-ignore]

    def take(self) -> bool:
        """Take one permit if there is one; never waits."""
        try:
            os.eventfd_read(self.fds[0])  # type: ignore[attr-defined, unused-ignore]
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        while self.fds:
            os.close(self.fds.pop())


class PipeSemaphore(EventSemaphore):
    """A pipe of tokens. Holds as many as the pipe does: 65,536 on Linux, at least 16,384 elsewhere."""

    def __init__(self, fds: list[int] | None = None) -> None:
        if fds is None:
            fds = list(os.pipe())
            for fd in fds:
                os.set_blocking(fd, False)
        self.fds = fds

    def give(self, permits: int = 1) -> None:
        os.write(self.fds[1], b"." * permits)

    def take(self) -> bool:
        try:
            return os.read(self.fds[0], 1) != b""
        except BlockingIOError:
            return False


def make() -> EventSemaphore:
    """A new semaphore with nothing on it, of the best make this system has."""
    return EventSemaphore() if _EVENTFD else PipeSemaphore()


def adopt(fds: list[int]) -> EventSemaphore:
    """The semaphore whose descriptors came over a socket."""
    return EventSemaphore(fds) if len(fds) == 1 else PipeSemaphore(fds)
