"""A helper process beside the manager, and the channel to it: what the halves in the manager have in common."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mppool.shared.messages import Channel

__all__ = ["HelperProcess"]


class HelperProcess:
    """The helper, if there is one.

    Attributes:
        pid: of its process, until it is waited for.
    """

    __slots__ = ("_channel", "pid")

    def __init__(self) -> None:
        self._channel: Channel | None = None
        self.pid: int | None = None

    def fileno(self) -> int:
        assert self._channel is not None
        return self._channel.fileno()

    @property
    def dying(self) -> bool:
        """Whether the process of a helper that is gone is still to be waited for."""
        return self.pid is not None and self._channel is None

    def reap(self) -> None:
        """Wait for the process of a helper that is gone, if it has ended: it will in a moment."""
        if self.pid is not None and self.dying:
            try:
                ended = os.waitpid(self.pid, os.WNOHANG)[0]
            except ChildProcessError:
                ended = self.pid
            if ended:
                self.pid = None
