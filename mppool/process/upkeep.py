"""Upkeep: what the agent looks after besides permits, connections of callers that were interrupted, of borrowers that
nothing refers to any more, that their servers have ended, that are too old, or that other processes wait for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mppool.core.slots import Check
from mppool.database.contract import Endings
from mppool.process.leaks import Leaks

if TYPE_CHECKING:
    from mppool.process.connector import Connector
    from mppool.process.lending import Lending
    from mppool.process.wakeups import Wakeups

logger = logging.getLogger("mppool.pool")

FLUSH_AGAIN = 1.0  # seconds until what was counted is published again, if there was anything of late
FORGOTTEN = 0.5  # seconds until borrowers are looked for again that nothing refers to any more, while others wait


class Upkeep:
    """One local pool's. On the agent's thread, but where a method says otherwise.

    Attributes:
        expires_at: when connections that are too old are next looked for.
        forgotten_at: when forgotten borrowers are next looked for.
        flush_at: when to publish again what was counted, if it was more of late.
    """

    def __init__(self, pool: Lending, wakeups: Wakeups, connector: Connector) -> None:
        self._pool = pool
        self._wakeups = wakeups
        self._connector = connector
        self._leaks = Leaks(pool)
        self.expires_at = self.forgotten_at = self.flush_at = 0.0

    def finish_for_callers(self, now: float) -> None:
        """Finish what callers could not, because they were interrupted or had interrupted another step."""
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
            pool.notifier.notify_manager()
        if now >= self.forgotten_at:
            self.forgotten_at = now + FORGOTTEN
            self._leaks.end_forgotten()

    def tell(self, now: float) -> None:
        """Publish what was counted, and log what is overdue."""
        pool = self._pool
        self._leaks.look(now)
        if now >= pool.flush_at and not pool.recorder.flush(now):
            self.flush_at = 0.0
        elif self.flush_at <= now:
            self.flush_at = now + FLUSH_AGAIN

    def follow_pause(self, now: float) -> None:
        """Pause or go on as the budget does, and say so once nothing is under way any more."""
        pool, machine = self._pool, self._pool.machine
        paused = now < pool.row.paused_until
        if not paused and not machine.paused:
            return
        with pool.step:
            if paused and not machine.paused:
                pool.pause(now)
            elif not paused:
                pool.resume(now)
            if machine.quiet:
                pool.publish()
                pool.row.acknowledge_pause()
        pool.call_up()

    def discard_ended(self) -> None:
        """Lend no connection that its server has ended; one that is borrowed is replaced when it comes back."""
        pool, machine = self._pool, self._pool.machine
        self._wakeups.endings.hear()
        with pool.step:
            lent = (slot for slot in machine.borrowed if slot not in machine.lost)
            links = {slot.link: slot for slot in (*machine.idle, *lent)}
            known = {link.socket: link for link in links if link.socket is not None and link.conn is not None}
            ended = [known[socket] for socket in Endings.among(known)]
            ended += [link for link in links if link.socket is None and link.conn is not None and link.taken()]
            for link in ended:
                link.distrust()
            if discarded := machine.discard({links[link] for link in ended}):
                pool.connections_lost += len(discarded)
                pool.publish()

    def retire(self, now: float) -> None:
        """Mark idle connections to be closed: those that others wait for, and in rounds those that are too old."""
        pool, row = self._pool, self._pool.row
        is_round = now >= self.expires_at
        if is_round:
            self.discard_ended()  # for systems that do not tell
        with pool.step:
            leaving = pool.machine.surrender(now, row.target, row.limit, row.cost)
            pool.moves += len(leaving)
            if row.drained > pool.machine.drained:
                leaving += pool.machine.drain(row.drained)
            if is_round:
                if row.is_leased:
                    leaving += pool.machine.expire(now, pool.settings.monitor_batch_size)
                else:  # none could be opened in its place
                    pool.machine.postpone_expiry(now + 2 * pool.settings.check_interval)
                self.expires_at = now + pool.settings.check_interval
            if leaving:
                pool.publish()

    def begin_work(self) -> None:
        """Have the connections closed and checked that steps have left to us. Any thread, once the agent has left."""
        with self._pool.step:
            todo = self._pool.machine.begin()
        for each in todo:
            if isinstance(each, Check):
                self._connector.check(each.slot)
            else:
                self._connector.close(each.slot)

    def due(self, now: float) -> list[float]:
        """The times at which there is something to look after, though nothing happens until then. In a step."""
        machine, row, times = self._pool.machine, self._pool.row, list[float]()
        expiry = machine.next_expiry(now)
        if expiry is not None:
            times.append(max(expiry, self.expires_at))
        if machine.waiters and machine.lent:
            times.append(self.forgotten_at)
        leaks_at = self._leaks.due(now)
        if leaks_at is not None:
            times.append(leaks_at)
        if self.flush_at > now:
            times.append(self.flush_at)
        if machine.paused:
            times.append(row.paused_until)
        ripe_at = machine.ripens_at(row.target, row.cost)
        if ripe_at is not None:
            times.append(ripe_at)
        return times
