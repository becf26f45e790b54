"""Connections that their processes left behind.

A server goes on with the statement of a process that was killed, and as long as it does, the connection counts there.
So each member shares its connections' sockets with the manager. When the member ends, the manager shuts down its side
of them and waits for the server's end of file, which is the server's own word that a connection is gone: idle ones go
at once, PostgreSQL looks for its client during a statement, others end with the statement. What has not ended in a
moment is ended by the reaper (`mppool.reaper`). The manager never speaks to a database.

Connections that the manager has no socket of are left to `unshared`.
"""

from __future__ import annotations

import selectors
import socket
import time

from mppool.manager.connections import Orphan
from mppool.manager.unshared import ORPHANED, UnsharedConnections, warn_of_orphan
from mppool.reaper.launching import REAP, Reaper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mppool.manager.allocator import Allocator
    from mppool.shared.endpoints import Endpoint

__all__ = ["Orphans"]

ENDING = 0.25  # seconds until the reaper ends one: PostgreSQL, which looks for its clients, has done so by then
LOOK_EVERY = 0.02  # seconds between looks at those whose end cannot be heard
MOST = 1000  # connections that one reaper is told of


class Orphans:
    """All that members left behind at the server, and what becomes of it. True: there is something.

    Args:
        config: the manager's.
        allocator: where their permits are.
        selector: its keys' ``data`` is an `Orphan` or the `Reaper`: pass both to `hear`.
        freed: called when permits came free, or a reaper is gone.
    """

    def __init__(
        self,
        config: dict[str, Any],
        allocator: Allocator,
        selector: selectors.BaseSelector,
        freed: Callable[[], None],
    ) -> None:
        self._allocator = allocator
        self._selector = selector
        self._freed = freed
        self._on_a_server = not config["database"].startswith("sqlite")
        self._ends: bool = config["end_orphans"]
        self._orphans: set[Orphan] = set()
        self._unshared = UnsharedConnections(config, self._ports, self._unshared_ended)
        self._reaper = Reaper(config, self._endpoints, self._gone)

    def __bool__(self) -> bool:
        return bool(self._orphans or self._unshared or self._reaper.pid)

    @property
    def reaper(self) -> int | None:
        """The pid of the reaper that is at work."""
        return self._reaper.pid

    # -- facts -----------------------------------------------------------------------------------------------

    def await_close(self, member: int, connections: list[socket.socket]) -> None:
        """A member has ended: its permits are free, but for those whose connections the server has not ended yet.

        A connection that the member had not shared yet was just being opened, or is of a kind that has no socket to be
        found: nothing runs there.
        """
        orphans, reset = [], 0
        for connection in connections:
            orphan = Orphan(connection, member, time.monotonic())
            if orphan.listen():
                reset += orphan.reset
                orphan.close()
            else:
                orphans.append(orphan)
        credit = self._allocator.books.accounts[member].credit
        unseen = max(0, min(self._held(member) - len(connections) + reset, credit - len(orphans)))
        if not orphans and not unseen:
            self._allocator.leave(member)
            return
        self._allocator.retire(member, len(orphans) + unseen, time.monotonic(), len(orphans))
        self._unshared.add(member, unseen, 0)
        for orphan in orphans:
            self._orphans.add(orphan)
            if not orphan.deaf:
                self._selector.register(orphan, selectors.EVENT_READ, orphan)

    def await_unshared(self, member: int) -> None:
        """A member has ended, and the manager has no sockets of its connections to hear of their end."""
        row = self._allocator.ledger.row(member)
        busy = max(0, row.in_use + row.moving)
        left = self._allocator.retire(member, self._held(member), time.monotonic(), busy)
        if left:
            self._unshared.add(member, left, row.in_use)
        else:
            self._allocator.leave(member)

    def _held(self, member: int) -> int:
        """Connections to a server that a member had when it ended, by its own word."""
        row = self._allocator.ledger.row(member)
        return max(0, row.held) if self._on_a_server and not row.left else 0

    def hear(self, speaker: Orphan | Reaper) -> None:
        """One of them is readable."""
        if isinstance(speaker, Reaper):
            if not speaker.hear():
                self._selector.unregister(speaker)
                speaker.let_go(time.monotonic())
                self._freed()
        elif speaker in self._orphans and not speaker.deaf:
            self._listen(speaker)

    def _listen(self, orphan: Orphan) -> None:
        if orphan.listen():
            self._ended(orphan)
        elif orphan.deaf:
            self._unregister(orphan)

    def _unregister(self, orphan: Orphan) -> None:
        try:
            self._selector.unregister(orphan)
        except KeyError:
            pass  # it is deaf

    def _ended(self, orphan: Orphan) -> None:
        self._orphans.remove(orphan)
        self._unregister(orphan)
        orphan.close()
        if orphan.reset:
            self._unshared.add(orphan.member, 1, 0)
        else:
            self._allocator.ended(orphan.member, time.monotonic())
        if not self._orphans:
            self._reaper.succeeded()
        self._freed()

    def _gone(self, endpoints: set[Endpoint]) -> None:
        """The server has said that it has these no more."""
        for orphan in [orphan for orphan in self._orphans if orphan.endpoint in endpoints]:
            self._ended(orphan)

    def _unshared_ended(self, member: int, count: int) -> None:
        for _ in range(count):
            self._allocator.ended(member, time.monotonic())
        self._freed()  # last: whether the manager may leave depends on what is left

    def _endpoints(self) -> list[Endpoint]:
        return [orphan.endpoint for orphan in self._orphans if orphan.endpoint is not None][:MOST]

    def _ports(self) -> set[int]:
        return {orphan.endpoint[1] for orphan in self._orphans if orphan.endpoint is not None}

    # -- time ------------------------------------------------------------------------------------------------

    def upkeep(self, now: float) -> None:
        """Do what is due."""
        for orphan in [orphan for orphan in self._orphans if now >= orphan.since + ORPHANED]:
            warn_of_orphan()
            self._ended(orphan)
        look_at = self._unshared.look_at
        if look_at is not None and now >= look_at:
            self._unshared.look(now)
        for orphan in [orphan for orphan in self._orphans if orphan.deaf]:
            self._listen(orphan)
        if self._reaper.dying:
            self._reaper.reap()
            if not self._reaper.pid:
                self._freed()
        launch_at = self._launch_at()
        if launch_at is not None and now >= launch_at and self._reaper.launch(now):
            self._selector.register(self._reaper, selectors.EVENT_READ, self._reaper)

    def next_at(self) -> float | None:
        """When `upkeep` is due."""
        times = [orphan.since + ORPHANED for orphan in self._orphans]
        times += [at for at in (self._unshared.look_at, self._launch_at()) if at is not None]
        if any(orphan.deaf for orphan in self._orphans):
            times.append(time.monotonic() + LOOK_EVERY)
        if self._reaper.dying:
            times.append(time.monotonic() + REAP)
        return min(times, default=None)

    def _launch_at(self) -> float | None:
        """When to launch a reaper; None: there is nothing for it to do, or no permit that it could get."""
        times = [orphan.since + ENDING for orphan in self._orphans if orphan.endpoint is not None]
        if not times or not self._ends or self._reaper.useless or self._reaper.pid or not self._allocator.books.spare:
            return None
        return max(min(times), self._reaper.again_at)
