"""Connections of ended members that the manager has no socket of: those of a member that was killed together with its
manager, and those that it had not shared yet.

The kernel knows which of such connections a server has not ended (`tcp_closing`), but not whose they were. Those of a
member are among the ones that it lists just after the member's end, so as many permits are kept as there are of these
still. Connections of other programs may be among them, too: then a permit comes late, but not for those that other
programs close later.
"""

from __future__ import annotations

import os
import time

from mppool.manager.tcp_closing import half_closed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["ORPHANED", "UnsharedConnections", "warn_of_orphan"]

ORPHANED = 60.0  # seconds that a server may go on with the statement of a member that ended, before its permit is free
LOOK = (0.005, 0.25)  # seconds between looks, at first and at most
COSTLY = 20  # times as long as a look takes is the least pause before the next: a host may have many connections
# Where the kernel does not tell: seconds that a server gets to end what was idle. PostgreSQL looks for its client every
# 0.1 s, so all that it had is gone by then.
UNTOLD = 0.3
_LOOKS = "client_connection_check_interval"  # in a uri: whether PostgreSQL looks for its client is the user's choice

# Seconds that an unshared connection must be missing from the kernel's list until it counts as ended. The kernel
# forgets it at once if something comes on it, or came, that its process does not live to read (it is reset). The server
# was idle then, or about to be, and ends it when it sees that, which takes a busy host's server a while.
RESET = 1.0


class _Unshared:
    """What is left of one member's unshared connections.

    Args:
        member: whose account the permits are on.
        left: connections that the server may not have ended.
        busy: as many of them may have been at work.
        since: monotonic time of the member's end, or when it was known.

    Attributes:
        ports: the local ports that may be of these connections and count as not ended; since when the kernel lists one
            no more, None: it does.
    """

    __slots__ = ("_looked", "busy", "left", "member", "ports", "since")

    def __init__(self, member: int, left: int, busy: int, since: float) -> None:
        self.member, self.left, self.busy, self.since = member, left, busy, since
        self.ports: dict[int, float | None] = {}
        self._looked = False

    def look(self, now: float, listed: set[int]) -> None:
        """Take note of what the kernel lists just now."""
        if not self._looked or now < self.since + RESET:
            self.ports.update(dict.fromkeys(listed))
        self._looked = True
        missing = {port: None if port in listed else since or now for port, since in self.ports.items()}
        self.ports = {port: since for port, since in missing.items() if since is None or now < since + RESET}


class UnsharedConnections:
    """All of them. True: there are some.

    Args:
        config: the manager's.
        watched: the local ports of half-closed connections that the manager has sockets of.
        ended: called with a member and how many of its connections have ended.

    Attributes:
        look_at: when to `look` whether some have ended; None: there are none.
    """

    def __init__(
        self, config: dict[str, Any], watched: Callable[[], set[int]], ended: Callable[[int, int], None]
    ) -> None:
        self._port: int | None = config["port"]
        self._goes_on = not config["database"].startswith("postgresql:") or _LOOKS in config["uri"]
        self._watched, self._ended = watched, ended
        self._all: list[_Unshared] = []  # the oldest first
        self._look_at = self._pause = 0.0

    def __bool__(self) -> bool:
        return bool(self._all)

    @property
    def look_at(self) -> float | None:
        return self._look_at if self._all else None

    def add(self, member: int, left: int, busy: int) -> None:
        """A member has ended and left so many, of which ``busy`` may have been at work."""
        if left:
            self._all.append(_Unshared(member, left, busy, time.monotonic()))
            self._look_at, self._pause = 0.0, LOOK[0]

    def look(self, now: float) -> None:
        """Report those that have ended."""
        began = time.monotonic()
        try:
            ports = half_closed(self._port) if self._port is not None else None
        except OSError:
            self._look_at = now + LOOK[1]  # no free descriptor: that says nothing of connections
            return
        for each, count in self._over(now, ports):
            if count:
                each.left -= count
                if not each.left:
                    self._all.remove(each)
                self._ended(each.member, count)
        self._pause = min(LOOK[1], self._pause * 1.5)
        self._look_at = now + max(self._pause, COSTLY * (time.monotonic() - began))

    def _over(self, now: float, ports: list[int] | None) -> list[tuple[_Unshared, int]]:
        """How many of each member's are over. ``ports``: local ports of all half-closed connections, if known."""
        if ports is not None:
            listed = set(ports) - self._watched()
            for each in self._all:
                each.look(now, listed)
        counts = {each: self._ended_at_least(each, now, ports is not None) for each in self._all}
        if ports is not None:
            # Where connections of several members may have the same ports, all of them together tell more.
            old = [each for each in self._all if now >= each.since + RESET]
            some = sum(each.left - counts[each] for each in old) - len(set().union(*(each.ports for each in old)))
            for each in old:
                more = min(max(0, some), each.left - counts[each])
                counts[each] += more
                some -= more
        return list(counts.items())

    def _ended_at_least(self, each: _Unshared, now: float, told: bool) -> int:
        """As many of a member's connections the server has ended at the least. ``told``: the kernel tells."""
        if now >= each.since + ORPHANED:
            warn_of_orphan()
            return each.left
        if told:
            return max(0, each.left - len(each.ports)) if now >= each.since + RESET else 0
        return each.left - each.busy * self._goes_on if now >= each.since + UNTOLD else 0


def warn_of_orphan() -> None:
    """Write to the manager's log that a permit is freed although its connection may be left."""
    os.write(2, b"a server still has a connection whose process ended %d s ago\n" % ORPHANED)
