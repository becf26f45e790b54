"""The local pool's machine, walked: callers come, wait, give up; connections open, fail, expire, are called back."""

from __future__ import annotations

from collections.abc import Container

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

from mppool.core.pool import PoolMachine
from mppool.core.shortage import Shortage
from mppool.core.slots import Check, Close, Serve, Slot, Waiter

KEEP_ALIVE, MAX_IDLE, COST = 100.0, 10.0, 0.5


class Walk(RuleBasedStateMachine):
    machine_class: type[PoolMachine] = PoolMachine

    @initialize(min_size=st.integers(0, 3), permits=st.integers(1, 8), checks_first=st.booleans())
    def begin(self, min_size: int, permits: int, checks_first: bool) -> None:
        self.checks_before_lending = checks_first  # connections are checked before they are lent
        self.machine = self.machine_class(min_size, MAX_IDLE)
        self.permits = self.limit = permits
        self.now = 1.0
        self.line: list[Waiter] = []  # in the order of their coming
        self.lent: dict[Slot, Waiter | None] = {}
        self.number = 0
        self.drained = 0.0

    def do(self, action: Serve | Close | Check | None) -> None:
        if isinstance(action, Serve):
            assert not self.machine.paused, "lent in a pause"
            assert self.line, "somebody was served who does not wait"
            assert action.waiter is self.line.pop(0), "not the first in line"
            assert action.waiter.slot is not None
            self.lend(action.waiter.slot)
        elif isinstance(action, Close):
            assert action.slot in self.machine.closing
        elif isinstance(action, Check):
            assert action.slot in self.machine.checking

    def lend(self, slot: Slot) -> None:
        assert slot not in self.lent, "lent twice"
        assert slot.link is not None, "lent before it was open"
        self.lent[slot] = None

    @rule(passes=st.sampled_from([0.0, 1.0, 11.0, 101.0]))  # none, little, past max_idle, past keep_alive
    def wait(self, passes: float) -> None:
        self.now += passes

    @rule()
    def borrow(self) -> None:
        holds_back = self.checks_before_lending or self.machine.paused
        slot = None if holds_back else self.machine.borrow(Waiter(self.now))
        if slot is not None:
            self.lend(slot)
        elif not self.machine.stopped:
            waiter = Waiter(self.now)
            self.line.append(waiter)
            self.machine.line_up(waiter, COST)
            if self.checks_before_lending:
                self.do(self.machine.check_next())

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.line))
        self.line.remove(waiter)
        assert self.machine.step_out(waiter, self.now)
        assert not self.machine.step_out(waiter, self.now)

    @precondition(lambda self: self.lent)
    @rule(data=st.data(), fit=st.sampled_from([True, True, False]), check=st.sampled_from([False, False, True]))
    def give_back(self, data: st.DataObject, fit: bool, check: bool) -> None:
        slot = data.draw(st.sampled_from(list(self.lent)))
        del self.lent[slot]
        action = self.machine.give_back(slot, self.now, self.limit, fit, check or self.checks_before_lending)
        if not fit or self.now >= slot.expires:
            assert isinstance(action, Close)
        self.do(action)

    @rule()
    def open_what_is_wanted(self) -> None:
        for _ in range(self.machine.to_open()):
            if len(self.machine.slots) < self.permits:
                self.machine.take(self.now, COST)

    @precondition(lambda self: self.machine.opening)
    @rule(works=st.booleans(), most=st.sampled_from([1, 8]))
    def opened(self, works: bool, most: int) -> None:
        for slot in list(self.machine.opening)[:most]:
            if works:
                self.number += 1
                self.do(self.machine.opened(slot, self.number, self.now, self.now + KEEP_ALIVE))
            else:
                self.machine.not_opened(slot)

    @precondition(lambda self: self.machine.checking)
    @rule(fit=st.booleans())
    def checked(self, fit: bool) -> None:
        self.do(self.machine.checked(next(iter(self.machine.checking)), self.now, self.limit, fit=fit))
        if self.checks_before_lending and not fit:
            self.do(self.machine.check_next())

    @precondition(lambda self: self.machine.closing)
    @rule()
    def closed(self) -> None:
        self.machine.closed(next(iter(self.machine.closing)))

    @rule(limit=st.sampled_from([8, 8, 2, 0]), aim=st.sampled_from([8, 1, 0]), patience=st.sampled_from([0.0, 5.0]))
    def surrender(self, limit: int, aim: int, patience: float) -> None:
        limit = min(limit, self.permits)
        target = min(aim, limit)
        self.limit = limit
        given = self.machine.surrender(self.now, target, limit, patience)
        held = len(self.machine.slots) - len(self.machine.closing)
        if self.machine.idle:
            oldest = min(slot.idle_since for slot in self.machine.idle)
            assert held <= target or (held <= limit and oldest + patience > self.now)
        assert not given or held >= target, "more was given than was asked for"
        due = self.machine.ripens_at(target, patience)
        assert (due is not None) == (bool(self.machine.idle) and held > target), "nobody looks again"
        assert due is None or due > self.now, "something was due and was left"

    @rule(often=st.sampled_from([False, False, True]))
    def pause_or_resume(self, often: bool) -> None:
        if not self.machine.paused and often:
            self.machine.pause()
        elif self.machine.paused:
            before = set(self.machine.called)
            self.machine.resume(self.now, self.checks_before_lending)
            for waiter in [waiter for waiter in self.machine.called if waiter not in before]:
                self.do(Serve(waiter))

    @rule(ago=st.sampled_from([None, None, None, 0.0, 1.0]))  # seldom: nothing is idle afterwards
    def drain(self, ago: float | None) -> None:
        if ago is None:
            return
        self.drained = max(self.drained, self.now - ago)
        self.machine.drain(self.drained)

    @rule(passes=st.sampled_from([0.0, 11.0, 101.0]), most=st.integers(1, 4))
    def expire(self, passes: float, most: int) -> None:
        self.now += passes
        before = len(self.machine.slots) - len(self.machine.closing)
        expired = self.machine.expire(self.now, most)
        assert len(expired) <= most
        for slot in expired:
            assert self.now >= slot.expires or self.now >= slot.idle_since + MAX_IDLE
        young = [slot for slot in expired if self.now < slot.expires]
        assert not young or before - len(expired) >= self.machine.min_size - (len(expired) - len(young))
        due = self.machine.next_expiry(self.now)
        if len(expired) < most and due is not None:
            assert due > self.now, "something was due and was left"

    @precondition(lambda self: self.machine.idle)
    @rule(data=st.data(), restarted=st.booleans())
    def ended(self, data: st.DataObject, restarted: bool) -> None:
        """The server ends all connections, or some."""
        machine = self.machine
        idle = set(machine.idle)
        broken = {slot for slot in machine.idle if restarted or data.draw(st.booleans())}
        assert set(machine.discard(broken | set(machine.borrowed))) == broken
        assert set(machine.idle) == idle - broken

    @rule(now=st.sampled_from([False] * 9 + [True]))  # seldom: nothing happens any more afterwards
    def stop(self, now: bool) -> None:
        if not now:
            return
        for waiter in self.machine.fail_all(RuntimeError("stopped"), self.now):
            assert waiter.error is not None
            self.line.remove(waiter)
        self.machine.stop()

    @invariant()
    def sound(self) -> None:
        if not hasattr(self, "machine"):
            return
        machine = self.machine
        parts = [set(machine.idle), set(machine.borrowed), machine.opening, set(machine.checking), set(machine.closing)]
        assert sum(map(len, parts)) == len(machine.slots), "a permit is nowhere, or in two places"
        assert set().union(*parts) == machine.slots
        assert set(machine.borrowed) == set(self.lent)
        assert all(slot.began >= self.drained for slot in machine.idle), "a connection is kept that was to be replaced"
        assert len(machine.slots) <= self.permits
        assert list(machine.waiters) == self.line, "somebody fell out of the line"
        coming = len(machine.checking) if self.checks_before_lending else 0
        idles = machine.idle and coming < len(self.line) and not machine.paused
        assert not idles, "a connection idles while a caller waits"
        assert machine.demand == len(self.lent) + len(self.line)
        assert bool(machine.shortage.since) == bool(self.line), "the shortage is not that of the line"
        if machine.stopped:
            assert not machine.idle
            assert machine.to_open() == 0
        elif machine.paused:
            assert machine.to_open() == 0
        elif self.line:
            coming = len(machine.opening) + len(machine.checking) + len(machine.idle)
            assert machine.to_open() + coming >= len(self.line), "nobody sees to some who wait"


def walk(machine_class: type[PoolMachine], examples: int) -> None:
    machine = type("Walk_" + machine_class.__name__, (Walk,), {"machine_class": machine_class})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
            phases=list(Phase) if machine_class is PoolMachine else [Phase.generate],
        ),
    )


def test_the_machine_keeps_its_promises() -> None:
    walk(PoolMachine, min(400, 4 * settings.default.max_examples))  # fewer in the fast tier


class LastComeFirstServed(PoolMachine):
    def _offer(self, slot: Slot, now: float) -> Serve | None:
        if len(self.waiters) > 1:
            self.waiters.move_to_end(next(reversed(self.waiters)), last=False)
        return super()._offer(slot, now)


class IdlesWhileSomebodyWaits(PoolMachine):
    def opened(self, slot: Slot, link: object, now: float, expires: float) -> Serve | Close | None:
        waiters, self.waiters = self.waiters, type(self.waiters)()
        try:
            return super().opened(slot, link, now, expires)
        finally:
            self.waiters = waiters


class LendsTheUnfit(PoolMachine):
    def give_back(self, slot: Slot, now: float, limit: int, fit: bool, check: bool) -> Serve | Close | Check | None:
        return super().give_back(slot, now, limit, True, check)


class LosesPermits(PoolMachine):
    def not_opened(self, slot: Slot) -> None:
        self.opening.remove(slot)


class CountsThoseWhoLeft(PoolMachine):
    def step_out(self, waiter: Waiter, now: float) -> bool:
        return waiter in self.waiters


class ForgetsTheOld(PoolMachine):
    def expire(self, now: float, most: int) -> list[Slot]:
        return super().expire(now - 25.0, most)


class KeepsWhatIsCalledBack(PoolMachine):
    def surrender(self, now: float, target: int, limit: int, patience: float) -> list[Slot]:
        return super().surrender(now, target + 1, limit + 1, patience)


class LendsInAPause(PoolMachine):
    def _offer(self, slot: Slot, now: float) -> Serve | None:
        paused, self.paused = self.paused, False
        try:
            return super()._offer(slot, now)
        finally:
            self.paused = paused


class ForgetsThoseWhoWaitedInAPause(PoolMachine):
    def resume(self, now: float, checks_first: bool) -> None:
        self.paused = False


class DrainsOnlyTheIdle(PoolMachine):
    def drain(self, since: float) -> list[Slot]:
        return self.discard({slot for slot in self.idle if slot.began < since})


class DiscardsOnlyTheLast(PoolMachine):
    def discard(self, broken: Container[Slot]) -> list[Slot]:
        return super().discard([slot for slot in self.idle[-1:] if slot in broken])


class NeverOpens(PoolMachine):
    def to_open(self) -> int:
        return max(0, super().to_open() - 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "planted",
    [
        LastComeFirstServed,
        IdlesWhileSomebodyWaits,
        LendsTheUnfit,
        LosesPermits,
        CountsThoseWhoLeft,
        ForgetsTheOld,
        KeepsWhatIsCalledBack,
        DiscardsOnlyTheLast,
        NeverOpens,
        LendsInAPause,
        ForgetsThoseWhoWaitedInAPause,
        DrainsOnlyTheIdle,
    ],
)
def test_the_walk_finds_planted_bugs(planted: type[PoolMachine]) -> None:
    with pytest.raises(AssertionError):
        walk(planted, 5000)  # it ends with the first that is found


# -- shortage ------------------------------------------------------------------------------------------------


def test_a_line_is_ripe_when_it_has_lasted_for_a_reconnect() -> None:
    shortage = Shortage()
    shortage.begins(10.0, COST)
    assert (shortage.since, shortage.ripe_at) == (10.0, 10.0 + COST)
    shortage.ends(10.2)
    assert (shortage.since, shortage.ripe_at) == (0.0, 0.0)


def test_a_line_that_is_empty_for_moments_ripens_all_the_same() -> None:
    """Its callers take turns with one connection: it is empty now and then, and they wait nearly all the time."""
    shortage, now, ripe = Shortage(), 10.0, 0
    for _ in range(20):
        shortage.begins(now, COST)
        ripe += shortage.ripe_at <= now + 0.08
        shortage.ends(now + 0.08)
        now += 0.1
    assert 10 < ripe < 15, "the first six or seven had not waited for long enough"


def test_moments_of_waiting_now_and_then_never_ripen() -> None:
    shortage, now = Shortage(), 10.0
    for _ in range(1000):
        shortage.begins(now, COST)
        assert shortage.ripe_at > now + 0.008
        shortage.ends(now + 0.008)
        now += 0.1


def test_a_permit_that_comes_begins_the_sum_anew() -> None:
    shortage = Shortage()
    shortage.begins(10.0, COST)
    shortage.is_relieved(10.4, COST)
    assert (shortage.since, shortage.ripe_at) == (10.0, 10.4 + COST)
    shortage.ends(10.5)
    shortage.begins(10.5, COST)
    assert shortage.ripe_at == pytest.approx(10.4 + COST)


def test_a_closed_connection_that_the_server_keeps_is_in_use() -> None:
    machine = PoolMachine(0, MAX_IDLE)
    slots = [machine.take(0.0, COST) for _ in range(2)]
    for slot in slots:
        machine.opened(slot, object(), 0.0, KEEP_ALIVE)
    lost, gone = machine.discard(set(slots))
    machine.lose(lost)
    machine.closed(gone)
    machine.lose(gone)  # it has ended in the same instant
    assert (machine.demand, machine.lent, machine.serves, machine.slots) == (1, 0, False, {lost})
    machine.closed(lost)
    assert not any((machine.slots, machine.borrowed, machine.lost, machine.closing))


@pytest.mark.parametrize("waits", [True, False])
def test_a_connection_that_is_being_opened_at_a_drain_is_replaced(waits: bool) -> None:
    """It may be one to what was there before."""
    machine, waiter = PoolMachine(1, MAX_IDLE), Waiter(1.0)
    slot = machine.take(1.0, COST)
    if waits:
        machine.line_up(waiter, COST)
    machine.drain(2.0)
    action = machine.opened(slot, 1, 3.0, 103.0)
    if waits:
        assert isinstance(action, Serve)
        action = machine.give_back(slot, 4.0, 8, True, False)
    assert isinstance(action, Close)
    assert machine.opened(machine.take(5.0, COST), 2, 6.0, 106.0) is None


def test_a_connection_that_is_checked_at_a_drain_is_replaced() -> None:
    machine = PoolMachine(1, MAX_IDLE)
    slot = machine.take(1.0, COST)
    machine.opened(slot, 1, 1.0, 101.0)
    machine.borrow(Waiter(1.0))
    assert isinstance(machine.give_back(slot, 1.0, 8, True, True), Check)
    machine.drain(2.0)
    assert isinstance(machine.checked(slot, 3.0, 8, fit=True), Close)
