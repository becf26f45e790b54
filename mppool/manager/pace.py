"""How often the manager settles."""

from __future__ import annotations


class Pace:
    """Keeps the manager from settling more often than it helps: a few times in a row, then once a millisecond for all
    that came together."""

    REST, IN_A_ROW = 0.001, 8

    def __init__(self) -> None:
        self._until = 0.0  # with no more settlements, the next ones may be in a row again from then on

    def settles(self, now: float) -> None:
        """A settlement begins."""
        self._until = max(now, self._until) + self.REST

    def rest(self, now: float) -> float:
        """Seconds to rest; 0: none."""
        return max(0.0, self._until - now - self.IN_A_ROW * self.REST)
