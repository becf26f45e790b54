"""The allocator: permits move in the right order, bells ring for those who must act, settling ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mppool.core.plan import Plan
from mppool.core.policy import TURN
from mppool.manager import allocator as module
from mppool.shared import ledger as L
from tests.manager.watched import Budget, opened


@pytest.fixture
def budget() -> Iterator[Budget]:
    with opened(4) as made:
        yield made


# -- the order of stores -------------------------------------------------------------------------------------


def test_a_grant_is_in_the_ledger_before_the_semaphore(budget: Budget) -> None:
    """The watched semaphore judges; here is only made sure that it had something to judge."""
    member = budget.worker()
    budget.report(member, waiting=3)
    budget.settle()
    assert budget.grants == [(member, 3)]
    assert budget.take_all(member) == 3


def test_a_recall_is_off_the_semaphore_before_the_ledger(budget: Budget) -> None:
    hoarder, taker = budget.attach(warm=4), budget.attach()
    budget.report(hoarder, waiting=4)
    budget.settle()
    budget.report(hoarder, waiting=0, warm=0)  # it never took them
    budget.report(taker, waiting=3)
    budget.settle()
    assert budget.credits()[:2] == [1, 3]
    assert (budget.take_all(hoarder), budget.take_all(taker)) == (1, 3)


def test_only_what_is_on_the_semaphore_is_recalled(budget: Budget) -> None:
    """A report is always late: the member has taken three and says none."""
    quick, taker = budget.worker(4), budget.attach()
    budget.report(quick, held=0)
    budget.report(taker, waiting=4)
    budget.settle()
    assert budget.credits()[:2] == [4, 0]
    budget.allocator.semaphores[quick].real.give(1)  # type: ignore[attr-defined]
    budget.settle()
    assert budget.credits()[:2] == [3, 1]


# -- bells ---------------------------------------------------------------------------------------------------


def test_nobody_is_rung_for_a_grant(budget: Budget) -> None:
    """The semaphore becomes readable: that wakes whoever waits for it."""
    member = budget.worker()
    budget.report(member, waiting=2)
    budget.settle()
    assert budget.grants == [(member, 2)]
    assert budget.bells == []


def test_whoever_must_close_is_rung_once(budget: Budget) -> None:
    idle, taker = budget.worker(4), budget.attach()
    budget.report(taker, waiting=1)
    budget.settle()
    assert budget.bells == [idle]
    assert (budget.cell(idle, L.TARGET), budget.cell(idle, L.LIMIT), budget.credit(idle)) == (3, 4, 4)
    budget.settle()
    assert budget.bells == [], "it has been told"
    budget.report(taker, waiting=2)
    budget.settle()
    assert budget.bells == [idle], "now it is one more"


def test_whoever_uses_more_than_a_fair_share_is_rung(budget: Budget) -> None:
    busy, taker = budget.worker(4, in_use=4), budget.attach()
    budget.report(taker, waiting=4)
    budget.settle()
    assert budget.bells == [busy]
    assert (budget.cell(busy, L.TARGET), budget.cell(busy, L.LIMIT)) == (2, 2)


def test_nobody_is_rung_who_closes_already_or_has_them_unused(budget: Budget) -> None:
    closing, unused, taker = budget.worker(2, moving=2, closing=2), budget.attach(), budget.attach()
    budget.report(unused, waiting=2)
    budget.settle()
    budget.report(unused, waiting=0)
    budget.report(taker, waiting=4)
    budget.settle()
    assert budget.credits()[:3] == [2, 0, 2]
    assert budget.cell(closing, L.TARGET) == 0
    assert budget.bells == []


def test_whoever_comes_over_from_a_predecessor_is_rung(budget: Budget) -> None:
    """It came in and read what the predecessor had ordered: to come down to nothing, and so not to look for permits. A
    grant alone would not wake it."""
    cells, at = budget.ledger.cells, budget.ledger.offset(0)
    for cell, value in ((L.PID, os.getpid()), (L.STARTED, 1), (L.TOKEN, 7), (L.CREDIT, 2), (L.TARGET, 0)):
        cells[at + cell] = value
    budget.allocator.inherit(0, 0.0)
    assert budget.allocator.attach(os.getpid(), 1, 0, 0.0, token=7) == 0
    budget.report(0, waiting=1)
    budget.settle()
    assert budget.bells == [], "nothing is granted on a guess"
    budget.allocator.declare(0, 0, 100.0)
    budget.settle()
    assert (budget.grants, budget.bells) == ([(0, 1)], [0])
    budget.settle()
    assert budget.bells == []


def test_an_idle_connection_that_comes_over_from_a_predecessor_is_looked_for(budget: Budget) -> None:
    """Members were to tell of idle connections, since none was known. This one does not: it became idle before."""
    idle, _, taker = budget.worker(2), budget.worker(2, in_use=2), budget.attach()
    budget.allocator.awaits(idle)
    budget.report(idle, held=0)  # it has not come yet, so its row says nothing
    budget.report(taker, waiting=1)
    budget.settle()
    assert budget.ledger.header.telling
    budget.report(idle, held=2)
    budget.rang.clear()
    budget.allocator.declare(idle, 2, 100.0)
    budget.settle()
    assert (budget.bells, budget.cell(idle, L.TARGET)) == ([idle], 1)


@pytest.mark.parametrize(("waiting", "rung"), [(1, True), (0, False)])
def test_a_lifted_order_is_told_to_whoever_waits(budget: Budget, waiting: int, rung: bool) -> None:
    busy, taker = budget.worker(4, in_use=4), budget.attach()
    budget.report(taker, waiting=2)
    budget.settle()
    budget.report(taker, waiting=0)
    budget.report(busy, in_use=3, waiting=waiting)
    budget.settle()
    assert (budget.bells == [busy]) is rung
    assert budget.cell(busy, L.TARGET) == budget.cell(busy, L.LIMIT) == 4


def test_hunger_and_what_is_known_of_it_are_published(budget: Budget) -> None:
    """A member rings only if it lacks more than the manager knows, or has what others want."""
    busy, taker = budget.worker(4, in_use=4), budget.attach()
    assert budget.ledger.cells[L.H_MAX_SIZE] == 4
    budget.report(taker, waiting=3)
    budget.settle()
    assert budget.ledger.cells[L.H_SHORT] == 3
    assert (budget.cell(busy, L.KNOWN), budget.cell(taker, L.KNOWN)) == (4, 3)
    budget.report(taker, waiting=0)
    budget.settle()
    assert budget.ledger.cells[L.H_SHORT] == 0
    assert budget.cell(taker, L.KNOWN) == 0


def meanwhile(budget: Budget, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Have a member act between the manager's reading and its writing, once."""
    plan, actions = budget.allocator.policy.plan, [act]

    def planned(now: float) -> Plan:
        made = plan(now)
        while actions:
            actions.pop()()
        return made

    monkeypatch.setattr(budget.allocator.policy, "plan", planned)


def test_a_connection_that_comes_free_before_anybody_is_known_to_want_one(
    budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its member sees nobody short and does not ring: the manager must see it by itself, or nobody would again."""
    busy, taker = budget.worker(4, in_use=4), budget.attach()
    budget.report(taker, waiting=1)

    def give_back() -> None:
        assert budget.ledger.cells[L.H_SHORT] == 0
        budget.report(busy, in_use=3)

    meanwhile(budget, monkeypatch, give_back)
    budget.settle()
    assert set(budget.bells) == {busy}
    assert budget.cell(busy, L.TARGET) == 3


def test_whoever_lines_up_while_an_order_is_being_lifted(budget: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    """It saw the order, turned away from its semaphore, and had no reason to ring: it has as many as it wants."""
    busy, taker = budget.worker(4, in_use=4), budget.attach()
    budget.report(taker, waiting=2)
    budget.settle()
    assert budget.cell(busy, L.TARGET) == 2
    budget.report(taker, waiting=0)
    budget.report(busy, in_use=3)
    meanwhile(budget, monkeypatch, lambda: budget.report(busy, waiting=1))
    budget.settle()
    assert (budget.cell(busy, L.TARGET), budget.bells) == (4, [busy])


def test_whoever_lines_up_before_the_manager_forgets_who_did(budget: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees that the manager knows of as many who wait, and does not ring."""
    budget.worker(4, in_use=4)
    taker = budget.attach()
    budget.report(taker, waiting=2)
    budget.settle()
    budget.report(taker, waiting=0)  # they gave up

    def line_up() -> None:
        assert budget.cell(taker, L.KNOWN) == 2
        budget.report(taker, waiting=1)

    meanwhile(budget, monkeypatch, line_up)
    budget.settle()
    assert (budget.cell(taker, L.KNOWN), budget.ledger.cells[L.H_SHORT]) == (1, 1)


def test_whoever_takes_a_permit_that_was_to_be_recalled(budget: Budget) -> None:
    """It rings nobody when it has taken it: the manager looks again soon, and asks another who has one idle."""
    quick, idle, taker = budget.attach(), budget.worker(1), budget.attach()
    budget.report(quick, waiting=2)
    budget.settle()
    assert budget.credits()[:2] == [2, 1]
    budget.report(quick, waiting=0)
    budget.report(taker, waiting=3)
    budget.allocator.semaphores[quick].real.take()  # type: ignore[attr-defined]
    again_at = budget.settle(105.0)
    assert again_at is not None
    assert again_at <= 105.0 + module.SOON
    assert (budget.credits()[:3], budget.cell(idle, L.TARGET)) == ([1, 1, 2], 1)
    budget.report(quick, held=1, moving=1)
    budget.settle(105.0 + module.SOON)
    assert budget.cell(idle, L.TARGET) == 0


def test_whoever_had_taken_it_is_rung_when_there_is_something_to_close(budget: Budget) -> None:
    """Its orders are the same as before, when by what it had reported there was nothing."""
    quick, taker = budget.attach(), budget.attach()
    budget.report(quick, waiting=4)
    budget.settle()
    budget.report(quick, waiting=0)
    budget.report(taker, waiting=4)
    budget.allocator.semaphores[quick].real.take()  # type: ignore[attr-defined]
    budget.settle()
    assert (budget.credits()[:2], budget.cell(quick, L.TARGET), budget.bells) == ([1, 3], 0, [])
    budget.report(quick, held=1)
    budget.settle(105.0)  # long enough for somebody's last one
    assert (budget.cell(quick, L.TARGET), budget.bells) == (0, [quick])
    budget.settle(105.0)
    assert budget.bells == []


# -- coming and going ----------------------------------------------------------------------------------------


def test_a_new_row_says_who_and_nothing_of_its_last_owner(budget: Budget) -> None:
    budget.report(0, held=9, waiting=9)
    member = budget.allocator.attach(pid=77, started=5, warm=2, now=0.0)
    assert member == 0
    assert [budget.cell(0, cell) for cell in (L.PID, L.STARTED, L.CREDIT)] == [77, 5, 0]
    assert budget.ledger.facts(0) == [0, 0, 0, 0, 0, 0, 0, 0, 2, 0]


def test_rows_are_used_again_and_come_to_an_end(budget: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(L, "ROWS", 3)
    assert [budget.attach() for _ in range(3)] == [0, 1, 2]
    assert budget.allocator.attach(1, 1, 0, 0.0) is None
    budget.allocator.leave(1)
    assert budget.attach() == 1


def test_a_predecessors_row_is_not_given_away(budget: Budget) -> None:
    """Rows of the living are inherited first, then those of the dead, in any order."""
    for row in (3, 1):
        budget.ledger.cells[budget.ledger.offset(row) + L.CREDIT] = 1
        budget.allocator.inherit(row, 100.0)
    budget.allocator.retire(1, 1, 100.0)
    assert [budget.attach() for _ in range(3)] == [0, 2, 4]
    budget.allocator.ended(1, 100.0)
    assert [budget.attach() for _ in range(2)] == [1, 5]
    assert budget.allocator.books.accounts.free == 3


def test_a_failed_attach_leaves_no_trace(budget: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptors left: whoever reads the ledger must not see a member that is none."""

    def fail() -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(module, "make", fail)
        with pytest.raises(OSError):
            budget.allocator.attach(77, 5, 0, 0.0)
    assert budget.cell(0, L.PID) == 0
    budget.settle()
    assert budget.attach() == 0


def test_who_leaves_frees_all_it_had(budget: Budget) -> None:
    gone, taker = budget.worker(3, in_use=3), budget.attach()
    fds = budget.allocator.semaphores[gone].fds[:]
    budget.allocator.leave(gone)
    assert not any(budget.ledger.cells[budget.ledger.offset(gone) : budget.ledger.offset(gone + 1)])
    for fd in fds:
        with pytest.raises(OSError):
            os.fstat(fd)
    budget.report(taker, waiting=4)
    budget.settle()
    assert budget.take_all(taker) == 4


def test_warm_connections_are_granted_on_arrival(budget: Budget) -> None:
    first, second = budget.attach(warm=3), budget.attach(warm=1)
    budget.settle()
    assert (budget.take_all(first), budget.take_all(second)) == (2, 1), "each within its fair share"


def test_each_fact_reaches_the_account_under_its_name(budget: Budget) -> None:
    member = budget.attach()
    names = ("held", "in_use", "moving", "closing", "waiting", "since", "ripe_at", "idle_since", "warm", "cost")
    times = {"since", "ripe_at", "idle_since", "cost"}
    for number, name in enumerate(names, 2):
        cell = budget.ledger.offset(member) + getattr(L, name.upper())
        budget.ledger.cells[cell] = number * (10**9 if name in times else 1)
    budget.rang.add(member)
    budget.settle()
    account = budget.allocator.books.accounts[member]
    assert [getattr(account, name) for name in names] == list(range(2, 12))


# -- settling ------------------------------------------------------------------------------------------------


def test_rows_that_contradict_themselves_do_not_keep_it_busy_for_ever(budget: Budget) -> None:
    """Found by the test below after 100,000 examples: granted to whoever waits, taken off whoever has too many unused,
    and they are the same."""
    with opened(6) as crowded:
        rows = (
            (3, 6, 4, -298, 2, 8, -(2**63) + 1, 2),
            (-1430618, 5, -5776125, -163, 0, 7, 8, -835048248),
            (-480, 37497, 4, 5, -393, 276, -1211, 2804908),
            (-27607, 8, -19449, 3, 7, -2149, 3, 3),
        )
        for facts in rows:
            names = ("held", "in_use", "moving", "closing", "waiting", "since", "warm", "cost")
            crowded.report(crowded.attach(), **dict(zip(names, facts, strict=True)))
        for _ in range(3):
            crowded.settle()
        assert sum(crowded.credits()) <= 6


def test_taking_turns_asks_to_be_woken(budget: Budget) -> None:
    """More members than permits: the turn of the one that has it ends, though nothing happens then."""
    with opened(1) as narrow:
        holder, taker = narrow.worker(1, in_use=1, cost=10_000_000), narrow.attach()
        narrow.report(taker, waiting=1)
        assert narrow.settle() == pytest.approx(100.0 + TURN * 0.01)
        assert narrow.bells == []
        narrow.settle(100.0 + TURN * 0.01)
        assert narrow.bells == [holder]
        assert narrow.cell(holder, L.LIMIT) == 0


NUMBERS = st.one_of(st.integers(0, 8), st.integers(-(2**63), 2**63 - 1))
FACTS = st.lists(NUMBERS, min_size=10, max_size=10)


@given(rounds=st.lists(st.tuples(st.lists(FACTS, min_size=4, max_size=4), st.integers(0, 15)), max_size=4))
def test_settling_ends_and_never_exceeds_whatever_members_claim(rounds: list[tuple[list[list[int]], int]]) -> None:
    """Rows are written by others: any number may stand there. Permits come from the semaphores alone."""
    with opened(6) as budget:
        members = [budget.attach() for _ in range(4)]
        for reports, takers in rounds:
            for member, facts in zip(members, reports, strict=True):
                start = budget.ledger.offset(member) + L.HELD
                for cell, value in enumerate(facts, start):
                    budget.ledger.cells[cell] = value
                budget.rang.add(member)
            budget.settle()
            watched = budget.allocator.semaphores.values()
            assert sum(each.out for each in watched) <= 6  # type: ignore[attr-defined]
            assert [each.out for each in watched] == budget.credits()  # type: ignore[attr-defined]
            for member in members:
                if takers >> member & 1:
                    budget.allocator.semaphores[member].real.take()  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [2**62, 2**63 - 1, -1, -(2**63)])
@pytest.mark.parametrize("cells", [*[(cell,) for cell in L.FACTS], tuple(L.FACTS)], ids=str)
@pytest.mark.parametrize("returned", [False, True])
def test_a_corrupt_row_costs_next_to_nothing(
    budget: Budget, cells: tuple[int, ...], value: int, returned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another member wants more than there is: the row is looked at again, and not all the time."""
    plans, plan = [], budget.allocator.policy.plan
    monkeypatch.setattr(budget.allocator.policy, "plan", lambda now: (plans.append(now), plan(now))[1])
    corrupt, taker = budget.worker(2, in_use=2), budget.attach()
    if returned:
        budget.allocator.awaits(corrupt)
        budget.allocator.declare(corrupt, 2, 100.0)
    for cell in cells:
        budget.ledger.cells[budget.ledger.offset(corrupt) + cell] = value
    budget.rang.add(corrupt)
    budget.report(taker, waiting=4)
    now, until = 100.0, 101.0
    while now < until:
        again = budget.settle(now)
        now = until if again is None else max(again, now + 1e-6)
    assert len(plans) < 300


# -- another size --------------------------------------------------------------------------------------------


def test_more_permits_are_granted_at_once(budget: Budget) -> None:
    busy = budget.worker(4, in_use=4)
    budget.report(busy, waiting=3)
    budget.settle()
    budget.max_size = 6
    budget.allocator.resize(6, 77)
    budget.settle()
    assert budget.grants == [(busy, 2)]
    assert (budget.ledger.header.max_size, budget.ledger.header.resized) == (6, 77)


def test_fewer_permits_come_back_when_borrowers_are_done(budget: Budget) -> None:
    """Nothing is granted in between, to nobody; the members see that permits that come back are wanted."""
    one, other = budget.worker(3, in_use=3), budget.worker(1, in_use=1)
    budget.report(other, waiting=2)
    budget.allocator.resize(2, 77)
    budget.settle()
    assert (budget.cell(one, L.LIMIT), budget.cell(other, L.LIMIT)) == (1, 1)
    assert budget.ledger.header.short >= 2
    for held in (2, 1):
        budget.report(one, held=held, in_use=held)
        budget.allocator.semaphores[one].real.give(1)  # type: ignore[attr-defined]
        budget.settle()
        assert (budget.credit(one), budget.grants) == (held, [])
    assert budget.allocator.books.accounts.free == 0


def test_the_same_size_is_no_resize(budget: Budget) -> None:
    budget.allocator.resize(4, 77)
    assert budget.ledger.header.resized == 0


def test_it_was_resized_before_it_has_another_size(budget: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in between, its members come with the size that they know: a successor must take them for its own."""
    stores: list[str] = []

    class Header(L.Header):
        def __setattr__(self, name: str, value: int) -> None:
            stores.append(name)
            super().__setattr__(name, value)

    Header.__slots__ = ()  # type: ignore[attr-defined]
    monkeypatch.setattr(L.Ledger, "header", property(lambda ledger: Header(ledger.cells, 0)))
    monkeypatch.setattr(budget.allocator.books, "resize", lambda size: stores.append("books"))
    budget.allocator.resize(9, 77)
    assert stores[-3:] == ["resized", "max_size", "books"]
