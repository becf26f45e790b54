"""The books, walked: members come, borrow, wait, give back, are killed, and report all that late or not at all."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mppool.core.books import RIPE, TURN, Account, Books, Plan


class Process:
    """A member as it really is; what the books believe of it is in its account."""

    def __init__(self) -> None:
        self.tokens = 0  # on its semaphore
        self.in_use = self.idle = self.opening = self.closing = self.waiting = 0
        self.since = self.cost = 0.0
        self.warm = 0

    @property
    def held(self) -> int:
        return self.in_use + self.idle + self.opening + self.closing

    def report(self, account: Account) -> None:
        account.held, account.in_use = self.held, self.in_use
        account.moving, account.closing = self.opening + self.closing, self.closing
        account.waiting, account.since, account.warm = self.waiting, self.since, self.warm
        account.cost = self.cost

    def serve(self) -> None:
        served = min(self.idle, self.waiting)
        self.idle -= served
        self.waiting -= served
        self.in_use += served


class Walk(RuleBasedStateMachine):
    books_class: type[Books] = Books

    @initialize(max_size=st.sampled_from([1, 2, 3, 5, 12]))  # mostly fewer permits than callers
    def begin(self, max_size: int) -> None:
        self.books = self.books_class(max_size)
        self.max_size = max_size
        self.processes: dict[int, Process] = {}
        self.now = 0.0
        self.next_id = 0
        self.moves = 0  # connections closed because others wait

    # -- what members do -------------------------------------------------------------------------------------

    @rule(warm=st.integers(0, 3), cost=st.sampled_from([0.0, 0.0001, 0.01]))
    def attach(self, warm: int, cost: float) -> None:
        if len(self.processes) < 5:
            process = self.processes[self.next_id] = Process()
            process.warm, process.cost = warm, cost
            self.books.attach(self.next_id, self.now)
            self.next_id += 1

    def some(self, data: st.DataObject) -> Process:
        return self.processes[data.draw(st.sampled_from(sorted(self.processes)))]

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(sorted(self.processes)))
        del self.processes[member]
        self.books.leave(member)

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
        process.tokens += process.closing
        process.closing = 0
        process.idle += process.opening
        process.opening = 0
        process.serve()
        excess = max(0, min(process.idle, process.held - account.target))
        process.idle -= excess
        process.closing += excess
        self.moves += excess
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
                process.idle += 1
            process.serve()

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(sorted(self.processes)))
        self.processes[member].report(self.books.accounts[member])

    @precondition(lambda self: self.processes)
    @rule(data=st.data(), callers=st.integers(0, 8))
    def ring(self, data: st.DataObject, callers: int) -> None:
        """A member changes its mind, reports, and has the manager look: the others' facts stay as stale as they are."""
        member = data.draw(st.sampled_from(sorted(self.processes)))
        self.processes[member].waiting = callers
        self.processes[member].serve()
        self.processes[member].report(self.books.accounts[member])
        self.settle()

    # -- what the manager does -------------------------------------------------------------------------------

    @rule(passes=st.floats(0, 0.1))
    def plan(self, passes: float) -> None:
        self.now += passes
        self.settle()

    def settle(self) -> Plan:
        for _ in range(100):
            plan = self.books.plan(self.now)
            for member, permits in plan.grants:
                assert permits > 0
                self.processes[member].tokens += permits
            moved = 0
            for member, permits in plan.recalls:
                got = min(permits, self.processes[member].tokens)
                self.processes[member].tokens -= got
                self.books.recalled(member, got)
                moved += got
            if not moved:
                return plan
        raise AssertionError("the manager never comes to rest")

    @invariant()
    def nothing_from_nothing(self) -> None:
        if not hasattr(self, "books"):
            return
        credits = sum(account.credit for account in self.books.accounts.values())
        assert credits <= self.max_size
        assert sum(process.held for process in self.processes.values()) <= self.max_size
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
                process.report(self.books.accounts[member])
            plan = self.settle()
            for member in self.processes:
                self._act(member)
                if self.processes[member].in_use:
                    self._give_back(member)  # a borrower is done and comes again
                    self.processes[member].waiting += 1
                    self.processes[member].serve()
        credits = sum(account.credit for account in self.books.accounts.values())
        if any(process.waiting for process in self.processes.values()):
            assert credits == self.max_size, "permits lie unused while somebody waits"
        if not plan.shortage:
            return
        hungry = [member for member in self.processes if self.books.extra(self.books.accounts[member])]
        if min(self.books.accounts[member].credit for member in hungry):
            assert self.moves == 0, "permits go back and forth although the shares are fair"
        for member, process in self.processes.items():
            account = self.books.accounts[member]
            assert process.idle == 0, "a connection idles while others wait"
            assert process.tokens == 0 or account.target < account.credit or process.waiting, "a permit idles"
            if process.closing == 0 and account.target == account.credit:
                least = min(self.books.accounts[each].credit for each in hungry)
                assert account.credit <= least + 1, "somebody has two more than somebody who waits"


def walk(books_class: type[Books], examples: int) -> None:
    machine = type("Walk_" + books_class.__name__, (Walk,), {"books_class": books_class})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
            phases=[Phase.generate] if books_class is not Books else list(Phase),  # a planted bug need not be small
        ),
    )


def test_books_keep_their_promises() -> None:
    walk(Books, 300)


class GrantsTwice(Books):
    def _book(self, plan: Plan, granted: dict[int, int], now: float) -> None:
        super()._book(plan, granted, now)
        plan.grants.extend(plan.grants[-1:])


class ForgetsTheDead(Books):
    def leave(self, member: int) -> None:
        self.max_size -= self.accounts[member].credit
        super().leave(member)


class ServesTheRichest(Books):
    def _share(self, plan: Plan, hungry: dict[int, int], coming: int, now: float) -> int:
        return 0


class LeavesIdleAlone(Books):
    def _call_back(self, plan: Plan, hungry: dict[int, int], now: float) -> None:
        before = {member: account.held for member, account in self.accounts.items()}
        for account in self.accounts.values():
            account.moving += account.idle
        super()._call_back(plan, hungry, now)
        assert before


class TrustsStaleFacts(Books):
    """Books a recall before the semaphore has shown that the permits are there."""

    def plan(self, now: float) -> Plan:
        plan = super().plan(now)
        for member, permits in plan.recalls:
            self.accounts[member].credit -= permits
        return plan

    def recalled(self, member: int, permits: int) -> None:
        return


class SwapsForEver(Books):
    """Calls permits back although that only swaps who has more."""

    STEP = 1


class TurnsWithoutEnd(Books):
    """Lets a turn take no time at all."""

    def plan(self, now: float) -> Plan:
        for account in self.accounts.values():
            account.turn = -1.0
        return super().plan(now)


class GrantsWhatIsNotFree(Books):
    @property
    def free(self) -> int:
        return super().free + 1


@pytest.mark.parametrize(
    "planted",
    [
        GrantsTwice,
        ForgetsTheDead,
        ServesTheRichest,
        LeavesIdleAlone,
        TrustsStaleFacts,
        SwapsForEver,
        GrantsWhatIsNotFree,
        TurnsWithoutEnd,
    ],
)
def test_the_walk_finds_planted_bugs(planted: type[Books]) -> None:
    """A walk that cannot fail proves nothing."""
    with pytest.raises(AssertionError):
        walk(planted, 5000)  # it ends with the first that is found


# -- single decisions, by hand -------------------------------------------------------------------------------


def member(books: Books, number: int, *, credit: int = 0, in_use: int = 0, idle: int = 0, waiting: int = 0) -> Account:
    account = books.attach(number, 0.0)
    account.credit, account.held, account.in_use, account.waiting = credit, in_use + idle, in_use, waiting
    return account


def test_a_lone_member_gets_everything() -> None:
    books = Books(30)
    member(books, 0, waiting=50)
    assert books.plan(0.0).grants == [(0, 30)]


def test_free_permits_go_to_whoever_has_least_the_oldest_wait_first() -> None:
    books = Books(5)
    member(books, 0, credit=2, in_use=2, waiting=9)
    member(books, 1, waiting=9).since = 7.0
    member(books, 2, waiting=9).since = 3.0
    assert sorted(books.plan(10.0).grants) == [(1, 1), (2, 2)]


def test_an_unused_permit_is_taken_without_asking() -> None:
    books = Books(2)
    member(books, 0, credit=2, in_use=1)
    member(books, 1, waiting=1)
    plan = books.plan(0.0)
    assert plan.recalls == [(0, 1)]
    assert books.accounts[0].limit == 2  # nobody is pressed


def test_an_idle_connection_is_asked_for_softly() -> None:
    books = Books(2)
    holder = member(books, 0, credit=2, in_use=1, idle=1)
    member(books, 1, waiting=1)
    books.plan(0.0)
    assert (holder.target, holder.limit) == (1, 2)


def test_who_has_a_connection_that_can_come_back_waits_for_it_first() -> None:
    books = Books(4)
    holder = member(books, 0, credit=3, idle=3)
    taker = member(books, 1, credit=1, in_use=1, waiting=1)
    taker.since, taker.cost = 100.0, 0.01
    plan = books.plan(100.0)
    assert (holder.target, plan.again_at) == (3, pytest.approx(100.0 + RIPE * 0.01))
    books.plan(100.0 + RIPE * 0.01)
    assert holder.target == 2


def test_who_has_none_in_use_does_not() -> None:
    books = Books(4)
    holder = member(books, 0, credit=4, idle=4)
    taker = member(books, 1, waiting=1)
    taker.since, taker.cost = 100.0, 0.01
    books.plan(100.0)
    assert holder.target == 3


def test_a_last_connection_is_for_who_has_none_or_has_waited_long() -> None:
    books = Books(3)
    holders = [member(books, 0, credit=1, idle=1), member(books, 1, credit=1, idle=1)]
    taker = member(books, 2, credit=1, in_use=1, waiting=1)
    taker.since, taker.cost = 100.0, 0.01
    plan = books.plan(100.0 + RIPE * 0.01)
    assert [holder.target for holder in holders] == [1, 1]
    assert plan.again_at == pytest.approx(100.0 + TURN * 0.01)
    books.plan(100.0 + TURN * 0.01)
    assert sum(holder.target for holder in holders) == 1
    member(books, 3, waiting=1).since = 100.0 + RIPE * 0.01
    books.plan(100.0 + RIPE * 0.01)
    assert sum(holder.target for holder in holders) == 1, "one, for who has none"


def test_who_has_waited_long_for_what_is_idle_for_moments_gets_its_share() -> None:
    """All three lend theirs again before they have been idle for as long as a reconnect takes, and so for ever."""
    books = Books(6)
    holders = [member(books, number, credit=2, in_use=1, idle=1) for number in range(3)]
    taker = member(books, 3, waiting=1)
    taker.since, taker.cost = 100.0, 0.01
    plan = books.plan(100.0)
    assert sorted((holder.target, holder.limit) for holder in holders) == [(1, 2), (2, 2), (2, 2)]
    assert plan.again_at == pytest.approx(100.0 + TURN * 0.01)
    plan = books.plan(100.0 + TURN * 0.01)
    assert sorted(holder.limit for holder in holders) == [1, 2, 2], "one is pressed"
    assert sorted(holder.target for holder in holders) == [1, 1, 2], "another is asked all the same"
    assert plan.again_at is None


def test_a_permit_in_use_is_called_back_only_if_that_is_fairer() -> None:
    books = Books(3)
    rich = member(books, 0, credit=2, in_use=2, waiting=5)
    member(books, 1, credit=1, in_use=1, waiting=5)
    books.plan(0.0)
    assert rich.limit == 2
    books = Books(3)
    rich = member(books, 0, credit=3, in_use=3, waiting=5)
    member(books, 1, waiting=5)
    books.plan(0.0)
    assert rich.limit == 2  # 2 and 1: one more would only swap them


def test_only_as_many_are_called_back_as_are_missing() -> None:
    books = Books(10)
    rich = member(books, 0, credit=10, in_use=7, idle=3, waiting=0)
    member(books, 1, waiting=3)
    books.plan(0.0)
    assert (rich.target, rich.limit) == (7, 10)


def test_connections_being_closed_count_as_coming() -> None:
    books = Books(2)
    closing = member(books, 0, credit=1, in_use=0)
    closing.held = closing.moving = closing.closing = 1
    idle = member(books, 1, credit=1, idle=1)
    member(books, 2, waiting=1)
    books.plan(0.0)
    assert (closing.target, idle.target) == (0, 1)


def test_members_with_nothing_take_turns() -> None:
    books = Books(1)
    holder = member(books, 0, credit=1, in_use=1, waiting=3)
    holder.turn, holder.cost = 100.0, 0.01
    member(books, 1, waiting=1)
    plan = books.plan(100.0)
    assert holder.limit == 1
    assert plan.again_at == pytest.approx(100.0 + TURN * 0.01)
    books.plan(plan.again_at)
    assert holder.limit == 0


def test_warmth_is_granted_from_what_nobody_waits_for_and_within_the_fair_share() -> None:
    books = Books(10)
    for number in range(3):
        member(books, number).warm = 8
    assert [permits for _, permits in books.plan(0.0).grants] == [3, 3, 3]
    member(books, 3, waiting=4)
    assert books.plan(0.0).grants == [(3, 1)]
