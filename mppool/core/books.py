"""The manager's books: who has how much of the budget, who should, and what to do about it.

The policy. C is what a reconnect costs: the least time of an open that any member measured lately.

    free    A free permit goes to the member with the fewest, the longest wait first; an unused one is taken back.
    ask     A member asks for others' connections once its callers have waited for C in sum: a sum that falls at a tenth
            of the speed while nobody waits, and starts again when a permit comes. A member with none asks at once.
    give    The connection that has been idle longest goes first, once idle for C; a member's last one once idle for
            8 C, or for C if the taker has none.
    fair    The rest comes from those in use, for members with none, and for those that have asked for 8 C: a line that
            is there for a moment is not worth the line it would make elsewhere. It is max-min fair: from the member
            with most, while it has two more than the taker. Among more members than permits, each keeps its only one
            for 8 C.
    bounded A move costs the taker a reconnect. All moves together may cost half of the processors, and those for
            members that have a connection already half of one processor.

Facts may be stale by the time they are read: a plan built on them may move a permit late or in vain, never make one.
What a plan costs depends on what has changed and on what it orders, and not on the number of members: a member is read
when it rings, when it is under orders, and when its turn comes; all are looked at only when somebody asks and it is not
known who could give.
"""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush, heapreplace

from mppool.core.accounts import Account, Accounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    class Reports(Protocol):
        """What members published of themselves."""

        def read(self, member: int, account: Account) -> None:
            """Bring the second group of the account's fields up to date."""

        def idle(self) -> list[tuple[float, int]]:
            """(since when its oldest idle connection has been so, member), of all that have one."""

        def unused(self) -> list[int]:
            """Members that have fewer connections than permits, those that they close not counted."""

        def least_cost(self) -> float:
            """What an open costs by the members' measurements, in seconds, the least; 0: there are none."""


LAST = 8  # times C that a member's last connection must be idle before it goes to a member that has one
TURN = 8  # times C that a member keeps its only permit while another has none, or those in use while another has fewer
LEAST_TURN = 0.002  # seconds; and where a reconnect costs next to nothing, or has never been measured
CHEAPEST, DEAREST = 0.0002, 0.1  # seconds: C as far as the policy goes by it
LEAST_LOOK = 0.001  # seconds between looks at everybody's idle connections
DEAF = 4  # looks that an order to close idle connections is counted on; a stopped process does not follow it
ASKERS = 8  # members with a connection that may ask for more at a time; they take turns if there are others
RICH = 0.5  # processors that may be spent on moves for members that have a connection already


class Plan:
    """What to do now. Grants are already booked; recalls are not, since only the semaphore knows what is there.

    Attributes:
        grants: (member, permits) to put on a semaphore.
        recalls: (member, permits) to take off a semaphore, as far as they are there; tell `Books.recalled`.
        again_at: when to plan again although nothing happened; None: never.
    """

    __slots__ = ("again_at", "grants", "recalls")

    def __init__(self) -> None:
        self.grants: list[tuple[int, int]] = []
        self.recalls: list[tuple[int, int]] = []
        self.again_at: float | None = None

    def due(self, now: float, at: float) -> bool:
        """Whether the time has come; if not, the plan is made again then."""
        if now < at and (self.again_at is None or at < self.again_at):
            self.again_at = at
        return now >= at


class Tokens:
    """Moves that may be made: so many at once, and then as many a second as their costs allow."""

    def __init__(self, processors: float, most: int) -> None:
        self._processors, self._most = processors, float(most)
        self._left, self._at = self._most, 0.0

    def left(self, now: float, cost: float) -> int:
        self._left = min(self._most, self._left + max(0.0, now - self._at) * self._processors / cost)
        self._at = now
        return max(0, int(self._left))

    def next_at(self, now: float, cost: float) -> float:
        """When there is one more; ``now``: there are as many as there may be."""
        if self._left >= self._most:
            return now
        return now + (math.floor(self._left) + 1.0 - self._left) * cost / self._processors

    def spend(self, count: int) -> None:
        self._left = max(self._left - count, -self._most)


class Books:
    """All accounts of one budget, and the policy.

    Args:
        max_size: permits of the budget.
        reports: where to read what members published.
        processors: of this machine.

    Attributes:
        cost: C, in seconds.
        shortage: permits that members want beyond what they have, as far as it is known.
        telling: members are to ring when a connection becomes idle, since nobody looks.
        changed: members whose orders, or what is known of them, may have changed; the caller publishes and clears them.
    """

    STEP = 2  # permits that a giver must have more than the taker: with less, the two would only swap places

    def __init__(self, max_size: int, reports: Reports, processors: float = 2.0) -> None:
        self.max_size = max_size
        self.accounts = Accounts(max_size)
        self.cost = CHEAPEST
        self.shortage = 0
        self.telling = False
        self.changed: set[int] = set()
        self._reports = reports
        self._poor: dict[int, int] = {}  # members that want and have nothing: how many; first come, first served
        self._rich: dict[int, int] = {}  # members that want more than they have: how many
        self._ripening: list[tuple[float, int]] = []  # a heap of when those may ask; entries may be out of date
        self._asking: dict[int, float] = {}  # those of them that may, and since when they do; the first came first
        self._cold: dict[int, None] = {}  # members that would like to keep more connections warm than they have permits
        self._slack: set[int] = set()  # members that have permits which nobody needs there
        self._ordered: set[int] = set()  # members that are to close connections
        self._searched = False  # whether it is known who has unused permits
        self._idle: list[tuple[float, int]] = []  # who has idle connections, as of the last look
        self._look_at = self._measure_at = 0.0
        self._moves = Tokens(max(0.5, processors / 2), max(4, max_size // 2))
        self._rich_moves = Tokens(RICH, max(4, max_size // 8))

    # -- members come, report and go -------------------------------------------------------------------------

    def attach(self, member: int, now: float) -> Account:
        account = self.accounts.open(member, now)
        self.hear(member)
        return account

    def inherit(self, member: int, credit: int, now: float) -> None:
        """A predecessor's member: until it has declared what it holds, all that it ever had counts as used."""
        self.accounts.open(member, now, min(max(0, credit), self.max_size), frozen=True)

    def freeze(self, member: int) -> None:
        """Nobody speaks for this member for a while."""
        self._forget(member)
        self.accounts.freeze(member)

    def declare(self, member: int, held: int, now: float) -> None:
        """A frozen member speaks for itself again: so much it holds, and nothing is unused."""
        self.accounts.change(member, held - self.accounts[member].credit, now)
        self.accounts.thaw(member)
        self.hear(member)

    def bury(self, member: int, connections: int, now: float) -> int:
        """A member has ended, and its server has so many of its connections at most: all else is free. The rest, which
        is returned, stays on the account until it has `ended`."""
        self.freeze(member)
        account = self.accounts[member]
        self.accounts.change(member, min(0, connections - account.credit), now)
        return account.credit

    def ended(self, member: int, now: float) -> int:
        """The server has ended one connection of a buried member; how many are left."""
        self.accounts.change(member, -1, now)
        return self.accounts[member].credit

    def leave(self, member: int) -> None:
        """Forget a member that closed everything, or died: its whole credit is free."""
        self._forget(member)
        self.accounts.close(member)

    def _forget(self, member: int) -> None:
        self.shortage -= self._poor.pop(member, 0) + self._rich.pop(member, 0)
        self._cold.pop(member, None)
        self._asking.pop(member, None)
        for group in (self._slack, self._ordered, self.changed):
            group.discard(member)

    def extra(self, account: Account) -> int:
        """Permits an account lacks to serve everybody who borrows or waits there."""
        if account.frozen:
            return 0
        return max(0, min(account.demand, self.max_size) - account.credit)

    def hear(self, member: int) -> None:
        """Read what a member published."""
        account = self.accounts[member]
        if account.frozen:
            return
        self._reports.read(member, account)
        self.changed.add(member)
        self._sort_in(member, account)
        if account.unneeded:
            self._slack.add(member)

    def rang(self, member: int, now: float) -> None:
        """A member has something to say: read it."""
        self.hear(member)
        account = self.accounts[member]
        if self.telling and account.idle_since and not self._is_deaf(account, now):
            self.telling, self._look_at = False, 0.0

    def _sort_in(self, member: int, account: Account) -> None:
        """Keep in mind what the member wants."""
        extra = self.extra(account)
        self.shortage += extra - (self._poor.get(member, 0) or self._rich.get(member, 0))
        if extra and not account.credit:
            self._poor[member] = extra
        else:
            self._poor.pop(member, None)
        if extra and account.credit:
            self._rich[member] = extra
            if member not in self._asking:
                self._ripen(member, account)
        else:
            self._rich.pop(member, None)
            self._asking.pop(member, None)
        if account.warm > account.credit and not extra:
            self._cold[member] = None
        else:
            self._cold.pop(member, None)

    def _ripen(self, member: int, account: Account) -> None:
        heappush(self._ripening, (self._ripe_at(account), member))
        if len(self._ripening) > 64 + 4 * len(self._rich):  # mostly entries that are out of date
            self._ripening = [(self._ripe_at(self.accounts[each]), each) for each in self._rich]
            heapify(self._ripening)

    def _ripe_at(self, account: Account) -> float:
        """When a member may ask for others' connections: not in the same breath with a permit that it has just got."""
        return max(account.ripe_at, account.changed_at + self.cost, account.asks_at)

    # -- planning --------------------------------------------------------------------------------------------

    def plan(self, now: float) -> Plan:
        """Reconcile what members have with what they want."""
        plan = Plan()
        before = self._withdraw()
        for member in before:
            self.hear(member)
        self._grant(plan, now)
        if self.shortage or self.accounts.free < 0:
            self._call_back(plan, now)
        if not self.shortage and self.accounts.free >= 0:
            # Those that wanted something may have given up meanwhile. Nobody tells of a permit that is called back
            # for nobody, and its member would leave it alone.
            for member in self._withdraw():
                self.accounts[member].asked_at = 0.0
            plan.recalls.clear()
            self._warm(plan, now)
            self._searched = self.telling = False
            self._ripening.clear()
        for member in before - self._ordered:
            self.accounts[member].asked_at = 0.0
        return plan

    def _withdraw(self) -> set[int]:
        """Take all orders back; the members that had some."""
        before, self._ordered = self._ordered, set()
        for member in before:
            account = self.accounts[member]
            account.target = account.limit = account.credit
        return before

    def recalled(self, member: int, permits: int, now: float) -> None:
        """So many permits really were on the member's semaphore and have been taken off it."""
        account = self.accounts[member]
        target, limit = account.target, account.limit
        self.accounts.change(member, -permits, now)
        account.target, account.limit = min(target, account.credit), min(limit, account.credit)
        self.hear(member)

    def _grant(self, plan: Plan, now: float) -> None:
        """Deal out what is free, one at a time to the member with the fewest, the longest wait first among equals."""
        free = self.accounts.free
        if free <= 0 or not self.shortage:
            return
        enough = free > len(self._poor)
        takers = self._takers(free, list(self._rich) if enough else ())
        heapify(takers)
        granted: dict[int, int] = {}
        while free > 0 and takers:
            has, since, member, extra = takers[0]
            granted[member] = granted.get(member, 0) + 1
            free -= 1
            if extra > 1:
                heapreplace(takers, (has + 1, since, member, extra - 1))
            else:
                heappop(takers)
        self._book(plan, granted, now)
        if free > 0 and not enough:
            self._grant(plan, now)  # some that have nothing had given up: the others come

    def _takers(self, most: int, rich: Iterable[int]) -> list[tuple[int, float, int, int]]:
        """(permits it has, place in line, member, permits it lacks) of the first members that have nothing, and of some
        that have; each is read anew, for its callers may have given up."""
        for member in [*(member for member, _ in zip(self._poor, range(most), strict=False)), *rich]:
            self.hear(member)
        line = [
            (0, float(place), each[0], each[1]) for each, place in zip(self._poor.items(), range(most), strict=False)
        ]
        for member in rich:
            if member in self._rich:
                account = self.accounts[member]
                line.append((account.target, account.since, member, self._rich[member]))
        return line

    def _book(self, plan: Plan, granted: dict[int, int], now: float) -> None:
        for member, permits in granted.items():
            if self.accounts[member].credit:
                self._rich_moves.spend(permits)
            self._moves.spend(permits)
            self.accounts.change(member, permits, now)
            self._sort_in(member, self.accounts[member])
            self.changed.add(member)
            plan.grants.append((member, permits))

    def _warm(self, plan: Plan, now: float) -> None:
        """Nobody waits: let members keep connections warm, each within its fair share."""
        free, granted = self.accounts.free, {}
        share = max(1, self.max_size // max(1, len(self.accounts)))
        for member in self._cold if free > 0 else ():
            account = self.accounts[member]
            permits = min(free, min(account.warm, share) - account.credit)
            if permits > 0:
                granted[member] = permits
                free -= permits
            if not free:
                break
        self._book(plan, granted, now)

    def _call_back(self, plan: Plan, now: float) -> None:
        """Find a giver for each permit still wanted, the cheapest kind first."""
        overdrawn = max(0, -self.accounts.free)
        if not self._searched or now >= self._measure_at:
            self._measure(now)
        coming = self._take_unneeded(self.shortage + overdrawn)
        # From here on a move costs a connect.
        asked, tokens = self._ask(plan, now), self._moves.left(now, self.cost)
        if asked > tokens:
            plan.due(now, self._moves.next_at(now, self.cost))
        # What is coming has taken no token yet: it will when it is granted.
        wanted = min(asked, tokens + coming) + overdrawn
        missing = max(0, wanted - coming)
        if missing:
            missing -= self._take_idle(plan, missing, now)
        for member in self.accounts.richest() if overdrawn else ():
            pressed = min(missing, overdrawn, self.accounts[member].target)
            for _ in range(pressed):
                self._press(member)
            missing, overdrawn = missing - pressed, overdrawn - pressed
        if missing:
            self._share(plan, wanted - missing, missing, now)
        for member in self._ordered:
            account = self.accounts[member]
            if self._is_unused(account):
                plan.recalls.append((member, min(account.unused, account.credit - account.target)))

    def _take_unneeded(self, wanted: int) -> int:
        """Permits that nobody uses cost nothing to move, and connections being closed will be such permits soon. How
        many were found."""
        found = self._take_slack(wanted)
        if found < wanted and not self._searched:
            self._look_at = 0.0
            self._search()
            found += self._take_slack(wanted - found)
        return found

    def _take_slack(self, wanted: int) -> int:
        found, none = 0, []
        for member in self._slack:
            if found >= wanted:
                break
            if member in self._ordered:
                continue
            self.hear(member)
            found += self._release(member, min(wanted - found, self.accounts[member].unneeded))
            if member not in self._ordered:
                none.append(member)
        self._slack.difference_update(none)
        return found

    def _ask(self, plan: Plan, now: float) -> int:
        """How many connections of others are asked for: by members that have none, and by those whose callers have
        waited for long enough, as far as connections may be moved for these."""
        tokens = self._rich_moves.left(now, self.cost)
        for member in list(self._asking):
            self.hear(member)
        while tokens and self._ripening and plan.due(now, self._ripening[0][0]):
            if len(self._asking) >= ASKERS and not self._pass_on(now):
                break
            _, member = heappop(self._ripening)
            if member in self._rich and member not in self._asking:
                self.hear(member)  # its line may have been empty in the meantime: then it is due later, or not at all
                if member in self._rich and self._ripe_at(self.accounts[member]) <= now:
                    self._asking[member] = now
        rich = sum(self._rich[member] for member in self._asking)
        if rich > tokens or (not tokens and self._ripening):
            plan.due(
                now, max(self._rich_moves.next_at(now, self.cost), self._ripening[0][0] if self._ripening else now)
            )
        return sum(self._poor.values()) + min(rich, tokens)

    def _pass_on(self, now: float) -> bool:
        """Others want to ask, too: whether a member has asked for long enough, and comes again later."""
        member = next(iter(self._asking))
        if now < self._asking[member] + self.cost:
            return False
        del self._asking[member]
        account = self.accounts[member]
        account.asks_at = now + self.cost
        self._ripen(member, account)
        return True

    def search_again(self) -> bool:
        """Members have just been told that others wait: whether one has put a permit back before it could read that."""
        before = len(self._slack)
        self._search()
        for member in list(self._ordered):  # one that was closing a connection when the plan was made may have done so
            self.hear(member)
        return len(self._slack) > before or any(self._is_unused(self.accounts[member]) for member in self._ordered)

    def _is_unused(self, account: Account) -> bool:
        """Whether there are permits on the semaphore that are called back."""
        return account.unused > 0 and account.target < account.credit

    def look_again(self, now: float) -> bool:
        """Members have just been asked to tell of idle connections: whether one has become idle before that."""
        self._look(now)
        return not self.telling

    def _search(self) -> None:
        """See who has permits that nobody needs there."""
        self._searched = True
        unused = (member for member in self._reports.unused() if member in self.accounts)
        self._slack.update(member for member in unused if not self.accounts[member].frozen)

    def _measure(self, now: float) -> None:
        """Again and again while there is a shortage: it may have begun before any member had measured an open."""
        self.cost = min(DEAREST, max(CHEAPEST, self._reports.least_cost()))
        self._measure_at = now + TURN * self.cost

    def _look(self, now: float) -> None:
        """See who has idle connections. If there are none, members are told to ring when there is one."""
        self._idle = sorted(self._reports.idle())
        self._look_at = now + max(LEAST_LOOK, self.cost)
        self.telling = all(
            member not in self.accounts or self._is_deaf(self.accounts[member], now) for _, member in self._idle
        )

    def _is_deaf(self, account: Account, now: float) -> bool:
        """Whether a member has been asked for idle connections for so long that nobody should count on it."""
        return account.frozen or bool(account.asked_at and now > account.asked_at + DEAF * max(LEAST_LOOK, self.cost))

    def _take_idle(self, plan: Plan, missing: int, now: float) -> int:
        """Ask for the connections that have been idle longest; how many can be counted on."""
        if not self.telling and now >= self._look_at:
            self._look(now)
        found = 0
        for since, member in self._idle:
            if found >= missing or not plan.due(now, since + self.cost):
                break
            if member not in self.accounts:
                continue  # its row says something, and it has left
            account = self.accounts[member]
            self.hear(member)
            if account.waiting or not account.idle_since or not plan.due(now, account.idle_since + self.cost):
                continue
            idle = account.idle
            if idle >= account.target and found >= len(self._poor):
                idle -= not plan.due(now, account.idle_since + LAST * self.cost)
            asked = self._release(member, min(missing - found, idle))
            if asked:
                account.asked_at = account.asked_at or now
                found += asked * (not self._is_deaf(account, now))
        if not self.telling:
            plan.due(now, self._look_at)
        return found

    def _share(self, plan: Plan, coming: int, most: int, now: float) -> None:
        """Call back permits in use from the members with most, for those with fewest, while that is fairer.

        Args:
            coming: permits that have been found already; they will go to the members with fewest.
            most: permits that may be called back.
        """
        richest = next(self.accounts.richest(), None)
        if richest is None or self.accounts[richest].credit < self.STEP:
            self._take_turns(plan, min(most, len(self._poor) - coming), now)
            return
        takers = self._takers(coming + most, self._in_need(plan, now))
        heapify(takers)
        givers: list[tuple[int, int, int]] = []
        for place, member in enumerate(self.accounts.richest()):
            if place > most + len(self._ordered):
                break
            givers.append((-self.accounts[member].target, place, member))
        heapify(givers)
        while takers and givers and most:
            has, since, taker, extra = heappop(takers)
            if coming:
                coming -= 1
            else:
                negative, place, giver = givers[0]
                if -negative < has + self.STEP:
                    if has == 0:
                        self._take_turns(plan, min(most, 1 + sum(each[0] == 0 for each in takers)), now)
                    return
                self._press(giver)
                most -= 1
                heapreplace(givers, (negative + 1, place, giver))
            if extra > 1:
                heappush(takers, (has + 1, since, taker, extra - 1))

    def _in_need(self, plan: Plan, now: float) -> list[int]:
        """Members that have asked for idle connections for so long that they may have some that are in use."""
        wait = (TURN - 1) * self.cost
        return [member for member in self._asking if plan.due(now, self.accounts[member].ripe_at + wait)]

    def _take_turns(self, plan: Plan, most: int, now: float) -> None:
        """More members than permits: those that have had their only one longest pass it on, up to so many."""
        for member in self.accounts.with_one():
            account = self.accounts[member]
            if most > 0 and account.target:
                if not plan.due(now, account.changed_at + max(LEAST_TURN, TURN * self.cost)):
                    return
                self._press(member)
                most -= 1

    def _release(self, member: int, permits: int) -> int:
        """Have a member close so many idle connections, or leave so many permits unused; how many it has."""
        account = self.accounts[member]
        permits = max(0, min(permits, account.target))
        if permits:
            account.target -= permits
            self._ordered.add(member)
            self.changed.add(member)
        return permits

    def _press(self, member: int) -> None:
        """Have a member close one connection more, a borrowed one at its return if none is idle."""
        account = self.accounts[member]
        account.target -= 1
        account.limit = min(account.limit, account.target)
        self._ordered.add(member)
        self.changed.add(member)
