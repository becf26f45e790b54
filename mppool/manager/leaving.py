"""When and how a manager leaves: it stays as long as a process needs it, and then removes the budget's folder."""

from __future__ import annotations

import fcntl
import os
import time

from mppool.shared import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mppool.manager.admission import Listener
    from mppool.manager.clients import Clients

__all__ = ["Leaving"]

FIRST_MEMBER = 10.0  # seconds a new manager waits for its launcher, and a leaving one for a client that just came
SOON = 0.05  # seconds until the next try to leave


class Leaving:
    """One manager's.

    Args:
        folder: of the budget.
        clients: whose needs count.
        listener: by which newcomers are seen.
        linger: seconds to stay after the last process that needed the manager.

    Attributes:
        at: when to `leave`; None: the manager is needed.
    """

    def __init__(self, folder: str, clients: Clients, listener: Listener, linger: float) -> None:
        self._folder, self._clients, self._listener, self._linger = folder, clients, listener, linger
        self.at: float | None = time.monotonic() + FIRST_MEMBER

    def consider(self, needed: bool, at_once: bool) -> None:
        """Whether the manager is needed may have changed.

        Args:
            needed: for members, or for what is left of some; an owner needs it in any case.
            at_once: without lingering.
        """
        needed = needed or any(client.owner for client in self._clients)
        self.at = None if needed else time.monotonic() + (0.0 if at_once else self._linger)

    def stay(self) -> None:
        """A process needs the manager."""
        self.at = None

    def leave(self) -> bool:
        """Remove the budget's folder, unless a process needs it. False: try again soon."""
        lock_path = os.path.join(os.path.dirname(self._folder), paths.LOCK)
        left = False
        try:
            lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return True  # the folder is gone already
        except OSError:
            pass  # no free descriptor
        else:
            try:
                left = self._remove_folder(lock)
            finally:
                os.close(lock)
        if not left:
            self.at = time.monotonic() + SOON
        return left

    def _remove_folder(self, lock: int) -> bool:
        """False: a client has just come, or a launch is under way, perhaps of this budget. ``lock``: the launchers'."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        just_in = time.monotonic() - FIRST_MEMBER
        coming = self._listener.is_awaited() or any(client.arrived > just_in for client in self._clients)
        if coming or not os.fstat(lock).st_nlink:
            return False
        paths.remove_folder(self._folder)
        self._listener.close()
        return True
