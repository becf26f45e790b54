"""The agent: the one thread of a member that deals with the manager and takes permits.

It reconciles, over and over: what callers want against what the semaphore has, what the manager's orders allow
against what is held, what is due against the clock. Whatever happens elsewhere only wakes it. A bell is rung when
this process lacks more than the manager knows of, or has something that others wait for.

It is a plain thread on a selector and not an event loop, so that a process pays neither for a second loop nor
for its wake-ups; asleep, it costs nothing. The event loop of a process may be busy computing: its agent answers.
"""

from __future__ import annotations

import logging
import os
import random
import selectors
import threading
from time import monotonic
from typing import TYPE_CHECKING

from mppool import errors
from mppool.core.backoff import Backoff
from mppool.core.pool import Waiter
from mppool.database.parking import OURS
from mppool.database.verdicts import is_permanent
from mppool.late import late
from mppool.process.member import Member
from mppool.process.succession import Succession
from mppool.shared import ledger as L

if TYPE_CHECKING:
    from mppool.database.link import Link
    from mppool.process.local import LocalPool

logger = logging.getLogger("mppool.pool")

OPEN_AT_ONCE = 16  # connections one process opens at a time
SHARE_AGAIN = 0.01  # seconds until the manager is told again of a connection, when it was behind with its reading


class Alarm:
    """Wakes a selector from any thread. Rung any number of times, it wakes once."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._rung = False

    def fileno(self) -> int:
        return self._read

    def ring(self) -> None:
        if not self._rung:
            self._rung = True
            try:
                os.write(self._write, b"!")
            except OSError:
                pass  # full: it has been rung; closed: nobody listens any more

    def hush(self) -> None:
        """Before looking at what there is to do, so that what comes later rings again."""
        try:
            os.read(self._read, 64)
        except OSError:
            pass
        self._rung = False

    def close(self) -> None:
        self._rung = True
        os.close(self._read)
        os.close(self._write)


class Agent:
    """One local pool's agent.

    Args:
        pool: whose it is.
        starting: woken when the first connections stand, or with the error if they cannot.
    """

    def __init__(self, pool: LocalPool, starting: Waiter | None) -> None:
        self._pool = pool
        self._alarm = Alarm()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._alarm, selectors.EVENT_READ)
        self._member: Member | None = None
        self._succession = Succession(pool)
        self._unshared: list[Link] = []  # connections of which the manager is still to be told
        self._thread = threading.Thread(target=self._run, name=f"{OURS}agent-{pool.name}", daemon=True)
        self._backoff = Backoff(0.05, 2.0)
        self._retry_at = 0.0
        self._upkeep_at = 0.0
        self._offered = 0.0  # idle connections from before this time have been offered to those who wait
        self._starting = [starting] if starting is not None else []
        self._ending: list[Waiter] = []
        self.done = False
        #: Under the pool's lock: whether a permit on the semaphore would wake us.
        self.listening = False

    @property
    def lost(self) -> bool:
        """There is no manager just now."""
        return self._succession.lost

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._alarm.ring()

    def ring(self) -> None:
        """Tell the manager at once that this process lacks permits; it is on its way while the agent wakes up."""
        member = self._member
        if member is not None:
            member.channel.ring()

    # -- called by others ------------------------------------------------------------------------------------

    def tell_when_warm(self, waiter: Waiter) -> None:
        """Wake this waiter when no connection is being opened, or with the error if one cannot be."""
        with self._pool.lock:
            self._starting.append(waiter)
            done = self.done
        if done:
            self._disappoint()
        self.wake()

    def _disappoint(self) -> None:
        """Nobody who still waits in start() will see it succeed."""
        pool = self._pool
        with pool.lock:
            starting, self._starting = self._starting, []
        for waiter in starting:
            waiter.error = pool.failure or errors.PoolClosedError(f"pool {pool.name!r} was stopped while it started")
            waiter.wake()

    def tell_when_done(self, waiter: Waiter) -> None:
        """Wake this waiter when the agent has left."""
        with self._pool.lock:
            if not self.done:
                self._ending.append(waiter)
                return
        waiter.wake()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def share(self, link: Link) -> bool:
        """Tell the manager of a connection that has been opened. Under the pool's lock. False: not yet, it has too much
        to read."""
        member, socket = self._member, link.live_socket()
        if member is not None and socket is not None and not self.lost and not member.opened(socket[0]):
            self._unshared.append(link)
            return False
        return True

    def put_back(self) -> bool:
        """A connection is closed: its permit is free for anybody; whether somebody wants it. Under the pool's lock, in
        one go with the machine's report: what is held and what lies on the semaphore never change apart."""
        assert self._member is not None
        self._member.semaphore.give()
        return bool(self._pool.cells[L.H_HUNGRY])

    def permit_unused(self, wanted: bool, wake: bool) -> None:
        """After `put_back`, without the lock."""
        if wanted:
            self.ring()
        if wake:
            self.wake()

    def connect_succeeded(self) -> None:
        self._backoff.succeeded()
        self._retry_at = 0.0

    def failing(self, error: errors.ConnectError) -> list[Waiter]:
        """A connection could not be opened. Under the pool's lock, in one go with the machine's report, or the agent
        might take it that nothing is being opened because all is done. Those to wake, who wait in start()."""
        self._retry_at = monotonic() + self._backoff.failed(random.random())
        starting, self._starting = self._starting, []
        for waiter in starting:
            waiter.error = error
        return starting

    def connect_failed(self, error: errors.ConnectError) -> None:
        """Try again later, or tell those who wait that it is no use."""
        pool = self._pool
        if pool.machine.stopped:
            pass  # nobody needs it any more
        elif is_permanent(error):
            logger.error("pool %s: cannot connect: %s", pool.name, error)
            pool.fail_waiting(error)
        else:
            pause = max(0.0, self._retry_at - monotonic())
            logger.warning("pool %s: cannot connect, trying again in %.2f s: %s", pool.name, pause, error)
        self.wake()

    def held_elsewhere(self) -> dict[int, int] | None:
        """{pid: connections held} of the other members; None: no seat yet."""
        member = self._member
        if member is None or self.done:
            return None
        cells, rows = member.cells, (member.ledger.row(index) for index in range(L.ROWS))
        return {cells[at + L.PID]: cells[at + L.HELD] for at in rows if at != member.at and cells[at + L.HELD]}

    def abandon(self) -> None:
        """In a forked child: close our copies of the parent's descriptors."""
        self.done = True
        self._selector.close()
        self._alarm.close()
        for member in (self._member, self._succession.close()):
            if member is not None:
                member.abandon()

    # -- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            if self._attach():
                self._serve()
        except BaseException as error:
            logger.exception("pool %s: its agent failed", self._pool.name)
            self._pool.fail(error)
        finally:
            self._finish()

    def _attach(self) -> bool:
        pool = self._pool
        try:
            member = Member(pool.budget, pool.name, pool.machine.min_size, self._succession.token)
        except errors.PoolError as error:
            pool.fail(error)
            return False
        self._sit_down(member)
        return True

    def _sit_down(self, member: Member) -> None:
        """Take a seat; the one before, if any, was with a manager that is gone. What lies unused on its semaphore goes
        back with it, and what is held is declared."""
        before, pool = self._member, self._pool
        if before is not None:
            self._listen(False)
        with pool.lock:
            while before is not None and before.semaphore.take():
                pass
            self._member = member
            pool.seated(member.cells, member.at)
            if member.undeclared:
                member.declare(len(pool.machine.slots))
            self._unshared = [slot.link for slot in pool.machine.slots if slot.link is not None]
        self._selector.register(member.channel, selectors.EVENT_READ)
        if before is not None:
            before.abandon()

    def _serve(self) -> None:
        machine = self._pool.machine
        self._reconcile(monotonic())
        late("mppool.database.rows")  # pydantic, which the first row needs: now, beside the first connect
        while True:
            self._alarm.hush()
            if self.lost and (found := self._succession.found(monotonic())):
                self._sit_down(found)
            pause = self._reconcile(monotonic())
            if machine.stopped and not machine.slots:
                return
            for key, _ in self._selector.select(pause):
                member = self._member
                if member is not None and key.fileobj is member.channel and not member.heard():
                    self._manager_lost(member)

    def _manager_lost(self, member: Member) -> None:
        """Go on with what this process has."""
        self._selector.unregister(member.channel)
        self._pool.unseated()
        self._succession.begin()

    def _finish(self) -> None:
        self._pool.workshop.join(5.0)
        with self._pool.lock:
            self.done = True
            ending, self._ending = self._ending, []
            members = [member for member in (self._member, self._succession.close()) if member is not None]
            # Stragglers that publish once more must not write into a row that is no longer ours.
            self._pool.unseat()
        self._selector.close()
        self._alarm.close()
        for member in members:
            member.leave()
        self._disappoint()
        for waiter in ending:
            waiter.wake()

    # -- reconciling -----------------------------------------------------------------------------------------

    def _reconcile(self, now: float) -> float | None:
        """Do all there is to do; the seconds to sleep unless woken, None: for ever."""
        pool = self._pool
        machine, cells, at = pool.machine, pool.cells, pool.at
        with pool.lock:
            leaving = machine.surrender(now, cells[at + L.TARGET], cells[at + L.LIMIT], pool.workshop.cost)
            if now >= self._upkeep_at:
                leaving += machine.expire(now, pool.settings.monitor_batch_size)
                self._upkeep_at = now + pool.settings.check_interval
            if leaving:
                pool.publish()
        for slot in leaving:
            pool.workshop.close_at_once(slot)
        self._take(now)
        with pool.lock:
            wants = machine.to_open()
            credit = cells[at + L.CREDIT]  # before the target: see Treasury._publish
            target = cells[at + L.TARGET]
            room = len(machine.slots) < target or target >= credit
            may = now >= self._retry_at and len(machine.opening) < OPEN_AT_ONCE
            self.listening = listening = wants > 0 and room and may
            ring = wants > 0 and machine.demand > cells[at + L.KNOWN] and machine.demand > cells[at + L.CREDIT]
            ring = ring or self._offer(now)
            warm = self._starting if not machine.opening and not (wants and not may) else []
            if warm:
                self._starting = []
                machine.min_size = cells[at + L.WARM] = pool.settings.min_size
            pause = self._sleep(now, wants)
            unshared, self._unshared = self._unshared, []
            for link in unshared:
                self.share(link)
        for waiter in warm:
            waiter.wake()
        if ring:
            self.ring()
        self._listen(listening)
        return pause

    def _take(self, now: float) -> None:
        """Take permits for the connections that are wanted, and have them opened."""
        pool, member = self._pool, self._member
        assert member is not None
        machine, target = pool.machine, pool.at + L.TARGET
        while now >= self._retry_at:
            with pool.lock:
                if (
                    machine.to_open() <= 0
                    or len(machine.opening) >= OPEN_AT_ONCE
                    or len(machine.slots) >= pool.cells[target]
                    or not member.semaphore.take()
                ):
                    return
                slot = machine.take()
                pool.publish()
            pool.workshop.open(slot)

    def _offer(self, now: float) -> bool:
        """Whether to tell the manager of connections that have lain idle long enough to be worth moving."""
        idle = self._pool.machine.idle
        if not idle or not self._pool.cells[L.H_HUNGRY]:
            return False
        ripe = [slot.idle_since for slot in idle if slot.idle_since + self._pool.workshop.cost <= now]
        if ripe and max(ripe) > self._offered:
            self._offered = max(ripe)
            return True
        return False

    def _sleep(self, now: float, wants: int) -> float | None:
        pool, machine = self._pool, self._pool.machine
        cells, at = pool.cells, pool.at
        times: list[float] = []
        expiry = machine.next_expiry(now)
        if expiry is not None:
            times.append(max(expiry, self._upkeep_at))
        if wants and now < self._retry_at:
            times.append(self._retry_at)
        if self._succession.next_try is not None:
            times.append(self._succession.next_try)
        if self._unshared:
            times.append(now + SHARE_AGAIN)
        if machine.idle and (cells[L.H_HUNGRY] or cells[at + L.TARGET] < cells[at + L.CREDIT]):
            ripening = [slot.idle_since + pool.workshop.cost for slot in machine.idle]
            times.extend(at for at in ripening if at > now)
        return max(0.0, min(times) - now) if times else None

    def _listen(self, listening: bool) -> None:
        """Watch the semaphore only while a permit is wanted: one that lies there unused must not keep us awake."""
        assert self._member is not None
        semaphore = self._member.semaphore
        known = semaphore.fileno() in self._selector.get_map()
        if listening and not known:
            self._selector.register(semaphore, selectors.EVENT_READ)
        elif known and not listening:
            self._selector.unregister(semaphore)
