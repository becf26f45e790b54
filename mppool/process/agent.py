"""The agent: the one thread of a member that deals with the manager and takes permits.

It reconciles, over and over: what callers want against what the semaphore has, what the manager's orders allow
against what is held, what is due against the clock. Whatever happens elsewhere only wakes it. A bell is rung when
this process lacks more than the manager knows of, or has something that others wait for.

It is a plain thread on a selector and not an event loop, so that a process pays neither for a second loop nor
for its wake-ups; asleep, it costs nothing. The event loop of a process may be busy computing: its agent answers.
"""

from __future__ import annotations

import logging
import random
import selectors
import threading
import time
from _thread import allocate_lock, get_ident
from time import monotonic
from typing import TYPE_CHECKING

from mppool import errors
from mppool.core.backoff import Backoff
from mppool.core.pool import Slot, Tend, Waiter
from mppool.database.contract import THREAD_PREFIX, Endings, is_permanent
from mppool.fork_lock import import_late
from mppool.membership.member import Member
from mppool.membership.succession import Succession
from mppool.process.connect_limiter import ConnectLimiter
from mppool.process.lease import forgotten
from mppool.process.wake_pipe import WakePipe
from mppool.shared import identity
from mppool.shared import ledger as L
from mppool.shared.descriptors import is_short

if TYPE_CHECKING:
    from mppool.database.contract import Link
    from mppool.process.local import LocalPool

logger = logging.getLogger("mppool.pool")

NO_ROOM = (0.02, 0.5)  # seconds until the next try to attach, when there is no room; at first and at most
# Seconds. Whatever other code does to the descriptors that the agent sleeps on, it looks at them again after so long.
LONGEST_SLEEP = 10.0
TAKEN = "other code of this process has closed descriptors of the pool; attaching to the manager again"
FORGOTTEN = 0.5  # seconds until borrowers are looked for again that nobody knows any more, while others wait
SHARE_AGAIN = 0.01  # seconds until the manager is told again of a connection, when it was behind with its reading


class Agent:
    """One local pool's agent.

    Args:
        pool: whose it is.
        starting: woken when the first connections stand, or with the error if they cannot.
    """

    def __init__(self, pool: LocalPool, starting: Waiter | None) -> None:
        self._pool = pool
        self._wake_pipe = WakePipe()
        # It needs no descriptor itself, and is woken when what it looks at is closed from outside.
        self._selector = selectors.PollSelector()
        self._member: Member | None = None
        self._succession = Succession(
            pool.budget,
            pool.name,
            pool.lock,
            warm=lambda: pool.machine.min_size,
            run=lambda piece: pool.connector.aside(piece),
            wake=self.wake,
        )
        self._limiter = ConnectLimiter(pool)
        self._endings = Endings()
        self._unshared: list[Link] = []  # connections of which the manager is still to be told
        self._turn = 0  # the threads before this one have been replaced
        self._asleep = False
        self._change = allocate_lock()  # of those two
        self._thread = self._new_thread()
        self._upkeep_at = self._forgotten_at = 0.0
        self._starting = [starting] if starting is not None else []
        self._ending: list[Waiter] = []
        self._start_failed = False  # before anything was open: the pool is about to be stopped
        self.done = False
        #: Under the pool's lock: whether a permit on the semaphore would wake us.
        self.listening = False

    @property
    def lost(self) -> bool:
        """There is no manager just now."""
        return self._succession.lost

    def _new_thread(self) -> threading.Thread:
        name = f"{THREAD_PREFIX}agent-{self._pool.name}"
        return threading.Thread(target=self._run, args=(self._turn,), name=name, daemon=True)

    def start(self) -> None:
        """Raises: PoolError: there can be no thread."""
        try:
            self._thread.start()
        except RuntimeError as error:
            self._close()
            raise errors.PoolError(f"pool {self._pool.name!r}: cannot start its thread: {identity.NO_MORE}") from error

    def wake(self) -> None:
        if not self._wake_pipe.notify():
            self._replace()

    def ring(self) -> None:
        """Tell the manager at once that this process lacks permits; it is on its way while the agent wakes up."""
        member = self._member
        if member is not None and not member.channel.notify():
            self.wake()

    def _replace(self) -> None:
        """The wake pipe was closed from outside. If the thread sleeps on what has its number now, nothing can wake it:
        another one goes on, and it ends when it looks up by itself."""
        if not self._change.acquire(False):
            return  # it is awake, or is being replaced
        try:
            if not self._asleep or self.done:
                return  # it will see for itself
            if self._wake_pipe.notify():
                return  # another thread has replaced it since, and sleeps on a wake pipe that works
            self._turn += 1
            self._asleep = False
            self._thread = self._new_thread()
            self._thread.start()
        finally:
            self._change.release()

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

    def watch(self, link: Link) -> bool:
        """A connection has been opened: notice when its server ends it, and `share` it. Under the pool's lock."""
        socket = link.live_socket()
        if socket is not None:
            self._endings.watch(socket)
        return self.share(link)

    def unwatch(self, link: Link) -> None:
        """A connection is about to be closed from here. It may be said twice."""
        socket = link.live_socket()
        if socket is not None:
            self._endings.forget(socket)

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
        try:
            self._member.semaphore.give()
        except OSError:
            pass  # closed from outside: the permit went with the seat, and is not among those that will be declared
        self._pool.publish()  # before it is read who waits: else the manager may see neither the permit nor a bell
        return self._pool.row.short

    def permit_unused(self, wanted: bool, wake: bool) -> None:
        """After `put_back`, without the lock."""
        if wanted:
            self.ring()
        if wake:
            self.wake()

    def connect_succeeded(self) -> int:
        """How many tries had failed before. Under the pool's lock."""
        self._start_failed = False
        return self._limiter.succeeded()

    def failing(self, error: errors.ConnectError) -> tuple[list[Waiter], float | None]:
        """A connection could not be opened. Under the pool's lock, in one go with the machine's report, or the agent
        might take it that nothing is being opened because all is done.

        Returns: those to wake, who wait in start(); and what to tell `connect_failed`.
        """
        pause = self._limiter.failed(monotonic())
        starting, self._starting = self._starting, []
        for waiter in starting:
            waiter.error = error
        self._start_failed = self._start_failed or bool(starting and not self._pool.connector.opened)
        return starting, None if self._start_failed else pause  # start() tells, and ends what it began

    def connect_failed(self, error: errors.ConnectError, pause: float | None) -> None:
        """Try again later, or tell those who wait that it is no use. Logs the 1st, 2nd, 4th, 8th … failure in a row."""
        pool, failures = self._pool, self._limiter.failures
        permanent = is_permanent(error)
        if pause is not None and not failures & (failures - 1) and not pool.machine.stopped:
            level = logging.ERROR if permanent else logging.WARNING
            text = "pool %s: cannot connect to %s (%d in a row), trying again in %.2f s: %s"
            logger.log(level, text, pool.name, pool.budget.database.key, failures, pause, error)
        if permanent:
            pool.fail_waiting(error)
        self.wake()

    def held_elsewhere(self) -> dict[int, int] | None:
        """{pid: connections held} of the other members; None: no seat yet, or no more. Without the lock."""
        member = self._member
        if member is None or self.done:
            return None
        try:
            pids, counts = (member.ledger.column(cell, L.ROWS) for cell in (L.PID, L.HELD))
        except ValueError:
            return None  # it has been closed just now
        own = (member.at - L.HEADER) // L.ROW
        return {pid: count for row, (pid, count) in enumerate(zip(pids, counts, strict=True)) if count and row != own}

    def is_this_thread(self) -> bool:
        return self._thread.ident == get_ident()

    def nobody_served(self) -> bool:
        """Whether every permit of the budget is in use by connections that are closed, but not at the server."""
        with self._pool.lock:
            member = self._member
            if member is None or self.done:
                return False
            return sum(member.ledger.column(L.LOST, L.ROWS)) >= member.cells[L.H_MAX_SIZE]

    def abandon(self) -> None:
        """In a forked child: close our copies of the parent's descriptors."""
        self.done = True
        self._close()
        self._limiter.abandon()
        for member in (self._member, self._succession.close()):
            if member is not None:
                member.abandon()

    def _close(self) -> None:
        self._selector.close()
        self._endings.close()  # before the wake pipe, by which it is known
        self._wake_pipe.close()

    # -- the thread ------------------------------------------------------------------------------------------

    def _run(self, turn: int) -> None:
        try:
            if turn or self._attach():
                self._serve(turn)
        except BaseException as error:
            logger.exception("pool %s: its agent failed", self._pool.name)
            self._pool.fail(error)
        finally:
            if turn == self._turn:
                self._finish()

    def _attach(self) -> bool:
        """Take the first seat. While there is no room, here or at the manager, those who wait go on waiting."""
        pool, backoff = self._pool, Backoff(*NO_ROOM)
        give_up = monotonic() + pool.settings.conn_timeout
        while True:
            try:
                self._prepare()
                member = Member(pool.budget, pool.name, pool.machine.min_size, self._succession.token)
                break
            except (errors.PoolError, OSError) as error:
                ours = error if isinstance(error, errors.PoolError) else _short(pool.name, error)
                if pool.machine.stopped:
                    return False
                if monotonic() > give_up or not _is_for_want_of_room(error):
                    pool.fail(ours)
                    return False
                pool.connector.last_connect_error = (monotonic(), ours)
            time.sleep(backoff.failed(random.random()))
        self._sit_down(member)
        return True

    def _prepare(self) -> None:
        """Have what is slept on, anew if other code has closed it. Raises: OSError: there is no free descriptor."""
        if self._wake_pipe.is_ready():
            return
        before, self._wake_pipe = self._wake_pipe, WakePipe()
        self._endings.close()  # first: it is known by the wake pipe
        before.close()
        self._selector = selectors.PollSelector()
        self._wake_pipe.prepare()
        self._selector.register(self._wake_pipe, selectors.EVENT_READ)
        try:
            self._endings.prepare(self._wake_pipe.fileno())
        except OSError:
            return  # one has to look, then
        if self._endings.fileno() >= 0:
            self._selector.register(self._endings, selectors.EVENT_READ)

    def _sit_down(self, member: Member) -> None:
        """Take a seat; the one before, if any, was with a manager that is gone. What lies unused on its semaphore goes
        back with it, and what is held is declared."""
        before, pool = self._member, self._pool
        if before is not None:
            self._listen(False)
        with pool.step:
            while before is not None and _take(before):
                pass
            self._member = member
            pool.seated(member.cells, member.at)
            if member.undeclared:
                member.declare(len(pool.machine.slots))
            self._unshared = [slot.link for slot in pool.machine.slots if slot.link is not None]
        self._selector.register(member.channel, selectors.EVENT_READ)
        if before is not None:
            before.abandon()

    def _serve(self, turn: int = 0) -> None:
        machine = self._pool.machine
        self._reconcile(monotonic())
        import_late("mppool.database.values.rows")  # pydantic, which the first row needs: now, beside the first connect
        while True:
            self._wake_pipe.clear()
            self._pool.end_if_forgotten()
            if self.lost and (found := self._succession.found(monotonic(), self._pool.machine.stopped)):
                self._sit_down(found)
            pause = self._reconcile(monotonic())
            if machine.stopped and not machine.slots and not machine.waiters:
                return
            if not self._is_whole():
                self._make_whole()
                continue
            events = self._sleep_on(self._selector, pause, turn)
            if events is None:
                return
            for key in events:
                member = self._member
                if member is not None and key.fileobj is member.channel and not member.heard():
                    self._manager_lost(member, *(() if member.channel.is_ours() else (TAKEN,)))
                elif key.fileobj is self._endings:
                    self._discard_ended()

    def _sleep_on(
        self, selector: selectors.BaseSelector, pause: float | None, turn: int
    ) -> list[selectors.SelectorKey] | None:
        """What woke us, if anything did. None: another thread has replaced this one."""
        with self._change:
            self._asleep = True
        events = selector.select(pause)
        with self._change:
            if turn != self._turn:
                return None
            self._asleep = False
        return [key for key, _ in events]

    def _is_whole(self) -> bool:
        """Whether other code of this process has closed nothing of what the agent sleeps on."""
        member = self._member
        return self._wake_pipe.is_ready() and (self.lost or member is None or member.is_ours())

    def _make_whole(self) -> None:
        """Other code has closed descriptors that it did not open, as a program does that makes itself a daemon: leave
        alone what has their numbers now, and begin anew. The manager saw our end of file; we attach again."""
        pool, member = self._pool, self._member
        try:
            self._prepare()
        except OSError:
            time.sleep(NO_ROOM[0])
            return
        with pool.lock:
            for slot in pool.machine.slots:
                if slot.link is not None:
                    self.watch(slot.link)
        if member is not None and not self.lost:
            if member.is_ours():
                self._selector.register(member.channel, selectors.EVENT_READ)
            else:
                self._manager_lost(member, TAKEN)
        self._discard_ended()

    def _discard_ended(self) -> None:
        """Lend no connection that its server has ended; one that is borrowed is replaced when it comes back."""
        pool, machine = self._pool, self._pool.machine
        self._endings.hear()
        with pool.step:
            lent = (slot for slot in machine.borrowed if slot not in machine.lost)
            links = {slot.link: slot for slot in (*machine.idle, *lent)}
            known = {link.socket: link for link in links if link.socket is not None and link.conn is not None}
            ended = [known[socket] for socket in Endings.among(known)]
            ended += [link for link in links if link.socket is None and link.conn is not None and link.taken()]
            for link in ended:
                link.distrust()
            if machine.discard({links[link] for link in ended}):
                pool.publish()

    def _manager_lost(self, member: Member, *why: str) -> None:
        """Go on with what this process has."""
        try:
            self._selector.unregister(member.channel)
        except (KeyError, ValueError):
            pass  # there is a new selector
        self._pool.unseated()
        self._succession.begin(*why)

    def _finish(self) -> None:
        self.begin_work()
        self._pool.connector.join(5.0)
        with self._pool.step:
            self.done = True
            ending, self._ending = self._ending, []
            members = [member for member in (self._member, self._succession.close()) if member is not None]
            # Stragglers that publish once more must not write into a row that is no longer ours.
            self._pool.row.leave()
        self._close()
        for member in members:
            member.leave()
        self._disappoint()
        for waiter in ending:
            waiter.wake()

    # -- reconciling -----------------------------------------------------------------------------------------

    def _reconcile(self, now: float) -> float | None:
        """Do all there is to do; the seconds to sleep unless woken, None: for ever."""
        pool = self._pool
        machine, row = pool.machine, pool.row
        self._bring_home(now)
        upkeep = now >= self._upkeep_at
        if upkeep:
            self._discard_ended()  # for systems that do not tell
        with pool.step:
            leaving = machine.surrender(now, row.target, row.limit, row.cost)
            if upkeep:
                leaving += machine.expire(now, pool.settings.monitor_batch_size)
                self._upkeep_at = now + pool.settings.check_interval
            if leaving:
                pool.publish()
        self.begin_work()
        self._take(now)
        with pool.step:
            wants = machine.to_open()
            room = row.may_take or len(machine.slots) < row.target
            opens_at = self._limiter.opens_at(now)
            may = opens_at == now
            self.listening = listening = wants > 0 and room and may
            ring = (wants > 0 and row.lacks(machine)) or row.spares(machine)
            warm = self._starting if not machine.opening and not (wants and not may) else []
            if warm:
                self._starting = []
                machine.min_size = pool.settings.min_size
                row.publish_warm(machine.min_size)
            pause = self._sleep(now, opens_at if wants else None)
            unshared, self._unshared = self._unshared, []
            for link in unshared:
                self.share(link)
        for waiter in warm:
            waiter.wake()
        if ring:
            self.ring()
        self._listen(listening)
        return pause

    def _bring_home(self, now: float) -> None:
        """See to what callers could not finish, because they were interrupted or had interrupted somebody."""
        pool = self._pool
        if pool.amid:
            with pool.step:
                pass  # it mends; or another thread was amid one, and has ended it
        if pool.machine.stopped and (pool.machine.idle or pool.machine.waiters):
            pool.wind_up()
        unsure, pool.unsure = pool.unsure, False
        pool.settle()
        pool.call_up()
        if unsure:
            self.ring()
        if now >= self._forgotten_at:
            self._forgotten_at = now + FORGOTTEN
            with pool.step:
                leases = forgotten(pool.machine.borrowed)
            for lease in leases:
                logger.warning("pool %s: a borrower was forgotten without an end of its block", pool.name)
                pool.end(lease)

    def begin_work(self) -> None:
        """Have the connections closed and looked after that callers left to us."""
        connector = self._pool.connector
        with self._pool.step:
            todo = self._pool.machine.begin()
        for each in todo:
            if isinstance(each, Tend):
                connector.tend(each.slot)
            else:
                connector.close_at_once(each.slot)

    def _take(self, now: float) -> None:
        """Take permits for the connections that are wanted, and have them opened."""
        pool = self._pool
        while self._has_room() and (turn := self._limiter.enter(now)) is not None:
            with pool.step:
                slot = self._take_permit()
            if slot is None:
                turn.give_back()
                return
            pool.connector.open(slot, turn)

    def _has_room(self) -> bool:
        """Whether a permit would be of use, and may be had."""
        machine = self._pool.machine
        return machine.to_open() > 0 and len(machine.slots) < self._pool.row.target

    def _take_permit(self) -> Slot | None:
        member = self._member
        assert member is not None
        if not self._has_room() or not _take(member):
            return None
        slot = self._pool.machine.take(monotonic(), self._pool.row.cost)
        self._pool.publish()
        return slot

    def _sleep(self, now: float, opens_at: float | None) -> float | None:
        times: list[float] = []
        expiry = self._pool.machine.next_expiry(now)
        if expiry is not None:
            times.append(max(expiry, self._upkeep_at))
        if opens_at is not None and opens_at > now:
            times.append(opens_at)
        if self._succession.next_try is not None:
            times.append(self._succession.next_try)
        if self._unshared:
            times.append(now + SHARE_AGAIN)
        if self._pool.machine.waiters and self._pool.machine.lent:
            times.append(self._forgotten_at)
        if (ripe_at := self._pool.machine.ripens_at(self._pool.row.target, self._pool.row.cost)) is not None:
            times.append(ripe_at)
        return max(0.0, min(*times, now + LONGEST_SLEEP) - now) if times else LONGEST_SLEEP

    def _listen(self, listening: bool) -> None:
        """Watch the semaphore only while a permit is wanted: one that lies there unused must not keep us awake."""
        assert self._member is not None
        semaphore = self._member.semaphore
        known = semaphore.fileno() in self._selector.get_map()
        listening = listening and semaphore.may_be_ours()
        if listening and not known:
            self._selector.register(semaphore, selectors.EVENT_READ)
        elif known and not listening:
            self._selector.unregister(semaphore)


def _take(member: Member) -> bool:
    """Take a permit off its semaphore, if there is one, and the semaphore."""
    try:
        return member.semaphore.take()
    except OSError:
        return False  # closed from outside


def _is_for_want_of_room(error: BaseException | None) -> bool:
    """Whether there was no room for another member at the manager, or no free descriptor in this process."""
    while error is not None:
        if isinstance(error, errors.ManagerFullError) or is_short(error):
            return True
        error = error.__cause__
    return False


def _short(name: str, error: OSError) -> errors.ManagerUnavailableError:
    text = f"budget {name!r}: this process cannot attach: {error}"
    made = errors.ManagerUnavailableError(text)
    made.__cause__ = error
    return made
