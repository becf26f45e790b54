"""The end of a connection: it is closed, and its permit goes back when the server has ended it, and not before.

Waiting for that is the executor's threads' work. Where the server does not say when it has ended a connection, it is
asked. Where it cannot be reached at all, the permit goes back after a while all the same.
"""

from __future__ import annotations

import logging
import random
import time
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from mppool.core.backoff import Backoff
from mppool.process.silent_connections import AFTER, LATER, SilentConnections

if TYPE_CHECKING:
    from mppool.core.slots import Slot
    from mppool.database.contract import Link, Lost
    from mppool.process.executor import Executor
    from mppool.process.lending import Lending

logger = logging.getLogger("mppool.pool")

# Seconds that a server may go on with a statement that was given up, before its connection is cut and the permit goes
# back all the same: a server that cannot be reached must not keep permits for ever.
END_PATIENCE = 60.0
CLOSE_PATIENCE = 5.0  # seconds until a connection is closed although no descriptor is free to see its end with
SHORT_PAUSES = (0.005, 0.1)  # seconds until a free descriptor is looked for again, at first and at most


class Permits(Protocol):
    """What closing needs of the process's attachment to the manager."""

    def unwatch(self, link: Link) -> None:
        """A connection is about to be closed. It may be said twice. Without the lock."""

    def put_back(self) -> bool:
        """A connection is gone: publish that, its permit is free; whether others wait for it. Under the lock."""
        ...


class Closing:
    """How one local pool closes its connections.

    Args:
        pool: whose machine is told when they are gone.
        executor: waits for it.
        silent: asks the server for connections whose end it does not announce.
    """

    def __init__(self, pool: Lending, executor: Executor, permits: Permits, silent: SilentConnections) -> None:
        self._pool = pool
        self._executor = executor
        self._permits = permits
        self._silent = silent

    def close(self, slot: Slot) -> None:
        """Close a connection on a thread of the executor."""
        self._executor.do(lambda: self._close(slot))

    def close_at_once(self, slot: Slot) -> None:
        """Close a connection on this thread (the agent's), for others wait for its permit; then await its end on
        another. One on which a call may still run is closed on another thread, too."""
        link = slot.link
        if link.doubtful or link.suspect or link.in_transaction:
            self.close(slot)
            return
        lost = self._prepare(link)
        if lost is None or not link.close(0.0):
            self.close(slot)
        elif link.provider == "sqlite":
            self._closed(slot)
        else:
            slot.link = None
            self._executor.do(lambda: self._finish(slot, link, lost))

    def abandon(self) -> None:
        """In a forked child."""
        self._silent.abandon()

    def _prepare(self, link: Link) -> Lost | None:
        """A connection is about to be closed: from now on only its end at the server matters. None: no descriptor is
        free to see that with; try again."""
        self._permits.unwatch(link)
        return SilentConnections.noted(link) if link.prepare_close() else None

    def _wait_for_descriptors(self, link: Link) -> Lost:
        """A moment without free descriptors must not cost the permit. If it lasts, the connection is closed without
        knowing when the server has ended it."""
        backoff, give_up = Backoff(*SHORT_PAUSES), monotonic() + CLOSE_PATIENCE
        while (lost := self._prepare(link)) is None:
            if monotonic() > give_up:
                logger.warning(
                    "pool %s: a connection is closed without a free descriptor to see its end with", self._pool.name
                )
                return SilentConnections.noted(link)
            time.sleep(backoff.failed(random.random()))
        return lost

    def _close(self, slot: Slot) -> None:
        link, slot.link = slot.link, None
        try:
            self.close_and_wait(slot, link)
        except BaseException:
            logger.exception("pool %s: closing a connection failed", self._pool.name)
            link.drop()
        finally:
            self._closed(slot)

    def close_and_wait(self, slot: Slot, link: Link) -> None:
        """Close a connection on this thread, and wait until its server has seen that."""
        give_up, pause = monotonic() + END_PATIENCE, AFTER
        lost = self._wait_for_descriptors(link)
        try:
            while not link.close(min(pause, max(0.1, give_up - monotonic()))):
                self._pool.lose(slot)
                if monotonic() >= give_up or self._silent.ended(lost):
                    link.break_off()
                else:
                    logger.warning(
                        "pool %s: a call still runs on a connection to be closed; waiting for its end", self._pool.name
                    )
                    pause = min(2 * pause, LATER)
            self._await_end(slot, link, lost, give_up)
        finally:
            self._silent.forget(lost)

    def _await_end(self, slot: Slot, link: Link, lost: Lost, give_up: float) -> None:
        """The connection was dropped: its permit goes back when the server has seen that, or at ``give_up``."""
        if not self._has_ended(slot, link, lost, give_up):
            logger.warning(
                "pool %s: the server still works for a connection that was closed; its permit goes back after %g s, "
                "so the server may have more than max_size for a while",
                self._pool.name,
                END_PATIENCE,
            )

    def _finish(self, slot: Slot, link: Link, lost: Lost) -> None:
        try:
            self._await_end(slot, link, lost, monotonic() + END_PATIENCE)
        finally:
            self._silent.forget(lost)
            self._closed(slot)

    def _closed(self, slot: Slot) -> None:
        """The permit goes back."""
        pool = self._pool
        slot.link = None
        with pool.step:
            pool.machine.closed(slot)
            wanted = self._permits.put_back()
            pool.closed += 1
            wake = pool.machine.stopped or pool.machine.to_open() > 0
        if wanted:
            pool.notifier.notify_manager()
        if wake:
            pool.notifier.wake()

    def _has_ended(self, slot: Slot, link: Link, lost: Lost, give_up: float) -> bool:
        """Whether the server has ended a connection that was dropped. Where it says nothing, it is asked."""
        pause = AFTER
        while not link.await_close(max(0.0, min(pause, give_up - monotonic()))):
            if monotonic() >= give_up:
                return False
            self._pool.lose(slot)
            if self._silent.ended(lost):
                link.forget_twin()
                return True
            pause = min(2 * pause, LATER)
        return True
