"""Waiting for a fact instead of sleeping, and children that are gone after the block."""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

__all__ = ["Child", "Whistle", "crowd", "forked", "until"]

Fact = TypeVar("Fact")


def until(fact: Callable[[], Fact], timeout: float = 5.0, *, stretches: bool = True) -> Fact:
    """Look until the fact is true, and return it.

    This asks whether something happens at all, not how fast it is. So on a busy machine, where starting a process takes
    as much longer as there are others that want its processor, the patience is longer by the same factor.

    Args:
        timeout: seconds on a machine that has nothing else to do.
        stretches: False: on any machine, since after that another mechanism would make the fact true.

    Raises: AssertionError: it is not true by then.
    """
    began = time.monotonic()
    while not (found := fact()):
        waited = time.monotonic() - began
        assert waited < timeout or (stretches and waited < timeout * crowd()), (
            f"not true within {waited:.1f} s; last seen: {found!r}"
        )
        time.sleep(0.002)
    return found


def crowd() -> float:
    """How many processes want each processor, by the system's average of a minute; at least one."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


class Whistle:
    """Blown in one process, heard in another. It also is silent for good once its last blower has let go of it."""

    def __init__(self) -> None:
        self.hears, self.blows = os.pipe()

    def blow(self) -> None:
        os.write(self.blows, b"!")

    def wait(self, timeout: float = 20.0) -> None:
        assert select.select([self.hears], [], [], timeout)[0], f"nothing heard in {timeout} s"
        assert os.read(self.hears, 1) == b"!"

    def wait_for_silence(self) -> None:
        """Wait, for ever, until nobody can blow it any more."""
        os.close(self.blows)
        while os.read(self.hears, 1):
            pass

    def __enter__(self) -> Whistle:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.hears)
        os.close(self.blows)


class Child:
    """A forked process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None  # exit code, or minus the signal that ended it

    def kill(self, number: int = signal.SIGKILL) -> int:
        os.kill(self.pid, number)
        return self.join()

    def join(self, timeout: float = 30.0) -> int:
        until(self._ended, timeout)
        assert self.status is not None
        return self.status

    def _ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None


def _run(function: Callable[..., Any], args: tuple[Any, ...]) -> NoReturn:
    code = 1
    try:
        function(*args)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # nothing of the test's process is to be torn down here


@contextmanager
def forked(function: Callable[..., Any], *args: Any) -> Iterator[Child]:
    """Run ``function`` in a child; after the block the child is gone, however it ended. If the block fails, a child
    that is still there shows its stacks (pytest's faulthandler, which it inherits, prints them when it is aborted)."""
    pid = os.fork()
    if not pid:
        _run(function, args)
    child, end = Child(pid), signal.SIGKILL
    try:
        yield child
    except BaseException:
        end = signal.SIGABRT
        raise
    finally:
        if child.status is None:
            os.kill(pid, end)
            child.join()
