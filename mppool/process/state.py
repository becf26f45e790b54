"""The state of a local pool: one lock, and what is only changed under it.

A step is what happens under the lock. Two things can come between any two operations of a caller's step:

    another call  Python runs signal handlers and finalisers (a generator that was abandoned inside its ``with`` block)
                  on any thread, this one included. The lock can be entered again, and `amid` says that
                  a step is under way. A give-back that finds itself amid a step is left in `over`, for when the step
                  has ended; a borrow is refused; a stop is left to the agent.
    an exception  Ctrl-C. The step is broken off and `amid` stays set. The next step, on any thread, finds it set and
                  is not amid a step itself, so it mends what it finds (`PoolMachine.mend`), as the next owner of a
                  robust mutex does. A connection that is lent to a caller which nothing refers to any more is given
                  back by the agent.

Steps are written in two ways:

- A step of the pool's own threads is ``with pool.step:``. No exception comes upon these threads.
- A step of a caller is written out: take the lock with a method of C (a Ctrl-C inside an ``__enter__`` of Python would
  leave it locked), mend if `amid` is set, set `amid`, do the work, clear `amid`. An exception must leave it set.

Nothing slow and nothing of other code's (a log's handler, a waiter's loop, a hook) is called in a step.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from mppool import errors
from mppool.core.pool import PoolMachine
from mppool.core.slots import Slot, Waiter
from mppool.process.recorder import Counts, Recorder
from mppool.process.row import Row
from mppool.settings import BudgetSettings, PoolSettings

RECENT = 8  # opens whose times are kept: the least of them is what an open costs when nothing else slows it down


class Notifier(Protocol):
    """What a step needs done outside the lock. The agent does it: it is built last, and sets itself in the state."""

    def wake(self) -> None:
        """Have the agent look for what there is to do. It takes no lock of the pool's."""

    def notify_manager(self) -> None:
        """Notify the manager at once: this process lacks permits, or has what others wait for."""

    def begin_work(self) -> None:
        """Have the connections closed and checked that steps have left to the agent. Without the lock."""


class Step:
    """``with pool.step``: a step of one of the pool's own threads; see the module's docstring."""

    def __init__(self, pool: PoolState) -> None:
        self._pool = pool

    def __enter__(self) -> None:
        pool = self._pool
        pool.lock.acquire()
        if pool.amid:
            pool.mend()
        pool.amid = True

    def __exit__(self, kind: object, *_: object) -> None:
        pool = self._pool
        pool.amid = kind is not None
        pool.lock.release()


class PoolState(Counts):
    """What the parts of a local pool work on. `Lending` and `LocalPool` extend it, so that a borrow finds all of this
    as attributes of its own object.

    Args:
        budget: the budget's settings.
        name: its folder's name.
        settings: of the pool.
        warm: connections to keep open until the first ones stand; from then on ``settings.min_size``.
    """

    __slots__ = (
        "amid", "budget", "checks_before_lending", "checks_on_return", "failure", "forgotten", "holds_back",
        "last_connect_error", "left", "lock", "machine", "name", "notifier", "over", "pauses", "recent", "recorder",
        "row", "settings", "step", "unsure",
    )  # fmt: skip

    notifier: Notifier  # set once, before any thread or caller knows this object

    def __init__(self, budget: BudgetSettings, name: str, settings: PoolSettings, warm: int) -> None:
        super().__init__()
        self.budget = budget
        self.name = name
        self.settings = settings
        self.lock = threading.RLock()
        self.step = Step(self)
        self.amid = False  # a step has begun and not ended: another thread's, one we interrupt, or one broken off
        self.unsure = False  # the manager may not have been notified of what a step that was broken off did
        self.over: dict[Waiter, None] = {}  # callers whose borrow has ended, and whose slot is still to be taken back
        self.machine = PoolMachine(warm, settings.max_idle)
        self.row = Row()
        self.checks_before_lending = settings.check is not None
        self.holds_back = self.checks_before_lending  # no idle one is lent at once: it is checked first, or not lent
        self.pauses: list[tuple[float, float]] = []  # from when until when; the last one may go on
        self.checks_on_return = self.checks_before_lending or settings.reset is not None
        self.left = False  # the agent has ended, and with it the membership: no connection will be opened
        self.failure: BaseException | None = None  # why the whole pool is of no use
        self.forgotten: Callable[[], object] | None = None  # stops the pool: no handle refers to it any more
        self.recorder = Recorder(self)
        self.recent: deque[float] = deque(maxlen=RECENT)  # seconds that the last opens took
        self.last_connect_error: tuple[float, Exception] | None = None  # and when: why there is no connection, or seat

    @property
    def max_size(self) -> int:
        """Permits of the budget now; 0: not known yet."""
        try:
            size = self.row.header.max_size
        except ValueError:  # the seat was left in between, and its ledger closed: the header is another one now
            size = self.row.header.max_size
        return size or self.budget.max_size or 0

    @property
    def shared(self) -> int:
        """Permits that callers without priority share; 0: not known yet."""
        try:
            reserve = self.row.header.reserve
        except ValueError:
            reserve = self.row.header.reserve
        return self.max_size - reserve

    def is_amid(self) -> bool:
        """Whether this very thread is amid a step: we are a signal handler or a finaliser."""
        return self.amid and self.lock._is_owned()  # type: ignore[attr-defined]

    def refuse_amid(self) -> None:
        """Raises: ReentrantBorrowError."""
        if self.is_amid():
            raise errors.ReentrantBorrowError(
                f"pool {self.name!r}: a signal handler or a finaliser borrows while its thread is inside this pool, "
                "which it interrupted there; let the handler set a flag, or have another thread borrow"
            )

    def mend(self) -> None:
        """A step was broken off. Under the lock, and not amid a step."""
        self.machine.mend(monotonic())
        self.publish()
        self.unsure = True
        self.notifier.wake()  # it wakes waiters, begins work and notifies the manager, as that step's caller should
        self.amid = False

    def publish(self) -> bool:
        """Write our row. Under the lock. True: notify the manager, for a connection is idle now and others wait."""
        return self.row.publish(self.machine)

    def publish_cost(self) -> None:
        """Write into our row what an open costs. Under the lock."""
        if self.recent:
            self.row.publish_cost(min(self.recent))

    def lose(self, slot: Slot) -> None:
        """The server does not end a connection that was closed here."""
        with self.step:
            self.machine.lose(slot)
            self.publish()

    def abandon(self) -> None:
        """In a forked child: this pool is the parent's. Touch nothing on the wire, keep its connections unclosed. A
        connection that was borrowed counts as lent to no caller, so giving it back does nothing."""
        self.lock, self.amid = threading.RLock(), False
        machine = self.machine
        machine.stopped = self.left = True
        for caller in machine.borrowed.values():
            caller.leave_to_parent()
        for slot in machine.slots:
            if slot.link is not None:
                slot.link.abandon()
        machine.borrowed.clear()
        machine.idle.clear()
        self.over.clear()
        self.row.leave()
        self.recorder = Recorder(self)
