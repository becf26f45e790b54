"""Which processes the manager admits: it accepts those of this user while it has descriptors for them, and refuses
requests that mean another budget, that come after the end, or for which there is no room."""

from __future__ import annotations

import os
import select
import selectors
import socket
import time

from mppool.manager.clients import Client
from mppool.shared import identity, messages, room, sizes
from mppool.shared import ledger as L
from mppool.shared.descriptors import is_short

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mppool.manager.clients import Clients

AT_A_TIME = 32  # processes that are accepted before others are heard
RETRY = 0.5  # seconds until the next try to accept, when the system had no descriptor


class Listener:
    """Accepts clients.

    Args:
        sock: bound and listening.
        selector: its key's ``data`` for this socket is None.
        clients: where they are added.
        config: the manager's.

    Attributes:
        again_at: when to `resume`, since there was no descriptor left to accept with; None: it accepts.
    """

    def __init__(
        self, sock: socket.socket, selector: selectors.BaseSelector, clients: Clients, config: dict[str, Any]
    ) -> None:
        self.again_at: float | None = None
        self._sock = sock
        self._selector = selector
        self._clients = clients
        self._config = config

    def begin(self) -> None:
        """Accept from now on."""
        self._sock.setblocking(False)
        self._selector.register(self._sock, selectors.EVENT_READ, None)

    def resume(self) -> None:
        """Accept again."""
        if self.again_at is not None:
            self.again_at = None
            self._selector.register(self._sock, selectors.EVENT_READ, None)

    def accept_some(self) -> None:
        """Accept those that wait, a few at a time."""
        for _ in range(AT_A_TIME):
            if not self._accept():
                return

    def _accept(self) -> bool:
        """Accept one; whether one waited."""
        try:
            sock, _ = self._sock.accept()
        except OSError as error:
            if is_short(error):
                self.again_at = time.monotonic() + RETRY  # until then those that wait would keep the manager awake
                self._selector.unregister(self._sock)
            return False
        try:
            pid, uid = messages.peer(sock)
            if uid != os.geteuid() or pid is None:
                raise PermissionError
            limit = self._clients.limit
            if not self._clients.has_room(sock.fileno(), limit - room.reserve(limit)):
                self._turn_away(sock)
                return True
            client = Client(messages.Channel(sock), pid)
            client.notice = identity.death_notice(pid)
        except OSError as error:
            if is_short(error):
                self._turn_away(sock)
            else:
                sock.close()
            return True
        self._clients.add(client)
        return True

    def _turn_away(self, sock: socket.socket) -> None:
        """Say that there is no room just now. The process asks again after a while."""
        text = (
            f"budget {self._config['name']!r} has no descriptor left for another process: its manager may open "
            f"{self._clients.limit} files and has {len(self._clients.members)} members; start it with a higher hard "
            f"limit of open files (ulimit -Hn): {room.needed(L.ROWS, self._config['max_size'] or 0)} is enough for "
            f"{L.ROWS} members"
        )
        with sock:
            sock.setblocking(False)
            sock.send(messages.encode(_refused("ManagerFullError", text)))
            sock.shutdown(socket.SHUT_WR)

    def is_awaited(self) -> bool:
        """Whether a process waits to be accepted."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        self._sock.close()


def refusal(
    config: dict[str, Any], header: L.Header, message: dict[str, Any], space: int, stopped: bool
) -> dict[str, Any] | None:
    """The answer to a request that means another budget, or that comes after the end; None: it is not refused.

    Args:
        config: the manager's.
        header: of its ledger.
        message: the request.
        space: `identity.space` of the manager.
        stopped: the budget was stopped, and the request is none that is answered even then.
    """
    name = config["name"]
    if message.get("space") not in (None, space):
        return _refused("ManagerUnavailableError", f"budget {name!r}: {identity.ELSEWHERE}")
    made = message.get("made")
    since = L.NEVER if made is None else int(made)
    reserve = int(message.get("reserve") or 0)
    size = sizes.mismatch(header, message.get("max_size"), since, config["max_size"], reserve=reserve)
    wrong = [] if size is None or message.get("returning") else [size]
    if message.get("database") not in (None, config["database"]):
        wrong.append(f"database is {config['database']} there and {message['database']} here")
    if "engine" in message and message["engine"] != config["engine"] and not message.get("returning"):
        wrong.append(f"cluster is {config['engine']} there and {message['engine']} here")
    if wrong:
        return _refused("BudgetMismatchError", f"budget {name!r} runs with other settings: {'; '.join(wrong)}")
    if stopped:
        return _refused("ManagerUnavailableError", f"budget {name!r} was stopped and takes no new members")
    return None


def full(config: dict[str, Any], error: str, why: str) -> dict[str, Any]:
    """The answer to a process for which there is no room. ``error``: the name of the error that it is to raise."""
    return _refused(error, f"budget {config['name']!r} takes no more members: {why}")


def _refused(error: str, text: str) -> dict[str, Any]:
    return {"ok": False, "error": error, "message": text}
