"""The local pool: this process's share of a budget. It builds its parts, lets callers wait in line, and reports.

Callers of this process, whether threads or tasks, come here with a waiter that knows how to wake them; that is all
that the two handles differ in. Callers never connect, and give no work away: they change the machine and wake the
agent, which alone takes permits and has the slow work (opening, closing, checking) done in the connector.

The parts, from the bottom up; each knows those before it, and none after it:

    state, lending   what is changed under the lock, and the steps of a borrow
    wakeups          what the agent sleeps on
    attachment       the member at the manager: its permits
    openings         how opening goes, and who waits for the first connections
    closing          closes connections and waits for their end
    connector        opens, checks, and has closed
    agent            the thread that reconciles all of it
    local pool       all of these together

One call goes upwards: a step has the agent woken, through `state.Notifier`.
"""

from __future__ import annotations

import logging
import os
from time import monotonic

from mppool import errors
from mppool.core.slots import Slot, Waiter
from mppool.database.contract import block_if_exiting
from mppool.process.agent import Agent
from mppool.process.attachment import Attachment
from mppool.process.closing import Closing
from mppool.process.connector import Connector
from mppool.process.executor import Executor
from mppool.process.hosted import host_cap, why_not
from mppool.process.leaks import longest
from mppool.process.lease import faces
from mppool.process.lending import Lending
from mppool.process.nested import held_by_caller
from mppool.process.openings import Openings
from mppool.process.silent_connections import SilentConnections
from mppool.process.wakeups import Wakeups
from mppool.settings import BudgetSettings, PoolSettings
from mppool.shared import sizes
from mppool.stats import PoolStats

logger = logging.getLogger("mppool.pool")


class LocalPool(Lending):
    """This process's share of a budget.

    Args:
        budget: the budget's settings.
        name: its folder's name.
        settings: of the pool.
        starting: woken when the first connections stand, or with the error if they cannot. At least one is then
            opened, if a permit is free, to see that it can be done.

    Raises: PoolError: there can be no thread.
    """

    __slots__ = ("agent", "attachment", "connector", "openings")

    def __init__(
        self, budget: BudgetSettings, name: str, settings: PoolSettings, starting: Waiter | None = None
    ) -> None:
        warm = settings.min_size if starting is None else max(1, settings.min_size)
        super().__init__(budget, name, settings, warm)
        executor, wakeups = Executor(name), Wakeups()
        self.attachment = Attachment(self, wakeups, executor.do)
        self.openings = Openings(self, starting)
        silent = SilentConnections(self, self.attachment.nobody_served, self._another)
        closing = Closing(self, executor, self.attachment, silent)
        self.connector = Connector(self, executor, self.attachment, self.openings, closing)
        self.notifier = self.agent = Agent(self, wakeups, self.attachment, self.openings, self.connector)
        try:
            self.agent.start()
        except BaseException:  # Ctrl-C: no reference to this pool will exist
            self.stop()
            raise

    def _another(self) -> LocalPool:
        """Another pool of this process at the same budget, which keeps no connection open."""
        return LocalPool(self.budget, self.name, PoolSettings(min_size=0))

    def adapt(self, budget: BudgetSettings, settings: PoolSettings) -> None:
        """Another handle of this process comes to use this pool.

        Raises: BudgetMismatchError, ValueError: it means something else.
        """
        wrong = self._mismatch(budget)
        if wrong:
            raise errors.BudgetMismatchError(f"budget {self.name!r} runs with other settings: {wrong}")
        settings = self.settings.stricter(settings)
        with self.lock:
            self.settings = settings
            self.machine.max_idle = settings.max_idle
            self.machine.min_size = settings.min_size
            self.row.publish_warm(settings.min_size)
        self.agent.wake()

    def _mismatch(self, theirs: BudgetSettings) -> str | None:
        """Why another handle does not mean this budget; None: it does."""
        ours = self.budget
        if ours.database.key != theirs.database.key:
            return f"database is {ours.database.key} there and {theirs.database.key} here"
        with self.lock:
            header = self.row.header
            if header.max_size:
                return sizes.mismatch(header, theirs.max_size, theirs.made, ours.max_size, reserve=theirs.reserve)
        if theirs.reserve not in (0, ours.reserve):
            return f"reserve is {ours.reserve} there and {theirs.reserve} here"
        if theirs.max_size in (None, ours.max_size):  # the budget's is not known yet
            return None
        return f"max_size is {ours.max_size} there and {theirs.max_size} here"

    # -- callers in line -------------------------------------------------------------------------------------

    def line_up(self, caller: Waiter) -> Slot | None:
        """Take a place in the line; or a connection after all, if one has come back in the meantime.

        Raises: PoolClosedError, TooManyWaitingError, ReentrantBorrowError, or why the pool failed.
        """
        block_if_exiting()
        self.refuse_amid()
        self._refuse_own_thread()
        most, machine = self.settings.max_waiting, self.machine
        full = notify = wake = False
        with self.lock:
            if self.amid:
                self.mend()
            self.amid = True
            stopped = machine.stopped
            slot = None if stopped or self.holds_back else machine.borrow(caller)
            waiting = len(machine.waiters)
            if stopped:
                self.refused += 1
                self.request_errors += 1
            elif slot is not None:
                slot.lent_at = monotonic()
                self.at_once += 1
                self.row.publish_lent(machine)
            elif most is not None and waiting >= most:
                full = True
                self.refused += 1
                self.request_errors += 1
            else:
                self.queued += 1
                notify, wake = self._wait(caller)
            self.amid = False
        if stopped:
            block_if_exiting()  # the exit may have begun since the first line, and have stopped the pool
            raise self.failure or errors.PoolClosedError(f"pool {self.name!r} is stopped")
        if full:
            raise errors.TooManyWaitingError(
                f"pool {self.name!r}: {waiting} callers of this process wait already "
                f"(max_waiting={most}); {self._numbers()}"
            )
        if notify:
            self.agent.notify_manager()
        if wake:
            self.agent.wake()
        return slot

    def _wait(self, caller: Waiter) -> tuple[bool, bool]:
        """Put a caller in line. In its step. Returns: whether to notify the manager, and whether to wake the agent."""
        machine, row = self.machine, self.row
        machine.line_up(caller, row.cost)
        check = machine.check_next() if self.checks_before_lending else None
        if check is None:
            row.publish_line(machine)
        else:
            self.publish()
        lacking = machine.to_open() > 0
        notify = row.lacks(machine) and lacking  # read after our line is written: see `core.notifications`
        wake = check is not None or (lacking and not self.agent.listening)  # a permit wakes an agent that listens
        return notify, wake

    def _refuse_own_thread(self) -> None:
        if self.agent.is_this_thread():
            raise errors.ReentrantBorrowError(
                f"pool {self.name!r}: a finaliser that runs on a thread of the pool's own waits for a connection, "
                "which that thread is to open; have another thread borrow"
            )

    def outcome(self, caller: Waiter, waited: float | None) -> Slot:
        """What became of a caller that was woken, or that has waited long enough (``waited`` seconds).

        Raises: PoolTimeoutError, or what the caller was woken with.
        """
        given_up = waited is not None and self.step_out(caller)
        self._note_wait(monotonic() - caller.since)
        if given_up and waited is not None:
            raise self._timeout(caller, waited)
        if caller.error is not None:
            with self.lock:
                self.request_errors += 1
            block_if_exiting()
            error = caller.error
            raise type(error)(*error.args) from error.__cause__  # each caller gets its own, with its own traceback
        assert caller.slot is not None
        return caller.slot

    def _note_wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        slow = self.settings.slow_borrow
        if slow is not None and seconds > slow:
            text = "pool %s: process %d: a caller waited %.3f s for a connection (slow_borrow=%g s); %s"
            logger.warning(text, self.name, os.getpid(), seconds, slow, self._numbers())

    # -- a fork ----------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        super().abandon()
        self.connector.abandon()
        self.agent.abandon()

    # -- what is told ----------------------------------------------------------------------------------------

    def stats(self) -> PoolStats:
        counted = self.recorder.counters(monotonic())
        with self.lock:
            machine, last = self.machine, self.last_connect_error
            return PoolStats(
                name=self.name,
                pool_min=machine.min_size,
                pool_max=self.max_size,
                in_use=machine.lent,
                idle=len(machine.idle),
                opening=len(machine.opening) + len(machine.checking),
                closing=len(machine.closing) + len(machine.lost),
                waiting=len(machine.waiters),
                credit=self.row.credit,
                last_connect_error=str(last[1]) if last is not None else None,
                manager_lost=self.attachment.lost,
                paused=machine.paused,
                **counted,
            )

    def _numbers(self) -> str:
        """What this pool has, approximately: it is read without the lock."""
        machine = self.machine
        here = (
            f"here {machine.lent} in use, {len(machine.idle)} idle, "
            f"{len(machine.opening) + len(machine.checking)} opening, {len(machine.waiters)} waiting"
        )
        if machine.paused:
            here += ", paused"
        if why := why_not(self):
            here += f"; {why}"
        if machine.lost:
            here += f", {len(machine.lost)} closed here and not yet by the server"
        held = self.attachment.held_elsewhere()
        if held is None:
            return f"{here}; no seat at the budget yet"
        others = ", ".join(f"pid {pid} {count}" for pid, count in held.items()) or "none"
        cap = host_cap(self)
        whole = (
            f"{self.shared} permits" if cap is None else f"the {cap} permits of {self.shared} that this host may use"
        )
        return f"{here}; of {whole} other processes hold: {others}"

    def _tries_again(self) -> bool:
        """Whether a connection is being opened, or will be after a pause, since the last one could not be."""
        now = monotonic()
        return bool(self.machine.opening) or self.openings.limiter.opens_at(now) != now

    def _timeout(self, caller: Waiter, waited: float) -> errors.PoolTimeoutError:
        with self.lock:
            self.timeouts += 1
            self.request_errors += 1
            lent = faces(self.machine.borrowed)
        text = f"pool {self.name!r}: no connection within {waited:g} s; {self._numbers()}{longest(self)}"
        last = self.last_connect_error
        own = held_by_caller(lent)
        if own:
            text += (
                f"; the caller itself holds {own} of these connections: use that one instead of borrowing another in "
                "its block, or leave the block first"
            )
        error = errors.PoolTimeoutError(text)
        if last is not None and (last[0] >= caller.since or self._tries_again()):
            error.__cause__ = last[1]
        return error
