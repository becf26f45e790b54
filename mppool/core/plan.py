"""What the policy decides at a time, and how many moves it may decide on."""

from __future__ import annotations

import math


class Plan:
    """What to do now. Grants are already booked; recalls are not, since only the semaphore knows what is there.

    Attributes:
        grants: (member, permits) to put on a semaphore.
        recalls: (member, permits) to take off a semaphore, as far as they are there; tell `Books.recalled`.
        again_at: when to plan again although nothing happened; None: never.
    """

    __slots__ = ("again_at", "grants", "recalls")

    def __init__(self) -> None:
        self.grants: list[tuple[int, int]] = []
        self.recalls: list[tuple[int, int]] = []
        self.again_at: float | None = None

    def due(self, now: float, at: float) -> bool:
        """Whether the time has come; if not, the plan is made again then."""
        if now < at and (self.again_at is None or at < self.again_at):
            self.again_at = at
        return now >= at


class MoveLimit:
    """A token bucket of moves: ``most`` at once, and then as many a second as their costs allow."""

    def __init__(self, processors: float, most: int) -> None:
        self._processors, self._most = processors, float(most)
        self._left, self._at = self._most, 0.0

    def left(self, now: float, cost: float) -> int:
        """Moves that may be made now."""
        self._left = min(self._most, self._left + max(0.0, now - self._at) * self._processors / cost)
        self._at = now
        return max(0, int(self._left))

    def next_at(self, now: float, cost: float) -> float:
        """When one more may be made; ``now``: as many as ever may be."""
        if self._left >= self._most:
            return now
        return now + (math.floor(self._left) + 1.0 - self._left) * cost / self._processors

    def spend(self, count: int) -> None:
        """Moves were made."""
        self._left = max(self._left - count, -self._most)
