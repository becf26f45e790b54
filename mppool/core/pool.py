"""The local pool's machine: connections, callers in line, and what to do when something happens to either.

A slot is a permit that this process holds, from the moment it is taken off the semaphore until it is put back. It is
idle, borrowed, or on the move (being opened, tended or closed). A connection never lies idle while a caller waits.
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
from typing import Any, NamedTuple


class Slot:
    """A permit and, once it is open, its connection."""

    __slots__ = ("expires", "idle_since", "link")

    def __init__(self) -> None:
        self.link: Any = None
        self.expires = self.idle_since = 0.0


class Waiter:
    """A caller: ``slot`` is set once a connection is lent, ``error`` once it has failed; until then it is in line.
    Only under the pool's lock. ``broken``: an exception has ended its borrow."""

    __slots__ = ("broken", "error", "since", "slot")

    def __init__(self, since: float) -> None:
        self.since = since
        self.slot: Slot | None = None
        self.error: BaseException | None = None
        self.broken: object = None

    def wake(self) -> bool:
        """Wake the caller; False: it can no longer be woken. Called without the lock, perhaps more than once."""
        raise NotImplementedError

    def let_go(self) -> None:
        """The caller can no longer use what it borrowed."""

    def leave_to_parent(self) -> None:
        """In a forked child: what was borrowed belongs to the parent."""


class Shortage:
    """For how long callers have been waiting of late: a sum that rises while a caller waits, falls at a tenth of the
    speed while none does, and starts again when a permit comes.

    So a line that is empty for a moment is still a shortage, and a line that lasts a moment now and then is none.

    Attributes:
        since: since when callers have been waiting; 0: none is.
        ripe_at: when the sum will be as long as a reconnect takes, if callers go on waiting; 0: none waits. From then
            on a connection of another process is worth a reconnect.
    """

    __slots__ = ("_at", "_sum", "ripe_at", "since")

    FORGETS = 0.1

    def __init__(self) -> None:
        self._sum = self._at = self.since = self.ripe_at = 0.0

    def begins(self, now: float, cost: float) -> None:
        """A caller waits, and none did. ``cost``: seconds that a reconnect takes."""
        self._sum = max(0.0, min(self._sum, cost) - self.FORGETS * (now - self._at))
        self._at = self.since = now
        self.ripe_at = now + cost - self._sum

    def ends(self, now: float) -> None:
        """No caller waits any more."""
        self._sum += now - self._at
        self._at = now
        self.since = self.ripe_at = 0.0

    def is_relieved(self, now: float, cost: float) -> None:
        """A permit has come."""
        self._sum, self._at = 0.0, now
        if self.since:
            self.ripe_at = now + cost


class Serve(NamedTuple):
    """Wake this waiter; its slot is set."""

    waiter: Waiter


class Close(NamedTuple):
    """Close this slot's connection, then report `PoolMachine.closed`."""

    slot: Slot


class Tend(NamedTuple):
    """Check or reset this slot's connection, then report `PoolMachine.tended`."""

    slot: Slot


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
        self.tending: dict[Slot, bool] = {}  # and whether the work has begun
        self.closing: dict[Slot, bool] = {}  # the same
        self.lost: set[Slot] = (
            set()
        )  # those of the borrowed that are closed here but not at the server, lent to `_nobody`
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        self.called: dict[Waiter, None] = {}  # served or failed, and perhaps not woken yet
        self.shortage = Shortage()
        self.stopped = False
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

    def give_back(self, slot: Slot, now: float, limit: int, fit: bool, tend: bool) -> Serve | Close | Tend | None:
        """A borrower is done. None: the connection lies idle.

        Args:
            limit: slots this process may keep; above it the connection is closed even if callers here wait.
            fit: whether the connection may be lent again.
            tend: whether it must be checked or reset first.
        """
        # A process seldom has more slots than it may keep, so the second comparison is rare.
        over = len(self.slots) > limit and len(self.slots) - len(self.closing) > limit
        if over or not fit or self.stopped or now >= slot.expires:
            self.closing[slot] = False
            del self.borrowed[slot]
            return Close(slot)
        if tend:
            self.tending[slot] = False
            del self.borrowed[slot]
            return Tend(slot)
        if self.waiters:
            return self._serve(slot, now)
        slot.idle_since = now
        self.idle.append(slot)
        del self.borrowed[slot]
        return None

    def _offer(self, slot: Slot, now: float) -> Serve | None:
        if self.waiters:
            return self._serve(slot, now)
        slot.idle_since = now
        self.idle.append(slot)
        return None

    def _serve(self, slot: Slot, now: float) -> Serve:
        waiter = next(iter(self.waiters))
        self.borrowed[slot] = waiter
        waiter.slot = slot
        self._call(waiter)
        if not self.waiters:
            self.shortage.ends(now)
        return Serve(waiter)

    def _call(self, waiter: Waiter) -> None:
        self.called[waiter] = None
        del self.waiters[waiter]

    def vet(self) -> Tend | None:
        """Have an idle connection checked before it goes to the caller that is first in line then; call until None."""
        if not self.idle or len(self.tending) >= len(self.waiters):
            return None
        slot = self.idle[-1]
        self.tending[slot] = False
        del self.idle[-1]
        return Tend(slot)

    def begin(self) -> list[Close | Tend]:
        """What has to be closed or tended, where the work has not begun; the caller begins now."""
        todo: list[Close | Tend] = []
        for slot, begun in self.closing.items():
            if not begun:
                self.closing[slot] = True
                todo.append(Close(slot))
        for slot, begun in self.tending.items():
            if not begun:
                self.tending[slot] = True
                todo.append(Tend(slot))
        return todo

    def mend(self, now: float) -> None:
        """Complete an interrupted step. A slot in two places belongs where the step was to take it."""
        for slot in self.lost:
            self.borrowed[slot] = self._nobody
            self.closing.pop(slot, None)
        for slot in list(self.slots):
            leaves = slot in self.closing or slot in self.tending
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

    # -- connections -----------------------------------------------------------------------------------------

    def take(self, now: float, cost: float) -> Slot:
        """A permit was taken off the semaphore, to open a connection with. ``cost``: seconds that a reconnect takes."""
        self.shortage.is_relieved(now, cost)
        slot = Slot()
        self.slots.add(slot)
        self.opening.add(slot)
        return slot

    def opened(self, slot: Slot, link: Any, now: float, expires: float) -> Serve | Close | None:
        self.opening.remove(slot)
        slot.link, slot.expires = link, expires
        if self.stopped:
            self.closing[slot] = False
            return Close(slot)
        return self._offer(slot, now)

    def not_opened(self, slot: Slot) -> None:
        """Opening failed: the permit can go back."""
        self.opening.remove(slot)
        self.slots.remove(slot)

    def tended(self, slot: Slot, now: float, limit: int, *, fit: bool) -> Serve | Close | None:
        del self.tending[slot]
        if not fit or self.stopped or len(self.slots) - len(self.closing) > limit:
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
        return bool(self.idle or self.tending or self.lent)

    def to_open(self) -> int:
        """Connections to open if permits can be had: for callers in line, else up to ``min_size``."""
        if self.stopped:
            return 0
        coming = len(self.opening) + len(self.tending) + len(self.idle)  # idle ones have to be checked first
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

    def discard(self, broken: Container[Slot]) -> list[Slot]:
        """Idle connections to close, of those that are broken."""
        return [self._retire(index) for index in reversed(range(len(self.idle))) if self.idle[index] in broken]

    def _retire(self, index: int) -> Slot:
        slot = self.idle[index]
        self.closing[slot] = False
        del self.idle[index]
        return slot

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
