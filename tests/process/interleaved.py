"""A budget in one thread: several processes' real pools and a real allocator, at any interleaving.

The code is the package's: `LocalPool` with its parts, and `Allocator` with its books. What lies
between and below is made of greenlets: threads, locks, selectors, bells, semaphores, the ledger's cells and the clock.
Before each load and store of a cell, each give and take of a semaphore, each bell and each lock, the scheduler may have
another greenlet go on. Processors that keep a store to themselves for a while are not modelled.

A manager may be killed before any of its steps. Its successor goes by the ledger, and members attach to it one by one.
"""

from __future__ import annotations

import selectors
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from greenlet import GreenletExit, getcurrent, greenlet

from mppool.core.slots import Waiter
from mppool.core.wants import CHEAPEST
from mppool.database.connection.link_state import LinkState
from mppool.manager import allocator as allocator_module
from mppool.manager.allocator import Allocator
from mppool.membership import succession as succession_module
from mppool.process import agent as agent_module
from mppool.process import attachment as attachment_module
from mppool.process import closing as closing_module
from mppool.process import connect_limiter as limiter_module
from mppool.process import connector as connector_module
from mppool.process import lending as lending_module
from mppool.process import local as local_module
from mppool.process import openings as openings_module
from mppool.process import row as row_module
from mppool.process import state as state_module
from mppool.process import upkeep as upkeep_module
from mppool.process import wakeups as wakeups_module
from mppool.process.local import LocalPool
from mppool.settings import BudgetSettings, PoolSettings
from mppool.shared import ledger as L
from mppool.shared.file_slots import FileSlot
from mppool.shared.statistics import BLOCK, START, Statistics

FOR_EVER = 1e9  # seconds
HORIZON = 0.1  # seconds in which all that is due after a race must have come to rest: no timer of the policy is longer
LATE = 0.00005  # seconds that timers go off too late
MOST_TURNS = 20_000  # of greenlets in one race


class Task:
    """A thread of some process. ``ready``: it waits for that, or until a time; None: it can go on.

    Args:
        hub: goes on when the task has ended. By default the greenlet that made it would, whatever that waits for: it
            would take a lock that another one holds.
    """

    def __init__(self, run: Callable[[], None], priority: float, hub: greenlet) -> None:
        self.greenlet = greenlet(run, hub)
        self.priority = priority
        self.ready: Callable[[], object] | None = None
        self.until: float | None = None

    def can_run(self, now: float) -> bool:
        return self.ready is None or (self.until is not None and now >= self.until) or bool(self.ready())


class Schedule:
    """Decides who goes on.

    Half of the schedules throw dice at every step. The others have the task of the highest priority go on; the
    priorities are random, and at a few random steps that of the running task becomes the lowest (Burckhardt et al.,
    "A randomized scheduler with probabilistic guarantees of finding bugs").

    Args:
        seed: of all that is random.
    """

    STEPS = 500  # a race has about so many

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.by_dice = random.random() < 0.5
        self.eagerness = random.choice((0.02, 0.1, 0.5))
        self.changes = {random.randrange(self.STEPS) for _ in range(random.randint(1, 5))}
        self.hurry = random.choice((0.0, 0.0, 0.02))  # how often a timer goes off although somebody can go on

    def priority(self) -> float:
        return self.random.random()

    def switches(self, task: Task, step: int) -> bool:
        """Whether another may go on before this task's next step."""
        if self.by_dice:
            return self.random.random() < self.eagerness
        if step in self.changes:
            task.priority = -float(step)
        return True

    def pick(self, tasks: list[Task]) -> Task:
        return self.random.choice(tasks) if self.by_dice else max(tasks, key=lambda task: task.priority)


class Ledger(L.Ledger):
    """Its cells are all that it is; its statistics are no part of a race."""

    def __init__(self, cells: Any) -> None:
        self.cells = cells
        self._statistics = Statistics(memoryview(array("q", bytes(8 * (START + 8 * BLOCK)))), 0)

    @property
    def statistics(self) -> Statistics:
        return self._statistics


class World:
    """Tasks, the clock, and what is shared between processes."""

    def __init__(self, seed: int, max_size: int, provider: str) -> None:
        self.schedule = Schedule(seed)
        self.now = 1.0
        self.max_size = max_size
        self.racing = False  # else whoever runs goes on until it waits
        self.steps = self.turns = 0
        self.tasks: list[Task] = []
        self.task: Task | None = None
        self.error: BaseException | None = None
        self.bells: set[int] = set()  # rows whose bells the manager has still to hear
        self.requests: list[Request] = []  # that it has still to hear
        self.members: list[Process] = []
        self.by_token: dict[int, Process] = {}
        self.hub = getcurrent()
        self.ledger = Ledger(Cells(self, array("q", bytes(8 * (L.HEADER + 8 * L.ROW)))))
        uri = "sqlite:./interleaved.db" if provider == "sqlite" else "postgresql://localhost/interleaved"
        self.budget = BudgetSettings(uri, max_size)
        self.again_at: float | None = None

    def monotonic(self) -> float:
        """The clock. It goes on between two looks, be they of different processes."""
        self.now += 1e-6
        return self.now

    # -- scheduling ------------------------------------------------------------------------------------------

    def spawn(self, run: Callable[[], None]) -> Task:
        def guarded() -> None:
            try:
                run()
            except GreenletExit:
                raise
            except BaseException as error:
                self.error = self.error or error

        task = Task(guarded, self.schedule.priority(), self.hub)
        self.tasks.append(task)
        return task

    def step(self) -> None:
        """Another task may go on now."""
        task = self.task
        if task is None or not self.racing:
            return
        self.steps += 1
        if self.schedule.switches(task, self.steps):
            self._let_others(task)

    def wait(self, ready: Callable[[], object], until: float | None = None) -> None:
        """Until something is so, or it is time."""
        task = self.task
        assert task is not None, "only tasks wait"
        task.ready, task.until = ready, until
        self._let_others(task)
        task.ready = task.until = None

    def _let_others(self, task: Task) -> None:
        """Return when it is this task's turn again."""
        self.hub.switch()
        assert self.task is task, "a task goes on that nobody picked"

    def run(self) -> None:
        """Until everybody waits."""
        while tasks := [task for task in self.tasks if task.can_run(self.now)]:
            self.turns += 1
            assert self.turns < MOST_TURNS, "they never come to rest"
            if self.racing and self.schedule.random.random() < self.schedule.hurry and (at := self.next_at()):
                self.now = min(at, self.now + 0.001)
            self.task = task = self.schedule.pick(tasks) if self.racing else tasks[0]
            task.greenlet.switch()
            self.task = None
            if task.greenlet.dead:
                self.tasks.remove(task)
            if self.error is not None:
                raise self.error
            self.count()

    def next_at(self) -> float | None:
        return min((t.until for t in self.tasks if t.until is not None and t.until > self.now), default=None)

    def pass_time(self, end: float) -> None:
        """Until the end, with all that happens by then."""
        self.run()
        while (at := self.next_at()) is not None and at <= end:
            self.now = at + LATE  # so that those which are due at about the same time meet
            self.run()
        self.now = max(self.now, end)

    def end(self) -> None:
        self.racing = False
        for task in self.tasks:
            self.task = task
            task.greenlet.throw(GreenletExit)
        self.task = None

    # -- the manager -----------------------------------------------------------------------------------------

    def reign(self, allocator: Allocator) -> None:
        """`Manager.run` as far as bells, requests and the clock go."""
        self.allocator = allocator
        self.manager = self.spawn(self._settle)

    def _settle(self) -> None:
        while True:
            self.wait(lambda: self.bells or self.requests, self.again_at)
            rang, self.bells = self.bells, set()
            while self.requests:
                self.requests[0].hear(self.allocator)
                del self.requests[0]
            self.again_at = self.allocator.settle(self.monotonic(), rang)

    def kill_manager(self) -> None:
        """It is killed where it is. What members told it is lost; those that ask to attach ask its successor."""
        killed, self.bells, self.again_at = self.manager, set(), None
        self.requests = [request for request in self.requests if request.is_repeated]
        self.tasks.remove(killed)
        self.manager = self.spawn(self._succeed)
        killed.greenlet.throw(GreenletExit)  # then the hub goes on, and in its turn this task

    def _succeed(self) -> None:
        allocator = Allocator(self.ledger, self.max_size, self.ring)
        for row in range(L.ROWS):
            if self.ledger.row(row).pid:
                allocator.inherit(row, self.monotonic())
        self.allocator = allocator
        self._settle()

    def ask(self, question: Callable[[Allocator], int | None]) -> int:
        """Have the manager answer; if it is killed, its successor."""
        request = Request(question, is_repeated=True)
        self.requests.append(request)
        self.wait(lambda: request.answer is not None)
        assert request.answer is not None
        return request.answer

    def tell(self, channel: Channel, message: Callable[[Allocator], None]) -> None:
        """Tell the manager at the end of this channel something."""
        self.step()
        if not channel.is_dead:
            self.requests.append(Request(message, is_repeated=False))

    def ring(self, row: int) -> None:
        """The manager rings a member."""
        self.step()
        for process in self.members:
            if process.row == row:
                process.channel.rung = True

    # -- the truth -------------------------------------------------------------------------------------------

    def count(self) -> None:
        """Permits are never made, and never more than there are."""
        held = sum(
            len(process.pool.machine.slots) + process.semaphore.count + process.semaphore_before.count
            for process in self.members
        )
        assert held <= self.max_size, f"{held} permits are out, of {self.max_size}"

    def judge(self) -> None:
        """All is at rest: nobody waits beside a permit that nobody uses."""
        waiting = [number for number, process in enumerate(self.members) if process.pool.machine.waiters]
        if not waiting:
            return
        free = self.allocator.books.accounts.free
        assert free == 0, f"{waiting} wait, and {free} permits are free"
        for number, process in enumerate(self.members):
            machine = process.pool.machine
            assert not process.semaphore.count, f"{waiting} wait, and a permit lies on the semaphore of {number}"
            assert not machine.idle, f"{waiting} wait, and {number} has an idle connection"
            assert machine.slots == set(machine.borrowed), "something is never finished"


class Request:
    """What the manager is asked or told."""

    def __init__(self, hear: Callable[[Allocator], int | None], *, is_repeated: bool) -> None:
        self._hear, self.is_repeated = hear, is_repeated
        self.answer: int | None = None

    def hear(self, allocator: Allocator) -> None:
        self.answer = self._hear(allocator)


class Cells:
    """The ledger's cells. A slice is not read in one go."""

    def __init__(self, world: World, raw: array[int]) -> None:
        self._world, self._raw = world, raw

    def __getitem__(self, cell: int | slice) -> Any:
        if isinstance(cell, slice):
            return Column(self[each] for each in range(*cell.indices(len(self._raw))))
        self._world.step()
        return self._raw[cell]

    def __setitem__(self, cell: int, value: int) -> None:
        self._world.step()
        self._raw[cell] = value

    def __len__(self) -> int:
        return len(self._raw)


class Column(list[int]):
    def tolist(self) -> list[int]:
        return list(self)


class Semaphore:
    def __init__(self, world: World) -> None:
        self._world, self.count = world, 0
        self.fds: list[int] = []

    def fileno(self) -> int:
        return id(self)

    def is_readable(self) -> bool:
        return self.count > 0

    def give(self, permits: int = 1) -> None:
        self._world.step()
        self.count += permits
        self._world.count()

    def may_be_ours(self) -> bool:
        return True

    def take(self) -> bool:
        self._world.step()
        taken = self.count > 0
        self.count -= taken
        return taken

    def close(self) -> None:
        pass


class Lock:
    """It can be entered again by the task that has it."""

    def __init__(self, world: World) -> None:
        self._world, self._owner, self._depth = world, None, 0

    def acquire(self) -> None:
        self._world.step()
        me = getcurrent()
        if self._owner not in (None, me):
            self._world.wait(lambda: self._owner is None)
        self._owner, self._depth = me, self._depth + 1

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None

    def _is_owned(self) -> bool:
        return self._owner is getcurrent()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()


class WakePipe:
    def __init__(self, world: World) -> None:
        self._world, self._rung, self._ready = world, False, False

    def fileno(self) -> int:
        return id(self)

    def is_readable(self) -> bool:
        return self._rung

    def prepare(self) -> None:
        self._ready = True

    def is_ready(self) -> bool:
        return self._ready

    def close(self) -> None:
        pass

    def notify(self) -> bool:
        self._world.step()
        self._rung = True
        return True

    def clear(self) -> None:
        self._world.step()
        self._rung = False


class Channel:
    """A member's connection to a manager. It carries bells."""

    def __init__(self, world: World, row: int) -> None:
        self._world, self._row, self._manager = world, row, world.manager
        self.rung = False

    @property
    def is_dead(self) -> bool:
        """Whether the manager at the other end is."""
        return self._manager is not self._world.manager

    def fileno(self) -> int:
        return id(self)

    def is_readable(self) -> bool:
        return self.rung or self.is_dead

    def is_ours(self) -> bool:
        return True

    def notify(self) -> bool:
        self._world.step()
        if not self.is_dead:
            self._world.bells.add(self._row)
        return True


class Key:
    def __init__(self, fileobj: Any) -> None:
        self.fileobj = fileobj


class Selector:
    def __init__(self, world: World) -> None:
        self._world, self._files = world, dict[int, Any]()

    def register(self, fileobj: Any, events: int) -> None:
        self._files[fileobj.fileno()] = fileobj

    def unregister(self, fileobj: Any) -> None:
        del self._files[fileobj.fileno()]

    def get_map(self) -> dict[int, Any]:
        return self._files

    def _readable(self) -> list[Any]:
        return [each for each in self._files.values() if each.is_readable()]

    def select(self, pause: float | None) -> list[tuple[Key, int]]:
        self._world.step()
        if not self._readable():
            self._world.wait(self._readable, None if pause is None else self._world.now + pause)
        return [(Key(each), 1) for each in self._readable()]


class Member:
    """A seat, taken. Taking the first one is no part of a race; ``returning``: to a successor, it is."""

    def __init__(self, world: World, process: Process, token: int, *, returning: bool) -> None:
        def attach(allocator: Allocator) -> int:
            row = allocator.attach(1, 1, 0, world.now, token)
            assert row is not None
            if returning:
                allocator.awaits(row)
            self.semaphore = allocator.semaphores[row]
            self.channel = process.channel = Channel(world, row)
            return row

        row = world.ask(attach) if returning else attach(world.allocator)
        self._world = world
        self.number, self.ledger, self.undeclared = row, world.ledger, returning
        process.row, self.at, self.cells = row, world.ledger.offset(row), world.ledger.cells
        process.semaphore_before, process.semaphore = process.semaphore, self.semaphore  # type: ignore[assignment]
        if not returning:
            world.bells.add(row)

    def is_ours(self) -> bool:
        return True

    def heard(self) -> bool:
        self.channel.rung = False
        return not self.channel.is_dead

    def declare(self, held: int) -> None:
        self.undeclared = False
        self._world.tell(self.channel, lambda allocator: allocator.declare(self.number, held, self._world.monotonic()))

    def abandon(self) -> None:
        pass


class Endings:
    """No server ends a connection."""

    def prepare(self, mark: int) -> None:
        pass

    def close(self) -> None:
        pass

    def fileno(self) -> int:
        return -1

    def hear(self) -> None:
        pass

    @staticmethod
    def among(known: object) -> list[object]:
        return []


class Executor:
    def __init__(self, world: World) -> None:
        self.do = world.spawn


class Link(LinkState):
    """A connection whose server does all at once."""

    conn = None
    since = 0.0

    def __init__(self, provider: str) -> None:
        super().__init__()
        self.provider = provider

    def live_socket(self) -> None:
        return None

    def prepare_close(self) -> bool:
        return True

    def close(self, patience: float = 0.0) -> bool:
        return True

    def await_close(self, patience: float) -> bool:
        return True


class Silent:
    """A logger."""

    @staticmethod
    def info(*_: object) -> None:
        pass

    warning = error = info


class FileSlots:
    def __init__(self, folder: str) -> None:
        pass

    def take(self, count: int) -> FileSlot:
        return FileSlot()


class Caller(Waiter):
    """A caller in line; it looks at ``slot`` by itself."""

    def __init__(self, world: World) -> None:
        super().__init__(world.now)
        self._world = world

    def wake(self) -> bool:
        self._world.step()
        return True


class Thread:
    """The agent's: it lives until the world ends."""

    ident = None

    def __init__(self, world: World, run: Callable[[], None]) -> None:
        self._world = world
        self._agent: Any = run.__self__  # type: ignore[attr-defined]

    def start(self) -> None:
        self._world.spawn(lambda: self._agent._attachment.attach() and self._agent._serve())


class Process:
    """A process with its pool, and callers who do what they are told."""

    row: int
    channel: Channel

    def __init__(self, world: World, patch: pytest.MonkeyPatch) -> None:
        self._world = world
        self.semaphore = self.semaphore_before = Semaphore(world)
        self.borrowers: list[Caller] = []
        self.callers: list[Caller] = []  # those in line
        patch.setattr(attachment_module, "Member", self._first_member)
        settings = PoolSettings(keep_alive=FOR_EVER, check_interval=FOR_EVER, max_idle=FOR_EVER)
        self.pool = LocalPool(world.budget, "interleaved", settings)
        world.run()  # it takes its seat
        world.members.append(self)

    def _first_member(self, budget: BudgetSettings, name: str, warm: int, token: int) -> Member:
        self._world.by_token[token] = self
        return Member(self._world, self, token, returning=False)

    def do(self, word: str) -> None:
        getattr(self, word)()

    def borrow(self) -> None:
        """A caller borrows, or lines up."""
        caller = Caller(self._world)
        slot = self.pool.borrow(caller)
        if slot is None:
            slot = self.pool.line_up(caller)
            if slot is None:
                self.callers.append(caller)
        if slot is not None:
            self.borrowers.append(caller)

    def _served(self) -> bool:
        for caller in [caller for caller in self.callers if caller.slot is not None]:
            self.callers.remove(caller)
            self.borrowers.append(caller)
        return bool(self.borrowers)

    def back(self) -> None:
        """A borrower is done: the one that has borrowed longest, or the next one to be served within a while."""
        self._world.wait(self._served, self._world.now + 0.003)
        if self.borrowers:
            self.pool.give_back(self.borrowers.pop(0))

    def drop(self) -> None:
        """So is it, but its connection is of no use any more."""
        self._world.wait(self._served, self._world.now + 0.003)
        if self.borrowers:
            self.borrowers[0].slot.link.distrust()  # type: ignore[union-attr]
            self.pool.give_back(self.borrowers.pop(0))

    def quit(self) -> None:
        """The last caller in line gives up; in the same instant it may be served."""
        self._served()
        if self.callers:
            self.pool.end(self.callers.pop())

    def kill(self) -> None:
        """The manager is killed."""
        self._world.kill_manager()

    def nap(self) -> None:
        """About as long as a reconnect takes passes."""
        self._world.wait(lambda: False, self._world.now + CHEAPEST)

    def rest(self) -> None:
        """A while passes."""
        self._world.wait(lambda: False, self._world.now + 0.0003)


@contextmanager
def world_of(seed: int, max_size: int, processes: int, provider: str) -> Iterator[World]:
    """A budget with its processes, all at rest."""
    world = World(seed, max_size, provider)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(L, "ROWS", 8)
        patch.setattr(allocator_module, "make", lambda: Semaphore(world))
        patch.setattr(limiter_module, "FileSlots", FileSlots)
        patch.setattr(limiter_module, "one_by_one", lambda database: False)
        patch.setattr(local_module, "Executor", lambda name: Executor(world))
        patch.setattr(connector_module, "open_link", lambda database, **options: Link(database.provider))
        for module, name, fake in (
            (wakeups_module, "WakePipe", lambda: WakePipe(world)),
            (wakeups_module, "Endings", Endings),
            (upkeep_module, "Endings", Endings),
            (attachment_module, "logger", Silent),
            (succession_module, "logger", Silent),
            (agent_module, "import_late", lambda module: None),
        ):
            patch.setattr(module, name, fake)
        chosen = SimpleNamespace(PollSelector=lambda: Selector(world), EVENT_READ=selectors.EVENT_READ)
        patch.setattr(wakeups_module, "selectors", chosen)
        timed = (
            agent_module,
            attachment_module,
            closing_module,
            connector_module,
            lending_module,
            openings_module,
            state_module,
            succession_module,
        )
        for module in timed:
            patch.setattr(module, "monotonic", world.monotonic)
        patch.setattr(
            succession_module,
            "Member",
            lambda budget, name, warm, token, returning: Member(world, world.by_token[token], token, returning=True),
        )
        patch.setattr(row_module, "monotonic_ns", lambda: int(world.monotonic() * 1e9))
        patch.setattr(state_module, "threading", SimpleNamespace(RLock=lambda: Lock(world)))
        started = SimpleNamespace(Thread=lambda target, **options: Thread(world, target))
        patch.setattr(agent_module, "threading", started)
        try:
            world.reign(Allocator(world.ledger, max_size, world.ring))
            for _ in range(processes):
                Process(world, patch)
            world.run()
            yield world
        finally:
            world.end()
