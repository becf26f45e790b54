"""The manager's clients: processes that are connected to it, and members that have not attached again yet."""

from __future__ import annotations

import os
import selectors
import time

from mppool.manager.connections import Shared
from mppool.shared import identity, messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT = 16  # connections of a member that are kept before those that have ended are looked for
LOOK = 0.2  # seconds between looks at processes of whose end the kernel cannot tell us


class Client:
    """A connection from another process: a member, an owner, or a process that only asks.

    Attributes:
        channel: to the process; None: a member that has not attached again yet, of the predecessor or of this manager.
        pid, started: which process it is.
        arrived: monotonic time.
        member: the member's number; None: it is no member.
        owner: whether the manager stays for its sake although it is no member.
        notice: a descriptor that becomes readable when the process ends; None: there is none.
        connections: a member's, to the database; empty with SQLite.
    """

    __slots__ = ("arrived", "channel", "connections", "member", "notice", "owner", "pid", "started")

    def __init__(self, channel: messages.Channel | None, pid: int) -> None:
        self.channel = channel
        self.pid = pid
        self.started = identity.started(pid)
        self.arrived = time.monotonic()
        self.member: int | None = None
        self.owner = False
        self.notice: int | None = None
        self.connections = Shared(KEPT)


class Clients:
    """All clients of one manager. It also keeps the manager within its limit of descriptors.

    Args:
        selector: watches their channels and notices; its keys' ``data`` is the `Client`.
        limit: descriptors that this process may have.

    Attributes:
        members: the clients that are members, by number.
        look_at: when to `look` at processes of whose end the kernel does not tell; None: there are none.
    """

    def __init__(self, selector: selectors.BaseSelector, limit: int) -> None:
        self.members: dict[int, Client] = {}
        self.limit = limit
        self._selector = selector
        self._all: set[Client] = set()
        self._unwatched: set[Client] = set()  # those of whose end the kernel or their channel cannot tell
        self._look_at = 0.0

    def __iter__(self) -> Iterator[Client]:
        return iter(self._all)

    def __contains__(self, client: Client) -> bool:
        return client in self._all

    def add(self, client: Client) -> None:
        """Watch a client from now on."""
        self._all.add(client)
        if client.channel is None or client.notice is None:
            self._unwatched.add(client)
        if client.channel is not None:
            self._selector.register(client.channel, selectors.EVENT_READ, client)
        if client.notice is not None:
            self._selector.register(client.notice, selectors.EVENT_READ, client)

    def disconnect(self, client: Client) -> None:
        """Forget a client, and close what is open for it but for its database connections."""
        self._all.remove(client)
        self._unwatched.discard(client)
        if client.channel is not None:
            self._selector.unregister(client.channel)
            client.channel.close()
        if client.notice is not None:
            self._selector.unregister(client.notice)
            os.close(client.notice)

    def hang_up(self, client: Client) -> None:
        """Close a client's channel; go on watching for the end of its process."""
        if client.channel is not None:
            self._selector.unregister(client.channel)
            client.channel.close()
            client.channel = None
        self._unwatched.add(client)

    @property
    def look_at(self) -> float | None:
        return self._look_at if self._unwatched else None

    def look(self, now: float) -> list[Client]:
        """The clients that have to be looked at, if it is time for that."""
        if not self._unwatched or now < self._look_at:
            return []
        self._look_at = now + LOOK
        return list(self._unwatched)

    # -- descriptors -----------------------------------------------------------------------------------------

    def has_room(self, newest: int, most: int) -> bool:
        """Whether fewer than ``most`` descriptors are used, if need be without those of connections that have ended.
        ``newest``: one just made: the kernel gives out the lowest number that is free."""
        if newest < most:
            return True
        for client in self._all:
            client.connections.prune()
        try:
            probe = os.dup(newest)
        except OSError:
            return False
        os.close(probe)
        return probe < most

    def share(self, client: Client) -> None:
        """Keep a member's connection, to hear of its end. For want of descriptors it is done without: should the member
        be killed, the kernel says how many of such connections the server has not ended."""
        assert client.channel is not None
        try:
            (fd,) = client.channel.claim_fds(1)
        except messages.CutShort:
            return
        client.connections.add(fd)
        if fd >= self.limit // 2 and not self.has_room(fd, self.limit // 2):
            client.connections.forget_last()  # members come first
