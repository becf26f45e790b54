"""The last minutes of a budget, for lines of small bars: connections in use, callers that wait, the p99 of waits."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

__all__ = ["History", "Moment"]


class Moment(NamedTuple):
    """``in_use`` connections, ``waiting`` callers, ``wait`` (p99, seconds) of the requests since the moment before."""

    in_use: float
    waiting: float
    wait: float


class History:
    """Moments, several of which make one bar: the greatest of them counts.

    Args:
        length: moments that are kept.
        each: moments in one bar.
    """

    def __init__(self, length: int, each: int) -> None:
        self._bars: deque[Moment] = deque(maxlen=-(-length // each))
        self._each, self._count = each, 0

    def add(self, moment: Moment) -> None:
        """The newest moment."""
        if self._count % self._each:
            last = self._bars.pop()
            moment = Moment(*map(max, last, moment))
        self._bars.append(moment)
        self._count += 1

    def copy(self) -> History:
        """As it is now."""
        made = History(1, self._each)
        made._bars, made._count = self._bars.copy(), self._count
        return made

    def bars(self, which: str, columns: int) -> list[float | None]:
        """The last bars, one a column, the newest on the right; None where there is none yet."""
        values = [getattr(bar, which) for bar in self._bars][-columns:] if columns > 0 else []
        none: list[float | None] = [None]
        return none * (columns - len(values)) + values
