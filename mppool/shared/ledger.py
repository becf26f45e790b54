"""The ledger: shared memory in which the manager and each member publish what the others need to know.

It is a header, one row for each member, and the `statistics`, all 64-bit cells. Every cell has exactly one writer, so
nothing here needs a lock, and a writer that is killed between two stores leaves each cell whole. The order of stores
makes a crash harmless: a process that raises a member's credit writes the ledger before the semaphore, one that lowers
it takes the semaphore first. The ledger says what was true a moment ago; it grants nothing by itself.

It is a file in the budget's folder, so that the manager's successor finds it, however its predecessor ended.

The words, used like this in all rooms:

    member   a process's pool, as the manager knows it. Its number is the index of its row.
    row      what a member and the manager publish of the member here.
    account  what the manager's books say of a member (`core.accounts`). Its key is the member's number.
    seat     the lock by which the kernel tells that a member is still there (`seats`).
    client   a connection to the manager: of a member, of an owner, or of a process that only asks (`manager.clients`).
"""

from __future__ import annotations

import mmap
import os
import zlib
from time import monotonic_ns

from mppool.shared import identity, statistics
from mppool.shared.descriptors import never_close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC = 0x6D70706F6F6C36  # "mppool6": another layout gets another number
ROWS = 1024
COPIES = 8  # tries to copy the rows while nothing moves from one to another
NEVER = 1 << 62  # a limit that limits nothing

# Header cells; the manager writes them.
HEADER = 32
H_MAGIC, H_MAX_SIZE, H_MANAGER, H_STARTED, H_SHORT, H_DATABASE, H_STOPPING, H_COST, H_TELLING, H_SPACE = range(10)
H_PAUSED, H_GENERATION, H_RESIZED = range(10, 13)
# Of a budget over several hosts: `shared.tenure` explains these. The last cells hold the host's name as text.
H_LEASE, H_CLUSTER, H_CAP, H_LEARNED_AT, H_THEIRS = range(13, 18)
H_RESERVE = 18
HOST, HOST_CELLS = 24, 8

# Row cells. The manager's:
ROW = 24
PID, STARTED, CREDIT, TARGET, LIMIT, KNOWN, TOKEN = range(7)
# The member's: whether it left while there was no manager to tell; and its facts, which `core.accounts.Account`
# explains. Times are in ns of the monotonic clock.
LEFT = 7
HELD, IN_USE, MOVING, CLOSING, WAITING, SINCE, RIPE_AT, IDLE_SINCE, WARM, COST = FACTS = range(8, 18)
LOST = 18  # and how many of its connections in use are closed, but not at the server
ACKNOWLEDGED = 19  # and the pause that it has seen

# After the rows are the statistics. Of the members' blocks there, each gets its memory when a member comes.
STATISTICS = HEADER + ROWS * ROW
BLOCKS = STATISTICS + statistics.START
RESERVED = 8 * BLOCKS  # bytes that have their memory from the beginning
SIZE = RESERVED + 8 * ROWS * statistics.BLOCK

NOBODY = -1  # a start that no process has


class _Cell:
    """One cell, as an attribute of a header or a row."""

    __slots__ = ("_index",)

    def __init__(self, index: int) -> None:
        self._index = index

    def __get__(self, view: _View, owner: type) -> int:
        return view._cells[view._at + self._index]

    def __set__(self, view: _View, value: int) -> None:
        view._cells[view._at + self._index] = value


class _View:
    """Some cells by their names. It costs a call for each cell: code that runs at each borrow goes by the numbers."""

    __slots__ = ("_at", "_cells")

    def __init__(self, cells: memoryview[int], at: int) -> None:
        self._cells, self._at = cells, at


class Header(_View):
    """What the manager publishes of the budget.

    Attributes:
        magic: `MAGIC`, if it is a ledger of this layout.
        max_size: permits of the budget.
        manager, started: the pid and the start time of the manager.
        short: permits that members lack and nobody could give at the last plan.
        database: `database_key` of the database.
        stopping: 1: the budget was stopped and takes no new members.
        cost: ns that a reconnect takes; 0: not measured.
        telling: 1: a member rings when its first connection becomes idle.
        space: `identity.space` of the manager.
        paused: until when the budget is paused, in ns of the monotonic clock, if it is not told to go on before; 0: it
            is not paused.
        generation: when it was last drained, in ns of the monotonic clock; 0: never. Connections that began to be
            opened before are of an older generation, and are to be replaced.
        resized: when ``max_size`` was last changed, in ns of the monotonic clock; 0: never. See `shared.sizes`.
        reserve: of its permits, those that are a budget of their own, for callers with priority.
        lease: until when members may open connections, in ns of `tenure.now_ns`; 0: the budget is this host's alone,
            and they always may. See `shared.tenure`, and for the next three.
        cluster: how this host stands with the engine that keeps the budget for all hosts.
        cap: permits that this host may use at the moment, of a budget over several hosts.
        learned_at: when learning may end, in ns of `tenure.now_ns`.
        theirs: permits that the budget has by the engine, where this host says another number.
    """

    __slots__ = ()

    magic, max_size, manager, started = _Cell(H_MAGIC), _Cell(H_MAX_SIZE), _Cell(H_MANAGER), _Cell(H_STARTED)
    short, database, stopping, cost = _Cell(H_SHORT), _Cell(H_DATABASE), _Cell(H_STOPPING), _Cell(H_COST)
    telling, space = _Cell(H_TELLING), _Cell(H_SPACE)
    paused, generation, resized = _Cell(H_PAUSED), _Cell(H_GENERATION), _Cell(H_RESIZED)
    reserve = _Cell(H_RESERVE)
    lease, cluster, cap = _Cell(H_LEASE), _Cell(H_CLUSTER), _Cell(H_CAP)
    learned_at, theirs = _Cell(H_LEARNED_AT), _Cell(H_THEIRS)

    @property
    def shared(self) -> int:
        """Permits that callers without priority share."""
        return self.max_size - self.reserve


class MemberRow(_View):
    """What a member and its manager publish of the member.

    Attributes:
        pid, started: the member's process; pid 0: the row is free. ``started`` is `NOBODY` once the process has ended
            and connections of it are left at the server.
        token: the number of its seat; 0: it has none.
        credit, target, limit: see `core.accounts.Account`.
        known: callers that use or wait for a connection there, as far as the manager has read of them.

        left: 1: the member left by itself and holds nothing.
        held, in_use, moving, closing, waiting, since, ripe_at, idle_since, warm, cost: see `core.accounts.Account`.
        lost: connections in use that are closed, but not at the server.
        acknowledged: the header's ``paused`` as the member last saw it, once it lends nothing any more.
    """

    __slots__ = ()

    pid, started, token = _Cell(PID), _Cell(STARTED), _Cell(TOKEN)
    credit, target, limit, known = _Cell(CREDIT), _Cell(TARGET), _Cell(LIMIT), _Cell(KNOWN)
    left, lost, acknowledged = _Cell(LEFT), _Cell(LOST), _Cell(ACKNOWLEDGED)
    held, in_use, moving, closing = _Cell(HELD), _Cell(IN_USE), _Cell(MOVING), _Cell(CLOSING)
    waiting, since, ripe_at, idle_since = _Cell(WAITING), _Cell(SINCE), _Cell(RIPE_AT), _Cell(IDLE_SINCE)
    warm, cost = _Cell(WARM), _Cell(COST)

    @property
    def key(self) -> tuple[int, int, int]:
        """Pid, start time and token: which member the row is of."""
        return self.pid, self.started, self.token

    def assign(self, pid: int, started: int, token: int, warm: int) -> None:
        """A blank row becomes a member's. The pid is last: until then nobody takes the row for a member's."""
        self.warm = warm
        self.started = started
        self.token = token
        self.pid = pid

    def retire(self, credit: int, busy: int) -> None:
        """The member's process has ended: the row now stands for connections that its server has not ended.

        Args:
            credit: as many connections, each with a permit.
            busy: as many of them may be at work.
        """
        self.started, self.token = NOBODY, 0
        self.in_use = busy
        for cell in (*FACTS, LOST, TARGET, LIMIT, KNOWN):
            if cell not in (HELD, IN_USE):
                self._cells[self._at + cell] = 0
        self.held = self.credit = credit
        self.left = 0  # last: until then the member's own word counts that it had nothing open

    def shrink(self, left: int) -> None:
        """Of a retired member's connections so many are left."""
        self.in_use = min(self.in_use, left)
        self.held = min(self.held, left)
        self.credit = min(self.credit, left)


def database_key(key: str) -> int:
    """A number to know a database by again."""
    data = key.encode()
    return zlib.crc32(data) << 30 ^ zlib.adler32(data)


def reserve(fd: int) -> None:
    """Give the file its memory now: a store into a mapping that has none to be had would end the process. The blocks of
    members follow with `reserve_block`. Raises: OSError."""
    for offset in range(0, RESERVED, 4096):
        os.pwrite(fd, bytes(min(4096, RESERVED - offset)), offset)
    if os.fstat(fd).st_size < SIZE:
        os.ftruncate(fd, SIZE)


def reserve_block(fd: int, member: int) -> None:
    """Give a member's block of the statistics its memory, and clear it. Raises: OSError."""
    os.pwrite(fd, bytes(8 * statistics.BLOCK), RESERVED + 8 * member * statistics.BLOCK)


class Ledger:
    """The mapping: ``ledger.header.max_size``, ``ledger.row(3).in_use``.

    Attributes:
        cells: all that it is: the header's, then each row's from its `offset` on.

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
        if ledger.header.magic != MAGIC:
            reserve(fd)
            ledger.statistics.set(statistics.BORN, monotonic_ns())
            ledger.header.magic = MAGIC
        ledger.statistics.complete()
        return ledger, fd

    def living(self, taken: Callable[[int], bool]) -> list[int]:
        """Members that are still there, by pid, start time and seat, and have not left.

        Args:
            taken: whether the seat of a token may be taken: see `seats`. It is not called for a row without a token.
        """
        return [member for member in self.used() if self._is_living(self.row(member), taken)]

    @staticmethod
    def _is_living(row: MemberRow, taken: Callable[[int], bool]) -> bool:
        if row.left or not identity.alive(row.pid, row.started):
            return False
        return not row.token or taken(row.token)

    @property
    def header(self) -> Header:
        return Header(self.cells, 0)

    @property
    def statistics(self) -> statistics.Statistics:
        return statistics.Statistics(self.cells, STATISTICS)

    def row(self, member: int) -> MemberRow:
        return MemberRow(self.cells, self.offset(member))

    def used(self) -> list[int]:
        """The rows that are somebody's."""
        return [row for row, pid in enumerate(self.column(PID, ROWS)) if pid]

    def copied_rows(self) -> dict[int, MemberRow]:
        """The rows that are somebody's, as they were at one moment: a connection that is closed in one process so that
        another one may open it is not in both. Where processes open and close without pause, the last try counts."""
        tries = 0
        while True:
            rows = 1 + max(self.used(), default=-1)
            cells = memoryview(self.cells[: HEADER + rows * ROW].tobytes()).cast("q")
            tries += 1
            if tries == COPIES or cells[HEADER + HELD :: ROW].tolist() == self.column(HELD, rows):
                break
        return {row: copy for row in range(rows) if (copy := MemberRow(cells, self.offset(row))).pid}

    @staticmethod
    def offset(member: int) -> int:
        """The first cell of a member's row."""
        return HEADER + member * ROW

    def facts(self, index: int) -> list[int]:
        """A member's own cells, from held to cost."""
        start = HEADER + index * ROW
        return self.cells[start + FACTS.start : start + FACTS.stop].tolist()

    def column(self, cell: int, rows: int) -> list[int]:
        """One cell of each of the first so many rows."""
        return self.cells[HEADER + cell : HEADER + rows * ROW : ROW].tolist()

    def order(self, member: int, credit: int, target: int, limit: int, known: int) -> tuple[int, int, int]:
        """Write the manager's cells of a row, then read what the member wrote.

        The credit follows the target: a member that sees a raised credit beside the old target would take that for an
        order to come down, and would turn away from its semaphore.

        Returns: the greater of ``known`` and ``credit`` before that; callers that wait there; connections in use. The
        last two are never negative, whatever the member wrote.
        """
        cells, at = self.cells, HEADER + member * ROW
        before = max(cells[at + KNOWN], cells[at + CREDIT])
        cells[at + LIMIT], cells[at + TARGET], cells[at + CREDIT] = limit, target, credit
        cells[at + KNOWN] = known
        return before, max(0, cells[at + WAITING]), max(0, cells[at + IN_USE])

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
