"""The accounts of a budget: who has which permits, and what each member last reported.

Every permit is on exactly one account or free: ``sum of credits + free == max_size``, always. All changes of a credit
go through `Accounts`, so what is free and who has how much are kept up to date by each change and never recomputed.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Account:
    """A member's page. The first group is the manager's own; the second is what the member last reported.

    Attributes:
        credit: permits assigned, used or not.
        target: permits the member should come down to by closing idle connections.
        limit: permits the member must come down to at the next give-back, idle or not.
        changed_at: when ``credit`` last changed.
        asked_at: since when idle connections have been asked of this member without an answer; 0: they are not.
        asks_at: not before then may it ask for others' connections again: others had their turn to ask.
        frozen: nobody speaks for it just now: all it has counts as used, and nothing is asked of it or given to it.

        held: permits the member has taken from its semaphore.
        in_use: borrowed connections.
        moving: connections being opened, closed or checked.
        closing: those of them being closed.
        waiting: callers in line.
        since: since when somebody has been in line.
        ripe_at: when the line has lasted long enough for others' connections to be asked for.
        idle_since: since when the connection that has been idle longest has been so; 0: none is idle.
        warm: connections the member would like to hold even if nobody waits.
        cost: seconds that opening a connection takes there; 0: not measured.
    """

    __slots__ = (
        "asked_at",
        "asks_at",
        "changed_at",
        "closing",
        "cost",
        "credit",
        "frozen",
        "held",
        "idle_since",
        "in_use",
        "limit",
        "moving",
        "ripe_at",
        "since",
        "target",
        "waiting",
        "warm",
    )

    def __init__(self, now: float) -> None:
        self.credit = self.target = self.limit = 0
        self.changed_at = now
        self.asked_at = self.asks_at = 0.0
        self.frozen = False
        self.held = self.in_use = self.moving = self.closing = self.waiting = self.warm = 0
        self.since = self.ripe_at = self.idle_since = self.cost = 0.0

    @property
    def unused(self) -> int:
        """Permits on the semaphore."""
        return max(0, self.credit - self.held)

    @property
    def idle(self) -> int:
        """Connections that nobody uses or works on."""
        return max(0, self.held - self.in_use - self.moving)

    @property
    def demand(self) -> int:
        """Connections that callers of the member use or wait for."""
        return self.in_use + self.waiting

    @property
    def unneeded(self) -> int:
        """Permits that no caller needs and no open connection has, those of connections being closed included."""
        return max(0, self.credit - max(self.demand, self.held - self.closing))


class Accounts:
    """All accounts of one budget; the only place where a credit changes.

    Attributes:
        free: permits on no account. Below zero only when members came over from another manager with more than there
            are: it takes a folder that was deleted under a running budget.
    """

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self.free = max_size
        self._pages: dict[int, Account] = {}
        # By credit: the members that have so much, in the order in which they came to have it; not the frozen ones.
        self._holders: dict[int, dict[int, None]] = {}

    def __getitem__(self, member: int) -> Account:
        return self._pages[member]

    def __contains__(self, member: int) -> bool:
        return member in self._pages

    def __len__(self) -> int:
        return len(self._pages)

    def __iter__(self) -> Iterator[int]:
        return iter(self._pages)

    def open(self, member: int, now: float, credit: int = 0, *, frozen: bool = False) -> Account:
        """A page for a new member; or, ``frozen``, for one of a predecessor's that may use all of its ``credit``."""
        account = self._pages[member] = Account(now)
        account.frozen = frozen
        self.change(member, credit, now)
        return account

    def close(self, member: int) -> None:
        """Forget a member that closed everything, or died: its whole credit is free."""
        account = self._pages.pop(member)
        self._unlist(member, account)
        self.free += account.credit

    def change(self, member: int, permits: int, now: float) -> None:
        """So many permits more, or fewer, are on this account. It has no orders to close anything afterwards."""
        account = self._pages[member]
        self._unlist(member, account)
        account.credit += permits
        self.free -= permits
        account.target = account.limit = account.credit
        account.changed_at = now
        self._list(member, account)

    def freeze(self, member: int) -> None:
        """Nobody speaks for this member until it declares what it holds, or for good."""
        account = self._pages[member]
        self._unlist(member, account)
        account.frozen = True
        account.target = account.limit = account.credit

    def thaw(self, member: int) -> None:
        account = self._pages[member]
        account.frozen = False
        self._list(member, account)

    def richest(self) -> Iterator[int]:
        """Members that have permits: who has most first, and of equals who has had them longest."""
        for credit in sorted(self._holders, reverse=True):
            if credit > 0:
                yield from self._holders[credit]

    def with_one(self) -> Iterator[int]:
        """Members that have a single permit: who has had it longest first."""
        yield from self._holders.get(1, ())

    def _list(self, member: int, account: Account) -> None:
        if not account.frozen:
            self._holders.setdefault(account.credit, {})[member] = None

    def _unlist(self, member: int, account: Account) -> None:
        group = self._holders.get(account.credit)
        if group is not None and member in group:
            del group[member]
            if not group:
                del self._holders[account.credit]
