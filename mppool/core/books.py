"""The manager's books: who has how much of the budget, and who should.

Every permit is on exactly one account or free: ``sum of credits + free == max_size``, always, because what is
free is derived and never stored. Members report facts; `Books.plan` answers with what to do about them. Facts may
be stale by the time they are read: a plan built on them may move a permit late or in vain, never make one.

Sharing is max-min fair: whoever has least is served first, and a permit in use is only called back if that
makes the least better off. Moving a permit costs its taker a new connection, so an idle connection is asked for
softly (its member lets it go once it has lain idle for as long as a reconnect takes: ski rental), it is asked for
only when somebody has waited for some such times or has none that could come back (the same on the taker's side), a
member's last one later still, and members with nothing at all take turns. Connections that are idle for moments only
are never let go so; who has waited long for one gets its share of them as if they were in use.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace

TURN = 8  # times the cost of a reconnect that a member may keep its only permit while another has none
RIPE = 4  # times the cost of a reconnect that a caller waits for a connection of its own process, if that has any
LEAST_TURN = 0.002  # seconds; and where a reconnect costs next to nothing, or has never been measured


class Account:
    """A member's page. ``credit`` is the manager's own; the rest is what the member last reported.

    Attributes:
        credit: permits assigned, used or not.
        target: permits the member should come down to by closing idle connections.
        limit: permits the member must come down to at the next give-back, idle or not.
        held: permits the member has taken from its semaphore.
        in_use: borrowed connections.
        moving: connections being opened, closed or looked after.
        closing: those of them being closed.
        waiting: callers in line.
        since: since when somebody has been in line there.
        warm: connections the member would like to hold even if nobody waits.
        cost: seconds that opening a connection takes there.
        turn: when it was last granted a permit.
        frozen: nobody speaks for it just now: all it has counts as used, and nothing is asked of it or given to it.
    """

    __slots__ = (
        "closing",
        "cost",
        "credit",
        "frozen",
        "held",
        "in_use",
        "limit",
        "moving",
        "since",
        "target",
        "turn",
        "waiting",
        "warm",
    )

    def __init__(self, now: float) -> None:
        self.credit = self.target = self.limit = 0
        self.held = self.in_use = self.moving = self.closing = self.waiting = self.warm = 0
        self.since = self.cost = 0.0
        self.turn = now
        self.frozen = False

    @property
    def unused(self) -> int:
        return max(0, self.credit - self.held)

    @property
    def idle(self) -> int:
        return max(0, self.held - self.in_use - self.moving)

    @property
    def turn_ends(self) -> float:
        return self.turn + max(LEAST_TURN, TURN * self.cost)


class Plan:
    """What to do now. Grants are already booked; recalls are not, since only the semaphore knows what is there.

    Attributes:
        grants: (member, permits) to put on a semaphore.
        recalls: (member, permits) to take off a semaphore, as far as they are there; tell `Books.recalled`.
        shortage: permits that members want and nobody can give at once.
        again_at: when to plan again although nothing happened; None: never.
    """

    __slots__ = ("again_at", "grants", "recalls", "shortage")

    def __init__(self) -> None:
        self.grants: list[tuple[int, int]] = []
        self.recalls: list[tuple[int, int]] = []
        self.shortage = 0
        self.again_at: float | None = None


class Books:
    """All accounts of one budget."""

    STEP = 2  # permits that a giver must have more than the taker: with less, the two would only swap places

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self.accounts: dict[int, Account] = {}

    @property
    def free(self) -> int:
        """Permits on no account. Below zero only when members came over from another manager with more than there
        are: it takes a folder that was deleted under a running budget."""
        return self.max_size - sum(account.credit for account in self.accounts.values())

    def attach(self, member: int, now: float) -> Account:
        account = self.accounts[member] = Account(now)
        return account

    def leave(self, member: int) -> None:
        """Forget a member that closed everything, or died: its whole credit is free."""
        del self.accounts[member]

    def recalled(self, member: int, permits: int) -> None:
        """So many permits really were on the member's semaphore and have been taken off it."""
        self.accounts[member].credit -= permits

    def extra(self, account: Account) -> int:
        """Permits an account lacks to serve everybody who borrows or waits there."""
        if account.frozen:
            return 0
        return max(0, min(account.in_use + account.waiting, self.max_size) - account.credit)

    def plan(self, now: float) -> Plan:
        """Reconcile what members have with what they want."""
        plan = Plan()
        hungry = {member: extra for member, account in self.accounts.items() if (extra := self.extra(account))}
        self._grant(plan, hungry, now)
        for account in self.accounts.values():
            account.target = account.limit = account.credit
        plan.shortage = sum(hungry.values()) + max(0, -self.free)
        if plan.shortage:
            self._call_back(plan, hungry, now)
        else:
            self._warm(plan, now)
        return plan

    def _grant(self, plan: Plan, hungry: dict[int, int], now: float) -> None:
        """Deal out what is free, one at a time to whoever has least, the oldest wait first among equals."""
        free = self.free
        line = [(self.accounts[member].credit, self.accounts[member].since, member) for member in hungry]
        heapify(line)
        granted: dict[int, int] = {}
        while free > 0 and line:
            credit, since, member = line[0]
            granted[member] = granted.get(member, 0) + 1
            free -= 1
            hungry[member] -= 1
            if hungry[member]:
                heapreplace(line, (credit + 1, since, member))
            else:
                heappop(line)
                del hungry[member]
        self._book(plan, granted, now)

    def _warm(self, plan: Plan, now: float) -> None:
        """Nobody waits: let members keep connections warm, each within its fair share."""
        free = self.free
        if free <= 0 or not self.accounts:
            return
        share = max(1, self.max_size // len(self.accounts))
        granted: dict[int, int] = {}
        for member, account in sorted(self.accounts.items(), key=lambda item: item[1].credit):
            permits = min(free, min(account.warm, share) - account.credit)
            if permits > 0 and not account.frozen:
                granted[member] = permits
                free -= permits
        self._book(plan, granted, now)

    def _book(self, plan: Plan, granted: dict[int, int], now: float) -> None:
        for member, permits in granted.items():
            account = self.accounts[member]
            account.credit += permits
            account.target = account.limit = account.credit
            account.turn = now
            plan.grants.append((member, permits))

    def _call_back(self, plan: Plan, hungry: dict[int, int], now: float) -> None:
        """Find a giver for each permit still wanted, the cheapest kind first."""
        overdrawn = max(0, -self.free)
        missing = plan.shortage
        # Permits that nobody uses cost nothing to move, and connections being closed will be such permits soon.
        for account in self.accounts.values():
            if account.frozen:
                continue
            needed = account.in_use + account.waiting
            missing -= self._release(
                account, min(missing, account.credit - max(needed, account.held - account.closing))
            )
        # From here on a move costs a connect.
        hungry = self._ripe(plan, hungry, now)
        wanted = sum(hungry.values()) + overdrawn
        missing = max(0, wanted - (plan.shortage - missing))
        givers = [each for each in self.accounts.values() if each.idle and not each.waiting and not each.frozen]
        # There may be an idle one whenever one looks, and none that stays idle for as long as a reconnect takes. Idle
        # ones are asked for all the same: what is in use may be so for long.
        overdue = {member: extra for member, extra in hungry.items() if givers and self._overdue(plan, member, now)}
        pressed = self._share(plan, overdue, wanted - missing, now) if missing else 0
        needy = sum(extra for m, extra in hungry.items() if m in overdue or not self.accounts[m].credit)
        missing -= max(pressed, self._ask_for_idle(givers, missing, overdrawn + needy))
        # What is on accounts and should not be there at all.
        for _ in range(min(missing, -self.free)):
            most = max(self.accounts.values(), key=lambda each: 0 if each.frozen else each.target)
            if most.frozen or not most.target:
                break  # who has more than there is has not come over yet
            self._press(most)
            missing -= 1
        others = {member: extra for member, extra in hungry.items() if member not in overdue}
        if missing and others:
            self._share(plan, others, wanted - missing, now)
        for member, account in self.accounts.items():
            if account.target < account.credit and account.unused and not account.frozen:
                plan.recalls.append((member, min(account.unused, account.credit - account.target)))

    def _ask_for_idle(self, givers: list[Account], missing: int, needy: int) -> int:
        """Ask whoever has most idle connections, for somebody's last one only so many times; how many were found."""
        found = 0
        for account in sorted(givers, key=lambda each: -each.idle):
            idle = account.idle - (account.credit - account.limit)  # less what it is to close anyhow
            last = idle == account.target and found >= needy
            found += self._release(account, min(missing - found, idle - last))
        return found

    def _ripe(self, plan: Plan, hungry: dict[int, int], now: float) -> dict[int, int]:
        """Those who have waited for some time, or for whom no connection of their own can come back: for others one
        from elsewhere would mostly come too late, and be called back at once."""
        return {
            member: extra
            for member, extra in hungry.items()
            if not (account := self.accounts[member]).in_use
            or not account.waiting
            or self._due(plan, now, account.since + RIPE * account.cost)
        }

    def _overdue(self, plan: Plan, member: int, now: float) -> bool:
        """Whether a member has waited for longer than any idle connection would have taken to come."""
        account = self.accounts[member]
        return self._due(plan, now, account.since + max(LEAST_TURN, TURN * account.cost))

    @staticmethod
    def _due(plan: Plan, now: float, at: float) -> bool:
        if now < at and (plan.again_at is None or at < plan.again_at):
            plan.again_at = at
        return now >= at

    @staticmethod
    def _release(account: Account, permits: int) -> int:
        permits = max(0, permits)
        account.target -= permits
        return permits

    def _share(self, plan: Plan, hungry: dict[int, int], coming: int, now: float) -> int:
        """Call back permits in use from those who have most, for those who have least, while that is fairer; how many.

        ``coming`` permits have been found already; they will go to whoever has least.
        """
        pressed = 0
        takers = [(self.accounts[m].target, self.accounts[m].since, m, extra) for m, extra in hungry.items()]
        heapify(takers)
        givers = [
            (-account.target, member)
            for member, account in self.accounts.items()
            if account.target and not account.frozen
        ]
        heapify(givers)
        while takers and givers:
            has, since, taker, extra = heappop(takers)
            if coming:
                coming -= 1
            else:
                most, giver = givers[0]
                if -most < has + self.STEP:
                    if has == 0:
                        empty = [taker, *(each[2] for each in sorted(takers) if each[0] == 0)]
                        pressed += self._take_turns(empty, plan, now)
                    break
                self._press(self.accounts[giver])
                pressed += 1
                heapreplace(givers, (most + 1, giver))
            if extra > 1:
                heappush(takers, (has + 1, since, taker, extra - 1))
        return pressed

    @staticmethod
    def _press(account: Account) -> None:
        account.target -= 1
        account.limit = min(account.limit, account.target)

    def _take_turns(self, takers: list[int], plan: Plan, now: float) -> int:
        """More members than permits: whoever had its turn longest passes its permit on to who waits longest. How many
        do."""
        pressed = 0
        holders = sorted(
            (account for account in self.accounts.values() if account.target and not account.frozen),
            key=lambda account: account.turn_ends,
        )
        for _, account in zip(takers, holders, strict=False):
            if self._due(plan, now, account.turn_ends):
                self._press(account)
                pressed += 1
        return pressed
