"""The permit allocator: the only class that moves permits.

It has the policy plan by what members report in the ledger, and carries out the plan on ledger and semaphores. The
stores are ordered so that a manager that is killed between two of them leaves a permit unused, and never makes one: a
grant is written to the ledger before the semaphore, a recall is taken off the semaphore before the ledger says so. The
successor begins with what the ledger says and corrects it by what the members declare.

Only the rows of members that notified the manager, or that the policy asks for, are read. Only rows whose orders
changed are written.
"""

from __future__ import annotations

from heapq import heappop, heappush

from mppool.core.accounts import MOST
from mppool.core.books import Books
from mppool.core.notifications import Orders, must_tell, overlooked
from mppool.core.policy import Policy
from mppool.shared import ledger as L
from mppool.shared.semaphore import EventSemaphore, make
from mppool.shared.statistics import GRANTS, RECALLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mppool.core.accounts import Facts
    from mppool.core.plan import Plan

_NS = 1e9
_LATE = 1.0  # seconds that a member's time may be later than ours: it may have read the clock after us

# What members report may contradict itself for ever: then the manager does other work in between.
ROUNDS = 20
SOON = 0.01  # seconds


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


class Reports:
    """What members published in the ledger.

    Attributes:
        rows: so many rows, from the first, have been used.
        now: the time. A connection that claims to be idle since a later time counts as none: it would be looked for
            without end.
    """

    def __init__(self, ledger: L.Ledger) -> None:
        self._ledger = ledger
        self.rows = 0
        self.now = float("inf")

    def read(self, member: int) -> Facts:
        facts = self._ledger.facts(member)
        if min(facts) < 0:  # the member may write nonsense there, which must not keep the manager busy for ever
            facts = [max(0, fact) for fact in facts]
        held, in_use, moving, closing, waiting, since, ripe_at, idle_since, warm, cost = facts
        idle_at = idle_since / _NS
        if idle_at > self.now + _LATE:
            idle_at = 0.0
        return held, in_use, moving, closing, waiting, since / _NS, ripe_at / _NS, idle_at, warm, cost / _NS

    def idle(self) -> list[tuple[float, int]]:
        latest = (self.now + _LATE) * _NS
        return [(since / _NS, row) for row, since in enumerate(self._column(L.IDLE_SINCE)) if 0 < since <= latest]

    def unused(self) -> list[int]:
        columns = zip(self._column(L.HELD), self._column(L.CLOSING), self._column(L.CREDIT), strict=True)
        return [row for row, (held, closing, credit) in enumerate(columns) if held - closing < credit]

    def least_cost(self) -> float:
        return max(0, min(filter(None, self._column(L.COST)), default=0)) / _NS

    def _column(self, cell: int) -> list[int]:
        return self._ledger.column(cell, self.rows)


class Allocator:
    """Books, ledger and semaphores of one budget.

    Args:
        ledger: freshly made, or the predecessor's.
        max_size: permits of the budget; those of its reserve (`Header.reserve`) are not granted here.
        notify: called with a member that must look at its row.
        processors: of this machine.
        reserve: called before a newcomer has a row, with its number; see `ledger.reserve_block`.
    """

    def __init__(
        self,
        ledger: L.Ledger,
        max_size: int,
        notify: Callable[[int], None],
        processors: float = 2.0,
        reserve: Callable[[int], None] = lambda member: None,
    ) -> None:
        self.ledger = ledger
        self.statistics = ledger.statistics
        self._reserve = reserve
        self._reports = Reports(ledger)
        self.books = Books(max_size - ledger.header.reserve, self._reports)
        self.policy = Policy(self.books, processors)
        self.semaphores: dict[int, EventSemaphore] = {}
        self.undeclared: set[int] = set()  # members of which only the predecessor knew what they hold
        # Those of them that have not come yet, by `MemberRow.key`.
        self._absent: dict[tuple[int, int, int], int] = {}
        self._unused_rows: list[int] = []  # a heap of free rows, of those that have been used
        self._told: dict[int, Orders | None] = {}  # None: a member may still go by what the predecessor had written
        self._notify = notify
        header = ledger.header
        header.max_size = max_size
        header.short = header.telling = 0

    # -- members come and go ---------------------------------------------------------------------------------

    def inherit(self, row: int, now: float) -> None:
        """Take over a member's account from the predecessor. Until the member has come and declared what it holds, its
        whole credit counts as used: nothing is granted on a guess."""
        for skipped in range(self._reports.rows, row):
            heappush(self._unused_rows, skipped)
        self._reports.rows = max(self._reports.rows, row + 1)
        self.books.inherit(row, self.ledger.row(row).credit, now)
        self.undeclared.add(row)
        self._told[row] = None
        self._absent[self.ledger.row(row).key] = row

    def attach(self, pid: int, started: int, warm: int, now: float, token: int = 0) -> int | None:
        """Open an account, or find the one that this member had; the member's number. None: all rows are taken.

        Raises: OSError.
        """
        row = self._absent.get((pid, started, token)) if token else None
        if row is not None:
            self.semaphores[row] = make()
            del self._absent[pid, started, token]
            return row
        row = self._unused_row()
        if row is None:
            return None
        self._reserve(row)  # first: it may fail, for want of memory
        self.semaphores[row] = make()  # second: it may fail, for want of descriptors
        self._reports.rows = max(self._reports.rows, row + 1)
        self.ledger.clear(row)
        self.ledger.row(row).assign(pid, started, token, warm)
        self._told[row] = Orders(0, 0, 0, False, 0.0)
        self.books.attach(row, now)
        return row

    def _unused_row(self) -> int | None:
        while self._unused_rows and self._unused_rows[0] in self.books.accounts:
            heappop(
                self._unused_rows
            )  # a row of the predecessor's that was taken for free when a later one was inherited
        row = self._unused_rows[0] if self._unused_rows else self._reports.rows
        return row if row < L.ROWS else None

    def awaits(self, member: int) -> None:
        """The member will declare what it holds."""
        self.undeclared.add(member)
        self.books.freeze(member)

    def await_return(self, member: int) -> None:
        """A member has lost its channel and will attach again: until then its whole credit counts as used."""
        self.awaits(member)
        self._absent[self.ledger.row(member).key] = member
        self._told[member] = None
        self._close_semaphore(member)

    def declare(self, member: int, held: int, now: float) -> None:
        """A member of the predecessor's holds ``held`` permits, and has none unused."""
        self.undeclared.discard(member)
        self.ledger.row(member).credit = held  # before what that frees is granted
        self._told[member] = None
        self.books.declare(member, held, now)
        self.policy.notified(member, now)

    def retire(self, member: int, connections: int, now: float, busy: int | None = None) -> int:
        """A member has ended, and its server has not yet ended ``connections`` of its connections: all else is free.

        Its row stays until they are gone, so that a successor of this manager waits for them, too. No live process owns
        the row.

        Args:
            connections: that may still count on the server.
            busy: as many of them may be at work; None: all.

        Returns: permits that stay on its account.
        """
        self._forget(member)
        self.statistics.end(member)
        credit = self.books.retire(member, connections, now)
        self.ledger.row(member).retire(credit, credit if busy is None else min(credit, busy))
        return credit

    def ended(self, member: int, now: float) -> None:
        """The server has ended one connection of a retired member."""
        left = self.books.ended(member, now)
        if left <= 0:
            self.leave(member)
            return
        self.ledger.row(member).shrink(left)

    def leave(self, member: int) -> None:
        """Close an account: everything it had is free."""
        self.statistics.end(member)
        self.books.leave(member)
        self._forget(member)
        self.ledger.clear(member)
        heappush(self._unused_rows, member)
        del self._told[member]

    def _forget(self, member: int) -> None:
        """The member will not come from the predecessor any more, and has no semaphore."""
        self.undeclared.discard(member)
        self._absent.pop(self.ledger.row(member).key, None)
        self._close_semaphore(member)

    def _close_semaphore(self, member: int) -> None:
        semaphore = self.semaphores.pop(member, None)
        if semaphore is not None:
            semaphore.close()

    # -- the size --------------------------------------------------------------------------------------------

    def resize(self, max_size: int, now_ns: int) -> None:
        """The budget has so many permits from now on; `settle` grants or recalls the difference.

        That it was resized is written first: a process with the old number is then welcome whichever of the two sizes
        a successor finds. Both are written before a permit moves.
        """
        header = self.ledger.header
        if max_size != header.max_size:
            header.resized = now_ns
            header.max_size = max_size
            self.books.resize(header.shared)
            self.policy.resized()

    # -- a budget over several hosts ---------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """Permits on accounts: all that is open, being opened or being closed, or that a member could open at once."""
        return self.books.max_size - self.books.accounts.free

    @property
    def rows(self) -> int:
        """So many rows of the ledger, from the first, have been used."""
        return self._reports.rows

    def cap(self, size: int) -> None:
        """This host may use so many of the budget's permits. Those that it has beyond that are recalled by `settle`."""
        if size != self.books.max_size:
            self.books.resize(size)

    def take_unused(self, now: float) -> None:
        """Take back all that lies on semaphores: members could open connections with it."""
        for member in list(self.semaphores):
            self._take_off(member, MOST, now)

    # -- permits move ----------------------------------------------------------------------------------------

    def settle(self, now: float, notified: Iterable[int] = ()) -> float | None:
        """Reconcile until nothing more can move. Returns when to do so again; None: when something happens.

        Args:
            notified: members that have something new in their rows.
        """
        self._reports.now = now
        for member in notified:
            if member in self.books.accounts:
                self.policy.notified(member, now)
        for _ in range(ROUNDS):
            plan = self.policy.plan(now)
            again = False
            for member, permits in plan.grants:
                again |= self._publish(member)
                self.statistics.add(GRANTS, permits)
                self.semaphores[member].give(permits)
            moved, missed = self._recall(plan, now)
            again |= self._announce(now)
            if not moved and not again:
                # A member that took a permit just before it was to be recalled need not say so.
                return min(plan.again_at or now + SOON, now + SOON) if missed else plan.again_at
        return now + SOON

    def _announce(self, now: float) -> bool:
        """Publish the plan. True: a member may have acted before it could read the plan, and may not have notified us.

        A member writes, then looks whether the manager needs to know. So the manager writes, then looks what members
        wrote meanwhile. (The look takes microseconds, and no processor keeps a store to itself for that long.)
        """
        books, policy, header = self.books, self.policy, self.ledger.header
        again = False
        short = books.wants.shortage + max(0, -books.accounts.free)
        was_short, was_telling = header.short, header.telling
        header.short, header.telling = short, policy.telling
        header.cost = int(policy.cost * _NS)
        if short and not was_short:
            again = policy.search_again()  # no member waited for a permit that came free a moment ago
        if policy.telling and not was_telling:
            again |= policy.look_again(now)
        changed, books.changed = books.changed, set()
        for member in changed:
            again |= self._publish(member)
        return again

    def _recall(self, plan: Plan, now: float) -> tuple[int, int]:
        """Take permits off semaphores; how many were there, and how many were not."""
        moved = missed = 0
        for member, permits in plan.recalls:
            got = self._take_off(member, permits, now)
            moved += got
            missed += permits - got
        return moved, missed

    def _take_off(self, member: int, most: int, now: float) -> int:
        """Take permits off a member's semaphore, as far as they are there; how many were."""
        semaphore, got = self.semaphores[member], 0
        while got < most and semaphore.take():
            got += 1
        if got:
            self.ledger.row(member).credit = self.books.accounts[member].credit - got
            self.books.recalled(member, got, now)
            self.statistics.add(RECALLS, got)
        return got

    def _publish(self, member: int) -> bool:
        """Write the manager's cells of a row, and notify its member if it has to act. True: callers lined up there a
        moment ago, and their member assumed that the manager knew already."""
        account = self.books.accounts[member]
        if account.frozen:
            return False
        say, known = account.orders(), min(account.demand, L.NEVER)
        said, self._told[member] = self._told[member], say
        before, waiting, in_use = self.ledger.order(member, say.credit, say.target, say.limit, known)
        if must_tell(said, say, waiting > 0):
            self._notify(member)
        if not overlooked(in_use + waiting, before, max(known, say.credit)):
            return False
        self.books.hear(member)
        return True
