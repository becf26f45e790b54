"""The manager's books: who has how much of the budget, who wants more, and what each member has been told to do.

The books own every transition of an account: nothing outside of them changes one. They decide nothing: `core.policy`
does, and says so by the verbs here.

    attach    A new member has an account.
    inherit   A predecessor's member has one; it is frozen.
    freeze    A member cannot report for a while.
    declare   A frozen member says what it holds, and reports again.
    retire    A member's process has ended; the account stays, frozen, for the connections that its server still has.
    ended     The server has ended one of those.
    leave     The account is closed.
"""

from __future__ import annotations

from mppool.core.accounts import MOST, Account, Accounts
from mppool.core.wants import Wants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from mppool.core.accounts import Facts

    class Reports(Protocol):
        """What members published of themselves."""

        def read(self, member: int) -> Facts:
            """What a member reports."""
            ...

        def idle(self) -> list[tuple[float, int]]:
            """(since when its oldest idle connection has been so, member), of all that have one."""
            ...

        def unused(self) -> list[int]:
            """Members that have fewer connections than permits, not counting those that they close."""
            ...

        def least_cost(self) -> float:
            """The least time that an open takes by the members' measurements, in seconds; 0: there are none."""
            ...


class Books:
    """All accounts of one budget.

    Args:
        max_size: permits of the budget.
        reports: where to read what members published.

    Attributes:
        wants: what members want beyond what they have.
        unneeded: members that have permits which no caller there needs.
        ordered: members that are to close connections, or to leave permits unused.
        changed: members whose orders, or what is known of them, may have changed; the caller publishes and clears them.
    """

    def __init__(self, max_size: int, reports: Reports) -> None:
        self.reports = reports
        self.accounts = Accounts(max_size)
        self.wants = Wants(self.accounts)
        self.unneeded: set[int] = set()
        self.ordered: set[int] = set()
        self.changed: set[int] = set()

    @property
    def max_size(self) -> int:
        """Permits of the budget."""
        return self.accounts.max_size

    def resize(self, max_size: int) -> None:
        """The budget has so many permits from now on."""
        self.accounts.resize(max_size)
        for member in self.accounts:  # what a member may want is limited by the size
            self.wants.note(member, self.accounts[member])

    # -- members come, report and go -------------------------------------------------------------------------

    def attach(self, member: int, now: float) -> Account:
        """Open an account for a new member."""
        account = self.accounts.open(member, now)
        self.hear(member)
        return account

    def inherit(self, member: int, credit: int, now: float) -> None:
        """Open an account for a predecessor's member. Until it has declared what it holds, its whole credit counts as
        used."""
        self.accounts.open(member, now, min(max(0, credit), MOST), frozen=True)

    def freeze(self, member: int) -> None:
        """A member cannot report for a while."""
        self._forget(member)
        self.accounts.freeze(member)

    def declare(self, member: int, held: int, now: float) -> None:
        """A frozen member reports again: it holds ``held`` permits, and has none unused."""
        self.accounts.change(member, held - self.accounts[member].credit, now)
        self.accounts.thaw(member)
        self.hear(member)

    def retire(self, member: int, connections: int, now: float) -> int:
        """A member's process has ended, and its server has ``connections`` of its connections at most: the rest of its
        credit is free. Returns what stays on the account until it has `ended`."""
        self.freeze(member)
        account = self.accounts[member]
        self.accounts.change(member, min(0, connections - account.credit), now)
        return account.credit

    def ended(self, member: int, now: float) -> int:
        """The server has ended one connection of a retired member; how many are left."""
        self.accounts.change(member, -1, now)
        return self.accounts[member].credit

    def leave(self, member: int) -> None:
        """Close an account: its whole credit is free."""
        self._forget(member)
        self.accounts.close(member)

    def _forget(self, member: int) -> None:
        self.wants.forget(member)
        for group in (self.unneeded, self.ordered, self.changed):
            group.discard(member)

    def hear(self, member: int) -> None:
        """Read what a member published."""
        account = self.accounts[member]
        if account.frozen:
            return
        (  # as `Facts` has them; by hand, since this is done for each member that is looked at
            account.held,
            account.in_use,
            account.moving,
            account.closing,
            account.waiting,
            account.since,
            account.ripe_at,
            account.idle_since,
            account.warm,
            account.cost,
        ) = self.reports.read(member)
        self.changed.add(member)
        self.wants.note(member, account)
        if account.unneeded:
            self.unneeded.add(member)

    @property
    def spare(self) -> int:
        """Permits that members which report have, or could have."""
        frozen = sum(self.accounts[member].credit for member in self.accounts if self.accounts[member].frozen)
        return self.max_size - frozen

    # -- permits move ----------------------------------------------------------------------------------------

    def grant(self, member: int, permits: int, now: float) -> None:
        """Put free permits on an account."""
        self.accounts.change(member, permits, now)
        self.wants.note(member, self.accounts[member])
        self.changed.add(member)

    def recall_idle(self, member: int, permits: int) -> int:
        """Have a member close idle connections, or leave permits unused; how many it has of ``permits``."""
        recalled = self.accounts[member].recall_idle(permits)
        if recalled:
            self.ordered.add(member)
            self.changed.add(member)
        return recalled

    def recall_in_use(self, member: int) -> None:
        """Have a member close one connection more, a borrowed one at its return if none is idle."""
        self.accounts[member].recall_in_use()
        self.ordered.add(member)
        self.changed.add(member)

    def withdraw_orders(self) -> set[int]:
        """Withdraw all orders; the members that had some."""
        before, self.ordered = self.ordered, set()
        for member in before:
            self.accounts[member].withdraw_orders()
        return before

    def recalled(self, member: int, permits: int, now: float) -> None:
        """``permits`` were really on the member's semaphore and have been taken off it. Its orders stay."""
        account = self.accounts[member]
        target, limit = account.target, account.limit
        self.accounts.change(member, -permits, now)
        account.target, account.limit = min(target, account.credit), min(limit, account.credit)
        self.hear(member)

    def asked(self, member: int, now: float) -> None:
        """Idle connections are asked of a member, which has not answered yet."""
        account = self.accounts[member]
        account.asked_at = account.asked_at or now

    def answered(self, member: int) -> None:
        """Nothing is asked of a member any more."""
        self.accounts[member].asked_at = 0.0
