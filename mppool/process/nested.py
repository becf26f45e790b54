"""Whether a caller that waits in vain holds connections itself: found by its own stack, when it is told of the timeout,
so that a borrow costs nothing for it."""

from __future__ import annotations

import sys
from collections.abc import Collection


def held_by_caller(faces: Collection[object]) -> int:
    """How many of these connections are variables of the functions that wait for us, in this thread or task."""
    wanted = {id(face) for face in faces}
    found: set[int] = set()
    frame = sys._getframe(1)
    while frame is not None and wanted:
        found |= wanted & set(map(id, list(frame.f_locals.values())))
        frame = frame.f_back  # type: ignore[assignment]
    return len(found)
