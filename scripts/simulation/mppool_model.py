"""This project's pool in the simulated world: the one file here that knows its insides.

Real are the ledger's layout, `Books`, `Treasury` and `PoolMachine`; simulated time is passed to them as `now`. Modelled
by hand are the local pool, the agent, the gate and the workshop of a process, and the bells between processes. Nobody
dies, nothing fails, no connection gets too old.

Every permit that is taken counts as a connection, from before it is opened until its end is reported. More of them than
the budget has, at any instant, ends the simulation with `Overspent`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

from mppool.core import books
from mppool.core.pool import Close, PoolMachine, Serve, Slot, Tend, Waiter
from mppool.manager import treasury
from mppool.process.gate import ASK_AGAIN, AT_ONCE
from mppool.settings import PoolSettings
from mppool.shared import ledger as L
from scripts.simulation.engine import MS, Interpreter
from scripts.simulation.pools import Lend, Pool

if TYPE_CHECKING:
    from scripts.simulation.world import World

# Measured on the machine of the README's figures. Seconds.
OPEN = 4.5 * MS  # processor time of opening a connection: the process, the driver's runtime and the server
OPEN_LOCKED = 0.2  # the share of it that needs the process's interpreter
OPEN_STEPS = 4  # times that an open takes the interpreter
OPEN_WAIT = 0.5 * MS  # besides
CLOSE, CLOSE_WAIT = 0.5 * MS, 0.3 * MS
BELL = 0.06 * MS  # from ringing until the other process has a processor to ask for
AGENT = 0.04 * MS  # processor time of one round of an agent
SETTLE, SETTLE_MEMBER = 0.05 * MS, 0.003 * MS  # processor time of a settlement, and more of it for each member
REST = 0.0  # seconds at least between two settlements
# Fitted: how many times too high a process's estimate of an open is. The last opens of a storm are divided by one.
COST_BIAS = 3.0
NEVER = 1e9  # seconds from now


def constants() -> dict[str, Any]:
    """The policy's constants, by name: where each is to be set."""
    return _numbers(books, books.Books)


def inputs() -> dict[str, Any]:
    """The same, with the inputs of the model."""
    return _numbers(sys.modules[__name__]) | constants()


def _numbers(*owners: Any) -> dict[str, Any]:
    return {
        name: owner
        for owner in owners
        for name, value in vars(owner).items()
        if name.isupper() and type(value) in (int, float)
    }


@contextmanager
def scaled(name: str, factor: float) -> Iterator[float]:
    """One of the constants or inputs is ``factor`` times what it is; its value. "": nothing is changed."""
    if not name:
        yield 0.0
        return
    owner = inputs()[name]
    usual = getattr(owner, name)
    value = max(1, round(usual * factor)) if isinstance(usual, int) else usual * factor
    with mock.patch.object(owner, name, value):
        yield value


class Overspent(AssertionError):
    """More connections are open than the budget has permits."""


class Memory(L.Ledger):
    """A ledger in this process's own memory."""

    def __init__(self) -> None:
        self.cells = memoryview(bytearray(L.SIZE)).cast("q")


class Semaphore:
    """A process's semaphore; whoever listens is woken a moment after a permit was put there."""

    def __init__(self) -> None:
        self.permits = 0
        self.given: Callable[[], object] = lambda: None

    def give(self, permits: int = 1) -> None:
        self.permits += permits
        self.given()

    def take(self) -> bool:
        self.permits -= (some := self.permits > 0)
        return some


class Caller(Waiter):
    __slots__ = ("lend",)

    def __init__(self, since: float, lend: Lend) -> None:
        super().__init__(since)
        self.lend = lend

    def wake(self) -> bool:
        self.lend(self.slot)
        return True


class Mppool(Pool):
    """The manager, and what processes share."""

    def __init__(self, world: World, permits: int, minimum: int = 1) -> None:
        super().__init__(world)
        self.permits = permits
        self.open = self.opening = 0  # connections, over all processes
        self.memory = Memory()
        self.treasury = treasury.Treasury(self.memory, permits, self._ring_member)
        self._interpreter = Interpreter()
        self._settled, self._due, self._planned = 0.0, False, 0
        with mock.patch.object(treasury, "make", Semaphore):
            for number in range(world.processes):
                self.treasury.attach(number + 1, 1, minimum, world.events.now)
        self.processes = [Process(self, number, minimum) for number in range(world.processes)]
        self.ring()
        for process in self.processes:
            process.wake()

    # -- the manager -----------------------------------------------------------------------------------------

    def ring(self) -> None:
        """Have the manager settle soon."""
        if not self._due:
            self._due = True
            self.world.events.after(max(BELL, self._settled + REST - self.world.events.now), self._compute)

    def _compute(self) -> None:
        seconds = SETTLE + SETTLE_MEMBER * len(self.processes)
        self.world.processors.run(self._interpreter, seconds, "manager", self._settle)

    def _settle(self) -> None:
        events = self.world.events
        self._due, self._settled = False, events.now
        again = self.treasury.settle(events.now)
        self._planned += 1
        if again is not None:
            events.at(again + 1e-6, self._settle_again, self._planned)

    def _settle_again(self, planned: int) -> None:
        if planned == self._planned and not self._due:
            self._due = True
            self._compute()

    def _ring_member(self, member: int) -> None:
        self.world.events.after(BELL, self.processes[member].wake)

    # -- what processes share --------------------------------------------------------------------------------

    def taken(self) -> None:
        """A process begins to open a connection."""
        self.moves += 1
        self.opening += 1
        self.open += 1
        if self.open > self.permits:
            raise Overspent(f"{self.open} connections are open under a budget of {self.permits}")

    # -- callers ---------------------------------------------------------------------------------------------

    def borrow(self, process: int, lend: Lend) -> None:
        self.processes[process].borrow(lend)

    def give_back(self, process: int, connection: Any) -> None:
        self.processes[process].give_back(connection)


class Process:
    """One process: its local pool, agent, gate and workshop. Each method names the code that it stands for."""

    def __init__(self, pool: Mppool, number: int, minimum: int) -> None:
        self.pool, self.world, self.events = pool, pool.world, pool.world.events
        self.machine = PoolMachine(minimum, NEVER)
        self.cells, self.at = pool.memory.cells, L.Ledger.row(number)
        self.interpreter = pool.world.interpreters[number]
        semaphore: Any = pool.treasury.semaphores[number]
        self.semaphore: Semaphore = semaphore
        self.semaphore.given = lambda: self.events.after(BELL, self._given)
        self.random = pool.world.stream(f"gate {number}")
        self.turns = PoolSettings().connect_concurrency
        self.cost = self.offered = self.closed_until = 0.0
        self.listening = self.awake = False
        self.planned = 0
        self.publish()

    # -- LocalPool -------------------------------------------------------------------------------------------

    def publish(self) -> None:
        machine, cells, at = self.machine, self.cells, self.at
        held, borrowed = len(machine.slots), len(machine.borrowed)
        cells[at + L.HELD] = held
        cells[at + L.IN_USE] = borrowed
        cells[at + L.MOVING] = held - borrowed - len(machine.idle)
        cells[at + L.CLOSING] = len(machine.closing)
        self.publish_line()

    def publish_line(self) -> None:
        waiters, cells, at = self.machine.waiters, self.cells, self.at
        cells[at + L.WAITING] = len(waiters)
        cells[at + L.SINCE] = int(next(iter(waiters)).since * 1e9) if waiters else 0

    def borrow(self, lend: Lend) -> None:
        machine, cells, at = self.machine, self.cells, self.at
        slot = machine.borrow()
        if slot is not None:
            cells[at + L.IN_USE] = len(machine.borrowed)
            lend(slot)
            return
        machine.line_up(Caller(self.events.now, lend))
        self.publish_line()
        lacking = machine.to_open() > 0
        if lacking and machine.demand > max(cells[at + L.KNOWN], cells[at + L.CREDIT]):
            self.pool.ring()
        if lacking and not self.listening:
            self.wake()

    def give_back(self, slot: Slot) -> None:
        machine, cells, at = self.machine, self.cells, self.at
        action = machine.give_back(slot, self.events.now, cells[at + L.LIMIT], fit=True, tend=False)
        if action is not None:
            self.publish()
            self.act(action)
            return
        cells[at + L.IN_USE] = len(machine.borrowed)
        if cells[L.H_HUNGRY]:
            self.wake()

    def act(self, action: Serve | Close | Tend) -> None:
        if isinstance(action, Serve):
            action.waiter.wake()
        else:
            self.close(action.slot)

    # -- Workshop --------------------------------------------------------------------------------------------

    def open(self, slot: Slot, began: float, steps: int) -> None:
        """By turns under the interpreter's lock and outside it."""
        run, locked = self.world.processors.run, OPEN * OPEN_LOCKED / OPEN_STEPS
        if not steps:
            self.events.after(OPEN_WAIT, self.opened, slot, began)
            return

        def beyond() -> None:
            run(None, OPEN / OPEN_STEPS - locked, "open", self.open, slot, began, steps - 1)

        run(self.interpreter, locked, "open", beyond)

    def opened(self, slot: Slot, began: float) -> None:
        machine, cells, now = self.machine, self.cells, self.events.now
        self.pool.opening -= 1
        took = COST_BIAS * (now - began) / max(1, len(machine.opening))
        self.cost = min(took, self.cost + 0.1 * took) if self.cost else took
        cells[self.at + L.COST] = int(self.cost * 1e9)
        action = machine.opened(slot, True, now, now + NEVER)
        self.publish()
        wake = machine.to_open() > 0 or not machine.opening or cells[L.H_HUNGRY]
        if action is not None:
            self.act(action)
        if wake:
            self.wake()

    def close(self, slot: Slot) -> None:
        def dropped() -> None:
            self.events.after(CLOSE_WAIT, self.closed, slot)

        self.world.processors.run(None, CLOSE, "close", dropped)

    def closed(self, slot: Slot) -> None:
        self.machine.closed(slot)
        self.pool.open -= 1
        self.semaphore.give()
        self.publish()
        if self.cells[L.H_HUNGRY]:
            self.pool.ring()
        if self.machine.to_open() > 0:
            self.wake()

    # -- Gate ------------------------------------------------------------------------------------------------

    def opens_at(self) -> float:
        return NEVER if len(self.machine.opening) >= AT_ONCE else max(self.events.now, self.closed_until)

    def enter(self) -> bool:
        if self.opens_at() > self.events.now:
            return False
        if self.pool.opening >= self.turns:
            self.closed_until = self.events.now + self.random.uniform(*ASK_AGAIN)
            return False
        return True

    # -- Agent -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        if not self.awake:
            self.awake = True
            self.world.processors.run(self.interpreter, AGENT, "agent", self.reconcile)

    def _given(self) -> None:
        if self.listening and self.semaphore.permits:
            self.wake()

    def reconcile(self) -> None:
        now, machine, cells, at = self.events.now, self.machine, self.cells, self.at
        self.awake = False
        leaving = machine.surrender(now, cells[at + L.TARGET], cells[at + L.LIMIT], self.cost)
        if leaving:
            self.publish()
        for slot in leaving:
            self.close(slot)
        self.take()
        wants, credit, target = machine.to_open(), cells[at + L.CREDIT], cells[at + L.TARGET]
        opens_at = self.opens_at()
        self.listening = wants > 0 and (len(machine.slots) < target or target >= credit) and opens_at <= now
        unknown = wants > 0 and machine.demand > max(cells[at + L.KNOWN], credit)
        if unknown or self.offers(now) or self.cannot(target, cells[at + L.LIMIT]):
            self.pool.ring()
        if self.listening and self.semaphore.permits and self.has_room():
            self.wake()
        self.sleep(now, opens_at if wants else NEVER)

    def take(self) -> None:
        while self.has_room() and self.enter() and self.semaphore.take():
            self.pool.taken()
            slot = self.machine.take()
            self.publish()
            self.open(slot, self.events.now, OPEN_STEPS)

    def has_room(self) -> bool:
        return self.machine.to_open() > 0 and len(self.machine.slots) < self.cells[self.at + L.TARGET]

    def offers(self, now: float) -> bool:
        if not self.machine.idle or not self.cells[L.H_HUNGRY]:
            return False
        ripe = [slot.idle_since for slot in self.machine.idle if slot.idle_since + self.cost <= now]
        if ripe and max(ripe) > self.offered:
            self.offered = max(ripe)
            return True
        return False

    def cannot(self, target: int, limit: int) -> bool:
        machine = self.machine
        return min(len(machine.slots) - len(machine.closing), limit) - target > len(machine.idle)

    def sleep(self, now: float, opens_at: float) -> None:
        machine, cells, at = self.machine, self.cells, self.at
        times = [opens_at] if now < opens_at < NEVER else []
        if machine.idle and (cells[L.H_HUNGRY] or cells[at + L.TARGET] < cells[at + L.CREDIT]):
            times.extend(ripe for slot in machine.idle if (ripe := slot.idle_since + self.cost) > now)
        self.planned += 1
        if times:
            self.events.at(min(times) + 1e-6, self._slept, self.planned)

    def _slept(self, planned: int) -> None:
        if planned == self.planned:
            self.wake()
