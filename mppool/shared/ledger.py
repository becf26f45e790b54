"""The ledger: shared memory in which the manager and each member publish what the others need to know.

A header and one row a member, all 64-bit cells; every cell has exactly one writer, so nothing here needs a lock,
and a writer killed between two stores leaves each cell whole. The order of stores is what makes a crash harmless:
whoever raises a member's credit writes the ledger before the semaphore, whoever lowers it takes the semaphore
first. The ledger says at most what was true a moment ago; it grants nothing by itself.

It is a file in the budget's folder, so that the manager's successor finds it however its predecessor ended.
"""

from __future__ import annotations

import mmap
import os

MAGIC = 0x6D70706F6F6C31  # "mppool1": another layout gets another number
ROWS = 1024
NEVER = 1 << 62  # a limit that limits nothing

# Header cells; the manager writes them.
HEADER = 16
H_MAGIC, H_MAX_SIZE, H_MANAGER, H_STARTED, H_HUNGRY = range(5)

# Row cells. The manager's:
ROW = 16
PID, STARTED, CREDIT, TARGET, LIMIT, KNOWN = range(6)
# The member's, in the order of core.books.Account's reports:
HELD, IN_USE, MOVING, CLOSING, WAITING, SINCE, WARM, COST = range(8, 16)

SIZE = 8 * (HEADER + ROWS * ROW)


class Ledger:
    """The mapping, and nothing but cells: ``ledger.cells[ledger.row(3) + IN_USE]``.

    Args:
        fd: the file's descriptor; it stays the caller's, and is not needed any more.
    """

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, SIZE)
        self.cells = memoryview(self._map).cast("q")

    @classmethod
    def create(cls, path: str) -> tuple[Ledger, int]:
        """Make (or take over) the file; the ledger, and the descriptor that members are given. Raises: OSError."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.ftruncate(fd, SIZE)
        ledger = cls(fd)
        ledger.cells[H_MAGIC] = MAGIC
        return ledger, fd

    @staticmethod
    def row(index: int) -> int:
        return HEADER + index * ROW

    def facts(self, index: int) -> list[int]:
        """A member's own cells: held, in use, moving, closing, waiting, since (ns), warm, cost (ns)."""
        start = HEADER + index * ROW + HELD
        return self.cells[start : start + 8].tolist()

    def clear(self, index: int) -> None:
        start = HEADER + index * ROW
        for cell in range(start, start + ROW):
            self.cells[cell] = 0

    def close(self) -> None:
        self.cells.release()
        self._map.close()
