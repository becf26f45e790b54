"""Connections that are closed here, and whose servers do not close their side: silent, or still at work.

A permit goes back when its connection is gone at the server. Where the server does not say so, it is asked, over a
connection that works. That one has a permit like any other, which a member of its own gets: the process may hold its
whole share in silent connections. Only when all permits of the budget are held by silent connections, so that no caller
is served at all, one more is opened beside them, for as long as asking takes: by one process at a time. A server that
has no room for it refuses it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from mppool import errors
from mppool.core.slots import Waiter
from mppool.database import contract
from mppool.database.contract import Lost, open_link
from mppool.shared import paths
from mppool.shared.file_slots import FileSlots

if TYPE_CHECKING:
    from mppool.core.slots import Slot
    from mppool.database.contract import Link
    from mppool.process.lending import Lending

logger = logging.getLogger("mppool.pool")

AFTER, LATER = 1.0, 8.0  # seconds without an end of file until the server is asked; then after twice as long, to LATER
ALONE = 2.0  # seconds without any caller served until one more is opened: a busy server is late, too
BURIED = 10.0  # seconds that the one more gets to end, before there may be the next
PATIENCE = 5.0  # seconds to wait for a permit to ask it over
LOOK_EVERY = 0.25  # seconds until the next look whether any caller is served at all


class _Asker(Waiter):
    """A thread of the executor, waiting in line."""

    __slots__ = ("_woken",)

    def __init__(self) -> None:
        super().__init__(monotonic())
        self._woken = threading.Event()

    def wake(self) -> bool:
        self._woken.set()
        return True

    def wait(self, timeout: float) -> bool:
        return self._woken.wait(timeout)


class OtherPool(Protocol):
    """A local pool of its own at the same budget, which keeps no connection open: it has the connection to ask over."""

    def line_up(self, caller: Waiter) -> Slot | None: ...
    def step_out(self, caller: Waiter) -> bool: ...
    def outcome(self, caller: Waiter, waited: float | None) -> Slot: ...
    def end(self, caller: Waiter) -> None: ...
    def stop(self) -> None: ...
    def abandon(self) -> None: ...


class SilentConnections:
    """The silent connections of one local pool. Any thread; one of them asks for all.

    Args:
        pool: whose connections are silent.
        nobody_served: tells whether all permits of the budget are held by silent connections.
        attach: makes another pool at the same budget.
    """

    def __init__(self, pool: Lending, nobody_served: Callable[[], bool], attach: Callable[[], OtherPool]) -> None:
        self._pool = pool
        self._nobody_served = nobody_served
        self._attach = attach
        self._asking = threading.Lock()
        self._lost: set[Lost] = set()
        self._gone: set[Lost] = set()
        self._other: OtherPool | None = None  # while one asks

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
        if self._other is not None:
            self._other.abandon()

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
        other = self._other = self._attach()
        try:
            asker = _Asker()
            try:
                slot = self._borrow(other, asker, lost)
                if slot is not None:
                    yield slot.link
            finally:
                other.end(asker)
            if slot is None:
                with self._one_more() as link:
                    yield link
        finally:
            self._other = None
            other.stop()

    def _borrow(self, other: OtherPool, waiter: _Asker, lost: Lost) -> Slot | None:
        slot = other.line_up(waiter)
        until = alone_until = waiter.since + PATIENCE
        while slot is None and not waiter.wait(LOOK_EVERY):
            self._pool.close_idle(lost.closed)  # they may be as silent; those that are not come back at once
            if not self._nobody_served():
                alone_until = until
            elif alone_until == until:
                alone_until = min(until, monotonic() + ALONE)
            if monotonic() >= alone_until:
                break
        if slot is None and not other.step_out(waiter):
            slot = other.outcome(waiter, None)
        return slot

    @contextmanager
    def _one_more(self) -> Iterator[Link | None]:
        """A connection beside those that are silent, if these are all that there are."""
        pool = self._pool
        turn = FileSlots(paths.folder(pool.name), paths.ASKING).take(1) if self._nobody_served() else None
        if turn is None:
            yield None
            return
        link = None
        try:
            if self._nobody_served():  # it may have changed before it was our turn
                link = open_link(pool.budget.database, connect_timeout=pool.settings.connect_timeout)
            yield link
        finally:
            if link is not None:
                link.prepare_close()
                link.close(contract.ANSWER)
                link.await_close(BURIED)
                link.forget_twin()
            turn.give_back()
