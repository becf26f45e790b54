"""Hands: daemon threads that do the slow work (opening, closing, looking after connections) one piece each.

A thread is started when work comes and none is free, and ends when there has been nothing for a while. Connecting
must not wait for a connect that hangs, so their number follows the work; the agent bounds the work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from mppool.database.parking import OURS

logger = logging.getLogger("mppool.pool")

KEEP = 2.0  # seconds an idle thread stays


class Hands:
    def __init__(self, name: str) -> None:
        self._name = name
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._free = 0

    def do(self, piece: Callable[[], None]) -> None:
        """Have a piece of work done soon; it must not raise."""
        with self._lock:
            if self._free > 0:
                self._free -= 1
                self._work.put(piece)
                return
            thread = threading.Thread(target=self._run, args=(piece,), name=f"{OURS}hand-{self._name}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is exiting, or there can be no more threads
                started = False
            else:
                started = True
                self._threads.add(thread)
        if not started:
            piece()

    def _run(self, first: Callable[[], None]) -> None:
        piece: Callable[[], None] | None = first
        del first
        while piece is not None:
            try:
                piece()
            except Exception:
                logger.exception("pool %s: work failed that never should", self._name)
            piece = None  # it may hold the last reference to a connection
            with self._lock:
                self._free += 1
            piece = self._next()
        with self._lock:
            self._threads.discard(threading.current_thread())

    def _next(self) -> Callable[[], None] | None:
        """The next piece; None: there is none, and this thread ends."""
        while True:
            try:
                return self._work.get(timeout=KEEP)
            except Empty:
                with self._lock:
                    if self._free > 0:  # nobody has claimed this thread in the meantime
                        self._free -= 1
                        return None

    def join(self, timeout: float) -> None:
        """No more work will come: let every thread finish what it has, and wait for them all so long in total."""
        with self._lock:
            threads = list(self._threads)
        for _ in threads:
            self._work.put(None)
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
