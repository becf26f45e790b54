"""What clients ask of the manager, and its answers.

A client that breaks the protocol is cut off: its message raises here.
"""

from __future__ import annotations

import os
import time

from mppool.core.accounts import MOST
from mppool.manager.admission import full, refusal
from mppool.shared import identity, messages
from mppool.shared import ledger as L

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from mppool.manager.allocator import Allocator
    from mppool.manager.clients import Client, Clients
    from mppool.manager.leaving import Leaving
    from mppool.manager.orphans import Orphans
    from mppool.manager.share import Share

    class Serving(Protocol):
        """What requests need of the manager."""

        allocator: Allocator
        clients: Clients
        orphans: Orphans
        leaving: Leaving
        share: Share | None
        stopping: bool

        def settle(self, now: float) -> None:
            """Move what permits can be moved."""

        def soon(self) -> None:
            """Something happened that the allocator should see."""

        def end(self, client: Client) -> None:
            """A client ended, left or is cut off."""

        def resume(self) -> None:
            """The budget is not paused any more."""

        def notify_all(self) -> None:
            """The header says something new."""

        def consider_leaving(self) -> None:
            """Whether the manager is needed may have changed."""


__all__ = ["Requests"]


class Requests:
    """Answers requests.

    Args:
        manager: whose clients ask.
        config: the manager's.
        ledger_fd: the ledger's descriptor, which members are given.
    """

    def __init__(self, manager: Serving, config: dict[str, Any], ledger_fd: int) -> None:
        self._manager, self._config, self._ledger_fd = manager, config, ledger_fd
        self._ledger, self._members = manager.allocator.ledger, manager.clients.members
        self._space = identity.space()

    def answer(self, client: Client, message: dict[str, Any]) -> None:
        """Raises: ValueError, KeyError, TypeError, OSError: the client breaks the protocol, or does not read."""
        verb = message["do"]
        if not all(value is None or isinstance(value, (str, int)) for value in message.values()):
            raise messages.Garbled("a request of anything but words and whole numbers")
        answer = _ANSWERS.get(verb)
        if answer is None:
            raise messages.Garbled(f"unknown request {verb!r}")
        answer(self, client, message)

    # -- processes come ----------------------------------------------------------------------------------------

    def _description(self) -> dict[str, Any]:
        shown = {key: self._config[key] for key in ("name", "uri", "database", "end_orphans", "cluster")}
        header = self._ledger.header
        sizes = {"max_size": header.max_size, "reserve": header.reserve}
        return {"ok": True, "manager": os.getpid(), **sizes, **shown}

    def _describe(self, client: Client, message: dict[str, Any]) -> None:
        _say(client, self._description(), [self._ledger_fd])

    def _own(self, client: Client, message: dict[str, Any]) -> None:
        if not self._is_refused(client, message):
            client.owner = True
            self._manager.leaving.stay()
            _say(client, self._description(), [self._ledger_fd])

    def _is_refused(self, client: Client, message: dict[str, Any], returning: bool = False) -> bool:
        """Whether a client means another budget, or comes after the end: then it has been told."""
        manager = self._manager
        stopped = manager.stopping and not returning and client.pid != manager.orphans.reaper
        answer = refusal(self._config, self._ledger.header, message, self._space, stopped)
        if answer is not None:
            _say(client, answer)
        return answer is not None

    def _attach(self, client: Client, message: dict[str, Any]) -> None:
        if client.member is not None:
            raise messages.Garbled("attached twice")
        returning = bool(message.get("returning"))  # from the predecessor: it holds connections
        if self._is_refused(client, message, returning):
            return
        manager, allocator = self._manager, self._manager.allocator
        now, token = time.monotonic(), int(message.get("token") or 0) % L.NEVER
        if returning and token:
            self._end_earlier(client, token)
        warm = min(max(0, int(message["warm"])), MOST)
        why, error_name = f"it has {len(self._members)} members already", "ManagerUnavailableError"
        try:
            row = allocator.attach(client.pid, client.started, warm, now, token)
        except OSError as error:
            row, why, error_name = None, f"{why}, and {error.strerror}", "ManagerFullError"
        if row is None:
            _say(client, full(self._config, error_name, why))
            return
        absent = self._members.get(row)
        if absent is not None:
            manager.clients.disconnect(absent)
            absent.connections.close()  # the member shares them again
        client.member, self._members[row] = row, client
        manager.leaving.stay()
        if returning:
            allocator.awaits(row)
        manager.settle(now)  # so that it finds permits at once
        fds = allocator.semaphores[row].fds
        answer = {**self._description(), "row": row, "fds": len(fds), "declare": row in allocator.undeclared}
        _say(client, answer, [self._ledger_fd, *fds])

    def _end_earlier(self, newcomer: Client, token: int) -> None:
        """A member attaches again: other code in its process has closed its descriptors. The end of its earlier channel
        may have gone unnoticed, since a thread that sleeps on it keeps it open."""
        for client in list(self._members.values()):
            same = client.pid == newcomer.pid and client.started == newcomer.started
            if same and client.channel is not None and self._ledger.row(client.member or 0).token == token:
                self._manager.end(client)

    # -- members tell ------------------------------------------------------------------------------------------

    def _declare(self, client: Client, message: dict[str, Any]) -> None:
        held, allocator = int(message["held"]), self._manager.allocator
        if client.member not in allocator.undeclared or not 0 <= held <= MOST:
            raise messages.Garbled("a declaration out of place")
        allocator.declare(client.member, held, time.monotonic())
        self._manager.soon()

    def _opened(self, client: Client, message: dict[str, Any]) -> None:
        if client.member is None:
            raise messages.Garbled("a connection of no member's")
        self._manager.clients.share(client)

    def _uri(self, client: Client, message: dict[str, Any]) -> None:
        if client.member is None or not isinstance(message["uri"], str):
            raise messages.Garbled("a uri of no member's")
        self._config["uri"] = message["uri"]  # a reaper is told it when it is launched
        if self._manager.share is not None:
            self._manager.share.tell_uri(message["uri"])

    def _cluster(self, client: Client, message: dict[str, Any]) -> None:
        share = self._manager.share
        if client.member is None or share is None or not isinstance(message["url"], str):
            raise messages.Garbled("an engine of no member's")
        share.go_on_with(message["url"])

    # -- the budget is steered ---------------------------------------------------------------------------------

    def _resize(self, client: Client, message: dict[str, Any]) -> None:
        size = int(message["max_size"])
        if not self._ledger.header.reserve < size <= MOST:
            raise messages.Garbled("a size that no budget has")
        if self._manager.share is not None:
            self._manager.share.resize(size)
        else:
            self._manager.allocator.resize(size, time.monotonic_ns())
        self._manager.soon()
        _say(client, {"ok": True})

    def _drain(self, client: Client, message: dict[str, Any]) -> None:
        self._ledger.header.generation = time.monotonic_ns()
        self._manager.notify_all()
        _say(client, {"ok": True})

    def _pause(self, client: Client, message: dict[str, Any]) -> None:
        self._ledger.header.paused = time.monotonic_ns() + max(1, int(message["limit"]))
        self._manager.notify_all()
        _say(client, {"ok": True, "until": self._ledger.header.paused})

    def _resume(self, client: Client, message: dict[str, Any]) -> None:
        self._manager.resume()
        _say(client, {"ok": True})

    def _stop(self, client: Client, message: dict[str, Any]) -> None:
        self._manager.stopping = True
        self._ledger.header.stopping = 1
        for each in self._manager.clients:
            each.owner = False
        _say(client, {"ok": True})
        self._manager.consider_leaving()


def _say(client: Client, answer: dict[str, Any], fds: list[int] | None = None) -> None:
    assert client.channel is not None
    client.channel.send(answer, fds)


_ANSWERS = {
    "attach": Requests._attach,
    "own": Requests._own,
    "describe": Requests._describe,
    "opened": Requests._opened,
    "declare": Requests._declare,
    "uri": Requests._uri,
    "cluster": Requests._cluster,
    "resize": Requests._resize,
    "drain": Requests._drain,
    "pause": Requests._pause,
    "resume": Requests._resume,
    "stop": Requests._stop,
}
