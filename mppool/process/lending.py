"""Lending: the steps of a borrow's two ends, and of the pool's own end.

A borrow that finds an idle connection and a give-back that no caller waits for take the lock once each and make no
system call. They change the machine; work that is slow is left to the agent, which is woken for it.
"""

from __future__ import annotations

import logging
import threading
from time import monotonic
from typing import Any

from mppool import errors
from mppool.core.slots import Check, Close, Serve, Slot, Waiter
from mppool.database.contract import Trust
from mppool.process.lease import Bound
from mppool.process.state import PoolState
from mppool.settings import BudgetSettings, PoolSettings

logger = logging.getLogger("mppool.pool")

FOR_EVER = float("inf")
MOST_PAUSES = 20  # pauses that are remembered, for the clocks of callers in line
LEAST_PATIENCE = 0.001  # seconds; what a timer may go off too early
ASK_AGAIN = 0.02  # seconds until a caller whose clock stands still looks at it again

SUSPECT, DOUBTFUL = Trust.SUSPECT, Trust.DOUBTFUL


class Lending(PoolState):
    """A pool's state with the steps that change who has which connection. Args: those of `PoolState`."""

    __slots__ = ("_told",)

    def __init__(self, budget: BudgetSettings, name: str, settings: PoolSettings, warm: int) -> None:
        super().__init__(budget, name, settings, warm)
        self._told: BaseException = errors.PoolClosedError(f"pool {name!r} was stopped while this caller waited")

    # -- the two steps that every borrow takes ---------------------------------------------------------------

    def borrow(self, caller: Waiter) -> Slot | None:
        """Lend an idle connection, at once; None: line up. Raises: ReentrantBorrowError."""
        if self.amid:
            self.refuse_amid()
        lock, machine = self.lock, self.machine
        try:
            lock.acquire()  # half as dear as ``with``
            if self.amid:
                self.mend()
            self.amid = True
            slot = None if self.holds_back else machine.borrow(caller)
            if slot is not None:
                slot.lent_at = monotonic()
                self.at_once += 1
                self.row.publish_lent(machine)
            self.amid = False
            lock.release()
        except BaseException:
            self._leave_lock()
            raise
        return slot

    def give_back(self, caller: Waiter) -> None:
        """A borrower is done with its connection. Told so twice, it is so once."""
        if self.amid and self.is_amid():
            self.leave_over(caller)
            return
        lock, machine, row = self.lock, self.machine, self.row
        slot: Any = caller.slot
        now = 0.0
        action, notify, left_open = None, False, False
        try:
            lock.acquire()
            if self.amid:
                self.mend()
            if machine.borrowed.get(slot) is caller:
                self.amid = True
                link = slot.link
                left_open = link.in_transaction
                trust = link.trust
                check = left_open or trust == SUSPECT or self.checks_on_return
                limit = row.cells[row.at_limit]  # `row.limit` without the call: this is the hot path
                now = monotonic()
                self.uses.append(now - slot.lent_at)
                fit = trust < DOUBTFUL
                if left_open and machine.paused:
                    fit = False  # to roll it back would take a statement
                action = machine.give_back(slot, now, limit, fit, check)
                if action is None:
                    notify = row.publish_idle(machine)
                else:
                    row.publish(machine)
                    self._count_close(action, slot, now, trust)
                self.amid = False
            lock.release()
        except BaseException:
            self._leave_lock()
            raise
        if notify:
            self.notifier.notify_manager()  # others wait, and here a connection lies idle
        if action is not None:
            self.follow(action, False)
            if left_open:
                self._left_open(caller)
        if now > self.flush_at:
            self.recorder.flush(now)

    def _count_close(self, action: Serve | Close | Check, slot: Slot, now: float, trust: int) -> None:
        """Why a connection is closed that came back, where its age is not the reason. In its step."""
        if isinstance(action, Close):
            if trust >= DOUBTFUL:
                self.returns_bad += 1
            elif now < slot.expires and not self.machine.stopped:
                self.moves += 1

    def _leave_lock(self) -> None:
        """After an exception that may have come before the lock was acquired, or after it was released."""
        if self.lock._is_owned():  # type: ignore[attr-defined]
            self.lock.release()

    def _left_open(self, caller: Waiter) -> None:
        """A borrower left a transaction open: name it, unless an exception was to end its transaction. The connection
        is reset before it is lent again."""
        self.rollbacks += 1
        if caller.broken is not None:
            return
        logger.warning(
            "pool %s: a borrower in thread %s left a transaction open; it is rolled back. "
            "Commit or roll back before the block ends.",
            self.name,
            threading.current_thread().name,
        )

    # -- after a step ----------------------------------------------------------------------------------------

    def follow(self, action: Serve | Close | Check | None, notify: bool, wake: bool = False) -> None:
        """After a step: do what the machine said.

        Args:
            notify: others wait, and here a connection lies idle.
            wake: there is something else for the agent to do.
        """
        if notify:
            self.notifier.notify_manager()
        if isinstance(action, Serve):
            self.call_up()
        if wake or isinstance(action, (Close, Check)):
            self.notifier.wake()
            if self.left:  # the agent has failed, and ended before this connection came back
                self.notifier.begin_work()

    def call_up(self) -> None:
        """Wake those who have been served or failed. Without the lock."""
        called = self.machine.called
        for waiter in list(called):
            if not waiter.wake():  # its event loop is closed: no task can take the connection
                self.end(waiter)
            called.pop(waiter, None)

    # -- a pause ---------------------------------------------------------------------------------------------

    def pause(self, now: float) -> None:
        """Lend, open and check nothing. In a step."""
        self.holds_back = True
        self.pauses = [*self.pauses[-MOST_PAUSES:], (now, FOR_EVER)]
        self.machine.pause()

    def resume(self, now: float) -> None:
        """Go on. In a step; then `call_up`."""
        self.holds_back = self.checks_before_lending
        self.pauses[-1] = (self.pauses[-1][0], now)
        self.machine.resume(now, self.checks_before_lending)
        self.publish()

    def patience_left(self, caller: Waiter, timeout: float) -> float:
        """The time of a caller in line is up. The seconds that it may go on waiting, since its clock stands still while
        the pool is paused; 0: none. In a pause it is to ask again then."""
        if not self.pauses or isinstance(timeout, Bound):
            return 0.0
        now = monotonic()
        paused = sum(max(0.0, min(end, now) - max(begin, caller.since)) for begin, end in self.pauses)
        left = timeout - (now - caller.since - paused)
        if left < LEAST_PATIENCE:
            return 0.0
        return max(left, ASK_AGAIN) if self.machine.paused else left

    # -- other ends of a borrow ------------------------------------------------------------------------------

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
            self.notifier.notify_manager()
        return left

    def leave_over(self, caller: Waiter) -> None:
        """A borrow has ended and its connection cannot be given back just now: the agent does so, or the next caller of
        `settle`. At any time, on any thread; it takes no lock."""
        self.over[caller] = None
        self.unsure = True
        self.notifier.wake()

    def end(self, caller: Waiter) -> None:
        """A caller will use no connection any more, whether it waits, has been served or has failed: what it has goes
        to the next. Told so twice, it is so once."""
        try:
            self.over[caller] = None
            if not self.is_amid():
                self.settle()
                return
        except BaseException:  # Ctrl-C, while an earlier one is settled, or a timeout is reported
            self.leave_over(caller)
            raise
        self.leave_over(caller)

    def settle(self) -> None:
        """Take the connections back from callers whose borrow has ended in the meantime. Not amid a step."""
        for caller in list(self.over):
            caller.let_go()
            if not self.step_out(caller):
                self.give_back(caller)
            self.over.pop(caller, None)

    def close_idle(self, since: float) -> None:
        """Close the connections that have lain idle since then."""
        with self.step:
            leaving = self.machine.discard({slot for slot in self.machine.idle if slot.idle_since < since})
            if leaving:
                self.publish()
        self.follow(None, False, bool(leaving))

    # -- the pool's end --------------------------------------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        """The pool as a whole is of no use (no seat to be had): tell every caller in line, and stop."""
        self.failure = error
        self.stop(error)

    def stop(self, error: BaseException | None = None) -> None:
        """Lend nothing more, close what is idle. The agent leaves when the last connection is closed."""
        if error is not None:
            self._told = error
        self.machine.stopped = True
        self.notifier.wake()  # the agent does the rest, if we are interrupted here or amid a step
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
        self.recorder.flush(monotonic())
        self.notifier.wake()
        self.call_up()

    def fail_waiting(self, error: BaseException) -> None:
        """No connection can be opened as things are: tell those who wait now, unless there are some to wait for."""
        with self.step:
            if self.machine.serves:
                return
            self.machine.fail_all(error, monotonic())
            self.row.publish_line(self.machine)
        self.call_up()

    def end_if_forgotten(self) -> None:
        """Stop the pool if `forgotten` was set. On the agent's thread: the garbage collector, which noticed, may have
        interrupted anything."""
        end, self.forgotten = self.forgotten, None
        if end is not None:
            end()
