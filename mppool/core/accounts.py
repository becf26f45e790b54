"""The accounts of a budget: which member has how many permits, and what each member last reported.

Every permit is on exactly one account or free: ``sum of credits + free == max_size``, always. All changes of a credit
go through `Accounts`, which keeps ``free`` and the order of the members by credit up to date with each change.
"""

from __future__ import annotations

from mppool.core.notifications import Orders

MOST = 10_000  # permits that a budget may have

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    #: What a member reports, from ``held`` to ``cost`` in the order of `Account`'s attributes; times in seconds.
    Facts = tuple[int, int, int, int, int, float, float, float, int, float]


class Account:
    """What the books say of one member. The manager decides the first group; the member reported the second.

    Attributes:
        credit: permits assigned, used or not.
        target: permits the member should come down to by closing idle connections.
        limit: permits the member must come down to at the next give-back, idle or not.
        changed_at: when ``credit`` last changed.
        asked_at: since when idle connections have been asked of this member without an answer; 0: none are.
        asks_at: earliest time at which it may ask for others' connections again: other members ask in between.
        frozen: the member cannot report just now: all its credit counts as used. It is asked for nothing and is given
            nothing.

        held: permits the member has taken from its semaphore.
        in_use: borrowed connections.
        moving: connections being opened, closed or checked.
        closing: those of them being closed.
        waiting: callers in line.
        since: since when callers have been in line.
        ripe_at: when the line has lasted long enough for others' connections to be asked for.
        idle_since: since when the connection that has been idle longest has been so; 0: none is idle.
        warm: connections the member would like to hold even if no caller waits.
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
        """Connections that are not borrowed, opened, closed or checked."""
        return max(0, self.held - self.in_use - self.moving)

    @property
    def demand(self) -> int:
        """Connections that callers of the member use or wait for."""
        return self.in_use + self.waiting

    @property
    def unneeded(self) -> int:
        """Permits that no caller needs and no open connection has, those of connections being closed included."""
        return max(0, self.credit - max(self.demand, self.held - self.closing))

    @property
    def spare(self) -> int:
        """Permits that are unused or have idle connections, beyond those that are recalled."""
        return max(0, self.target - self.in_use - max(0, self.moving - self.closing))

    @property
    def recalled_unused(self) -> int:
        """Permits on the semaphore that are recalled."""
        return min(self.unused, self.credit - self.target)

    def orders(self) -> Orders:
        """What the member is to be told."""
        must_close = self.held - self.closing > self.target
        return Orders(self.credit, self.target, self.limit, must_close, self.idle_since)

    def recall_idle(self, permits: int) -> int:
        """Have the member close idle connections, or leave permits unused; how many it has of ``permits``."""
        permits = max(0, min(permits, self.target))
        self.target -= permits
        return permits

    def recall_in_use(self) -> None:
        """Have the member close one connection more: a borrowed one at its return if none is idle."""
        self.target -= 1
        self.limit = min(self.limit, self.target)

    def withdraw_orders(self) -> None:
        """The member may keep all that it has."""
        self.target = self.limit = self.credit


class Accounts:
    """All accounts of one budget; the only class that changes a credit.

    Attributes:
        max_size: permits of the budget.
        free: permits on no account. Below zero, the budget is overdrawn: it has become smaller (`resize`), or members
            of another manager brought more along, which can happen when the folder of a running budget is deleted.
    """

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self.free = max_size
        self._accounts: dict[int, Account] = {}
        # By credit: the members that have that credit, the one that has had it longest first; without frozen ones.
        self._holders: dict[int, dict[int, None]] = {}

    def __getitem__(self, member: int) -> Account:
        return self._accounts[member]

    def __contains__(self, member: int) -> bool:
        return member in self._accounts

    def __len__(self) -> int:
        return len(self._accounts)

    def __iter__(self) -> Iterator[int]:
        return iter(self._accounts)

    def open(self, member: int, now: float, credit: int = 0, *, frozen: bool = False) -> Account:
        """An account for a new member; or, ``frozen``, for a predecessor's member that may use all its ``credit``."""
        account = self._accounts[member] = Account(now)
        account.frozen = frozen
        self.change(member, credit, now)
        return account

    def resize(self, max_size: int) -> None:
        """The budget has so many permits from now on; what members have stays theirs until it is recalled."""
        self.free += max_size - self.max_size
        self.max_size = max_size

    def close(self, member: int) -> None:
        """Forget a member that holds nothing any more: its whole credit is free."""
        account = self._accounts.pop(member)
        self._unlist(member, account)
        self.free += account.credit

    def change(self, member: int, permits: int, now: float) -> None:
        """Add ``permits`` to an account, or take them off it. The account is under no orders afterwards."""
        account = self._accounts[member]
        self._unlist(member, account)
        account.credit += permits
        self.free -= permits
        account.withdraw_orders()
        account.changed_at = now
        self._list(member, account)

    def freeze(self, member: int) -> None:
        """The member cannot report until it has declared what it holds, or never will."""
        account = self._accounts[member]
        self._unlist(member, account)
        account.frozen = True
        account.withdraw_orders()

    def thaw(self, member: int) -> None:
        """The member reports again."""
        account = self._accounts[member]
        account.frozen = False
        self._list(member, account)

    def richest(self) -> Iterator[int]:
        """Members that have permits: those with most first, and among equals the one that has had them longest."""
        for credit in sorted(self._holders, reverse=True):
            if credit > 0:
                yield from self._holders[credit]

    def with_one(self) -> Iterator[int]:
        """Members that have a single permit: the one that has had it longest first."""
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
