"""The agent's half of the judge: it has a short-lived process count connections at the database.

The agent itself has no driver of the database, and must not wait. The process connects as the budget's connections do,
counts by their tags, and ends. It is given the uri by a pipe.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

__all__ = ["Judge", "NotCounted"]

LIFE = 15.0  # seconds that a count may take: an interpreter starts, loads a driver, and connects
# Isolated as the agent is, with the packages that the manager's launcher had.
_BOOT = """
import json, sys
task = json.loads(sys.stdin.readline())
sys.path[:] = task["path"] or sys.path
from mppool.cluster.counting import main
main(task)
"""


class NotCounted(Exception):
    """The database could not be asked; the message never contains a password."""


class Judge:
    """Counts once at a time.

    Args:
        path: where packages are found.
        prefix: of the budget's tags.

    Attributes:
        uri: of the database, with the password.
    """

    def __init__(self, uri: str, path: list[str], prefix: str) -> None:
        self.uri = uri
        self._path, self._prefix = path, prefix
        self._pid: int | None = None
        self._output, self._heard = -1, b""
        self._give_up = 0.0

    @property
    def counts(self) -> bool:
        """Whether a count is under way."""
        return self._pid is not None

    def fileno(self) -> int:
        """Readable when the count has come, or will not come."""
        return self._output

    def begin(self, now: float) -> None:
        """Count from now on. Raises: OSError."""
        theirs, ours = os.pipe(), os.pipe()
        try:
            self._pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-c", _BOOT],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs[0], 0),
                    (os.POSIX_SPAWN_DUP2, ours[1], 1),
                ],
            )
        except OSError:
            for fd in (*theirs, *ours):
                os.close(fd)
            raise
        os.close(theirs[0])
        os.close(ours[1])
        task = {"uri": self.uri, "path": self._path, "prefix": self._prefix, "life": LIFE}
        try:
            os.write(theirs[1], json.dumps(task).encode() + b"\n")
        except OSError:
            pass  # it has ended already, which is read soon
        os.close(theirs[1])
        self._output, self._heard, self._give_up = ours[0], b"", now + LIFE + 1.0

    def left(self, now: float) -> float:
        """Seconds that the count may still take."""
        return max(0.0, self._give_up - now)

    def hear(self) -> dict[str, int] | None:
        """Read what came: by host, how many connections it has; None: not yet all.

        Raises: NotCounted.
        """
        piece = os.read(self._output, 65_536)
        self._heard += piece
        if piece:
            return None
        self.end()
        try:
            said: dict[str, Any] = json.loads(self._heard)
        except ValueError:
            raise NotCounted("the process that counts at the database ended without a word") from None
        if "error" in said:
            raise NotCounted(str(said["error"]))
        return {str(host): int(count) for host, count in said["counts"].items()}

    def end(self) -> None:
        """The count is over, whatever became of it."""
        pid, self._pid = self._pid, None
        if self._output >= 0:
            os.close(self._output)
            self._output = -1
        if pid is not None:
            try:
                os.kill(pid, signal.SIGKILL)  # it closed its connection before it said the count
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
