"""The policy and its books, walked: members come, borrow, wait, give back, are killed, and report late or never."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mppool.core.accounts import Account
from mppool.core.books import Books
from mppool.core.plan import Plan
from mppool.core.policy import ASKERS, LAST, LEAST_LOOK, RICH, TURN, UNANSWERED, Policy
from mppool.core.wants import CHEAPEST, Wants

if TYPE_CHECKING:
    from mppool.core.accounts import Facts

FACTS = ("held", "in_use", "moving", "closing", "waiting", "since", "ripe_at", "idle_since", "warm", "cost")


class Process:
    """A member as it really is; what the manager can read of it is what it `published` last."""

    def __init__(self) -> None:
        self.tokens = 0  # on its semaphore
        self.in_use = self.opening = self.closing = self.waiting = 0
        self.idle: list[float] = []  # since when; the longest first
        self.since = self.cost = 0.0
        self.warm = 0
        self.stopped = False  # by SIGSTOP: it follows no orders, and its borrowers are stopped, too
        self.published: dict[str, float] = {}
        self.publish()

    @property
    def held(self) -> int:
        return self.in_use + len(self.idle) + self.opening + self.closing

    def publish(self) -> None:
        self.published = {
            "held": self.held,
            "in_use": self.in_use,
            "moving": self.opening + self.closing,
            "closing": self.closing,
            "waiting": self.waiting,
            "since": self.since,
            "ripe_at": self.since + self.cost,
            "idle_since": self.idle[0] if self.idle else 0.0,
            "warm": self.warm,
            "cost": self.cost,
        }

    def serve(self) -> None:
        served = min(len(self.idle), self.waiting)
        del self.idle[len(self.idle) - served :]
        self.waiting -= served
        self.in_use += served


class Published:
    """What the manager can read."""

    def __init__(self) -> None:
        self.processes: dict[int, Process] = {}

    def read(self, member: int) -> Facts:
        return tuple(map(self.processes[member].published.__getitem__, FACTS))  # type: ignore[return-value]

    def idle(self) -> list[tuple[float, int]]:
        facts = ((process.published["idle_since"], member) for member, process in self.processes.items())
        return [(since, member) for since, member in facts if since]

    def unused(self) -> list[int]:
        return [m for m, process in self.processes.items() if process.published["held"] < self.credit(m)]

    def credit(self, member: int) -> int:
        return 99  # the books look themselves

    def least_cost(self) -> float:
        costs = (process.published["cost"] for process in self.processes.values() if process.published["cost"])
        return min(costs, default=0.0)


class Walk(RuleBasedStateMachine):
    planted: type[Books] | type[Policy] = Policy

    @initialize(max_size=st.sampled_from([1, 2, 3, 5, 12]))  # mostly fewer permits than callers
    def begin(self, max_size: int) -> None:
        self.published = Published()
        self.books = (self.planted if issubclass(self.planted, Books) else Books)(max_size, self.published)
        self.policy = (self.planted if issubclass(self.planted, Policy) else Policy)(self.books)
        self.max_size = max_size
        self.processes = self.published.processes
        self.credits: dict[int, tuple[int, float]] = {}  # and since when
        self.now = 1.0  # an idle connection's zero means that there is none
        self.next_id = 0
        self.moves = 0  # connections closed because others wait
        self.most = max_size  # that may be out: more than the budget has, while it becomes smaller

    # -- what members do -------------------------------------------------------------------------------------

    @rule(warm=st.integers(0, 3), cost=st.sampled_from([0.0, 0.0001, 0.01]))
    def attach(self, warm: int, cost: float) -> None:
        if len(self.processes) < 5:
            process = self.processes[self.next_id] = Process()
            process.warm, process.cost = warm, cost
            process.publish()
            self.books.attach(self.next_id, self.now)
            self.next_id += 1

    def some(self, data: st.DataObject) -> Process:
        return self.processes[data.draw(st.sampled_from(sorted(self.processes)))]

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(sorted(self.processes)))
        self.books.leave(member)
        del self.processes[member]
        self.credits.pop(member, None)

    @precondition(lambda self: self.processes)
    @rule(data=st.data(), callers=st.integers(1, 15))
    def line_up(self, data: st.DataObject, callers: int) -> None:
        process = self.some(data)
        if not process.waiting:
            process.since = self.now
        process.waiting += callers
        process.serve()

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def stop_or_continue(self, data: st.DataObject) -> None:
        process = self.some(data)
        process.stopped = not process.stopped

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def give_up_waiting(self, data: st.DataObject) -> None:
        self.some(data).waiting = 0

    @precondition(lambda self: self.processes)
    @rule(data=st.data(), target_first=st.booleans())
    def act(self, data: st.DataObject, target_first: bool) -> None:
        member = data.draw(st.sampled_from(sorted(self.processes)))
        self._act(member)

    def _act(self, member: int) -> None:
        """What an agent does: finish what is moving, obey, take what it may."""
        process, account = self.processes[member], self.books.accounts[member]
        if process.stopped:
            return
        process.tokens += process.closing
        process.closing = 0
        process.idle += [self.now] * process.opening
        process.opening = 0
        process.serve()
        while process.idle and process.held - process.closing > account.target:
            if process.held - process.closing <= account.limit and process.idle[0] + self.policy.cost > self.now:
                break
            del process.idle[0]
            process.closing += 1
            self.moves += 1
        while process.tokens and process.held < account.target and process.waiting > process.opening:
            process.tokens -= 1
            process.opening += 1

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        self._give_back(data.draw(st.sampled_from(sorted(self.processes))))

    def _give_back(self, member: int) -> None:
        process, account = self.processes[member], self.books.accounts[member]
        if process.in_use:
            process.in_use -= 1
            if process.held + 1 - process.closing > account.limit:
                process.closing += 1
                self.moves += 1
            else:
                process.idle.append(self.now)
            process.serve()

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(sorted(self.processes)))
        self.processes[member].publish()

    @precondition(lambda self: self.processes)
    @rule(data=st.data(), callers=st.integers(0, 8))
    def ring(self, data: st.DataObject, callers: int) -> None:
        """A member changes its mind, reports, and has the manager look: the others' facts stay as stale as they are."""
        member = data.draw(st.sampled_from(sorted(self.processes)))
        self.processes[member].waiting = callers
        self.processes[member].serve()
        self.processes[member].publish()
        self.policy.notified(member, self.now)
        self.settle()

    # -- what the manager does -------------------------------------------------------------------------------

    @rule(max_size=st.sampled_from([1, 2, 3, 5, 12]))
    def resize(self, max_size: int) -> None:
        self.max_size = max_size
        self.books.resize(max_size)
        self.policy.resized()
        self.settle()

    @rule(passes=st.floats(0, 0.1))
    def plan(self, passes: float) -> None:
        self.now += passes
        self.settle()

    def settle(self) -> Plan:
        for _ in range(100):
            plan = self.policy.plan(self.now)
            for member, permits in plan.grants:
                assert permits > 0
                self.processes[member].tokens += permits
            moved = 0
            for member, permits in plan.recalls:
                got = min(permits, self.processes[member].tokens)
                self.processes[member].tokens -= got
                self.books.recalled(member, got, self.now)
                moved += got
            if not moved:
                self.only_ones_are_kept()
                return plan
        raise AssertionError("the manager never comes to rest")

    def only_ones_are_kept(self) -> None:
        """A member has its turn with its only permit."""
        for member in self.processes:
            account = self.books.accounts[member]
            before, self.credits[member] = self.credits.get(member, (-1, 0.0)), (account.credit, self.now)
            if before[0] == account.credit:
                self.credits[member] = before
                if account.credit == 1 and account.limit == 0 and self.books.accounts.free >= 0:
                    assert self.now >= before[1] + TURN * self.policy.cost, "its turn was cut short"

    @invariant()
    def nothing_from_nothing(self) -> None:
        if not hasattr(self, "books"):
            return
        accounts = self.books.accounts
        assert sum(accounts[member].credit for member in accounts) + accounts.free == self.max_size
        out = self.max_size - accounts.free
        assert out <= max(self.max_size, self.most), "more are granted although there are too many"
        self.most = out
        assert sum(process.held for process in self.processes.values()) <= out
        for member, process in self.processes.items():
            credit = self.books.accounts[member].credit
            assert process.held + process.tokens == credit, "a permit was made or lost"
            assert 0 <= self.books.accounts[member].limit <= credit
            assert 0 <= self.books.accounts[member].target <= credit

    @precondition(lambda self: self.processes)
    @rule()
    def come_to_rest(self) -> None:
        """Everybody reports, obeys and keeps borrowing: then nobody idles while others wait, and shares are fair."""
        rounds = 60 + 4 * self.max_size
        for number in range(rounds):
            if number == rounds // 2:
                self.moves = 0
            self.now += 0.02
            for member, process in self.processes.items():
                process.publish()
                self.policy.notified(member, self.now)
            self.settle()
            for member in self.processes:
                self._act(member)
                if self.processes[member].in_use and not self.processes[member].stopped:
                    self._give_back(member)  # a borrower is done and comes again
                    self.processes[member].waiting += 1
                    self.processes[member].serve()
        accounts = self.books.accounts
        credits = sum(accounts[member].credit for member in accounts)
        if not any(process.stopped for process in self.processes.values()):
            assert accounts.free >= 0, "the budget does not come down to its size"
        if any(process.waiting for process in self.processes.values()):
            stopped = any(process.stopped for process in self.processes.values())
            assert credits == self.max_size or stopped, "permits lie unused while somebody waits"
        if not self.books.wants.shortage:
            return
        short = [member for member in self.processes if self.books.wants.extra(self.books.accounts[member])]
        assert short, "callers are counted that do not wait any more"
        if min(self.books.accounts[member].credit for member in short):
            assert self.moves == 0, "permits go back and forth although the shares are fair"
        short = [member for member in short if not self.processes[member].stopped]
        if not short:
            return
        for member, process in self.processes.items():
            account = self.books.accounts[member]
            if process.stopped:
                continue
            assert not process.idle, "a connection idles while others wait"
            assert process.tokens == 0 or account.target < account.credit or process.waiting, "a permit idles"
            if process.closing == 0 and account.target == account.credit:
                least = min(self.books.accounts[each].credit for each in short)
                assert account.credit <= least + 1, "somebody has two more than somebody who waits"


def walk(planted: type[Books] | type[Policy], examples: int) -> None:
    machine = type("Walk_" + planted.__name__, (Walk,), {"planted": planted})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
            phases=[Phase.generate],  # made small, a failure takes minutes
        ),
    )


def test_books_keep_their_promises() -> None:
    walk(Policy, min(300, 3 * settings.default.max_examples))  # fewer in the fast tier


class GrantsTwice(Policy):
    def _book(self, plan: Plan, granted: dict[int, int], now: float) -> None:
        super()._book(plan, granted, now)
        plan.grants.extend(plan.grants[-1:])


class ForgetsTheDead(Books):
    def leave(self, member: int) -> None:
        credit = self.accounts[member].credit
        super().leave(member)
        self.accounts.free -= credit


class ServesTheRichest(Policy):
    def _share(self, plan: Plan, coming: int, most: int, now: float) -> None:
        return


class LeavesIdleAlone(ServesTheRichest):
    def _take_idle(self, plan: Plan, missing: int, now: float) -> int:
        return 0


class LetsOnlyThePoorAsk(Policy):
    def _ask(self, plan: Plan, now: float) -> int:
        return sum(self._wants.poor.values())


class NotesOnlyMore(Wants):
    def note(self, member: int, account: Account) -> None:
        if self.extra(account):
            super().note(member, account)


class CountsCallersThatLeft(Books):
    def __init__(self, max_size: int, reports: Published) -> None:
        super().__init__(max_size, reports)
        self.wants = NotesOnlyMore(self.accounts)


class CountsOnTheUnresponsive(ServesTheRichest):
    """Waits for ever for the idle connections of a stopped process."""

    def _is_unresponsive(self, account: Account, now: float) -> bool:
        return account.frozen


class TrustsStaleFacts(Policy):
    """Books a recall before the semaphore has shown that the permits are there."""

    def plan(self, now: float) -> Plan:
        plan = super().plan(now)
        for member, permits in plan.recalls:
            self._accounts.change(member, -permits, now)
        self._books.recalled = lambda *_: None  # type: ignore[method-assign]
        return plan


class SwapsForEver(Policy):
    """Calls permits back although that only swaps who has more."""

    STEP = 1


class TurnsWithoutEnd(Policy):
    """Lets a turn take no time at all."""

    def plan(self, now: float) -> Plan:
        for member in self._accounts:
            self._accounts[member].changed_at = -1.0
        return super().plan(now)


class TakesNothingBack(Policy):
    """Lets a budget that has become smaller wait for members that die."""

    def _take_overdrawn(self, wanted: int) -> int:
        return 0


class GrantsWhatIsNotFree(Policy):
    def _grant(self, plan: Plan, now: float) -> None:
        self._accounts.free += 1
        super()._grant(plan, now)
        self._accounts.free -= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "planted",
    [
        GrantsTwice,
        ForgetsTheDead,
        ServesTheRichest,
        LeavesIdleAlone,
        LetsOnlyThePoorAsk,
        CountsCallersThatLeft,
        CountsOnTheUnresponsive,
        TrustsStaleFacts,
        SwapsForEver,
        GrantsWhatIsNotFree,
        TakesNothingBack,
        TurnsWithoutEnd,
    ],
)
def test_the_walk_finds_planted_bugs(planted: type[Books] | type[Policy]) -> None:
    """A walk that cannot fail proves nothing."""
    with pytest.raises(AssertionError):
        walk(planted, 5000)  # it ends with the first that is found


# -- single decisions, by hand -------------------------------------------------------------------------------

C = 0.01  # seconds that a reconnect takes here
NOW = 100.0


class Written:
    """What members published, written by hand."""

    def __init__(self) -> None:
        self.facts: dict[int, dict[str, float]] = {}
        self.measured = [C]

    def read(self, member: int) -> Facts:
        return tuple(self.facts[member].get(fact, 0) for fact in FACTS)  # type: ignore[return-value]

    def idle(self) -> list[tuple[float, int]]:
        return [(facts["idle_since"], member) for member, facts in self.facts.items() if facts["idle_since"]]

    def unused(self) -> list[int]:
        return list(self.facts)

    def least_cost(self) -> float:
        return min(self.measured, default=0.0)


class Sheet(Policy):
    """The policy, with books whose members' facts are written by hand."""

    def __init__(self, max_size: int) -> None:
        self.written = Written()
        self.books = Books(max_size, self.written)
        super().__init__(self.books)
        self.books.wants.cost = C

    def member(self, number: int, *, credit: int = 0, idle_for: float = 10 * C, **facts: float) -> Account:
        """A member with so many permits since long ago; ``idle`` of them have been so for ``idle_for`` seconds."""
        idle = facts.pop("idle", 0)
        names = ("in_use", "moving", "closing", "waiting", "warm", "since", "ripe_at")
        self.written.facts[number] = {
            **dict.fromkeys(names, 0),
            "held": facts.get("in_use", 0) + facts.get("moving", 0) + idle,
            "idle_since": NOW - idle_for if idle else 0.0,
            **facts,
        }
        account = self.books.accounts.open(number, 0.0, credit)
        self.books.hear(number)
        return account

    def report(self, number: int, now: float = NOW, **facts: float) -> None:
        self.written.facts[number].update(facts)
        self.notified(number, now)


def test_a_lone_member_gets_everything() -> None:
    sheet = Sheet(30)
    sheet.member(0, waiting=50)
    assert sheet.plan(NOW).grants == [(0, 30)]


def test_free_permits_go_to_the_member_with_the_fewest_the_oldest_wait_first() -> None:
    sheet = Sheet(5)
    sheet.member(0, credit=2, in_use=2, waiting=9)
    sheet.member(1, waiting=9)
    sheet.member(2, waiting=9)
    assert sorted(sheet.plan(NOW).grants) == [(1, 2), (2, 1)]


def test_an_unused_permit_is_taken_without_asking() -> None:
    sheet = Sheet(2)
    account = sheet.member(0, credit=2, in_use=1)
    sheet.member(1, waiting=1)
    assert sheet.plan(NOW).recalls == [(0, 1)]
    assert account.limit == 2, "nothing is to be closed"


def test_an_idle_connection_is_asked_for_softly() -> None:
    sheet = Sheet(2)
    holder = sheet.member(0, credit=2, in_use=1, idle=1)
    sheet.member(1, waiting=1)
    sheet.plan(NOW)
    assert (holder.target, holder.limit) == (1, 2)


def test_a_connection_goes_once_it_has_been_idle_for_a_reconnect() -> None:
    sheet = Sheet(3)
    holder = sheet.member(0, credit=3, in_use=1, idle=1, idle_for=0.4 * C, moving=1)
    taker = sheet.member(1, waiting=1)
    assert taker.credit == 0
    plan = sheet.plan(NOW)
    assert holder.limit == 2, "it has three, and the taker none: one in use will do, too"
    assert plan.again_at is not None
    assert plan.again_at <= NOW + 0.6 * C + 1e-9


def test_the_connection_that_has_been_idle_longest_goes_first() -> None:
    sheet = Sheet(6)
    short = sheet.member(0, credit=3, in_use=1, idle=2, idle_for=2 * C)
    long = sheet.member(1, credit=3, in_use=1, idle=2, idle_for=3 * C)
    sheet.member(2, waiting=1)
    sheet.plan(NOW)
    assert (short.target, long.target) == (3, 2)


def test_a_member_that_has_a_connection_asks_when_its_callers_have_waited_for_a_reconnect() -> None:
    sheet = Sheet(4)
    holder = sheet.member(0, credit=3, idle=3)
    sheet.member(1, credit=1, in_use=1, waiting=1, ripe_at=NOW + C)
    plan = sheet.plan(NOW)
    assert (holder.target, plan.again_at) == (3, pytest.approx(NOW + C))
    sheet.plan(NOW + C)
    assert holder.target == 2


def test_a_line_that_was_empty_when_its_time_came_has_not_ripened() -> None:
    sheet = Sheet(4)
    holder = sheet.member(0, credit=3, idle=3)
    sheet.member(1, credit=1, in_use=1, waiting=1, ripe_at=NOW + C)
    sheet.plan(NOW)
    sheet.written.facts[1].update(ripe_at=NOW + 1.5 * C)
    plan = sheet.plan(NOW + C)
    assert (holder.target, plan.again_at) == (3, pytest.approx(NOW + 1.5 * C))


def test_a_member_does_not_ask_in_the_same_breath_with_a_permit_that_has_come() -> None:
    sheet = Sheet(4)
    holder = sheet.member(0, credit=2, idle=2)
    taker = sheet.member(1, credit=1, in_use=1, waiting=3, ripe_at=NOW)
    sheet.plan(NOW)
    assert (taker.credit, holder.target) == (2, 2)
    assert sheet.plan(NOW + C).grants == []
    assert holder.target == 0


def test_a_member_that_has_none_asks_at_once() -> None:
    sheet = Sheet(4)
    holder = sheet.member(0, credit=4, idle=4)
    sheet.member(1, waiting=1, ripe_at=NOW + C)
    sheet.plan(NOW)
    assert holder.target == 3


def test_a_last_connection_is_for_a_member_that_has_none_or_has_been_idle_for_long() -> None:
    sheet = Sheet(3)
    holders = [sheet.member(number, credit=1, idle=1, idle_for=2 * C) for number in (0, 1)]
    sheet.member(2, credit=1, in_use=1, waiting=1, ripe_at=NOW)
    plan = sheet.plan(NOW)
    assert [holder.target for holder in holders] == [1, 1]
    assert plan.again_at is not None
    assert plan.again_at <= NOW + (LAST - 2) * C
    sheet.member(3, waiting=1)
    sheet.plan(NOW)
    assert sum(holder.target for holder in holders) == 1, "one, for the member that has none"
    sheet.report(3, waiting=0)
    sheet.plan(NOW + C)
    assert sum(holder.target for holder in holders) == 2
    sheet.plan(NOW + (LAST - 2) * C)
    assert sum(holder.target for holder in holders) == 1


def test_a_member_gets_its_share_of_connections_that_are_idle_for_moments() -> None:
    """All three lend theirs again before they have been idle for as long as a reconnect takes, and so for ever."""
    sheet = Sheet(6)
    holders = [sheet.member(number, credit=2, in_use=1, idle=1, idle_for=0.1 * C) for number in range(3)]
    sheet.member(3, waiting=1)
    sheet.plan(NOW)
    assert sorted(holder.limit for holder in holders) == [1, 2, 2], "one is pressed"


def test_a_permit_in_use_is_called_back_only_if_that_is_fairer() -> None:
    sheet = Sheet(3)
    rich = sheet.member(0, credit=2, in_use=2, waiting=5)
    sheet.member(1, credit=1, in_use=1, waiting=5)
    sheet.plan(NOW)
    assert rich.limit == 2
    sheet = Sheet(3)
    rich = sheet.member(0, credit=3, in_use=3, waiting=5)
    sheet.member(1, waiting=5)
    sheet.plan(NOW)
    assert rich.limit == 2, "2 and 1: one more would only swap them"


def test_only_as_many_are_called_back_as_are_missing() -> None:
    sheet = Sheet(10)
    rich = sheet.member(0, credit=10, in_use=7, idle=3)
    sheet.member(1, waiting=3)
    sheet.plan(NOW)
    assert (rich.target, rich.limit) == (7, 10)


def test_connections_being_closed_count_as_coming() -> None:
    sheet = Sheet(2)
    closing = sheet.member(0, credit=1, moving=1, closing=1)
    sheet.books.hear(0)
    sheet.books.unneeded.add(0)
    idle = sheet.member(1, credit=1, idle=1)
    sheet.member(2, waiting=1)
    sheet.plan(NOW)
    assert (closing.target, idle.target) == (0, 1)


def overdraw(sheet: Sheet, by: int) -> Plan:
    sheet.books.resize(sheet.books.max_size - by)
    sheet.resized()
    return sheet.plan(NOW)


def test_a_smaller_budget_takes_what_no_borrower_has_first() -> None:
    sheet = Sheet(9)
    busy, idle = sheet.member(0, credit=5, in_use=5), sheet.member(1, credit=2, idle=2, idle_for=0.0)
    unused = sheet.member(2, credit=2)
    plan = overdraw(sheet, 3)
    assert plan.recalls == [(2, 2)], "unused ones, at once"
    assert (busy.limit, unused.target) == (5, 0)
    assert (idle.target, idle.limit) == (1, 1), "an idle one, however short it has been so"


def test_a_smaller_budget_is_fair() -> None:
    """Not all from the member that has most, as long as another has more than that one keeps."""
    sheet = Sheet(12)
    members = [sheet.member(number, credit=credit, in_use=credit) for number, credit in enumerate((6, 5, 1))]
    overdraw(sheet, 7)
    assert [account.limit for account in members] == [2, 2, 1]


def test_members_that_have_not_come_to_the_successor_yet_pay_their_part() -> None:
    sheet = Sheet(8)
    here = sheet.member(0, credit=4, in_use=4)
    sheet.books.inherit(1, 4, NOW)
    overdraw(sheet, 4)
    assert here.limit == 2


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=6),  # (in use, idle)
    st.integers(0, 60),
)
def test_what_a_smaller_budget_leaves_is_max_min_fair(members: list[tuple[int, int]], fewer: int) -> None:
    out = sum(map(sum, members))
    sheet = Sheet(out + 1)
    accounts = [
        sheet.member(number, credit=in_use + idle, in_use=in_use, idle=idle)
        for number, (in_use, idle) in enumerate(members)
    ]
    overdraw(sheet, min(fewer, out))
    excess = max(0, min(fewer, out) - 1)
    assert sum(account.credit - account.target for account in accounts) == excess
    broken = any(account.target < account.in_use for account in accounts)
    assert not broken or not any(account.spare for account in accounts), "an idle one is kept"
    for loser in accounts:
        if loser.target < (loser.in_use if broken else loser.credit):
            assert all(each.target <= loser.target + 1 for each in accounts if broken or each.spare)


def test_members_with_nothing_take_turns() -> None:
    sheet = Sheet(1)
    holder = sheet.member(0, credit=1, in_use=1, waiting=3)
    holder.changed_at = NOW
    sheet.member(1, waiting=1)
    plan = sheet.plan(NOW)
    assert (holder.limit, plan.again_at) == (1, pytest.approx(NOW + TURN * C))
    sheet.plan(NOW + TURN * C)
    assert holder.limit == 0


def test_what_is_in_use_is_not_taken_for_a_line_that_is_there_for_a_moment() -> None:
    sheet = Sheet(10)
    holder = sheet.member(0, credit=9, in_use=9, waiting=1)
    sheet.member(1, credit=1, in_use=1, waiting=1, ripe_at=NOW)
    plan = sheet.plan(NOW)
    assert (holder.limit, plan.again_at) == (9, pytest.approx(NOW + (TURN - 1) * C))
    sheet.plan(NOW + TURN * C)
    assert holder.limit == 8


def test_one_that_asks_in_vain_lets_another_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although it is read again and again, and is due to ask each time."""
    monkeypatch.setattr("mppool.core.policy.ASKERS", 1)
    sheet, asked = Sheet(2), []
    for member in (0, 1):
        sheet.member(member, credit=1, in_use=1, waiting=1, ripe_at=NOW)
    for turn in range(4):
        sheet.plan(NOW + 1.01 * C * turn)
        asked += sheet.books.wants.asking
    assert asked == [0, 1, 0, 1]


def test_warmth_is_granted_from_what_nobody_waits_for_and_within_the_fair_share() -> None:
    sheet = Sheet(10)
    for number in range(3):
        sheet.member(number, warm=8)
    assert [permits for _, permits in sheet.plan(NOW).grants] == [3, 3, 3]
    sheet.member(3, waiting=4)
    assert sheet.plan(NOW).grants == [(3, 1)]


def test_nobody_counts_on_a_member_that_does_not_answer() -> None:
    sheet = Sheet(4)
    stopped = sheet.member(0, credit=2, idle=2, idle_for=9 * C)
    other = sheet.member(1, credit=2, idle=2, idle_for=8 * C)
    sheet.member(2, waiting=1)
    plan = sheet.plan(NOW)
    assert (stopped.target, other.target) == (1, 2)
    assert plan.again_at is not None, "it is looked whether that was done"
    sheet.plan(NOW + (UNANSWERED + 1) * max(C, LEAST_LOOK))
    assert (stopped.target, other.target) == (1, 1)


def test_a_member_that_notifies_is_not_unresponsive() -> None:
    """However long ago it was asked for idle connections."""
    sheet = Sheet(4)
    idle = sheet.member(0, credit=2, idle=2)
    sheet.member(1, credit=2, in_use=2)
    sheet.member(2, waiting=2)
    sheet.plan(NOW)
    sheet.report(0, in_use=2, idle_since=0.0)
    late = NOW + (UNANSWERED + 1) * max(C, LEAST_LOOK)
    sheet.plan(late)
    assert (sheet.telling, idle.limit) == (True, 1), "one that is in use is asked for"
    sheet.report(0, late, in_use=1, held=1, idle_since=0.0)
    sheet.plan(late)
    sheet.report(0, late, in_use=0, idle_since=late)
    assert not sheet.telling


def test_while_nobody_has_an_idle_connection_members_are_to_tell_of_one() -> None:
    sheet = Sheet(2)
    holder = sheet.member(0, credit=2, in_use=2)
    sheet.member(1, credit=0, waiting=1)
    sheet.member(2, credit=0, waiting=1)
    plan = sheet.plan(NOW)
    assert (sheet.telling, holder.limit) == (True, 1)
    assert plan.again_at is None, "nobody looks meanwhile"
    sheet.report(0, in_use=1, idle_since=NOW + C)
    assert not sheet.telling
    plan = sheet.plan(NOW + C)
    assert plan.again_at == pytest.approx(NOW + 2 * C), "until it has been idle for a reconnect"


def test_moves_cost_no_more_than_a_share_of_the_processors() -> None:
    """Sixteen members with one caller each that never stop, and one permit for all: it could move for ever."""
    sheet = Sheet(1)
    for number in range(16):
        sheet.member(number, waiting=1)
    moves, now, end = 0, NOW, NOW + 10.0
    while now < end:
        plan = sheet.plan(now)
        moves += len(plan.grants)
        for number, permits in plan.recalls:
            sheet.books.recalled(number, permits, now)
        for number in list(sheet.books.accounts):
            account = sheet.books.accounts[number]
            if account.credit > account.limit:  # it is pressed: it closes, and waits again
                sheet.report(number, now, held=0, in_use=0, waiting=1)
            elif account.credit:
                sheet.report(number, now, held=1, in_use=1, waiting=1)
        now += C / 10
    assert 5 < moves <= 10.0 / (TURN * C) + 1


def test_a_shortage_that_begins_before_anybody_has_measured_learns_what_a_reconnect_costs() -> None:
    """Nobody ever has an idle connection, so nobody looks for one; moves would be bounded by a cost of next to nothing
    for as long as the shortage lasts."""
    sheet = Sheet(1)
    sheet.written.measured = []
    sheet.member(0, waiting=1)
    sheet.member(1, waiting=1)
    sheet.plan(NOW)
    assert (sheet.cost, sheet.telling) == (CHEAPEST, True)
    sheet.written.measured = [C]
    sheet.report(0, NOW + C, held=1, in_use=1, waiting=0)
    sheet.plan(NOW + C)
    assert sheet.cost == C


def test_moves_for_members_that_have_a_connection_are_fewer() -> None:
    sheet = Sheet(40)
    holder = sheet.member(0, credit=39, idle=39)
    sheet.member(1, credit=1, in_use=1, waiting=60, ripe_at=NOW)
    sheet.plan(NOW)
    assert holder.target == 39 - 5, "an eighth of the permits at once"
    sheet._rich_moves.spend(5)
    plan = sheet.plan(NOW)
    assert (holder.target, plan.again_at) == (39, pytest.approx(NOW + C / RICH))


def test_a_plan_reads_only_the_members_that_matter() -> None:
    """A thousand members: a ring costs what it changes."""
    sheet, read = Sheet(200), []
    for number in range(1000):
        account = sheet.member(number, **({"credit": 1, "in_use": 1} if number < 200 else {}), waiting=1)
        account.changed_at = NOW
    sheet.plan(NOW)
    reading = sheet.written.read

    def count(member: int) -> Facts:
        read.append(member)
        return reading(member)

    sheet.written.read = count  # type: ignore[method-assign]
    sheet.report(7, NOW, in_use=1, waiting=2)
    sheet.plan(NOW)
    assert len(read) <= 1 + ASKERS
