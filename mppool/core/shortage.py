"""How long callers have been waiting here of late: what makes another process's connection worth a reconnect."""

from __future__ import annotations


class Shortage:
    """For how long callers have been waiting of late: a sum that rises while a caller waits, falls at a tenth of the
    speed while none does, and starts again when a permit comes.

    So a line that is empty for a moment is still a shortage, and a line that lasts a moment now and then is none.

    Attributes:
        since: since when callers have been waiting; 0: none is.
        ripe_at: when the sum will be as long as a reconnect takes, if callers go on waiting; 0: none waits. From then
            on a connection of another process is worth a reconnect.
    """

    __slots__ = ("_at", "_sum", "ripe_at", "since")

    FORGETS = 0.1

    def __init__(self) -> None:
        self._sum = self._at = self.since = self.ripe_at = 0.0

    def begins(self, now: float, cost: float) -> None:
        """A caller waits, and none did. ``cost``: seconds that a reconnect takes."""
        self._sum = max(0.0, min(self._sum, cost) - self.FORGETS * (now - self._at))
        self._at = self.since = now
        self.ripe_at = now + cost - self._sum

    def ends(self, now: float) -> None:
        """No caller waits any more."""
        self._sum += now - self._at
        self._at = now
        self.since = self.ripe_at = 0.0

    def is_relieved(self, now: float, cost: float) -> None:
        """A permit has come."""
        self._sum, self._at = 0.0, now
        if self.since:
            self.ripe_at = now + cost
