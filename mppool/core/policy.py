"""The policy: which member gets permits, and from which member they come.

C is what a reconnect costs: the least time of an open that any member measured lately. A member that wants permits is
poor if it has none, and rich if it has some.

    free    A free permit goes to the member with the fewest, the longest wait first; an unused one is taken back.
    ask     A rich member asks for others' connections once its callers have waited for C in sum: a sum that falls at a
            tenth of the speed while no caller waits, and starts again when a permit comes. A poor one asks at once.
    give    The connection that has been idle longest goes first, once idle for C; a member's last one once idle for
            8 C, or for C if the taker is poor.
    fair    The rest comes from those in use, for poor members, and for those that have asked for 8 C: a line that lasts
            a moment is not worth the line it would make elsewhere. It is max-min fair: from the member with most, while
            it has two more than the taker. Among more members than permits, each keeps its only one for 8 C.
    bounded A move costs the taker a reconnect. All moves together may cost half of the processors, and those for rich
            members half of one processor.

Facts may be out of date by the time they are read: a plan built on them may move a permit late or in vain, never make
one. What a plan costs depends on what has changed and on what it orders, and not on the number of members: a member is
read when it notifies the manager, when it is under orders, and when its turn comes. All are looked at only when a
member asks and it is not known which could give.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace

from mppool.core.plan import MoveLimit, Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mppool.core.accounts import Account
    from mppool.core.books import Books

LAST = 8  # times C that a member's last connection must be idle before it goes to a rich member
TURN = 8  # times C that a member keeps its only permit while another has none, or those in use while another has fewer
LEAST_TURN = 0.002  # seconds; and where a reconnect costs next to nothing, or has never been measured
LEAST_LOOK = 0.001  # seconds between looks at all members' idle connections
UNANSWERED = 4  # looks that an order to close idle connections is counted on; a stopped process does not follow it
ASKERS = 8  # rich members that may ask at a time; they take turns if there are others
RICH = 0.5  # processors that may be spent on moves for rich members


class Policy:
    """Plans what to grant and what to recall.

    Args:
        books: of the budget.
        processors: of this machine.

    Attributes:
        telling: members are to notify it when a connection becomes idle, since the manager does not look.
    """

    STEP = 2  # permits that a giver must have more than the taker: with less, the two would only swap

    def __init__(self, books: Books, processors: float = 2.0) -> None:
        self.telling = False
        self._books, self._accounts, self._wants = books, books.accounts, books.wants
        self._searched = False  # whether it is known which members have unused permits
        self._idle: list[tuple[float, int]] = []  # members with idle connections, as of the last look
        self._look_at = self._measure_at = 0.0
        self._processors = max(0.5, processors / 2)
        self.resized()

    @property
    def cost(self) -> float:
        """C, in seconds."""
        return self._wants.cost

    # -- news ------------------------------------------------------------------------------------------------

    def resized(self) -> None:
        """The budget has its first size, or another one."""
        self._moves = MoveLimit(self._processors, max(4, self._books.max_size // 2))
        self._rich_moves = MoveLimit(RICH, max(4, self._books.max_size // 8))

    def notified(self, member: int, now: float) -> None:
        """A member has notified the manager, or reports again after it could not: read it.

        Its idle connection is looked for even if the member seemed to be unresponsive: it is not, since it notifies.
        """
        self._books.hear(member)
        if self.telling and self._accounts[member].idle_since:
            self.telling, self._look_at = False, 0.0

    def search_again(self) -> bool:
        """Members have just been told that others wait: whether one has put a permit back before it could read that."""
        before = len(self._books.unneeded)
        self._search()
        for member in list(self._books.ordered):  # one that was closing a connection during the plan may have done so
            self._books.hear(member)
        some_unused = any(self._accounts[member].recalled_unused > 0 for member in self._books.ordered)
        return len(self._books.unneeded) > before or some_unused

    def look_again(self, now: float) -> bool:
        """Members have just been asked to tell of idle connections: whether one has become idle before that."""
        self._look(now)
        return not self.telling

    # -- planning --------------------------------------------------------------------------------------------

    def plan(self, now: float) -> Plan:
        """Reconcile what members have with what they want."""
        plan, books, wants = Plan(), self._books, self._wants
        before = books.withdraw_orders()
        for member in before:
            books.hear(member)
        self._grant(plan, now)
        if wants.shortage or self._accounts.free < 0:
            self._recall(plan, now)
        if not wants.shortage and self._accounts.free >= 0:
            # Those that wanted something may have given up meanwhile. No member tells of a permit that is recalled for
            # nobody, and the member that has it would leave it alone.
            for member in books.withdraw_orders():
                books.answered(member)
            plan.recalls.clear()
            self._warm(plan, now)
            self._searched = self.telling = False
            wants.ripening.clear()
        for member in before - books.ordered:
            books.answered(member)
        return plan

    # -- granting what is free -------------------------------------------------------------------------------

    def _grant(self, plan: Plan, now: float) -> None:
        """Grant what is free, one at a time to the member with the fewest, the longest wait first among equals."""
        free = self._accounts.free
        if free <= 0 or not self._wants.shortage:
            return
        enough = free > len(self._wants.poor)
        takers = self._takers(free, list(self._wants.rich) if enough else ())
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
            self._grant(plan, now)  # some poor members had given up: the rich ones come

    def _takers(self, most: int, rich: Iterable[int]) -> list[tuple[int, float, int, int]]:
        """A heap of (permits it has, place in line, member, permits it lacks) of up to ``most`` poor members and of
        these rich ones. Each is read anew, for its callers may have given up."""
        for member in [*self._wants.first_poor(most), *rich]:
            self._books.hear(member)
        first_poor = self._wants.first_poor(most)
        line = [(0, float(place), each, self._wants.poor[each]) for place, each in enumerate(first_poor)]
        for member in rich:
            if member in self._wants.rich:
                account = self._accounts[member]
                line.append((account.target, account.since, member, self._wants.rich[member]))
        heapify(line)
        return line

    def _book(self, plan: Plan, granted: dict[int, int], now: float) -> None:
        for member, permits in granted.items():
            if self._accounts[member].credit:
                self._rich_moves.spend(permits)
            self._moves.spend(permits)
            self._books.grant(member, permits, now)
            plan.grants.append((member, permits))

    def _warm(self, plan: Plan, now: float) -> None:
        """No caller waits: let members keep connections warm, each within its fair share."""
        free, granted = self._accounts.free, {}
        share = max(1, self._accounts.max_size // max(1, len(self._accounts)))
        for member in self._wants.cold if free > 0 else ():
            account = self._accounts[member]
            permits = min(free, min(account.warm, share) - account.credit)
            if permits > 0:
                granted[member] = permits
                free -= permits
            if not free:
                break
        self._book(plan, granted, now)

    # -- recalling for those that still want -----------------------------------------------------------------

    def _recall(self, plan: Plan, now: float) -> None:
        """Find a giver for each permit still wanted, the cheapest kind first."""
        overdrawn = max(0, -self._accounts.free)
        if not self._searched or now >= self._measure_at:
            self._measure(now)
        coming = self._take_unneeded(self._wants.shortage + overdrawn)
        # From here on a move costs a connect.
        asked, tokens = self._ask(plan, now), self._moves.left(now, self.cost)
        if asked > tokens:
            plan.due(now, self._moves.next_at(now, self.cost))
        # What is coming has taken no token yet: it will when it is granted.
        wanted = min(asked, tokens + coming) + overdrawn
        missing = max(0, wanted - coming)
        if overdrawn:
            missing -= self._take_overdrawn(min(missing, overdrawn))
        if missing:
            missing -= self._take_idle(plan, missing, now)
        if missing:
            self._share(plan, max(0, wanted - missing - overdrawn), missing, now)
        for member in self._books.ordered:
            if (unused := self._accounts[member].recalled_unused) > 0:
                plan.recalls.append((member, unused))

    def _take_unneeded(self, wanted: int) -> int:
        """Recall permits that no caller needs, which costs nothing; connections being closed will be such permits soon.
        How many were found."""
        found = self._recall_unneeded(wanted)
        if found < wanted and not self._searched:
            self._look_at = 0.0
            self._search()
            found += self._recall_unneeded(wanted - found)
        return found

    def _recall_unneeded(self, wanted: int) -> int:
        found, none, books = 0, [], self._books
        for member in books.unneeded:
            if found >= wanted:
                break
            if member in books.ordered:
                continue
            books.hear(member)
            found += books.recall_idle(member, min(wanted - found, self._accounts[member].unneeded))
            if member not in books.ordered:
                none.append(member)
        books.unneeded.difference_update(none)
        return found

    def _ask(self, plan: Plan, now: float) -> int:
        """How many connections of others are asked for: by poor members, and by rich ones whose callers have waited for
        long enough, as far as connections may be moved for these."""
        wants, tokens = self._wants, self._rich_moves.left(now, self.cost)
        for member in list(wants.asking):
            self._books.hear(member)
        while tokens and wants.ripening and plan.due(now, wants.ripening[0][0]):
            if len(wants.asking) >= ASKERS and not wants.pass_on(now):
                break
            _, member = heappop(wants.ripening)
            if member in wants.rich and member not in wants.asking:
                self._books.hear(member)  # its line may have been empty in the meantime: then it is due later, or never
                wants.begin_to_ask(member, now)
        rich = sum(wants.rich[member] for member in wants.asking)
        if rich > tokens or (not tokens and wants.ripening):
            plan.due(
                now, max(self._rich_moves.next_at(now, self.cost), wants.ripening[0][0] if wants.ripening else now)
            )
        return sum(wants.poor.values()) + min(rich, tokens)

    def _search(self) -> None:
        """Find the members that have permits which no caller there needs."""
        self._searched = True
        accounts = self._accounts
        unused = (member for member in self._books.reports.unused() if member in accounts)
        self._books.unneeded.update(member for member in unused if not accounts[member].frozen)

    def _measure(self, now: float) -> None:
        """Again and again while there is a shortage: it may have begun before any member had measured an open."""
        self._wants.measured(self._books.reports.least_cost())
        self._measure_at = now + TURN * self.cost

    # -- idle connections ------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Find the members that have idle connections. If there are none, members are to tell of one."""
        accounts = self._accounts
        self._idle = sorted(self._books.reports.idle())
        self._look_at = now + max(LEAST_LOOK, self.cost)
        self.telling = all(
            member not in accounts or self._is_unresponsive(accounts[member], now) for _, member in self._idle
        )

    def _is_unresponsive(self, account: Account, now: float) -> bool:
        """Whether a member has been asked for idle connections for so long that it should not be counted on."""
        patience = UNANSWERED * max(LEAST_LOOK, self.cost)
        return account.frozen or bool(account.asked_at and now > account.asked_at + patience)

    def _take_idle(self, plan: Plan, missing: int, now: float) -> int:
        """Recall the connections that have been idle longest; how many can be counted on."""
        if not self.telling and now >= self._look_at:
            self._look(now)
        found = 0
        for since, member in self._idle:
            if found >= missing or not plan.due(now, since + self.cost):
                break
            if member not in self._accounts:
                continue  # the row says something, but its member has left
            account = self._accounts[member]
            self._books.hear(member)
            if account.waiting or not account.idle_since or not plan.due(now, account.idle_since + self.cost):
                continue
            idle = min(account.idle, account.spare)
            if idle >= account.target and found >= len(self._wants.poor):
                idle -= not plan.due(now, account.idle_since + LAST * self.cost)
            recalled = self._books.recall_idle(member, min(missing - found, idle))
            if recalled:
                self._books.asked(member, now)
                found += recalled * (not self._is_unresponsive(account, now))
        if not self.telling:
            plan.due(now, self._look_at)
        return found

    # -- connections in use ----------------------------------------------------------------------------------

    def _take_overdrawn(self, wanted: int) -> int:
        """More permits are out than the budget has: recall them, one at a time, from the member that keeps most then;
        those that no borrower has come first. How many were found.

        Members that cannot report just now give up their part in thought: else the first ones that come to a successor
        would pay for all.
        """
        accounts, found = self._accounts, 0
        members = list(accounts.richest())
        for member in members:
            self._books.hear(member)
        frozen = [member for member in accounts if accounts[member].frozen]
        for only_spare in (True, False):
            given = [*members, *(() if only_spare else frozen)]
            keeps = [(-accounts[member].target, place, member) for place, member in enumerate(given)]
            heapify(keeps)
            while keeps and found < wanted:
                negative, place, member = heappop(keeps)
                if negative == 0 or (only_spare and not accounts[member].spare):
                    continue
                if not accounts[member].frozen:
                    self._books.recall_in_use(member)
                found += 1
                heappush(keeps, (negative + 1, place, member))
        return found

    def _share(self, plan: Plan, coming: int, most: int, now: float) -> None:
        """Recall permits in use from the members with most, for those with fewest, while that is fairer.

        It deals in thought what is coming and what it recalls, one permit at a time, to the taker that has fewest then.
        A giver's and a taker's number of permits change with each, and that decides when to stop.

        Args:
            coming: permits that have been found already; they will go to the members with fewest.
            most: permits that may be recalled.
        """
        richest = next(self._accounts.richest(), None)
        if richest is None or self._accounts[richest].credit < self.STEP:
            self._take_turns(plan, min(most, len(self._wants.poor) - coming), now)
            return
        takers = self._takers(coming + most, self._in_need(plan, now))
        givers = self._givers(most)
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
                self._books.recall_in_use(giver)
                most -= 1
                heapreplace(givers, (negative + 1, place, giver))
            if extra > 1:
                heappush(takers, (has + 1, since, taker, extra - 1))

    def _givers(self, most: int) -> list[tuple[int, int, int]]:
        """A heap of (negative: permits it may keep, place among equals, member) of as many members as can be needed to
        give up ``most`` permits: those with most."""
        givers: list[tuple[int, int, int]] = []
        for place, member in enumerate(self._accounts.richest()):
            if place > most + len(self._books.ordered):
                break
            givers.append((-self._accounts[member].target, place, member))
        heapify(givers)
        return givers

    def _in_need(self, plan: Plan, now: float) -> list[int]:
        """Members that have asked for idle connections for so long that they may have some that are in use."""
        wait = (TURN - 1) * self.cost
        return [member for member in self._wants.asking if plan.due(now, self._accounts[member].ripe_at + wait)]

    def _take_turns(self, plan: Plan, most: int, now: float) -> None:
        """More members than permits: those that have had their only one longest pass it on, up to ``most``."""
        for member in self._accounts.with_one():
            account = self._accounts[member]
            if most > 0 and account.target:
                if not plan.due(now, account.changed_at + max(LEAST_TURN, TURN * self.cost)):
                    return
                self._books.recall_in_use(member)
                most -= 1
