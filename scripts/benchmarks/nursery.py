"""Small processes on demand: forked from one that was small itself, before the measuring one grew."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


class Nursery:
    """Forks workers that run `life(line)`; `line` is the write end of a pipe that the measurer reads.

    Made before anything else is, so that its children inherit as little as possible; dead ones are reaped
    by the kernel.
    """

    def __init__(self, life: Callable[[int], None]) -> None:
        orders, self._orders = os.pipe()
        self._line, line = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(orders)
            os.close(line)
            return
        os.close(self._orders)
        os.close(self._line)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while os.read(orders, 1):
            if not os.fork():
                os.close(orders)
                try:
                    life(line)
                finally:
                    os._exit(1)
        os._exit(0)

    def bear(self) -> int:
        """A new worker; its pid, once it has said that it is ready by writing ``pid`` and a newline."""
        os.write(self._orders, b"+")
        told = os.read(self._line, 64)
        if not told:
            raise RuntimeError("the worker died before it was ready")
        return int(told)

    def close(self) -> None:
        os.close(self._orders)
        os.waitpid(self.pid, 0)
        os.close(self._line)
