"""Whether a caller that timed out holds connections itself. Its own stack shows that. It is looked at only when there
is a timeout to report, so a borrow costs nothing more."""

from __future__ import annotations

import sys
from collections.abc import Collection


def held_by_caller(faces: Collection[object]) -> int:
    """How many of these connections are variables of the functions that called this one, in this thread or task."""
    wanted = {id(face) for face in faces}
    found: set[int] = set()
    frame = sys._getframe(1)
    while frame is not None and wanted:
        found |= wanted & set(map(id, list(frame.f_locals.values())))
        frame = frame.f_back  # type: ignore[assignment]
    return len(found)
