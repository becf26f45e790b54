"""The manager's half of the reaper, which ends what a server still does for processes that are gone.

That takes a connection, and the manager never speaks to a database: the reaper does, a process of its own, one at a
time, which ends within seconds. The reaper is a member like any other, so that its connection counts. Once it has its
own connection it is told the endpoints of those that it is to end. Their permits come with the server's end of file, or
with the server's word to the reaper that it has them no more. Whatever becomes of the reaper, the manager goes on, and
launches another after a pause that grows.
"""

from __future__ import annotations

import os
import socket
import sys

from mppool.shared import messages
from mppool.shared.helper_process import HelperProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mppool.shared.endpoints import Endpoint

__all__ = ["Reaper"]

PAUSE = (1.0, 30.0)  # seconds before the next reaper, if connections are left; after the first one, and at most
REAP = 0.01  # seconds until the next look at a reaper that has closed its channel
_SERVERS = ("postgresql:", "mysql:")  # that can be asked to end a connection
# Isolated as its manager is, but with the packages that the manager's launcher had. The uri comes by the socket.
_BOOT = """
import json, sys
task = json.loads(sys.stdin.readline())
sys.path[:] = task["path"] or sys.path
from mppool.reaper.terminating import main
main(task)
"""


class Reaper(HelperProcess):
    """The reaper, if there is one. When it is readable, `hear` it.

    Args:
        config: the manager's.
        endpoints: addresses and ports on this host of the connections that a reaper is to end.
        gone: called with those of which the server says that it has them no more.
    """

    __slots__ = ("_config", "_endpoints", "_failed", "_gone", "again_at", "useless")

    def __init__(
        self,
        config: dict[str, Any],
        endpoints: Callable[[], list[Endpoint]],
        gone: Callable[[set[Endpoint]], None],
    ) -> None:
        super().__init__()
        self._config = config
        self._endpoints = endpoints
        self._gone = gone
        self._failed = 0  # reapers in a row after which there was still something to end
        self.again_at = 0.0  # no reaper before this time
        self.useless = not config["database"].startswith(_SERVERS)

    def launch(self, now: float) -> bool:
        """Start a reaper. False: it cannot be done just now."""
        self._failed += 1
        try:
            ours, theirs = socket.socketpair()
        except OSError:
            self._pause(now)
            return False
        try:
            with theirs:
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, messages.LONGEST)
                self.pid = os.posix_spawn(
                    sys.executable,
                    [sys.executable, "-I", "-c", _BOOT],
                    os.environ,
                    file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)],
                )
            self._channel = messages.Channel(ours)
            task = {key: self._config[key] for key in ("uri", "name", "cluster")}
            self._channel.send({**task, "path": self._config["path"]})
        except OSError as error:
            os.write(2, f"cannot start a reaper: {error.strerror}\n".encode())
            ours.close()
            self._channel = None
            self._pause(now)
            return False
        return True

    def _pause(self, now: float) -> None:
        self.again_at = now + min(PAUSE[1], PAUSE[0] * 2 ** (self._failed - 1))

    def hear(self) -> bool:
        """Read what the reaper sends. False: it sends no more; stop listening, then `let_go`."""
        assert self._channel is not None
        try:
            heard = self._channel.receive()
            if heard is None:
                return False
            for message in heard[0]:
                if "useless" in message:
                    self.useless = True
                elif "gone" in message:
                    self._gone({(str(address), int(port)) for address, port in message["gone"]})
                else:
                    self._channel.send({"endpoints": self._endpoints()})
        except (OSError, ValueError):
            return False
        return True

    def let_go(self, now: float) -> None:
        """The reaper is done."""
        assert self._channel is not None
        self._channel.close()
        self._channel = None
        self._pause(now)
        self.reap()

    def succeeded(self) -> None:
        """There is nothing left to be ended: the next reaper need not wait."""
        self._failed, self.again_at = 0, 0.0
