"""The local pool's machine: connections, callers in line, and what to do when something happens to either.

A slot is a permit that this process holds, from the moment it is taken off the semaphore until it is put back. It is
idle, borrowed, or on the move (being opened, checked or closed). A connection never lies idle while a caller waits.
Callers are served first come, first served.

The machine is not thread-safe and does no I/O: its caller holds a lock around each method, and afterwards does what the
method returned.

A step can be interrupted between any two of its operations, by Ctrl-C for instance. So each step first writes where a
slot goes, and only then removes it from where it was, each with a single store: a slot is always somewhere.
`PoolMachine.mend` completes an interrupted step. Which caller has a slot, which callers are to be woken and what the
agent has still to begin are state, too, and not the return value of a call that may never return.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container
from typing import Any

from mppool.core.shortage import Shortage
from mppool.core.slots import Check, Close, Serve, Slot, Waiter


class PoolMachine:
    """One process's share of a budget.

    Args:
        min_size: connections to keep warm.
        max_idle: seconds after which an idle connection above ``min_size`` is closed.
    """

    def __init__(self, min_size: int, max_idle: float) -> None:
        self.min_size = min_size
        self.max_idle = max_idle
        self.slots: set[Slot] = set()  # every permit here
        self.idle: list[Slot] = []  # a stack: the warmest connection is lent first
        self.borrowed: dict[Slot, Waiter] = {}  # and by which caller
        self.opening: set[Slot] = set()
        self.checking: dict[Slot, bool] = {}  # and whether the work has begun
        self.closing: dict[Slot, bool] = {}  # the same
        self.lost: set[Slot] = (
            set()
        )  # those of the borrowed that are closed here but not at the server, lent to `_nobody`
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        self.called: dict[Waiter, None] = {}  # served or failed, and perhaps not woken yet
        self.shortage = Shortage()
        self.stopped = False
        self.paused = False  # nothing is lent, opened or checked
        self.drained = 0.0  # connections that began to be opened before this time are to be replaced
        self._nobody = Waiter(0.0)

    # -- callers ---------------------------------------------------------------------------------------------

    def borrow(self, caller: Waiter) -> Slot | None:
        """Lend the most recently used idle connection, if there is one."""
        idle = self.idle
        if not idle:
            return None
        caller.slot = slot = idle[-1]
        self.borrowed[slot] = caller
        del idle[-1]
        return slot

    def line_up(self, waiter: Waiter, cost: float) -> None:
        """``cost``: seconds that a reconnect takes."""
        if not self.waiters:
            self.shortage.begins(waiter.since, cost)
        self.waiters[waiter] = None

    def step_out(self, waiter: Waiter, now: float) -> bool:
        """A waiter gives up. False: it was served or failed in the meantime."""
        if waiter not in self.waiters:
            return False
        del self.waiters[waiter]
        if not self.waiters:
            self.shortage.ends(now)
        return True

    def give_back(self, slot: Slot, now: float, limit: int, fit: bool, check: bool) -> Serve | Close | Check | None:
        """A borrower is done. None: the connection lies idle.

        Args:
            limit: slots this process may keep; above it the connection is closed even if callers here wait.
            fit: whether the connection may be lent again.
            check: whether it must be checked or reset first.
        """
        # A process seldom has more slots than it may keep, so the second comparison is rare.
        over = len(self.slots) > limit and len(self.slots) - len(self.closing) > limit
        if over or not fit or self.stopped or now >= slot.expires:
            self.closing[slot] = False
            del self.borrowed[slot]
            return Close(slot)
        if check:
            self.checking[slot] = False
            del self.borrowed[slot]
            return Check(slot)
        if self.waiters and not self.paused:
            return self._serve(slot, now)
        slot.idle_since = now
        self.idle.append(slot)
        del self.borrowed[slot]
        return None

    def _offer(self, slot: Slot, now: float) -> Serve | None:
        if self.waiters and not self.paused:
            return self._serve(slot, now)
        slot.idle_since = now
        self.idle.append(slot)
        return None

    def _serve(self, slot: Slot, now: float) -> Serve:
        waiter = next(iter(self.waiters))
        self.borrowed[slot] = waiter
        waiter.slot, slot.lent_at = slot, now
        self._call(waiter)
        if not self.waiters:
            self.shortage.ends(now)
        return Serve(waiter)

    def _call(self, waiter: Waiter) -> None:
        self.called[waiter] = None
        del self.waiters[waiter]

    def check_next(self) -> Check | None:
        """Have an idle connection checked before it goes to the caller that is first in line then; call until None."""
        if self.paused or not self.idle or len(self.checking) >= len(self.waiters):
            return None
        slot = self.idle[-1]
        self.checking[slot] = False
        del self.idle[-1]
        return Check(slot)

    def begin(self) -> list[Close | Check]:
        """What has to be closed or checked, where the work has not begun; the caller begins now."""
        todo: list[Close | Check] = []
        for slot, begun in self.closing.items():
            if not begun:
                self.closing[slot] = True
                todo.append(Close(slot))
        for slot, begun in self.checking.items():
            if not begun and not self.paused:
                self.checking[slot] = True
                todo.append(Check(slot))
        return todo

    def mend(self, now: float) -> None:
        """Complete an interrupted step. A slot in two places belongs where the step was to take it."""
        for slot in self.lost:
            self.borrowed[slot] = self._nobody
            self.closing.pop(slot, None)
        for slot in list(self.slots):
            leaves = slot in self.closing or slot in self.checking
            if leaves and slot in self.idle:
                self.idle.remove(slot)
            if slot in self.borrowed and (leaves or slot in self.idle):
                del self.borrowed[slot]
        for slot, caller in self.borrowed.items():
            if caller in self.waiters:
                caller.slot = slot
                self._call(caller)
        for waiter in list(self.waiters):
            if waiter.error is not None:
                self._call(waiter)
        if self.waiters and not self.shortage.since:
            self.shortage.begins(now, 0.0)
        elif self.shortage.since and not self.waiters:
            self.shortage.ends(now)

    # -- a pause ---------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Lend, open and check nothing. Callers keep their places in the line."""
        self.paused = True

    def resume(self, now: float, checks_first: bool) -> None:
        """Go on: callers in line have the idle connections. ``checks_first``: these have to be checked before."""
        self.paused = False
        while checks_first and self.check_next() is not None:
            pass
        while self.idle and self.waiters and not checks_first:
            slot = self.idle[-1]
            self._serve(slot, now)
            del self.idle[-1]

    @property
    def quiet(self) -> bool:
        """Whether nothing that a pause holds back is still under way; connections may be borrowed."""
        return self.paused and not self.opening and not any(self.checking.values())

    # -- connections -----------------------------------------------------------------------------------------

    def take(self, now: float, cost: float) -> Slot:
        """A permit was taken off the semaphore, to open a connection with. ``cost``: seconds that a reconnect takes."""
        self.shortage.is_relieved(now, cost)
        slot = Slot(now)
        self.slots.add(slot)
        self.opening.add(slot)
        return slot

    def opened(self, slot: Slot, link: Any, now: float, expires: float) -> Serve | Close | None:
        self.opening.remove(slot)
        slot.link, slot.expires = link, expires if slot.began >= self.drained else 0.0
        if self.stopped or (slot.began < self.drained and (self.paused or not self.waiters)):
            self.closing[slot] = False
            return Close(slot)
        return self._offer(slot, now)

    def not_opened(self, slot: Slot) -> None:
        """Opening failed: the permit can go back."""
        self.opening.remove(slot)
        self.slots.remove(slot)

    def checked(self, slot: Slot, now: float, limit: int, *, fit: bool) -> Serve | Close | None:
        del self.checking[slot]
        if not fit or self.stopped or now >= slot.expires or len(self.slots) - len(self.closing) > limit:
            self.closing[slot] = False
            return Close(slot)
        return self._offer(slot, now)

    def lose(self, slot: Slot) -> None:
        """The server does not end a connection that is being closed: its permit is in use, and not soon free."""
        if slot in self.closing:
            self.lost.add(slot)
            self.borrowed[slot] = self._nobody
            del self.closing[slot]

    def closed(self, slot: Slot) -> None:
        """The connection is closed: the permit can go back."""
        if slot in self.lost:
            del self.borrowed[slot]
            self.lost.remove(slot)
        else:
            del self.closing[slot]
        self.slots.remove(slot)

    # -- upkeep ----------------------------------------------------------------------------------------------

    @property
    def demand(self) -> int:
        """Connections that callers of this process use or wait for."""
        return len(self.borrowed) + len(self.waiters)

    @property
    def lent(self) -> int:
        """Connections that callers have borrowed."""
        return len(self.borrowed) - len(self.lost)

    @property
    def serves(self) -> bool:
        """Whether there is a connection that a caller in line may get."""
        return bool(self.idle or self.checking or self.lent)

    def to_open(self) -> int:
        """Connections to open if permits can be had: for callers in line, else up to ``min_size``."""
        if self.stopped or self.paused:
            return 0
        coming = len(self.opening) + len(self.checking) + len(self.idle)  # idle ones have to be checked first
        if self.waiters:
            return max(0, len(self.waiters) - coming)
        return max(0, self.min_size - (len(self.slots) - len(self.closing)))

    def surrender(self, now: float, target: int, limit: int, patience: float) -> list[Slot]:
        """Idle connections to close because others wait: above ``limit`` at once, above ``target`` once they
        have lain idle for ``patience`` seconds."""
        given: list[Slot] = []
        held = len(self.slots) - len(self.closing)
        while self.idle and held > target:
            if held <= limit and self.idle[0].idle_since + patience > now:
                break
            given.append(self._retire(0))
            held -= 1
        return given

    def ripens_at(self, target: int, patience: float) -> float | None:
        """When `surrender` will find an idle connection that has been idle for long enough; None: none is asked for."""
        if not self.idle or len(self.slots) - len(self.closing) <= target:
            return None
        return self.idle[0].idle_since + patience

    def expire(self, now: float, most: int) -> list[Slot]:
        """Up to ``most`` idle connections to close because of their age, or because they have been idle for long."""
        spare = len(self.slots) - len(self.closing) - self.min_size
        expired: list[Slot] = []
        index = 0
        while index < len(self.idle) and len(expired) < most:
            slot = self.idle[index]
            if now >= slot.expires or (spare > 0 and now >= slot.idle_since + self.max_idle):
                expired.append(self._retire(index))
                spare -= 1
            else:
                index += 1
        return expired

    def drain(self, since: float) -> list[Slot]:
        """Every connection that began to be opened before ``since`` is to be replaced: those that are idle, to close
        now; the others are closed when they come back."""
        self.drained = since
        for slot in self.slots:
            if slot.began < since:
                slot.expires = 0.0
        return self.discard({slot for slot in self.idle if slot.began < since})

    def discard(self, broken: Container[Slot]) -> list[Slot]:
        """Idle connections to close, of those that are broken."""
        return [self._retire(index) for index in reversed(range(len(self.idle))) if self.idle[index] in broken]

    def _retire(self, index: int) -> Slot:
        slot = self.idle[index]
        self.closing[slot] = False
        del self.idle[index]
        return slot

    def postpone_expiry(self, until: float) -> None:
        """Let no connection become too old before this time, but for those that are drained."""
        for slot in self.slots:
            if slot.expires:
                slot.expires = max(slot.expires, until)

    def next_expiry(self, now: float) -> float | None:
        """Until when `expire` finds nothing more, whatever callers do; None: there is nothing open."""
        times = [slot.expires for slot in self.idle]
        times += [slot.expires for slot in self.borrowed if slot.expires > now]  # else it is closed when it comes back
        if len(self.slots) - len(self.closing) > self.min_size:
            times.append((self.idle[0].idle_since if self.idle else now) + self.max_idle)
        return min(times, default=None)

    def fail_all(self, error: BaseException, now: float) -> list[Waiter]:
        """All callers in line get this error; wake them."""
        failed = list(self.waiters)
        for waiter in failed:
            waiter.error = error
            self._call(waiter)
        if failed:
            self.shortage.ends(now)
        return failed

    def stop(self) -> list[Slot]:
        """Lend nothing any more. Returns the idle connections, to close; borrowed ones follow as they come back."""
        self.stopped = True
        return [self._retire(index) for index in reversed(range(len(self.idle)))]
