"""What members want beyond what they have, and which of them may ask for others' connections.

A member that wants permits is *poor* if it has none and *rich* if it has some. A poor member asks at once. A rich one
asks when its callers have waited long enough, and no more than `ASKERS` of them at a time: they take turns.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mppool.core.accounts import Account, Accounts

CHEAPEST, DEAREST = 0.0002, 0.1  # seconds: the least and the most that a reconnect counts for
ASKERS = 8  # members with a connection that may ask for more at a time; they take turns if there are others


class Wants:
    """The wants of all members of one budget.

    Attributes:
        cost: C, in seconds: what a reconnect takes.
        shortage: permits that members want beyond what they have, as far as it is known.
        poor: how many permits each poor member wants; the first to want one comes first.
        rich: how many more permits each rich member wants.
        cold: members that would like to keep more connections warm than they have permits.
        asking: since when each rich member that may ask does so; the first to ask comes first.
    """

    def __init__(self, accounts: Accounts) -> None:
        self.cost = CHEAPEST
        self.shortage = 0
        self.poor: dict[int, int] = {}
        self.rich: dict[int, int] = {}
        self.cold: dict[int, None] = {}
        self.asking: dict[int, float] = {}
        self._accounts = accounts
        self._ripening: list[tuple[float, int]] = []  # a heap of when rich members may ask; entries may be out of date

    def measured(self, cost: float) -> None:
        """A reconnect takes ``cost`` seconds; 0: it is not known."""
        self.cost = min(DEAREST, max(CHEAPEST, cost))

    def extra(self, account: Account) -> int:
        """Permits an account lacks to serve every caller that borrows or waits there."""
        if account.frozen:
            return 0
        return max(0, min(account.demand, self._accounts.max_size) - account.credit)

    def note(self, member: int, account: Account) -> None:
        """A member's credit, or what it reported, has changed."""
        extra = self.extra(account)
        self.shortage += extra - (self.poor.get(member, 0) or self.rich.get(member, 0))
        if extra and not account.credit:
            self.poor[member] = extra
        else:
            self.poor.pop(member, None)
        if extra and account.credit:
            self.rich[member] = extra
            if member not in self.asking:
                self._ripen(member, account)
        else:
            self.rich.pop(member, None)
            self.asking.pop(member, None)
        if account.warm > account.credit and not extra:
            self.cold[member] = None
        else:
            self.cold.pop(member, None)

    def forget(self, member: int) -> None:
        """A member wants nothing any more."""
        self.shortage -= self.poor.pop(member, 0) + self.rich.pop(member, 0)
        self.cold.pop(member, None)
        self.asking.pop(member, None)

    def first_poor(self, most: int) -> list[int]:
        """The poor members that came first, up to ``most``."""
        return list(islice(self.poor, max(0, most)))

    # -- rich members ask by turns ---------------------------------------------------------------------------

    def _ripen(self, member: int, account: Account) -> None:
        heappush(self._ripening, (self._ripe_at(account), member))
        if len(self._ripening) > 64 + 4 * len(self.rich):  # mostly entries that are out of date
            self._ripening = [(self._ripe_at(self._accounts[each]), each) for each in self.rich]
            heapify(self._ripening)

    def _ripe_at(self, account: Account) -> float:
        """When a member may ask for others' connections: a reconnect's time after it got its last permit, or later."""
        return max(account.ripe_at, account.changed_at + self.cost, account.asks_at)

    @property
    def ripens_at(self) -> float | None:
        """When the next rich member may ask; None: none wants to."""
        return self._ripening[0][0] if self._ripening else None

    def next_ripe(self) -> int | None:
        """Take the member out of the queue whose time comes first; None: it asks already, or wants nothing now."""
        _, member = heappop(self._ripening)
        return member if member in self.rich and member not in self.asking else None

    def begin_to_ask(self, member: int, now: float) -> None:
        """Let a member ask, if it is still rich and its time has come."""
        if member in self.rich and self._ripe_at(self._accounts[member]) <= now:
            self.asking[member] = now

    def has_room_for_asker(self, now: float) -> bool:
        """Whether another rich member may ask; if need be in place of the one that has asked longest, if that has asked
        for C. That one asks again later."""
        if len(self.asking) < ASKERS:
            return True
        member = next(iter(self.asking))
        if now < self.asking[member] + self.cost:
            return False
        del self.asking[member]
        account = self._accounts[member]
        account.asks_at = now + self.cost
        self._ripen(member, account)
        return True

    def stop_ripening(self) -> None:
        """No member wants anything: the queue is empty."""
        self._ripening.clear()
