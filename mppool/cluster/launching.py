"""The manager's half of the agent: it launches the process, and talks to it over a pair of sockets.

The manager never waits for the agent, and imports no client of an engine. Messages are lines of JSON, see
`shared.messages`. The agent's come numbered:

    n, cap, target, until, state, learned_at, max_size, theirs, resizing    what this host may have, and until when
    used, in_use, waiting, wanted, n                                        the manager: what it has; it goes by ``n``
    resize / uri / leave                                                    the manager: what the name says

The uri and the engine's url come by the socket: any user can read arguments.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from mppool.shared import messages
from mppool.shared.helper_process import HelperProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["AgentProcess"]

PAUSE = (0.05, 5.0)  # seconds before the next agent; after the first one that ended, and at most
STEADY = 10.0  # seconds after which an agent is not one that ended at once
# Isolated as its manager is, but with the packages that the manager's launcher had. Nothing more is read than the line:
# what comes behind it is for the agent.
_BOOT = """
import json, os, sys
line = b""
while not line.endswith(b"\\n"):
    byte = os.read(0, 1)
    if not byte: sys.exit()
    line += byte
task = json.loads(line)
sys.path[:] = task["path"] or sys.path
from mppool.cluster.agent import main
main(task)
"""


class AgentProcess(HelperProcess):
    """The agent, if there is one. When it is readable, `hear` it.

    Args:
        hosts: the descriptor of the file that it writes what it knows of all hosts to.
    """

    __slots__ = ("_failed", "_hosts", "_since", "again_at")

    def __init__(self, hosts: int) -> None:
        super().__init__()
        self._hosts = hosts
        self._failed = 0  # agents in a row that ended soon
        self._since = 0.0
        self.again_at = 0.0  # no agent before this time

    @property
    def runs(self) -> bool:
        return self._channel is not None

    def launch(self, task: dict[str, Any], now: float) -> bool:
        """Start an agent. False: it cannot be done just now."""
        self._since = now
        try:
            ours, theirs = socket.socketpair()
        except OSError:
            self._pause(now)
            return False
        try:
            with theirs:
                self.pid = os.posix_spawn(
                    sys.executable,
                    [sys.executable, "-I", "-c", _BOOT],
                    os.environ,
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                        (os.POSIX_SPAWN_DUP2, self._hosts, 3),
                    ],
                )
            self._channel = messages.Channel(ours)
            self._channel.send(task)
        except OSError as error:
            os.write(2, f"cannot start the cluster's agent: {error.strerror}\n".encode())
            ours.close()
            self._channel = None
            self._pause(now)
            return False
        return True

    def _pause(self, now: float) -> None:
        self._failed = 0 if now - self._since > STEADY else self._failed + 1
        self.again_at = now + min(PAUSE[1], PAUSE[0] * 2 ** min(20, self._failed))

    def hear(self) -> list[dict[str, Any]] | None:
        """What it says. None: it is gone; stop listening, then `let_go`."""
        assert self._channel is not None
        try:
            heard = self._channel.receive()
        except messages.Garbled:
            return None
        return None if heard is None else heard[0]

    def say(self, message: dict[str, Any]) -> bool:
        """Tell it something. False: not now, it has too much to read; or it is gone, which is heard soon."""
        if self._channel is None:
            return False
        try:
            self._channel.send(message)
        except OSError:
            return False
        return True

    def let_go(self, now: float) -> None:
        """It is gone, or breaks the protocol."""
        assert self._channel is not None
        self._channel.close()
        self._channel = None
        self._pause(now)
        if self.pid is not None:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.reap()
