"""Where a connection was borrowed: the file, line and function, and the thread or task.

That is taken at the borrow where a handle has a ``leak_threshold``, and costs a borrow about a microsecond.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from types import CodeType
from typing import Any, NamedTuple

__all__ = ["Place", "borrowed_at", "here"]

_OURS = (os.path.dirname(os.path.dirname(__file__)) + os.sep, contextlib.__file__)  # an ExitStack enters for its caller


class Place(NamedTuple):
    """A line of the program, and by whom it ran: ``thread worker-3``, ``task Task-7``."""

    code: CodeType
    line: int
    by: str

    def __str__(self) -> str:
        return f"{self.code.co_filename}:{self.line} in {self.code.co_name} ({self.by})"

    @property
    def short(self) -> str:
        """With the last two parts of the file's path only."""
        return str(self).removeprefix(self.code.co_filename).join((_tail(self.code.co_filename), ""))


def _tail(path: str) -> str:
    return os.sep.join(path.split(os.sep)[-2:])


def here() -> Place | None:
    """The line outside this package that runs; None: there is none."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back  # type: ignore[assignment]
    return frame and Place(frame.f_code, frame.f_lineno, _by())


def _by() -> str:
    asyncio = sys.modules.get("asyncio")  # without it there are no tasks
    if asyncio is not None and asyncio._get_running_loop() is not None:
        task = asyncio.current_task()
        if task is not None:
            return f"task {task.get_name()}"
    return f"thread {threading.current_thread().name}"


def borrowed_at(lease: Any) -> str:
    """ ", borrowed at" and the place of a lease; empty if it is not known."""
    place: Place | None = getattr(lease, "place", None)
    return f", borrowed at {place}" if place else ""
