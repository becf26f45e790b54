"""The statistics in the ledger's file: one block of sums for each member, and one for all members that have ended.

A member is the only writer of its block; it writes sums since it attached, as often as it likes. The manager adds the
block of a member that has ended to the sums of the ended, and clears it. It is killed in between without harm: the sums
of the ended are kept twice, and a single store, of the switch, says at once which copy counts and whose block has been
added to it. Until then nothing has happened; from then on, the successor has only to clear the block.

A reader takes no lock. It reads the switch before and after, and begins anew if it has changed.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BUCKETS", "COUNTERS", "SUMS", "Statistics"]

#: What a member counts, in the order of its block's first cells. Times are in µs.
COUNTERS = (
    "requests_num",
    "requests_queued",
    "requests_wait",
    "requests_errors",
    "requests_timeouts",
    "usage",
    "returns_bad",
    "connections_num",
    "connections_time",
    "connections_errors",
    "connections_refused",
    "connections_lost",
    "connections_closed",
    "rollbacks",
    "leaks",
    "moves",
)
BUCKETS = 66  # of each histogram; `mppool.stats.Histogram` has their bounds
WAIT = len(COUNTERS)  # the first cell of the histogram of waits, and of that of uses
USAGE = WAIT + BUCKETS
SUMS = USAGE + BUCKETS  # so many cells of a block are sums
OLDEST = SUMS  # since when the member's longest borrow lasts, in ns of the monotonic clock; 0: it does not tell
PLACE = OLDEST + 1  # where that was made: text in UTF-8, filled up with zeros
PLACE_CELLS = 16
BLOCK = 168

# The manager's cells.
SWITCH, BORN, GRANTS, RECALLS, SUCCESSIONS = range(5)
HEADER = 8
_MARK = 16  # bits of the switch that say whose block has been added, as its number + 1; above them is a count
_TRIES = 10  # of a reader: then a moment's sums are as good as may be
_MOST = 1 << 62

START = HEADER + 2 * SUMS  # cells in front of the blocks


class Statistics:
    """A view of them.

    Args:
        cells: the ledger's.
        at: the first cell of the statistics.
    """

    __slots__ = ("_at", "cells")

    def __init__(self, cells: memoryview[int], at: int) -> None:
        self.cells, self._at = cells, at

    def block(self, member: int) -> int:
        """The first cell of a member's block."""
        return self._at + START + member * BLOCK

    def get(self, cell: int) -> int:
        """One of the manager's cells."""
        return self.cells[self._at + cell]

    # -- the manager's ---------------------------------------------------------------------------------------

    def set(self, cell: int, value: int) -> None:
        """Write one of the manager's cells."""
        self.cells[self._at + cell] = value

    def add(self, cell: int, count: int) -> None:
        self.cells[self._at + cell] += count

    def end(self, member: int) -> None:
        """A member has ended: add its sums to those of the ended. Done twice, it is done once."""
        cells, block, switch = self.cells, self.block(member), self.get(SWITCH)
        sums = cells[block : block + SUMS].tolist()
        if any(sums):
            count = (switch >> _MARK) + 1
            source, target = self._copy(count - 1), self._copy(count)
            for cell, value in enumerate(sums):  # a member may write nonsense there
                cells[target + cell] = min(cells[source + cell] + max(0, value), _MOST)
            self.set(SWITCH, count << _MARK | (member + 1))
            self._clear(member)
            self.set(SWITCH, count << _MARK)
        else:
            self._clear(member)

    def complete(self) -> None:
        """Complete what a predecessor was killed in."""
        switch = self.get(SWITCH)
        member = self._added(switch)
        if member is not None:
            self._clear(member)
            self.set(SWITCH, switch >> _MARK << _MARK)

    def _clear(self, member: int) -> None:
        block = self.block(member)
        for cell in range(block, block + BLOCK):
            self.cells[cell] = 0

    def _copy(self, count: int) -> int:
        return self._at + HEADER + (count & 1) * SUMS

    @staticmethod
    def _added(switch: int) -> int | None:
        return (switch & ((1 << _MARK) - 1)) - 1 if switch & ((1 << _MARK) - 1) else None

    # -- a reader's ------------------------------------------------------------------------------------------

    def read(self, members: Iterable[int]) -> tuple[list[int], dict[int, list[int]]]:
        """The sums of the ended, and those of each of these members; all of one moment, but for what members count
        meanwhile."""
        cells = self.cells
        tries = 0
        while True:
            switch = self.get(SWITCH)
            ended = self._copy(switch >> _MARK)
            sums = cells[ended : ended + SUMS].tolist()
            blocks = {member: self._sums(member) for member in members if member != self._added(switch)}
            tries += 1
            if self.get(SWITCH) == switch or tries >= _TRIES:
                return sums, blocks

    def _sums(self, member: int) -> list[int]:
        block = self.block(member)
        return self.cells[block : block + SUMS].tolist()

    def oldest(self, member: int) -> tuple[int, str]:
        """Since when a member's longest borrow lasts, in ns of the monotonic clock, and where it was made; (0, ""):
        the member does not tell."""
        cells, block = self.cells, self.block(member)
        since = cells[block + OLDEST]
        text = bytes(cells[block + PLACE : block + PLACE + PLACE_CELLS])
        if not since or cells[block + OLDEST] != since:
            return 0, ""
        return since, text.rstrip(b"\0").decode(errors="replace")
