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
import zlib

from mppool.shared import identity
from mppool.shared.descriptors import never_close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC = 0x6D70706F6F6C34  # "mppool4": another layout gets another number
ROWS = 1024
NEVER = 1 << 62  # a limit that limits nothing

# Header cells; the manager writes them.
HEADER = 16
H_MAGIC, H_MAX_SIZE, H_MANAGER, H_STARTED, H_SHORT, H_DATABASE, H_STOPPING, H_COST, H_TELLING, H_SPACE = range(10)

# Row cells. The manager's:
ROW = 24
PID, STARTED, CREDIT, TARGET, LIMIT, KNOWN, TOKEN = range(7)
# The member's: whether it left while there was no manager to tell; and its facts, which `core.accounts.Account`
# explains. Times are in ns of the monotonic clock.
LEFT = 7
HELD, IN_USE, MOVING, CLOSING, WAITING, SINCE, RIPE_AT, IDLE_SINCE, WARM, COST = FACTS = range(8, 18)
LOST = 18  # and how many of its connections in use are closed, but not at the server

SIZE = 8 * (HEADER + ROWS * ROW)


def database_key(key: str) -> int:
    """A number to know a database by again."""
    data = key.encode()
    return zlib.crc32(data) << 30 ^ zlib.adler32(data)


def reserve(fd: int) -> None:
    """Give the file its memory now: a store into a mapping that has none to be had would end the process."""
    for offset in range(0, SIZE, 4096):
        os.pwrite(fd, bytes(min(4096, SIZE - offset)), offset)


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
        """Make the file, or take over the predecessor's with all that is in it; the ledger, and the descriptor that
        members are given. Raises: OSError."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size < SIZE:
                reserve(fd)
            ledger = cls(fd)
        except BaseException:
            os.close(fd)
            raise
        if ledger.cells[H_MAGIC] != MAGIC:
            for cell in range(len(ledger.cells)):
                ledger.cells[cell] = 0
            ledger.cells[H_MAGIC] = MAGIC
        return ledger, fd

    def living(self, taken: Callable[[int], bool]) -> list[int]:
        """Rows of members that are still there, by pid, start time and seat, and have not left.

        Args:
            taken: whether the seat of a token may be: see `seats`. Nobody is asked about a row without a token.
        """
        cells = self.cells
        return [
            row
            for row in range(ROWS)
            if cells[(at := self.row(row)) + PID]
            and not cells[at + LEFT]
            and identity.alive(cells[at + PID], cells[at + STARTED])
            and (not cells[at + TOKEN] or taken(cells[at + TOKEN]))
        ]

    @staticmethod
    def row(index: int) -> int:
        return HEADER + index * ROW

    def facts(self, index: int) -> list[int]:
        """A member's own cells, from held to cost."""
        start = HEADER + index * ROW
        return self.cells[start + FACTS.start : start + FACTS.stop].tolist()

    def column(self, cell: int, rows: int) -> list[int]:
        """One cell of each of the first so many rows."""
        return self.cells[HEADER + cell : HEADER + rows * ROW : ROW].tolist()

    def clear(self, index: int) -> None:
        start = HEADER + index * ROW
        for cell in range(start, start + ROW):
            self.cells[cell] = 0

    def close(self) -> None:
        self.cells.release()
        if self._is_ours():
            self._map.close()
        else:
            never_close(self._map)

    def _is_ours(self) -> bool:
        """Whether the descriptor that Python keeps for the mapping, and would close by its number, is still the one of
        this file. It does not tell the number, but asks for the size of what it finds there."""
        try:
            return self._map.size() == SIZE
        except OSError:
            return False

    def __del__(self) -> None:
        mapped = getattr(self, "_map", None)
        if mapped is not None and not mapped.closed and not self._is_ours():
            never_close(mapped)
