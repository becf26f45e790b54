"""The treasury: the only place where permits move.

It reads what members report in the ledger, asks the books, and carries out the plan on ledger and semaphores.
Stores are ordered so that a manager killed between two of them leaves a permit unused, never two of one: a grant
is written to the ledger before the semaphore, a recall is taken off the semaphore before the ledger says so. Its
successor begins with what the ledger says and corrects it by what the members declare.
"""

from __future__ import annotations

from mppool.core.books import Books
from mppool.shared import ledger as L
from mppool.shared.semaphore import EventSemaphore, make

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mppool.core.books import Account, Plan

_NOBODY = -1  # a start that no process has


# What members write of themselves may contradict itself for ever: then others get their turn in between.
ROUNDS = 20
SOON = 0.01  # seconds


class Treasury:
    """Books, ledger and semaphores of one budget.

    Args:
        ledger: freshly made, or the predecessor's.
        max_size: permits of the budget.
        bell: called with a member that must look at its row.
    """

    def __init__(self, ledger: L.Ledger, max_size: int, bell: Callable[[int], None]) -> None:
        self.ledger = ledger
        self.books = Books(max_size)
        self.semaphores: dict[int, EventSemaphore] = {}
        self.undeclared: set[int] = set()  # accounts of which only the predecessor knew what is held
        # What a member was told: credit, target, limit, and whether it had to close something for that. None: it may
        # still go by what the predecessor had written.
        self._told: dict[int, tuple[int, int, int, bool] | None] = {}
        self._bell = bell
        ledger.cells[L.H_MAX_SIZE] = max_size

    def inherit(self, row: int, now: float) -> None:
        """Take over a living member's account from the predecessor. Until its member has come and declared what it
        holds, everything that was ever put on the account counts as used: nothing is granted on a guess."""
        credit = self.ledger.cells[self.ledger.row(row) + L.CREDIT]
        self.books.attach(row, now).credit = credit
        self.awaits(row)
        self._told[row] = None

    def attach(self, pid: int, started: int, warm: int, now: float, token: int = 0) -> int | None:
        """Open an account, or find the one that this member had; the member's row. None: all rows are taken.

        Raises: OSError.
        """
        row = self._inherited(pid, started, token)
        if row is not None:
            self.semaphores[row] = make()
            return row
        row = next((index for index in range(L.ROWS) if index not in self.books.accounts), None)
        if row is None:
            return None
        self.semaphores[row] = make()  # first: it may fail, for want of descriptors
        self.ledger.clear(row)
        at, cells = self.ledger.row(row), self.ledger.cells
        cells[at + L.WARM] = warm
        cells[at + L.STARTED] = started
        cells[at + L.TOKEN] = token
        cells[at + L.PID] = pid
        self._told[row] = (0, 0, 0, False)
        self.books.attach(row, now)
        return row

    def _inherited(self, pid: int, started: int, token: int) -> int | None:
        cells = self.ledger.cells
        for row in self.undeclared - self.semaphores.keys():
            at = self.ledger.row(row)
            if token and (pid, started, token) == (cells[at + L.PID], cells[at + L.STARTED], cells[at + L.TOKEN]):
                return row
        return None

    def awaits(self, member: int) -> None:
        """This member will declare what it holds."""
        self.undeclared.add(member)
        self.books.accounts[member].frozen = True

    def declare(self, member: int, held: int) -> None:
        """A member that came over from the predecessor holds so many permits, and has none unused."""
        self.undeclared.discard(member)
        account = self.books.accounts[member]
        account.credit, account.frozen = held, False
        self.ledger.cells[self.ledger.row(member) + L.CREDIT] = held  # before what it frees is granted to anybody
        self._told[member] = None

    def bury(self, member: int, connections: int, busy: int | None = None) -> None:
        """A member has ended, and its server has not yet ended so many of its connections: all else is free.

        Its row stays until they are gone, for a successor of ours who must wait for them, too. It is nobody's: no
        process has that start.

        Args:
            connections: that may still count on the server.
            busy: as many of them may be at work; None: all.
        """
        account = self.books.accounts[member]
        account.credit, account.frozen = min(account.credit, connections), True
        self.undeclared.discard(member)
        semaphore = self.semaphores.pop(member, None)
        if semaphore is not None:
            semaphore.close()
        cells, at = self.ledger.cells, self.ledger.row(member)
        cells[at + L.STARTED] = _NOBODY
        cells[at + L.TOKEN] = 0
        cells[at + L.IN_USE] = account.credit if busy is None else min(account.credit, busy)
        for cell in (L.MOVING, L.CLOSING, L.WAITING, L.SINCE, L.WARM, L.COST, L.TARGET, L.LIMIT, L.KNOWN):
            cells[at + cell] = 0
        cells[at + L.HELD] = cells[at + L.CREDIT] = account.credit
        cells[at + L.LEFT] = 0  # the last: until then its own word that it had nothing open counts

    def buried(self, member: int) -> None:
        """One of them is gone."""
        account = self.books.accounts[member]
        account.credit -= 1
        if account.credit <= 0:
            self.leave(member)
            return
        at = self.ledger.row(member)
        for cell in (L.IN_USE, L.HELD, L.CREDIT):
            self.ledger.cells[at + cell] = min(self.ledger.cells[at + cell], account.credit)

    @property
    def spare(self) -> int:
        """Permits that the living have or could have."""
        frozen = sum(account.credit for account in self.books.accounts.values() if account.frozen)
        return self.books.max_size - frozen

    def leave(self, member: int) -> None:
        """Close an account: everything it had is free."""
        self.books.leave(member)
        self.undeclared.discard(member)
        self._close(member)
        del self._told[member]

    def _close(self, member: int) -> None:
        semaphore = self.semaphores.pop(member, None)
        if semaphore is not None:
            semaphore.close()
        self.ledger.clear(member)

    def settle(self, now: float) -> float | None:
        """Reconcile until nothing more can move. Returns when to do so again; None: when something happens."""
        for _ in range(ROUNDS):
            self._read()
            plan, unheard = self.books.plan(now), False
            for member, permits in plan.grants:
                unheard |= self._publish(member)
                self.semaphores[member].give(permits)
            moved, missed = self._recall(plan)
            if not moved and not self._announce(plan) and not unheard:
                # Who took one in the instant in which it was to be recalled has no reason to say so when it has.
                return min(plan.again_at or now + SOON, now + SOON) if missed else plan.again_at
        self._announce(plan)
        return now + SOON

    def _announce(self, plan: Plan) -> bool:
        """Publish the plan. True: somebody may have acted before it could be read, and thought that it need not ring.

        A member writes, then looks whether that concerns anybody; so we write, then look what was written meanwhile.
        (The look takes microseconds; so long no processor keeps a store to itself.)
        """
        was_quiet = not self.ledger.cells[L.H_HUNGRY]
        self.ledger.cells[L.H_HUNGRY] = plan.shortage
        if was_quiet and plan.shortage:
            return True  # what came free a moment ago was of no interest to anybody
        unheard = False
        for member, account in self.books.accounts.items():
            if not account.frozen:
                unheard |= self._publish(member)
        return unheard

    def _recall(self, plan: Plan) -> tuple[int, int]:
        """Take permits off semaphores: how many there were, and how many there were not."""
        moved = missed = 0
        for member, permits in plan.recalls:
            semaphore, got = self.semaphores[member], 0
            while got < permits and semaphore.take():
                got += 1
            if got:
                self.books.recalled(member, got)
                self.ledger.cells[self.ledger.row(member) + L.CREDIT] = self.books.accounts[member].credit
                moved += got
            missed += permits - got
        return moved, missed

    def _read(self) -> None:
        for member, account in self.books.accounts.items():
            # A row is its member's to write: nonsense there must not keep us busy for ever.
            held, in_use, moving, closing, waiting, since, warm, cost = [max(0, n) for n in self.ledger.facts(member)]
            account.held, account.in_use, account.moving, account.closing = held, in_use, moving, closing
            account.waiting, account.warm = waiting, warm
            account.since, account.cost = since / 1e9, cost / 1e9

    def _publish(self, member: int) -> bool:
        """Write the manager's cells of a row, and ring its member if that asks something of it. True: somebody there
        lined up a moment ago, and took it that the manager knew already."""
        account = self.books.accounts[member]
        cells, at = self.ledger.cells, self.ledger.row(member)
        must_close = account.held - account.closing > account.target
        said, say = self._told[member], (account.credit, account.target, account.limit, must_close)
        self._told[member] = say
        # The credit last: who sees it raised must not see the old target beside it, take that for an order to come
        # down, and turn away from the semaphore.
        cells[at + L.LIMIT], cells[at + L.TARGET], cells[at + L.CREDIT] = account.limit, account.target, account.credit
        knew = cells[at + L.KNOWN]
        known = cells[at + L.KNOWN] = min(account.in_use + account.waiting, L.NEVER)
        # Who lines up reads its orders after it has written so; we look whether somebody has after we wrote them.
        waiting = cells[at + L.WAITING] > 0
        if said is None or (said != say and (must_close or (waiting and _lifted(said, account)))):
            self._bell(member)
        return known < knew and cells[at + L.IN_USE] + cells[at + L.WAITING] > max(known, account.credit)


def _lifted(said: tuple[int, int, int, bool], account: Account) -> bool:
    """Whether a member was told to leave permits alone, and may look for them again."""
    return said[1] < said[0] and account.target == account.credit
