"""The allocator between two managers: a walk of members that come, borrow, leave and die, and of managers that are
killed between any two stores; and single decisions by hand.

The truth is counted apart: what members hold and what lies on their semaphores. It is never more than there is.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from mppool.core.policy import Policy
from mppool.manager import allocator as module
from mppool.manager.allocator import Allocator
from mppool.shared import ledger as L
from mppool.shared.statistics import BLOCK
from tests.manager.watched import Budget, opened

MAX_SIZE, SEATS = 5, 4


class Killed(BaseException):
    """The manager is no more."""


class Fuse:
    """Ends the manager at its n-th store from now; None: lets it live."""

    left: int | None = None

    def step(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise Killed


class Cells:
    """The ledger's cells, with a fuse at each of the manager's stores, but for those into the statistics: these have a
    walk of their own (`tests.shared.test_statistics`)."""

    def __init__(self, cells: Any, fuse: Fuse) -> None:
        self._cells, self._fuse = cells, fuse

    def __getitem__(self, cell: Any) -> Any:
        return self._cells[cell]

    def __setitem__(self, cell: Any, value: Any) -> None:
        if isinstance(cell, int) and cell < L.STATISTICS:
            self._fuse.step()
        self._cells[cell] = value

    def __len__(self) -> int:
        return len(self._cells)


class Semaphore:
    """Permits that lie there unused; the manager's givings and takings are steps, too."""

    def __init__(self, fuse: Fuse) -> None:
        self._fuse, self.count = fuse, 0
        self.fds: list[int] = []

    def give(self, permits: int) -> None:
        self._fuse.step()
        self.count += permits

    def take(self) -> bool:
        if self.count:
            self._fuse.step()
            self.count -= 1
            return True
        return False

    def close(self) -> None:
        pass


class Seat:
    """A member, as it really is."""

    def __init__(self, number: int) -> None:
        self.pid = self.token = number
        self.row: int | None = None  # None: no seat with the manager that runs now
        self.at = -1  # where it publishes
        self.semaphore: Semaphore | None = None
        self.held = 0
        self.declared = True
        self.said = 0  # what it declares: what it held when it took its seat, in one go with that

    @property
    def real(self) -> int:
        return self.held + (self.semaphore.count if self.semaphore is not None else 0)


class Succession(RuleBasedStateMachine):
    allocator_class = Allocator

    def __init__(self) -> None:
        super().__init__()
        self.raw, self.fuse, self.now, self.numbers = array("q", bytes(8 * (L.BLOCKS + 8 * BLOCK))), Fuse(), 0.0, 0
        self.ledger = L.Ledger.__new__(L.Ledger)  # its cells are all that it is
        self.ledger.cells = Cells(self.raw, self.fuse)  # type: ignore[assignment]
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(module, "make", lambda: Semaphore(self.fuse))
        self.patch.setattr(L, "ROWS", 8)
        self.seats: list[Seat] = []
        self.orphans: dict[int, int] = {}  # connections at the server whose member has ended, by row
        self.reign()

    def teardown(self) -> None:
        self.patch.undo()

    # -- managers ----------------------------------------------------------------------------------------------

    def reign(self) -> None:
        """A manager begins with what the ledger says."""
        self.fuse.left = None
        self.allocator = self.allocator_class(self.ledger, MAX_SIZE, lambda member: None)
        living = {seat.at: seat for seat in self.seats if seat.at >= 0}
        for row in range(L.ROWS):
            at = self.ledger.offset(row)
            if self.raw[at + L.PID]:
                self.allocator.inherit(row, self.now)
                if at not in living:
                    self.await_unshared(row)
        for seat in self.seats:
            seat.row = None

    def await_unshared(self, row: int) -> None:
        """Nobody has the sockets of the dead any more, but what they held is known until the server has ended it."""
        held = self.raw[self.ledger.offset(row) + L.HELD]
        assert held >= self.orphans.get(row, 0)
        if row in self.orphans:
            self.allocator.retire(row, held, self.now)
            for _ in range(held - self.orphans[row]):
                self.allocator.ended(row, self.now)
        else:
            self.allocator.leave(row)

    def do(self, action: Any, *args: Any) -> Any:
        try:
            return action(*args)
        except Killed:
            self.reign()
            raise

    def settle(self) -> None:
        self.now += 0.01
        self.do(self.allocator.settle, self.now, list(self.allocator.books.accounts))

    @rule(steps=st.integers(0, 25))
    def light(self, steps: int) -> None:
        self.fuse.left = steps

    @rule()
    def kill(self) -> None:
        self.reign()

    @rule()
    def look(self) -> None:
        try:
            self.settle()
        except Killed:
            pass

    # -- members -----------------------------------------------------------------------------------------------

    def publish(self, seat: Seat, **facts: int) -> None:
        for name, value in {"held": seat.held, "in_use": seat.held, **facts}.items():
            self.raw[seat.at + getattr(L, name.upper())] = value

    @precondition(lambda self: len(self.seats) < SEATS)
    @rule(warm=st.integers(0, 2))
    def come(self, warm: int) -> None:
        self.numbers += 1
        seat = Seat(self.numbers)
        try:
            seat.row = self.do(self.allocator.attach, seat.pid, 1, warm, self.now, seat.token)
        except Killed:
            return
        assert seat.row is not None
        seat.at, seat.semaphore = self.ledger.offset(seat.row), self.allocator.semaphores[seat.row]  # type: ignore[assignment]
        self.seats.append(seat)
        self.publish(seat)

    @precondition(lambda self: any(seat.row is None for seat in self.seats))
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        seat = data.draw(st.sampled_from([seat for seat in self.seats if seat.row is None]))
        try:
            row = self.do(self.allocator.attach, seat.pid, 1, 0, self.now, seat.token)
            assert row is not None
            self.do(self.allocator.awaits, row)
        except Killed:
            return
        assert self.ledger.offset(row) == seat.at, "it gets the row that it had"
        seat.row, seat.declared, seat.said = row, False, seat.held
        seat.semaphore = self.allocator.semaphores[row]  # what lay on the other has been drained

    @precondition(lambda self: any(not seat.declared and seat.row is not None for seat in self.seats))
    @rule(data=st.data())
    def declare(self, data: st.DataObject) -> None:
        seat = data.draw(st.sampled_from([s for s in self.seats if not s.declared and s.row is not None]))
        seat.declared = True
        try:
            self.do(self.allocator.declare, seat.row, seat.said, self.now)
        except Killed:
            pass

    @precondition(lambda self: self.seats)
    @rule(data=st.data(), waiting=st.integers(0, MAX_SIZE))
    def want(self, data: st.DataObject, waiting: int) -> None:
        seat = data.draw(st.sampled_from(self.seats))
        self.publish(seat, waiting=waiting)

    @precondition(lambda self: any(seat.semaphore and seat.semaphore.count for seat in self.seats))
    @rule(data=st.data(), late=st.booleans())
    def take(self, data: st.DataObject, late: bool) -> None:
        seat = data.draw(st.sampled_from([s for s in self.seats if s.semaphore and s.semaphore.count]))
        assert seat.semaphore is not None
        seat.semaphore.count -= 1
        seat.held += 1
        if not late:  # reports may be
            self.publish(seat)

    @precondition(lambda self: any(seat.held for seat in self.seats))
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        seat = data.draw(st.sampled_from([seat for seat in self.seats if seat.held]))
        assert seat.semaphore is not None
        seat.held -= 1
        seat.semaphore.count += 1
        self.publish(seat)

    @precondition(lambda self: any(seat.row is not None for seat in self.seats))
    @rule(data=st.data(), at_work=st.integers(0, MAX_SIZE))
    def die(self, data: st.DataObject, at_work: int) -> None:
        seat = data.draw(st.sampled_from([seat for seat in self.seats if seat.row is not None]))
        self.seats.remove(seat)
        assert seat.row is not None
        orphans = min(at_work, self.raw[seat.at + L.HELD])  # what is at work has been published
        try:
            if orphans:
                self.orphans[seat.row] = orphans
                self.do(self.allocator.retire, seat.row, orphans, self.now)
            else:
                self.do(self.allocator.leave, seat.row)
        except Killed:
            pass

    @precondition(lambda self: self.orphans)
    @rule(data=st.data())
    def server_ends_one(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(sorted(self.orphans)))
        self.orphans[row] -= 1
        if not self.orphans[row]:
            del self.orphans[row]
        try:
            self.do(self.allocator.ended, row, self.now)
        except Killed:
            pass

    # -- promises ----------------------------------------------------------------------------------------------

    @invariant()
    def never_more_than_there_is(self) -> None:
        assert sum(seat.real for seat in self.seats) + sum(self.orphans.values()) <= MAX_SIZE
        assert self.allocator.books.accounts.free >= 0

    @invariant()
    def the_ledger_shows_at_least_what_is_out(self) -> None:
        for seat in self.seats:
            assert self.raw[seat.at + L.CREDIT] >= seat.real
        assert sum(self.raw[seat.at + L.CREDIT] for seat in self.seats) <= MAX_SIZE

    @rule()
    def all_there_again(self) -> None:
        """With everybody back, whoever is hungriest gets all that nobody holds."""
        self.fuse.left = None
        for row in list(self.orphans):
            while self.orphans.get(row):
                self.orphans[row] -= 1
                self.allocator.ended(row, self.now)
            del self.orphans[row]
        for seat in self.seats:
            if seat.row is None:
                row = self.allocator.attach(seat.pid, 1, 0, self.now, seat.token)
                assert row is not None
                self.allocator.awaits(row)
                seat.row, seat.declared, seat.said = row, False, seat.held
                seat.semaphore = self.allocator.semaphores[row]  # type: ignore[assignment]
            if not seat.declared:
                seat.declared = True
                self.allocator.declare(seat.row, seat.said, self.now)
            self.publish(seat, waiting=0)
        if self.seats:
            first, *others = self.seats
            self.publish(first, waiting=MAX_SIZE)
            self.settle()
            assert first.real == MAX_SIZE - sum(seat.held for seat in others), "a permit is lost"


def walk(allocator_class: type[Allocator], examples: int) -> None:
    machine = type("Walk", (Succession,), {"allocator_class": allocator_class})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=list(Phase) if allocator_class is Allocator else [Phase.generate],  # a planted bug need not be small
            report_multiple_bugs=False,
        ),
    )


def test_managers_may_be_killed_between_any_two_stores() -> None:
    walk(Allocator, 300)


class TrustsTheLedger(Allocator):
    """Believes that the absent hold what they last reported."""

    def inherit(self, row: int, now: float) -> None:
        super().inherit(row, now)
        self.books.accounts.change(row, min(0, self.ledger.facts(row)[0] - self.books.accounts[row].credit), now)


class GrantsToTheAbsent(Allocator):
    """Asks things of members that have not declared."""

    def inherit(self, row: int, now: float) -> None:
        super().inherit(row, now)
        self.books.accounts.thaw(row)

    def awaits(self, member: int) -> None:
        self.undeclared.add(member)


class ForgetsWhatTheServerHolds(Allocator):
    def retire(self, member: int, connections: int, now: float, busy: int | None = None) -> None:
        super().retire(member, connections, now, busy)
        self.books.accounts.change(member, -1, now)


class SemaphoreFirst(Allocator):
    def settle(self, now: float, notified: Iterable[int] = ()) -> float | None:
        grants, self._publish_later = [], []  # type: ignore[var-annotated]
        real = Policy.plan

        def plan(policy: Policy, now: float) -> Any:
            made = real(policy, now)
            for member, permits in made.grants:
                self.semaphores[member].give(permits)
                grants.append(member)
            made.grants.clear()
            return made

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Policy, "plan", plan)
            return super().settle(now, notified)


class ForgetsTheDead(Allocator):
    """Keeps them in its own books only."""

    def retire(self, member: int, connections: int, now: float, busy: int | None = None) -> None:
        super().retire(member, connections, now, busy)
        self.ledger.clear(member)


@pytest.mark.parametrize(
    "planted",
    [TrustsTheLedger, GrantsToTheAbsent, ForgetsWhatTheServerHolds, ForgetsTheDead, SemaphoreFirst],
)
def test_the_walk_finds_planted_bugs(planted: type[Allocator]) -> None:
    with pytest.raises((AssertionError, KeyError)):
        walk(planted, 5000)  # it ends with the first that is found


# -- by hand -----------------------------------------------------------------------------------------------------


@pytest.fixture
def budget() -> Iterator[Budget]:
    with opened(4) as made:
        yield made


def successor(budget: Budget, *rows: int) -> Allocator:
    for semaphore in budget.allocator.semaphores.values():
        semaphore.close()
    budget.allocator = Allocator(budget.ledger, budget.max_size, budget.bells.append)
    for row in rows:
        budget.allocator.inherit(row, 0.0)
    return budget.allocator


def test_all_that_was_ever_put_on_an_absent_account_counts_as_used(budget: Budget) -> None:
    absent = budget.worker(3)
    allocator = successor(budget, absent)
    newcomer = budget.attach()
    budget.report(newcomer, waiting=4)
    budget.settle()
    assert budget.credits()[:2] == [3, 1]
    assert budget.bells == [], "there is nobody to be rung"
    assert allocator.books.accounts.free == 0


def test_a_declaration_is_in_the_ledger_before_what_it_frees_is_granted(budget: Budget) -> None:
    """A manager killed in between would leave a ledger in which the permits stand twice."""
    member = budget.worker(3)
    at = budget.ledger.offset(member)
    allocator = successor(budget, member)
    allocator.semaphores[member] = module.make()
    allocator.declare(member, 1, 0.0)
    assert budget.ledger.cells[at + L.CREDIT] == 1


def test_who_declares_less_frees_the_rest(budget: Budget) -> None:
    absent = budget.worker(3)
    budget.ledger.cells[budget.ledger.offset(absent) + L.TOKEN] = 77
    allocator = successor(budget, absent)
    assert allocator.attach(os.getpid(), 1, 0, 0.0, 77) == absent
    allocator.declare(absent, 1, 0.0)
    assert (budget.credit(absent), allocator.books.accounts.free, allocator.undeclared) == (1, 3, set())


@pytest.mark.parametrize(("pid", "started", "token"), [(0, 1, 77), (None, 2, 77), (None, 1, 78), (None, 1, 0)])
def test_an_account_is_nobody_elses(budget: Budget, pid: int | None, started: int, token: int) -> None:
    absent = budget.worker(3)
    budget.ledger.cells[budget.ledger.offset(absent) + L.TOKEN] = 77 if token else 0
    allocator = successor(budget, absent)
    other = allocator.attach(os.getpid() if pid is None else pid, started, 0, 0.0, token)
    assert other is not None
    assert other != absent


def test_the_dead_keep_what_the_server_has(budget: Budget) -> None:
    dead, other = budget.worker(3), budget.attach()
    budget.allocator.retire(dead, 2, 0.0)
    budget.report(other, waiting=4)
    budget.settle()
    assert budget.take_all(other) == 2
    for free in (3, 4):
        budget.allocator.ended(dead, 0.0)
        budget.settle()
        budget.take_all(other)
        assert budget.credit(other) == free
    assert dead not in budget.allocator.books.accounts
    assert budget.attach() == dead, "its row is there for others"


def test_more_connections_than_permits_are_no_more_permits(budget: Budget) -> None:
    dead = budget.worker(1)
    budget.allocator.retire(dead, 4, 0.0)
    assert budget.allocator.books.accounts.free == 3
    budget.allocator.ended(dead, 0.0)
    assert budget.allocator.books.accounts.free == 4


def test_overdrawn_by_the_absent(budget: Budget) -> None:
    """More was put on accounts than there is: it takes a deleted folder. There is nobody to be asked for it yet."""
    one, other = budget.worker(3), budget.worker(1)
    budget.ledger.cells[budget.ledger.offset(other) + L.CREDIT] = 3
    allocator = successor(budget, one, other)
    budget.settle()
    assert allocator.books.accounts.free == -2
    allocator.declare(one, 3, 0.0)
    allocator.semaphores[one] = module.make()
    budget.report(one, held=3, in_use=3)
    budget.settle()
    assert budget.cell(one, L.LIMIT) == 2, "the one that is there is asked for its part"


def test_the_credit_is_the_last_cell_to_be_written(budget: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sees it raised must see the new target beside it."""
    member = budget.attach()
    budget.report(member, waiting=2)
    at, cells, seen = budget.ledger.offset(member), budget.ledger.cells, []

    class Recorded(Cells):
        def __setitem__(self, cell: int, value: int) -> None:
            if at <= cell <= at + L.LIMIT:
                seen.append((cell - at, value))
            super().__setitem__(cell, value)

    with monkeypatch.context() as patch:
        patch.setattr(budget.ledger, "cells", Recorded(cells, Fuse()))
        budget.settle()
    raised = seen.index((L.CREDIT, 2))
    assert {(L.TARGET, 2), (L.LIMIT, 2)} <= set(seen[:raised])
