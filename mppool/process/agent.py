"""The agent: the one thread of a member that deals with the manager and takes permits.

It reconciles, each time it is woken: what callers want with what the semaphore has, what is held with what the
manager's orders allow, what is due with the clock. Other threads only wake it. The manager is notified when this
process lacks more than the manager knows of, or has something that other processes wait for.

It is a plain thread on a selector and not an event loop: a second loop would cost memory and wake-ups, a thread that
sleeps costs nothing. It answers while the process's event loops are busy.
"""

from __future__ import annotations

import logging
import threading
import time
from _thread import allocate_lock, get_ident
from time import monotonic
from typing import TYPE_CHECKING

from mppool import errors
from mppool.database.contract import THREAD_PREFIX
from mppool.fork_lock import import_late
from mppool.process.hosted import Standing, mismatch
from mppool.process.upkeep import Upkeep
from mppool.shared import identity

if TYPE_CHECKING:
    from mppool.core.slots import Slot, Waiter
    from mppool.process.attachment import Attachment
    from mppool.process.connector import Connector
    from mppool.process.lending import Lending
    from mppool.process.openings import Openings
    from mppool.process.wakeups import Wakeups

logger = logging.getLogger("mppool.pool")

# Seconds. Whatever other code does to the descriptors that the agent sleeps on, it looks at them again after so long.
LONGEST_SLEEP = 10.0
SHARE_AGAIN = 0.01  # seconds until the manager is told again of a connection, when it was behind with its reading
NO_DESCRIPTOR = 0.02  # seconds until a free descriptor to sleep on is looked for again


class Agent:
    """One local pool's agent; the `Notifier` of its state. Nothing happens before `start`.

    Attributes:
        listening: under the pool's lock: whether a permit on the semaphore would wake us.
    """

    def __init__(
        self, pool: Lending, wakeups: Wakeups, attachment: Attachment, openings: Openings, connector: Connector
    ) -> None:
        self._pool = pool
        self._wakeups = wakeups
        self._attachment = attachment
        self._openings = openings
        self._connector = connector
        self._upkeep = Upkeep(pool, wakeups, connector)
        self._standing = Standing(pool)
        self._turn = 0  # the threads before this one have been replaced
        self._asleep = False
        self._change = allocate_lock()  # of those two
        self._thread = self._new_thread()
        self._ending: list[Waiter] = []
        self.listening = False

    @property
    def done(self) -> bool:
        """Whether it has left the budget, and ended."""
        return self._pool.left

    # -- called by others ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Raises: PoolError: there can be no thread."""
        try:
            self._thread.start()
        except RuntimeError as error:
            self._wakeups.close()
            name = self._pool.name
            raise errors.PoolError(f"pool {name!r}: cannot start its thread: {identity.NO_MORE}") from error

    def wake(self) -> None:
        if not self._wakeups.wake():
            self._replace()

    def notify_manager(self) -> None:
        self._attachment.notify_manager()

    def begin_work(self) -> None:
        self._upkeep.begin_work()

    def tell_when_done(self, waiter: Waiter) -> None:
        """Wake this waiter when the agent has left."""
        with self._pool.lock:
            if not self.done:
                self._ending.append(waiter)
                return
        waiter.wake()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def is_this_thread(self) -> bool:
        return self._thread.ident == get_ident()

    def abandon(self) -> None:
        """In a forked child: close our copies of the parent's descriptors."""
        self._wakeups.close()
        self._openings.limiter.abandon()
        self._attachment.abandon()

    # -- the thread ------------------------------------------------------------------------------------------

    def _new_thread(self) -> threading.Thread:
        name = f"{THREAD_PREFIX}agent-{self._pool.name}"
        return threading.Thread(target=self._run, args=(self._turn,), name=name, daemon=True)

    def _replace(self) -> None:
        """The wake pipe was closed from outside. If the thread sleeps on what has its number now, nothing can wake it:
        another one goes on, and it ends when it looks up by itself."""
        if not self._change.acquire(False):
            return  # it is awake, or is being replaced
        try:
            if not self._asleep or self.done:
                return  # it will see for itself
            if self._wakeups.wake():
                return  # another thread has replaced it since, and sleeps on a wake pipe that works
            self._turn += 1
            self._asleep = False
            self._thread = self._new_thread()
            self._thread.start()
        finally:
            self._change.release()

    def _run(self, turn: int) -> None:
        try:
            if turn or self._attachment.attach():
                self._serve(turn)
        except BaseException as error:
            logger.exception("pool %s: its agent failed", self._pool.name)
            self._pool.fail(error)
        finally:
            if turn == self._turn:
                self._finish()

    def _serve(self, turn: int = 0) -> None:
        pool, machine = self._pool, self._pool.machine
        self._reconcile(monotonic())
        import_late("mppool.database.values.rows")  # pydantic, which the first row needs: now, beside the first connect
        while True:
            self._wakeups.clear()
            pool.end_if_forgotten()
            self._attachment.find_manager()
            pause = self._reconcile(monotonic())
            if machine.stopped and not machine.slots and not machine.waiters:
                return
            if not self._is_whole():
                self._make_whole()
                continue
            sources = self._sleep(pause, turn)
            if sources is None:
                return
            for source in sources:
                if not self._attachment.hear(source) and source is self._wakeups.endings:
                    self._upkeep.discard_ended()

    def _sleep(self, pause: float, turn: int) -> list[object] | None:
        """What woke us, if anything did. None: another thread has replaced this one."""
        wakeups = self._wakeups
        with self._change:
            self._asleep = True
        sources = wakeups.sleep(pause)
        with self._change:
            if turn != self._turn:
                return None
            self._asleep = False
        return sources

    def _is_whole(self) -> bool:
        """Whether other code of this process has closed nothing of what the agent sleeps on."""
        return self._wakeups.is_ready() and self._attachment.is_ours()

    def _make_whole(self) -> None:
        """Other code has closed descriptors that it did not open, as a program does that makes itself a daemon: leave
        alone what has their numbers now, and begin anew. The manager saw our end of file; we attach again."""
        pool = self._pool
        try:
            self._wakeups.prepare()
        except OSError:
            time.sleep(NO_DESCRIPTOR)
            return
        with pool.lock:
            for slot in pool.machine.slots:
                if slot.link is not None:
                    self._attachment.watch(slot.link)
        self._attachment.sit_again()
        self._upkeep.discard_ended()

    def _finish(self) -> None:
        pool = self._pool
        self.begin_work()
        self._connector.join(5.0)
        self._upkeep.tell(monotonic())
        with pool.step:
            pool.left = True
            ending, self._ending = self._ending, []
            pool.recorder.flush(monotonic(), wait=True)
            members = self._attachment.close()
            # A thread that publishes once more must not write into a row that is no longer ours.
            pool.row.leave()
            pool.recorder.leave()
        self._wakeups.close()
        for member in members:
            member.leave()
        self._openings.disappoint()
        for waiter in ending:
            waiter.wake()

    # -- reconciling -----------------------------------------------------------------------------------------

    def _reconcile(self, now: float) -> float:
        """Do all there is to do; the seconds to sleep unless woken."""
        pool = self._pool
        self._upkeep.finish_for_callers(now)
        self._upkeep.follow_pause(now)
        self._upkeep.retire(now)
        self._upkeep.tell(now)
        self.begin_work()
        self._standing.tell()
        if error := mismatch(pool):
            self._openings.refuse(error)
        self._take(now)
        return self._look_ahead(now)

    def _take(self, now: float) -> None:
        """Take permits for the connections that are wanted, and have them opened."""
        while self._has_room() and (turn := self._openings.limiter.enter(now)) is not None:
            with self._pool.step:
                slot = self._take_permit()
            if slot is None:
                turn.give_back()
                return
            self._connector.open(slot, turn)

    def _has_room(self) -> bool:
        """Whether a permit would be of use, and may be had."""
        machine, row = self._pool.machine, self._pool.row
        return machine.to_open() > 0 and len(machine.slots) < row.target and row.is_leased

    def _take_permit(self) -> Slot | None:
        pool = self._pool
        if not self._has_room() or not self._attachment.take():
            return None
        slot = pool.machine.take(monotonic(), pool.row.cost)
        pool.publish()
        return slot

    def _look_ahead(self, now: float) -> float:
        """What is to happen while the agent sleeps: whether a permit wakes it, whether the manager must be told, and
        whether those who wait in start() can go on. Returns: the seconds to sleep."""
        pool = self._pool
        machine, row = pool.machine, pool.row
        with pool.step:
            wants = machine.to_open()
            room = row.may_take or len(machine.slots) < row.target
            opens_at = self._openings.limiter.opens_at(now)
            may = opens_at == now
            self.listening = listening = wants > 0 and room and may and row.is_leased
            notify = (wants > 0 and row.lacks(machine)) or row.spares(machine)
            stands = not machine.opening and not (wants and not may)
            warm = self._openings.warm() if stands else []
            pause = self._pause(now, opens_at if wants else None)
            self._attachment.share_again()
        for waiter in warm:
            waiter.wake()
        if notify:
            self.notify_manager()
        self._attachment.listen(listening)
        return pause

    def _pause(self, now: float, opens_at: float | None) -> float:
        """The seconds to sleep until something is due. ``opens_at``: when the next connection may be opened, if one is
        wanted and that is not before an open that runs has ended."""
        times = self._upkeep.due(now)
        if opens_at is not None and opens_at > now:
            times.append(opens_at)
        if (ask_at := self._attachment.renew_cluster(now)) is not None:
            times.append(ask_at)
        if self._attachment.next_try is not None:
            times.append(self._attachment.next_try)
        if self._attachment.unshared:
            times.append(now + SHARE_AGAIN)
        return max(0.0, min(*times, now + LONGEST_SLEEP) - now) if times else LONGEST_SLEEP
