"""Closed connections of which the server's end of file does not come: the peer is silent, or still at work.

A permit goes back when its connection is gone at the server. Where the server does not say so, it is asked, over a
connection that works. That one has a permit like any other, got by a seat of its own at the budget: the process may
hold its whole share in connections that are silent. Only when every permit of the budget is held so, and nobody is
served at all, one more is opened beside them, for the moment that asking takes: by one process at a time, and where the
server has no room for it, it refuses.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from mppool import errors
from mppool.core.pool import Waiter
from mppool.database import contract
from mppool.database.contract import Lost, open_link
from mppool.settings import PoolSettings
from mppool.shared import paths
from mppool.shared.file_slots import FileSlots

if TYPE_CHECKING:
    from mppool.core.pool import Slot
    from mppool.database.contract import Link
    from mppool.process.local import LocalPool

logger = logging.getLogger("mppool.pool")

AFTER = 1.0  # seconds without an end of file until the server is asked; then after twice as long, and so on
ALONE = 2.0  # seconds for which nobody may have been served before one more is opened: a busy server is late, too
BURIED = 10.0  # seconds that the one more gets to end, before there may be the next
PATIENCE = 5.0  # seconds to wait for a permit to ask it over
LOOK_EVERY = 0.25  # seconds until it is looked whether anybody is served at all


class _Asker(Waiter):
    """A hand in line."""

    __slots__ = ("_woken",)

    def __init__(self) -> None:
        super().__init__(monotonic())
        self._woken = threading.Event()

    def wake(self) -> bool:
        self._woken.set()
        return True

    def wait(self, timeout: float) -> bool:
        return self._woken.wait(timeout)


class SilentConnections:
    """What one local pool does about it. Any thread; one asks for all."""

    def __init__(self, pool: LocalPool) -> None:
        self._pool = pool
        self._asking = threading.Lock()
        self._lost: set[Lost] = set()
        self._gone: set[Lost] = set()
        self._seat: LocalPool | None = None  # while one asks

    @staticmethod
    def noted(link: Link) -> Lost:
        """A connection that is about to be closed, as the server can be asked for it later."""
        return Lost(link.name, contract.end_of(link.live_socket()), link.since, monotonic())

    def forget(self, lost: Lost) -> None:
        """It is known what became of it."""
        self._lost.discard(lost)
        self._gone.discard(lost)

    def ended(self, lost: Lost) -> bool:
        """Whether the server has ended this connection, or does now that it is asked. Blocks for some seconds."""
        if lost.name is None and lost.place is None:
            return False
        self._lost.add(lost)
        with self._asking:
            if lost not in self._gone:
                self._ask(lost)
            return lost in self._gone

    def abandon(self) -> None:
        """In a forked child."""
        if self._seat is not None:
            self._seat.abandon()

    def _ask(self, lost: Lost) -> None:
        """Ask for all that are lost."""
        pool = self._pool
        try:
            with self._connection(lost) as link:
                gone = contract.ended(link, list(self._lost)) if link is not None else set()
        except (errors.PySQLXError, errors.PoolError, errors.NotConnectedError, TimeoutError, OSError) as error:
            logger.debug("pool %s: cannot ask the server for silent connections: %s", pool.name, error)
            return
        self._gone |= gone & self._lost
        if gone:
            text = "pool %s: %d closed connections were silent; the server, asked over another one, has ended them"
            logger.warning(text, pool.name, len(gone))

    @contextmanager
    def _connection(self, lost: Lost) -> Iterator[Link | None]:
        """A connection to ask over; None: there is none to be had."""
        pool = self._pool
        seat = self._seat = type(pool)(pool.budget, pool.name, PoolSettings(min_size=0))
        try:
            asker = _Asker()
            try:
                slot = self._borrow(seat, asker, lost)
                if slot is not None:
                    yield slot.link
            finally:
                seat.end(asker)
            if slot is None:
                with self._one_more() as link:
                    yield link
        finally:
            self._seat = None
            seat.stop()

    def _borrow(self, seat: LocalPool, waiter: _Asker, lost: Lost) -> Slot | None:
        slot = seat.line_up(waiter)
        until = alone_until = waiter.since + PATIENCE
        while slot is None and not waiter.wait(LOOK_EVERY):
            self._pool.close_idle(lost.closed)  # they may be as silent; those that are not come back at once
            if not self._pool.agent.nobody_served():
                alone_until = until
            elif alone_until == until:
                alone_until = min(until, monotonic() + ALONE)
            if monotonic() >= alone_until:
                break
        if slot is None and not seat.step_out(waiter):
            slot = seat.outcome(waiter, None)
        return slot

    @contextmanager
    def _one_more(self) -> Iterator[Link | None]:
        """A connection beside those that are silent, if these are all that there are."""
        pool = self._pool
        turn = FileSlots(paths.folder(pool.name), paths.ASKING).take(1) if pool.agent.nobody_served() else None
        if turn is None:
            yield None
            return
        link = None
        try:
            if pool.agent.nobody_served():  # it may have changed before it was our turn
                link = open_link(pool.budget.database, connect_timeout=pool.settings.connect_timeout)
            yield link
        finally:
            if link is not None:
                link.prepare_close()
                link.close(contract.ANSWER)
                link.await_close(BURIED)
                link.forget_twin()
            turn.give_back()
