"""How long to wait before trying again: exponential, capped, and with jitter so that processes do not retry at once."""

from __future__ import annotations


class Backoff:
    """Pauses that double from ``first`` to ``most`` seconds; each is drawn between half of that and all of it.

    The random number (0 to 1) is an argument, so the machine stays pure. "Equal jitter": full jitter may retry
    at once, and a database that just came back should not see that.
    """

    __slots__ = ("failures", "first", "most")

    def __init__(self, first: float, most: float) -> None:
        self.first, self.most, self.failures = first, most, 0

    def failed(self, random: float) -> float:
        """Note one more failure; the seconds to wait before the next try."""
        pause = min(self.most, self.first * 2.0 ** min(self.failures, 60))
        self.failures += 1
        return pause * (0.5 + 0.5 * random)

    def succeeded(self) -> None:
        self.failures = 0
