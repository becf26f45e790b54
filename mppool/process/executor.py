"""The executor: daemon threads that do the slow work (opening, closing, checking connections), one piece each.

A thread is started when work comes and none is free, and ends when there has been nothing for a while. A connect
must not wait for another one that hangs, so there is a thread for each piece of work; the agent limits the work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from mppool.database.contract import THREAD_PREFIX

logger = logging.getLogger("mppool.pool")

KEEP = 2.0  # seconds an idle thread stays


class Executor:
    """It takes no lock: a finaliser may run on any thread, here as well, and it may borrow."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: set[threading.Thread] = set()
        self._free: list[None] = []  # one entry for each thread that is to take the next piece

    def do(self, piece: Callable[[], None]) -> None:
        """Have a piece of work done soon. Called by threads of the pool's own, which nothing interrupts."""
        try:
            self._free.pop()
        except IndexError:
            self._hire(piece)
        else:
            self._work.put(piece)

    def _hire(self, piece: Callable[[], None]) -> None:
        thread = threading.Thread(
            target=self._run, args=(piece,), name=f"{THREAD_PREFIX}worker-{self._name}", daemon=True
        )
        self._threads.add(thread)
        try:
            thread.start()
        except Exception:  # the interpreter is exiting, or there can be no more threads
            self._threads.discard(thread)
            self._do(piece)

    def _run(self, first: Callable[[], None]) -> None:
        piece: Callable[[], None] | None = first
        del first
        while piece is not None:
            self._do(piece)
            piece = None  # it may hold the last reference to a connection
            self._free.append(None)
            piece = self._next()
        self._threads.discard(threading.current_thread())

    def _do(self, piece: Callable[[], None]) -> None:
        try:
            piece()
        except BaseException:
            logger.exception("pool %s: a piece of work raised an error that it should have handled", self._name)

    def _next(self) -> Callable[[], None] | None:
        """The next piece; None: there is none, and this thread ends."""
        while True:
            try:
                return self._work.get(timeout=KEEP)
            except Empty:
                try:
                    self._free.pop()
                except IndexError:
                    continue  # `do` has claimed this thread in the meantime
                return None

    def join(self, timeout: float) -> None:
        """No more work will come: let every thread finish what it has, and wait for them all so long in total."""
        threads = list(self._threads)
        for _ in threads:
            self._work.put(None)
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
