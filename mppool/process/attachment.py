"""The attachment of this process to the manager: its member (a row, a semaphore and a channel), and the search for a
successor when the manager dies.

A process without a manager keeps the connections it has. Permits that lie unused on the semaphore of a dead manager
are void.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from mppool import errors
from mppool.core.backoff import Backoff
from mppool.membership.member import Member
from mppool.membership.succession import Succession
from mppool.process.hosted import is_refused
from mppool.shared import ledger as L
from mppool.shared.descriptors import is_short

if TYPE_CHECKING:
    from mppool.database.contract import Link
    from mppool.process.lending import Lending
    from mppool.process.wakeups import Wakeups

logger = logging.getLogger("mppool.pool")

NO_ROOM = (0.02, 0.5)  # seconds until the next try to attach, when there is no room; at first and at most
ASK_CLUSTER = 5.0  # seconds between two questions for the url of a cluster's engine that refuses this host
TAKEN = "other code of this process has closed descriptors of the pool; attaching to the manager again"


class Attachment:
    """One local pool's attachment. For the agent's thread, but where a method says otherwise.

    Args:
        run: has a function run by another thread.

    Attributes:
        member: the seat that was taken last; None: none yet.
        unshared: connections of which the manager is still to be told.
    """

    def __init__(self, pool: Lending, wakeups: Wakeups, run: Callable[[Callable[[], None]], None]) -> None:
        self._pool = pool
        self._wakeups = wakeups
        self._succession = Succession(
            pool.budget,
            pool.name,
            pool.lock,
            warm=lambda: pool.machine.min_size,
            run=run,
            wake=lambda: pool.notifier.wake(),
        )
        self._run = run
        self._ask_at = 0.0  # when the function that says the cluster's url may be asked again
        self.member: Member | None = None
        self._told: tuple[Member, str] | None = None  # which uri the manager of that member was told last
        self.unshared: list[Link] = []

    # -- sitting down and getting up -------------------------------------------------------------------------

    @property
    def lost(self) -> bool:
        """There is no manager just now."""
        return self._succession.lost

    @property
    def next_try(self) -> float | None:
        """When to search for a manager again."""
        return self._succession.next_try

    def attach(self) -> bool:
        """Take the first seat. While there is no room, here or at the manager, those who wait go on waiting. False:
        the pool is stopped, or has failed."""
        pool, backoff = self._pool, Backoff(*NO_ROOM)
        give_up = monotonic() + pool.settings.conn_timeout
        while True:
            try:
                self._wakeups.prepare()
                member = Member(pool.budget, pool.name, pool.machine.min_size, self._succession.token)
                break
            except (errors.PoolError, OSError) as error:
                ours = error if isinstance(error, errors.PoolError) else _short(pool.name, error)
                if pool.machine.stopped:
                    return False
                if monotonic() > give_up or not _is_for_want_of_room(error):
                    pool.fail(ours)
                    return False
                pool.last_connect_error = (monotonic(), ours)
            time.sleep(backoff.failed(random.random()))
        self._sit_down(member)
        return True

    def find_manager(self) -> None:
        """Sit down at the successor of a manager that is gone, once there is one."""
        if self.lost and (found := self._succession.found(monotonic(), self._pool.machine.stopped)):
            self._sit_down(found)

    def _sit_down(self, member: Member) -> None:
        """Take a seat; the one before, if any, was with a manager that is gone. Permits that lie unused on its
        semaphore are void, and those that are held are declared."""
        before, pool = self.member, self._pool
        if before is not None:
            self.listen(False)
        with pool.step:
            while before is not None and _take(before):
                pass
            self.member = member
            pool.row.sit(member.cells, member.at)  # from now on others read what we publish
            pool.row.publish_warm(pool.machine.min_size)
            pool.publish_cost()
            pool.publish()
            pool.recorder.sit(member.ledger.statistics, member.number)
            if member.undeclared:
                member.declare(len(pool.machine.slots))
            self.unshared = [slot.link for slot in pool.machine.slots if slot.link is not None]
        self._wakeups.hear(member.channel)
        if before is not None:
            before.abandon()

    def is_ours(self) -> bool:
        """Whether other code of this process has closed nothing of the seat."""
        member = self.member
        return self.lost or member is None or member.is_ours()

    def sit_again(self) -> None:
        """Other code has closed descriptors: go on with the seat if it was not among them, else search for one."""
        member = self.member
        if member is None or self.lost:
            return
        if member.is_ours():
            self._wakeups.hear(member.channel)
        else:
            self._manager_lost(member, TAKEN)

    def hear(self, source: object) -> bool:
        """The agent was woken by this: False, it is not the manager's channel. Else hear what the manager says; when it
        is gone, go on with what this process has."""
        member = self.member
        if member is None or source is not member.channel:
            return False
        if not member.heard():
            self._manager_lost(member, *(() if member.channel.is_ours() else (TAKEN,)))
        return True

    def _manager_lost(self, member: Member, *why: str) -> None:
        """Go on with what this process has; what the manager last ordered is void."""
        self._wakeups.unhear(member.channel)
        with self._pool.step:
            self._pool.row.leave()
        self._succession.begin(*why)

    def close(self) -> list[Member]:
        """Search no more. The members to take leave of, each at most once. In a step, or in a forked child."""
        return [member for member in (self.member, self._succession.close()) if member is not None]

    def abandon(self) -> None:
        """In a forked child: close our copies of the parent's descriptors."""
        for member in self.close():
            member.abandon()

    # -- permits ---------------------------------------------------------------------------------------------

    def take(self) -> bool:
        """Take a permit off the semaphore, if there is one. In a step."""
        return self.member is not None and _take(self.member)

    def put_back(self) -> bool:
        """A connection is closed: its permit goes back to the manager; whether others wait for it. In the same step as
        the machine's report: what is held and what lies on the semaphore never change apart. Any thread."""
        assert self.member is not None
        try:
            self.member.semaphore.give()
        except OSError:
            pass  # closed from outside: the permit went with the seat, and is not among those that will be declared
        self._pool.publish()  # before it is read who waits: else the manager may neither see the permit nor be notified
        return self._pool.row.short

    def listen(self, listening: bool) -> None:
        """Whether a permit on the semaphore wakes the agent."""
        assert self.member is not None
        self._wakeups.listen(self.member.semaphore, listening)

    # -- what the manager is told, and tells -----------------------------------------------------------------

    def notify_manager(self) -> None:
        """Notify the manager at once that this process lacks permits, without waiting until the agent is awake. Any
        thread, without the lock."""
        member = self.member
        if member is not None and not member.channel.notify():
            self._pool.notifier.wake()

    def watch(self, link: Link) -> bool:
        """A connection has been opened: notice when its server ends it, and tell the manager of it. Under the pool's
        lock, any thread. False: the manager cannot be told yet, it has too much to read."""
        self._wakeups.watch(link)
        return self._share(link)

    def tell_uri(self) -> None:
        """A function said the uri, and it works: the manager must know it, for the reaper. Under the pool's lock."""
        member, uri = self.member, str(self._pool.budget.uri)
        if member is not None and not self.lost and self._told != (member, uri):
            self._told = member, uri
            member.tell_uri(uri)

    def renew_cluster(self, now: float) -> float | None:
        """While the cluster's engine refuses this host: now and then ask the function that says its url, which may say
        another password by now, and tell the manager. When to do so again; None: there is no need."""
        budget, member = self._pool.budget, self.member
        if budget.ask_cluster is None or member is None or self.lost or not is_refused(self._pool):
            return None
        if now >= self._ask_at:
            self._ask_at = now + ASK_CLUSTER
            self._run(lambda: self._ask_cluster(member))
        return self._ask_at

    def _ask_cluster(self, member: Member) -> None:
        try:
            url = self._pool.budget.cluster_now()
        except Exception as error:
            logger.warning("pool %s: the function that says the cluster's url failed: %r", self._pool.name, error)
            return
        with self._pool.lock:
            if url is not None and member is self.member and not self.lost:
                member.tell_cluster(url)

    def unwatch(self, link: Link) -> None:
        """A connection is about to be closed from here. It may be said twice. Any thread."""
        self._wakeups.unwatch(link)

    def share_again(self) -> None:
        """Tell the manager of the connections that it could not be told of. Under the pool's lock."""
        unshared, self.unshared = self.unshared, []
        for link in unshared:
            self._share(link)

    def _share(self, link: Link) -> bool:
        member, socket = self.member, link.live_socket()
        if member is not None and socket is not None and not self.lost and not member.opened(socket[0]):
            self.unshared.append(link)
            return False
        return True

    def held_elsewhere(self) -> dict[int, int] | None:
        """{pid: connections held} of the other members; None: no seat yet, or no more. Any thread, without the lock."""
        member = self.member
        if member is None or self._pool.left:
            return None
        try:
            pids, counts = (member.ledger.column(cell, L.ROWS) for cell in (L.PID, L.HELD))
        except ValueError:
            return None  # it has been closed just now
        own = (member.at - L.HEADER) // L.ROW
        return {pid: count for row, (pid, count) in enumerate(zip(pids, counts, strict=True)) if count and row != own}

    def nobody_served(self) -> bool:
        """Whether every permit of the budget is in use by connections that are closed, but not at the server. Any
        thread, without the lock."""
        with self._pool.lock:
            member = self.member
            if member is None or self._pool.left:
                return False
            header = member.ledger.header
            most = header.cap if header.lease else header.shared
            return most > 0 and sum(member.ledger.column(L.LOST, L.ROWS)) >= most


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
