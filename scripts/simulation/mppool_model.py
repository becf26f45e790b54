"""This project's pool in the simulated world: the one file here that knows its insides.

Real are the ledger's layout, `Row`, `Books`, `Allocator`, `Pace` and `PoolMachine`; simulated time is passed to them as
`now`. Modelled by hand are the local pool, the agent, the connect limiter and the connector of a process, and the bells
between processes. Nobody dies, nothing fails, no connection gets too old.

Every permit that is taken counts as a connection, from before it is opened until its end is reported. More of them than
the budget has, at any instant, ends the simulation with `Overspent`.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

from mppool.core import policy, wants
from mppool.core.pool import PoolMachine
from mppool.core.shortage import Shortage
from mppool.core.slots import Check, Close, Serve, Slot, Waiter
from mppool.manager import allocator
from mppool.manager.allocator import Pace
from mppool.process.connect_limiter import ASK_AGAIN, AT_ONCE
from mppool.process.row import Row
from mppool.process.state import RECENT
from mppool.settings import PoolSettings
from mppool.shared import ledger as L
from scripts.simulation.engine import MS, Interpreter
from scripts.simulation.pools import Lend, Pool

if TYPE_CHECKING:
    from scripts.simulation.world import World

# Assumed: no benchmark measures these one by one. Seconds of processor time, where nothing else is said.
OPEN = 4.5 * MS  # opening a connection: the process, the driver's runtime and the server
OPEN_LOCKED = 0.2  # the share of it that needs the process's interpreter
OPEN_STEPS = 4  # times that an open takes the interpreter
OPEN_WAIT = 0.5 * MS  # time besides
CLOSE, CLOSE_WAIT = 0.5 * MS, 0.3 * MS  # the second is time besides
BELL = 0.06 * MS  # time from ringing until the other process has a processor to ask for
AGENT = 0.04 * MS  # one round of an agent
SETTLE, SETTLE_READ, SETTLE_LOOK = 0.05 * MS, 0.003 * MS, 0.00006 * MS  # a settlement; each row and each cell it reads
NEVER = 1e9  # seconds from now


def constants() -> dict[str, Any]:
    """The policy's constants, by name: where each is to be set."""
    return _numbers(policy, policy.Policy, wants, Shortage, Pace)


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
    """A ledger in this process's own memory.

    Attributes:
        read, looked: rows, and cells of all rows, that the manager has read.
    """

    def __init__(self) -> None:
        self.cells = memoryview(bytearray(L.SIZE)).cast("q")
        self.read = self.looked = 0

    def facts(self, index: int) -> list[int]:
        self.read += 1
        return super().facts(index)

    def column(self, cell: int, rows: int) -> list[int]:
        self.looked += rows
        return super().column(cell, rows)


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
        self.allocator = allocator.Allocator(self.memory, permits, self._ring_member, world.processors.cores)
        self._interpreter, self._pace = Interpreter(), Pace()
        self._rang: set[int] = set()
        self._due, self._planned = False, 0
        with mock.patch.object(allocator, "make", Semaphore):
            for number in range(world.processes):
                self.allocator.attach(number + 1, 1, minimum, world.events.now)
        self.processes = [Process(self, number, minimum) for number in range(world.processes)]
        for process in self.processes:
            process.wake()

    # -- Manager ---------------------------------------------------------------------------------------------

    def ring(self, member: int) -> None:
        """A process has something new in its row."""
        self._rang.add(member)
        self._settle_soon(BELL)

    def _settle_soon(self, seconds: float) -> None:
        if not self._due:
            self._due = True
            self.world.events.after(max(seconds, self._pace.rest(self.world.events.now)), self._compute)

    def _compute(self) -> None:
        self.world.processors.run(self._interpreter, SETTLE, "manager", self._settle)

    def _settle(self) -> None:
        now, memory = self.world.events.now, self.memory
        self._pace.settles(now)
        rang, self._rang, self._due = self._rang, set(), False
        memory.read = memory.looked = 0
        again = self.allocator.settle(now, sorted(rang))
        self._planned += 1
        if again is not None:
            self.world.events.at(again + 1e-6, self._settle_again, self._planned)
        # The next settlement needs the same interpreter, so it comes after this.
        seconds = SETTLE_READ * memory.read + SETTLE_LOOK * memory.looked
        self.world.processors.run(self._interpreter, seconds, "manager", int)

    def _settle_again(self, planned: int) -> None:
        if planned == self._planned:
            self._settle_soon(0.0)

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
    """One process: local pool, agent, connect limiter and connector. Each method names the code that it stands for."""

    def __init__(self, pool: Mppool, number: int, minimum: int) -> None:
        self.pool, self.world, self.events, self.number = pool, pool.world, pool.world.events, number
        self.machine, self.row = PoolMachine(minimum, NEVER), Row()
        self.row.sit(pool.memory.cells, L.Ledger.offset(number))
        self.interpreter = pool.world.interpreters[number]
        semaphore: Any = pool.allocator.semaphores[number]
        self.semaphore: Semaphore = semaphore
        self.semaphore.given = lambda: self.events.after(BELL, self._given)
        self.random = pool.world.stream(f"connect limiter {number}")
        self.turns = PoolSettings().connect_concurrency
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.closed_until = 0.0
        self.listening = self.awake = False
        self.planned = 0
        self.row.publish_warm(minimum)
        self.row.publish(self.machine)

    def ring(self) -> None:
        self.pool.ring(self.number)

    # -- LocalPool -------------------------------------------------------------------------------------------

    def borrow(self, lend: Lend) -> None:
        machine, row = self.machine, self.row
        caller = Caller(self.events.now, lend)
        slot = machine.borrow(caller)
        if slot is not None:
            row.publish_lent(machine)
            lend(slot)
            return
        machine.line_up(caller, row.cost)
        row.publish_line(machine)
        lacking = machine.to_open() > 0
        if lacking and row.lacks(machine):
            self.ring()
        if lacking and not self.listening:
            self.wake()

    def give_back(self, slot: Slot) -> None:
        machine, row = self.machine, self.row
        action = machine.give_back(slot, self.events.now, row.limit, True, False)
        if action is not None:
            row.publish(machine)
            self.act(action)
        elif row.publish_idle(machine):
            self.ring()

    def act(self, action: Serve | Close | Check) -> None:
        if isinstance(action, Serve):
            del self.machine.called[action.waiter]
            action.waiter.wake()
        else:
            self.close(action.slot)

    # -- Connector --------------------------------------------------------------------------------------------

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
        machine, now = self.machine, self.events.now
        self.pool.opening -= 1
        self.recent.append(now - began)
        self.row.publish_cost(min(self.recent))
        action = machine.opened(slot, True, now, now + NEVER)
        ring = self.row.publish(machine)
        wake = machine.to_open() > 0 or not machine.opening
        if action is not None:
            self.act(action)
        if ring:
            self.ring()
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
        wanted = self.row.short
        self.row.publish(self.machine)
        if wanted:
            self.ring()
        if self.machine.to_open() > 0:
            self.wake()

    # -- ConnectLimiter --------------------------------------------------------------------------------------

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
        now, machine, row = self.events.now, self.machine, self.row
        self.awake = False
        leaving = machine.surrender(now, row.target, row.limit, row.cost)
        if leaving:
            row.publish(machine)
        for slot in leaving:
            self.close(slot)
        self.take()
        wants, opens_at = machine.to_open(), self.opens_at()
        room = row.may_take or len(machine.slots) < row.target
        self.listening = wants > 0 and room and opens_at <= now
        if wants and row.lacks(machine):
            self.ring()
        if self.listening and self.semaphore.permits and self.has_room():
            self.wake()
        self.planned += 1
        if wants and now < opens_at < NEVER:
            self.events.at(opens_at + 1e-6, self._slept, self.planned)

    def take(self) -> None:
        while self.has_room() and self.enter() and self.semaphore.take():
            self.pool.taken()
            slot = self.machine.take(self.events.now, self.row.cost)
            self.row.publish(self.machine)
            self.open(slot, self.events.now, OPEN_STEPS)

    def has_room(self) -> bool:
        return self.machine.to_open() > 0 and len(self.machine.slots) < self.row.target

    def _slept(self, planned: int) -> None:
        if planned == self.planned:
            self.wake()
