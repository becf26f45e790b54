"""The local pool: one machine, one lock, and the slow work that the machine asks for.

Callers of this process, whether threads or tasks, come here with a waiter that knows how to wake them; that is
all the two handles differ in. A borrow that finds an idle connection and a give-back that nobody waits for take
the lock once each and make no system call.

Callers never connect, and give no work to anybody: they change the machine and wake the agent, which alone takes
permits and has the slow work (opening, closing, checking) done in the connector.

A step is what happens under the lock. Two things can come between any two operations of a caller's step:

    another call  Python runs signal handlers and finalisers (a generator that was abandoned inside its ``with`` block)
                  on whatever thread is at hand, this one included. The lock can be entered again, and `amid` says that
                  a step is under way. A give-back that finds itself amid a step is left in `over`, for when the step
                  has ended; a borrow is refused; a stop is left to the agent.
    an exception  Ctrl-C. The step is broken off and `amid` stays set. The next step, whosever it is, finds it set
                  and is not amid a step itself, so it mends what it finds (`PoolMachine.mend`), as the next owner of a
                  robust mutex does. A connection that is lent to somebody whom nobody knows any more is given back by
                  the agent.

Nothing slow and nothing of somebody else's (a log's handler, a waiter's loop, a hook) is called in a step.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from mppool import errors
from mppool.core.pool import Close, PoolMachine, Serve, Slot, Tend, Waiter
from mppool.database.contract import Trust, block_if_exiting
from mppool.process.agent import Agent
from mppool.process.connector import Connector
from mppool.process.lease import faces
from mppool.process.nested import held_by_caller
from mppool.process.row import Row
from mppool.settings import BudgetSettings, PoolSettings
from mppool.stats import PoolStats

logger = logging.getLogger("mppool.pool")


SUSPECT, DOUBTFUL = Trust.SUSPECT, Trust.DOUBTFUL


class Step:
    """``with pool.step``: a step of one of the pool's own threads, which no exception comes upon; see above."""

    def __init__(self, pool: LocalPool) -> None:
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


class LocalPool:
    """This process's share of a budget.

    Args:
        budget: the budget's settings.
        name: its folder's name.
        settings: of the pool.
        starting: woken when the first connections stand, or with the error if they cannot. At least one is then
            opened, if a permit is free, to see that it can be done.
    """

    def __init__(
        self, budget: BudgetSettings, name: str, settings: PoolSettings, starting: Waiter | None = None
    ) -> None:
        self.budget = budget
        self.name = name
        self.settings = settings
        self.lock = threading.RLock()
        self.step = Step(self)
        self.amid = False  # a step has begun and not ended: another thread's, one we interrupt, or one broken off
        self.unsure = False  # the manager may not have been rung for what was broken off
        self.over: dict[Waiter, None] = {}  # callers whose borrow has ended, and whose slot is still to be taken back
        warm = settings.min_size if starting is None else max(1, settings.min_size)
        self.machine = PoolMachine(warm, settings.max_idle)
        self.row = Row()
        self.failure: BaseException | None = None  # why the whole pool is of no use
        self.forgotten: Callable[[], object] | None = None  # ends it, if nobody can come to it any more
        self._told: BaseException = errors.PoolClosedError(f"pool {name!r} was stopped while this caller waited")
        self.borrows = self.timeouts = self.rollbacks = 0
        self.vetting = settings.check is not None
        self._tending = self.vetting or settings.reset is not None
        self.connector = Connector(self)
        self.agent = Agent(self, starting)
        try:
            self.agent.start()
        except BaseException:  # Ctrl-C: nobody will know this pool
            self.stop()
            raise

    def seated(self, cells: Any, at: int) -> None:
        """The agent has taken a seat: from now on others read what we publish. In a step of the agent's."""
        self.row.sit(cells, at)
        self.row.publish_warm(self.machine.min_size)
        self.connector.publish_cost()
        self.publish()

    def unseated(self) -> None:
        """The manager is gone, and what it last ordered is void."""
        with self.step:
            self.row.leave()

    def publish(self) -> bool:
        """Write our row. Under the lock. True: ring, for a connection is idle now and others wait."""
        return self.row.publish(self.machine)

    def adapt(self, budget: BudgetSettings, settings: PoolSettings) -> None:
        """Another handle of this process comes to use this pool.

        Raises: BudgetMismatchError, ValueError: it means something else.
        """
        for what, ours, theirs in (
            ("max_size", self.budget.max_size, budget.max_size),
            ("database", self.budget.database.key, budget.database.key),
        ):
            if ours != theirs:
                raise errors.BudgetMismatchError(
                    f"budget {self.name!r} runs with other settings: {what} is {ours} there and {theirs} here"
                )
        settings = self.settings.stricter(settings)
        with self.lock:
            self.settings = settings
            self.machine.max_idle = settings.max_idle
            self.machine.min_size = settings.min_size
            self.row.publish_warm(settings.min_size)
        self.agent.wake()

    # -- steps -----------------------------------------------------------------------------------------------

    def is_amid(self) -> bool:
        """Whether this very thread is amid a step: we are a signal handler or a finaliser."""
        return self.amid and self.lock._is_owned()  # type: ignore[attr-defined]

    def mend(self) -> None:
        """A step was broken off. Under the lock, and not amid a step."""
        self.machine.mend(monotonic())
        self.publish()
        self.unsure = True
        self.agent.wake()  # it wakes, begins and rings, as that step's caller should have
        self.amid = False

    def call_up(self) -> None:
        """Wake those who have been served or failed. Without the lock."""
        called = self.machine.called
        for waiter in list(called):
            if not waiter.wake():  # its event loop is closed: nobody is there to take the connection
                self.end(waiter)
            called.pop(waiter, None)

    # -- callers ---------------------------------------------------------------------------------------------

    def borrow(self, caller: Waiter) -> Slot | None:
        """Lend an idle connection, at once; None: line up. Raises: ReentrantBorrowError."""
        if self.amid:
            self._refuse_amid()
        lock, machine = self.lock, self.machine
        try:
            lock.acquire()  # half as dear as ``with``
            if self.amid:
                self.mend()
            self.amid = True
            slot = None if self.vetting else machine.borrow(caller)
            if slot is not None:
                self.borrows += 1
                self.row.publish_lent(machine)
            self.amid = False
            lock.release()
        except BaseException:
            self._leave_lock()
            raise
        return slot

    def _leave_lock(self) -> None:
        """After an exception that may have come before the lock was acquired, or after it was released."""
        if self.lock._is_owned():  # type: ignore[attr-defined]
            self.lock.release()

    def _refuse_amid(self) -> None:
        if self.is_amid():
            raise errors.ReentrantBorrowError(
                f"pool {self.name!r}: a signal handler or a finaliser borrows while its thread is inside this pool, "
                "which it interrupted there; let the handler set a flag, or have another thread borrow"
            )

    def line_up(self, caller: Waiter) -> Slot | None:
        """Take a place in the line; or a connection after all, if one has come back in the meantime.

        Raises: PoolClosedError, TooManyWaitingError, ReentrantBorrowError, or why the pool failed.
        """
        block_if_exiting()
        self._refuse_amid()
        if self.agent.is_this_thread():
            raise errors.ReentrantBorrowError(
                f"pool {self.name!r}: a finaliser that runs on a thread of the pool's own waits for a connection, "
                "which that thread is to open; have another thread borrow"
            )
        most, machine, tend = self.settings.max_waiting, self.machine, None
        lacking = unknown = listening = False
        with self.lock:
            if self.amid:
                self.mend()
            if machine.stopped:
                raise self.failure or errors.PoolClosedError(f"pool {self.name!r} is stopped")
            self.amid = True
            self.borrows += 1
            slot = None if self.vetting else machine.borrow(caller)
            waiting = len(machine.waiters)
            full = most is not None and waiting >= most
            if slot is not None:
                self.row.publish_lent(machine)
            elif not full:
                machine.line_up(caller, self.row.cost)
                tend = machine.vet() if self.vetting else None
                if tend is None:
                    self.row.publish_line(machine)
                else:
                    self.publish()
                lacking = machine.to_open() > 0
                unknown = self.row.lacks(machine)
                listening = self.agent.listening  # then it acts by itself when a permit comes
            self.amid = False
        if slot is None and full:
            raise errors.TooManyWaitingError(
                f"pool {self.name!r}: {waiting} callers of this process wait already "
                f"(max_waiting={most}); {self._numbers()}"
            )
        if lacking and unknown:
            self.agent.ring()
        if tend is not None or (lacking and not listening):
            self.agent.wake()
        return slot

    def outcome(self, caller: Waiter, waited: float | None) -> Slot:
        """What became of a caller that was woken, or that has waited long enough (``waited`` seconds).

        Raises: PoolTimeoutError, or what the caller was woken with.
        """
        if waited is not None and self.step_out(caller):
            raise self._timeout(caller, waited)
        if caller.error is not None:
            block_if_exiting()
            error = caller.error
            raise type(error)(*error.args) from error.__cause__  # each caller gets its own, with its own traceback
        assert caller.slot is not None
        return caller.slot

    def step_out(self, caller: Waiter) -> bool:
        """Leave the line. False: it has been served or failed in the same instant."""
        machine = self.machine
        with self.lock:
            if self.amid:
                self.mend()
            self.amid = True
            left = machine.step_out(caller, monotonic())
            if left:
                self.row.publish_line(machine)
            given_up = left and self.row.given_up(machine)
            self.amid = False
        if given_up:
            self.agent.ring()
        return left

    def give_back(self, caller: Waiter) -> None:
        """A borrower is done with its connection. Told so twice, it is so once."""
        if self.amid and self.is_amid():
            self.leave_over(caller)
            return
        lock, machine, row = self.lock, self.machine, self.row
        slot: Any = caller.slot
        action, ring, left_open = None, False, False
        try:
            lock.acquire()
            if self.amid:
                self.mend()
            if machine.borrowed.get(slot) is caller:
                self.amid = True
                link = slot.link
                left_open = link.in_transaction
                trust = link.trust
                tend = left_open or trust == SUSPECT or self._tending
                action = machine.give_back(slot, monotonic(), row.cells[row.at_limit], trust < DOUBTFUL, tend)
                if action is None:
                    ring = row.publish_idle(machine)
                else:
                    row.publish(machine)
                self.amid = False
            lock.release()
        except BaseException:
            self._leave_lock()
            raise
        if ring:
            self.agent.ring()  # others wait, and here a connection lies idle
        if action is not None:
            self.follow(action, False)
            if left_open:
                self._left_open(caller)

    def follow(self, action: Serve | Close | Tend | None, ring: bool, wake: bool = False) -> None:
        """After a step: do what the machine said.

        Args:
            ring: others wait, and here a connection lies idle.
            wake: there is something else for the agent to do.
        """
        if ring:
            self.agent.ring()
        if isinstance(action, Serve):
            self.call_up()
        if wake or isinstance(action, (Close, Tend)):
            self.agent.wake()
            if self.agent.done:  # it has failed, and left before this connection came back
                self.agent.begin_work()

    def leave_over(self, caller: Waiter) -> None:
        """A borrow has ended and its connection cannot be given back just now: the agent does so, or whoever is next.
        At any time, on any thread; it takes no lock."""
        self.over[caller] = None
        self.unsure = True
        self.agent.wake()

    def end(self, caller: Waiter) -> None:
        """A caller will use no connection any more, whether it waits, has been served or has failed: what it has goes
        to the next. Told so twice, it is so once."""
        try:
            self.over[caller] = None
            if not self.is_amid():
                self.settle()
                return
        except BaseException:  # Ctrl-C, while we see to an earlier one, or to a timeout
            self.leave_over(caller)
            raise
        self.leave_over(caller)

    def settle(self) -> None:
        """See to the callers whose borrow has ended in the meantime. Not amid a step."""
        for caller in list(self.over):
            caller.let_go()
            if not self.step_out(caller):
                self.give_back(caller)
            self.over.pop(caller, None)

    def _left_open(self, caller: Waiter) -> None:
        """A borrower left a transaction open: name it, unless an exception was to end its transaction. The connection
        is reset before anybody else gets it."""
        self.rollbacks += 1
        if caller.broken is not None:
            return
        logger.warning(
            "pool %s: a borrower in thread %s left a transaction open; it is rolled back. "
            "Commit or roll back before the block ends.",
            self.name,
            threading.current_thread().name,
        )

    def lose(self, slot: Slot) -> None:
        """The server does not end a connection that was closed here."""
        with self.step:
            self.machine.lose(slot)
            self.publish()

    def close_idle(self, since: float) -> None:
        """Close the connections that have lain idle since then."""
        with self.step:
            leaving = self.machine.discard({slot for slot in self.machine.idle if slot.idle_since < since})
            if leaving:
                self.publish()
        self.follow(None, False, bool(leaving))

    # -- the end ---------------------------------------------------------------------------------------------

    def end_if_forgotten(self) -> None:
        """On the agent's thread: whoever noticed may have been in the middle of anything."""
        end, self.forgotten = self.forgotten, None
        if end is not None:
            end()

    def fail(self, error: BaseException) -> None:
        """The pool as a whole is of no use (no seat to be had): tell everybody and stop."""
        self.failure = error
        self.stop(error)

    def stop(self, error: BaseException | None = None) -> None:
        """Lend nothing more, close what is idle. The agent leaves when the last connection is closed."""
        if error is not None:
            self._told = error
        self.machine.stopped = True
        self.agent.wake()  # it does the rest, if we are interrupted here or amid a step
        if not self.is_amid():
            self.wind_up()

    def wind_up(self) -> None:
        """What stopping takes. Done twice, it is done once."""
        with self.lock:
            if self.amid:
                self.mend()
            self.amid = True
            self.machine.stop()
            self.machine.fail_all(self._told, monotonic())
            self.publish()
            self.amid = False
        self.agent.wake()
        self.call_up()

    def fail_waiting(self, error: BaseException) -> None:
        """No connection can be opened as things are: tell those who wait now, unless there are some to wait for."""
        with self.step:
            if self.machine.serves:
                return
            self.machine.fail_all(error, monotonic())
            self.row.publish_line(self.machine)
        self.call_up()

    def abandon(self) -> None:
        """In a forked child: this pool is the parent's. Touch nothing on the wire, keep its connections unclosed. What
        was borrowed is lent to nobody here, so nothing comes of giving it back."""
        self.lock, self.amid = threading.RLock(), False
        machine = self.machine
        machine.stopped = True
        for caller in machine.borrowed.values():
            caller.leave_to_parent()
        for slot in machine.slots:
            if slot.link is not None:
                slot.link.abandon()
        machine.borrowed.clear()
        machine.idle.clear()
        self.over.clear()
        self.row.leave()
        self.connector.abandon()
        self.agent.abandon()

    # -- what is told ----------------------------------------------------------------------------------------

    def stats(self) -> PoolStats:
        with self.lock:
            machine, last = self.machine, self.connector.last_connect_error
            return PoolStats(
                name=self.name,
                max_size=self.budget.max_size,
                in_use=machine.lent,
                idle=len(machine.idle),
                opening=len(machine.opening) + len(machine.tending),
                closing=len(machine.closing) + len(machine.lost),
                waiting=len(machine.waiters),
                borrows=self.borrows,
                timeouts=self.timeouts,
                opened=self.connector.opened,
                closed=self.connector.closed,
                connect_errors=self.connector.connect_errors,
                refused_full=self.connector.refused_full,
                rollbacks=self.rollbacks,
                last_connect_error=str(last[1]) if last is not None else None,
                manager_lost=self.agent.lost,
            )

    def _numbers(self) -> str:
        """What this pool has, approximately: it is read without the lock."""
        machine = self.machine
        here = (
            f"here {machine.lent} in use, {len(machine.idle)} idle, "
            f"{len(machine.opening) + len(machine.tending)} opening, {len(machine.waiters)} waiting"
        )
        if machine.lost:
            here += f", {len(machine.lost)} closed here and not yet by the server"
        held = self.agent.held_elsewhere()
        if held is None:
            return f"{here}; no seat at the budget yet"
        others = ", ".join(f"pid {pid} {count}" for pid, count in held.items()) or "none"
        return f"{here}; of {self.budget.max_size} permits other processes hold: {others}"

    def _timeout(self, caller: Waiter, waited: float) -> errors.PoolTimeoutError:
        with self.lock:
            self.timeouts += 1
            lent = faces(self.machine.borrowed)
        text = f"pool {self.name!r}: no connection within {waited:g} s; {self._numbers()}"
        last = self.connector.last_connect_error
        own = held_by_caller(lent)
        if own:
            text += (
                f"; the caller itself holds {own} of these connections: use that one instead of borrowing another in "
                "its block, or leave the block first"
            )
        error = errors.PoolTimeoutError(text)
        if last is not None and last[0] >= caller.since:
            error.__cause__ = last[1]
        return error
