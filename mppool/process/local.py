"""The local pool: one machine, one lock, and the slow work that the machine asks for.

Callers of this process, whether threads or tasks, come here with a waiter that knows how to wake them; that is
all the two handles differ in. A borrow that finds an idle connection and a give-back that nobody waits for take
the lock twice and make no system call.

Callers never connect. What is needed is left to the agent, which alone takes permits; what is slow (opening,
closing, checking) is done in the workshop.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from mppool import errors
from mppool.core.pool import Close, PoolMachine, Serve, Slot, Tend, Waiter
from mppool.database.parking import park_if_exiting
from mppool.process.agent import Agent
from mppool.process.nested import held_by_caller
from mppool.process.row import Row
from mppool.process.workshop import Workshop
from mppool.settings import BudgetSettings, PoolSettings
from mppool.stats import PoolStats

logger = logging.getLogger("mppool.pool")


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
        self.lock = threading.Lock()
        warm = settings.min_size if starting is None else max(1, settings.min_size)
        self.machine = PoolMachine(warm, settings.max_idle)
        self.row = Row()
        self.failure: BaseException | None = None  # why the whole pool is of no use
        self.forgotten: Callable[[], object] | None = None  # ends it, if nobody can come to it any more
        self.borrows = self.timeouts = self.rollbacks = 0
        self.vetting = settings.check is not None
        self._tending = self.vetting or settings.reset is not None
        self.workshop = Workshop(self)
        self.agent = Agent(self, starting)
        self.agent.start()

    def seated(self, cells: Any, at: int) -> None:
        """The agent has taken a seat: from now on others read what we publish. Under the lock."""
        self.row.sit(cells, at)
        self.row.publish_warm(self.machine.min_size)
        self.workshop.publish_cost()
        self.publish()

    def unseated(self) -> None:
        """The manager is gone, and what it last ordered is void."""
        with self.lock:
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

    # -- callers ---------------------------------------------------------------------------------------------

    def borrow(self) -> Slot | None:
        """An idle connection, at once; None: line up."""
        machine = self.machine
        with self.lock:
            if not machine.idle or self.vetting:
                return None
            slot = machine.borrow()
            self.borrows += 1
            self.row.publish_lent(machine)
        return slot

    def line_up(self, waiter: Waiter) -> Slot | None:
        """Take a place in the line; or a connection after all, if one has come back in the meantime.

        Raises: PoolClosedError, TooManyWaitingError, or why the pool failed.
        """
        most = self.settings.max_waiting
        park_if_exiting()
        with self.lock:
            machine = self.machine
            if machine.stopped:
                raise self.failure or errors.PoolClosedError(f"pool {self.name!r} is stopped")
            self.borrows += 1
            slot = None if self.vetting else machine.borrow()
            if slot is not None:
                self.row.publish_lent(machine)
                return slot
            if most is not None and len(machine.waiters) >= most:
                raise errors.TooManyWaitingError(
                    f"pool {self.name!r}: {len(machine.waiters)} callers of this process wait already "
                    f"(max_waiting={most}); {self._numbers()}"
                )
            machine.line_up(waiter, self.row.cost)
            tend = machine.vet() if self.vetting else None
            if tend is None:
                self.row.publish_line(machine)
            else:
                self.publish()
            lacking = machine.to_open() > 0
            unknown = self.row.lacks(machine)
            listening = self.agent.listening  # then it acts by itself when a permit comes
        if tend is not None:
            self.act(tend)
        if lacking and unknown:
            self.agent.ring()
        if lacking and not listening:
            self.agent.wake()
        return None

    def outcome(self, waiter: Waiter, waited: float | None) -> Slot:
        """What became of a waiter that was woken, or that has waited long enough (``waited`` seconds).

        Raises: PoolTimeoutError, or what the waiter was woken with.
        """
        if waited is not None and self.step_out(waiter):
            raise self._timeout(waiter, waited)
        if waiter.error is not None:
            park_if_exiting()
            error = waiter.error
            raise type(error)(*error.args) from error.__cause__  # each caller gets its own, with its own traceback
        assert waiter.slot is not None
        return waiter.slot

    def step_out(self, waiter: Waiter) -> bool:
        """Leave the line. False: something was handed over in the same instant; it is in the waiter."""
        with self.lock:
            left = self.machine.step_out(waiter, monotonic())
            if left:
                self.row.publish_line(self.machine)
            given_up = left and self.row.given_up(self.machine)
        if given_up:
            self.agent.ring()
        return left

    def forsake(self, waiter: Waiter) -> None:
        """A waiter was interrupted or cancelled: what it got in the same instant goes to the next."""
        if not self.step_out(waiter):
            self._pass_on(waiter)

    def _pass_on(self, waiter: Waiter) -> None:
        """A waiter was served and does not want it any more. It may be told so twice; it has one slot to pass on."""
        with self.lock:
            slot, waiter.slot = waiter.slot, None
        if slot is not None:
            self.give_back(slot)

    def give_back(self, slot: Slot, failed: bool = False) -> None:
        """A borrower is done with a connection. ``failed``: by an exception, which is to end its transaction."""
        link, machine = slot.link, self.machine
        if link.in_transaction:
            self._left_open(failed)
        with self.lock:
            action = machine.give_back(
                slot,
                monotonic(),
                self.row.limit,
                fit=not link.doubtful,
                tend=link.suspect or link.in_transaction or self._tending,
            )
            if action is None:
                ring = self.row.publish_idle(machine)
            else:
                self.publish()
        if action is not None:
            self.act(action)
        elif ring:
            self.agent.ring()  # others wait, and here a connection lies idle

    def _left_open(self, failed: bool) -> None:
        """A borrower left a transaction open: name it. The connection is reset before anybody else gets it."""
        self.rollbacks += 1
        if failed:
            return
        logger.warning(
            "pool %s: a borrower in thread %s left a transaction open; it is rolled back. "
            "Commit or roll back before the block ends.",
            self.name,
            threading.current_thread().name,
        )

    def lose(self, slot: Slot) -> None:
        """The server does not end a connection that was closed here."""
        with self.lock:
            self.machine.lose(slot)
            self.publish()

    def close_idle(self, since: float) -> None:
        """Close the connections that have lain idle since then."""
        with self.lock:
            leaving = self.machine.discard({slot for slot in self.machine.idle if slot.idle_since < since})
            if leaving:
                self.publish()
        for slot in leaving:
            self.workshop.close(slot)

    def act(self, action: Serve | Close | Tend) -> None:
        if isinstance(action, Serve):
            if not action.waiter.wake():  # its event loop is closed: nobody is there to take the connection
                self._pass_on(action.waiter)
        elif isinstance(action, Close):
            self.workshop.close(action.slot)
        else:
            self.workshop.tend(action.slot)

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
        with self.lock:
            idle = self.machine.stop()
            told = error or errors.PoolClosedError(f"pool {self.name!r} was stopped while this caller waited")
            failed = self.machine.fail_all(told, monotonic())
            self.publish()
        for waiter in failed:
            waiter.wake()
        for slot in idle:
            self.workshop.close(slot)
        self.agent.wake()

    def fail_waiting(self, error: BaseException) -> None:
        """No connection can be opened as things are: tell those who wait now, unless there are some to wait for."""
        with self.lock:
            if self.machine.serves:
                return
            failed = self.machine.fail_all(error, monotonic())
            self.row.publish_line(self.machine)
        for waiter in failed:
            waiter.wake()

    def abandon(self) -> None:
        """In a forked child: this pool is the parent's. Touch nothing on the wire, keep its connections unclosed."""
        self.lock = threading.Lock()
        machine = self.machine
        machine.stopped = True
        for slot in machine.slots:
            if slot.face is not None:
                slot.face._leave_to_parent()
            if slot.link is not None:
                slot.link.abandon()
        machine.idle.clear()
        self.row.leave()
        self.give_back = lambda slot, failed=False: None  # type: ignore[method-assign]
        self.workshop.abandon()
        self.agent.abandon()

    # -- what is told ----------------------------------------------------------------------------------------

    def stats(self) -> PoolStats:
        with self.lock:
            machine, last = self.machine, self.workshop.last_connect_error
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
                opened=self.workshop.opened,
                closed=self.workshop.closed,
                connect_errors=self.workshop.connect_errors,
                refused_full=self.workshop.refused_full,
                rollbacks=self.rollbacks,
                last_connect_error=str(last[1]) if last is not None else None,
                manager_lost=self.agent.lost,
            )

    def _numbers(self) -> str:
        """Who has what. Under the lock."""
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

    def _timeout(self, waiter: Waiter, waited: float) -> errors.PoolTimeoutError:
        with self.lock:
            self.timeouts += 1
            text = f"pool {self.name!r}: no connection within {waited:g} s; {self._numbers()}"
            last = self.workshop.last_connect_error
            faces = [slot.face for slot in self.machine.borrowed if slot.face is not None]
        own = held_by_caller(faces)
        if own:
            text += (
                f"; the caller itself holds {own} of these connections: use that one instead of borrowing another in "
                "its block, or leave the block first"
            )
        error = errors.PoolTimeoutError(text)
        if last is not None and last[0] >= waiter.since:
            error.__cause__ = last[1]
        return error
