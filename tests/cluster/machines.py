"""Hosts of one budget on one machine: each is a runtime folder of its own, with a process that does as it is told, a
manager and an agent."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Pipe
from typing import Any

import psutil

from mppool import PoolManager, errors
from mppool.shared import ledger as L
from mppool.shared import paths, tenure
from tests.crash import crew
from tests.waiting import Child, until

__all__ = ["Machine", "machines"]

LEASE, SLACK = 3.0, 0.5  # seconds: shorter than usual, so that tests are
PATIENCE = 60.0  # seconds that what depends on leases may take on a busy machine


class HostActions(crew.Actions):
    """What the process of a host can do, besides what a puppet can."""

    def budget(self) -> Any:
        return self.manager.stats()

    def says(self, timeout: float) -> str:
        """What a caller is told that waits in vain."""
        try:
            with self.pool.connection(timeout):
                return ""
        except errors.PoolTimeoutError as error:
            return str(error)

    def resize(self, max_size: int) -> None:
        self.manager.resize(max_size)

    def end(self) -> None:
        """Leave the budget, and end it on this host."""
        self.release()
        self.manager.stop()


class Machine(crew.Puppet):
    """A host.

    Args:
        folder: its runtime folder; made here.
        make: makes the manager.
    """

    def __init__(self, folder: str, make: Callable[[], PoolManager]) -> None:
        self.folder = folder
        os.makedirs(folder, 0o700)
        self._pipe, theirs = Pipe()
        pid = os.fork()
        if not pid:
            code = 1
            try:
                self._pipe.close()
                os.environ[paths.RUNTIME_DIR] = folder
                manager = make()
                manager.start()
                crew._serve(manager, theirs, HostActions)
                code = 0
            finally:
                os._exit(code)
        theirs.close()
        Child.__init__(self, pid)

    @property
    def ledger(self) -> L.Ledger:
        """Of its one budget. The caller closes it."""

        def found() -> str | None:
            names = [name for name in os.listdir(self.folder) if not name.startswith(".")]
            path = os.path.join(self.folder, names[0], paths.LEDGER) if names else ""
            return path if names and os.path.exists(path) and os.path.getsize(path) >= L.SIZE else None

        fd = os.open(until(found, 20), os.O_RDWR)
        try:
            return L.Ledger(fd)
        finally:
            os.close(fd)

    def header(self, *names: str) -> tuple[Any, ...]:
        """What its ledger's header says."""
        ledger = self.ledger
        try:
            return tuple(getattr(ledger.header, name) for name in names)
        finally:
            ledger.close()

    @property
    def name(self) -> str:
        ledger = self.ledger
        try:
            return tenure.host(ledger.header)
        finally:
            ledger.close()

    @property
    def manager(self) -> int:
        return int(self.header("manager")[0])

    def agents(self) -> list[int]:
        try:
            children = psutil.Process(self.manager).children()
            return [each.pid for each in children if "mppool.cluster.agent" in " ".join(each.cmdline())]
        except psutil.NoSuchProcess:
            return []

    @property
    def agent(self) -> int:
        return until(self.agents, 20)[0]

    def agreed(self) -> Machine:
        """Wait until the engine gives it permits."""
        until(lambda: self.header("cluster") == (tenure.AGREED,), PATIENCE)
        return self

    def kill_all(self) -> None:
        """The whole host dies at once."""
        victims = [self.manager, *self.agents(), self.pid]
        for pid in victims:
            os.kill(pid, signal.SIGSTOP)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        self.join()
        shutil.rmtree(self.folder)

    def close(self) -> None:
        if self.status is None:
            try:
                self.ask("end")
            except (AssertionError, OSError, EOFError):
                pass  # it was killed, or was never started
        super().close()


@contextmanager
def machines(folder: str, count: int, make: Callable[[], PoolManager]) -> Iterator[list[Machine]]:
    """So many hosts, gone after the block."""
    made: list[Machine] = []
    try:
        for number in range(count):
            made.append(Machine(os.path.join(folder, f"h{number}"), make))
        yield made
    finally:
        for machine in made:
            machine.close()


def took(since: float) -> str:
    return f"{time.monotonic() - since:.2f} s"
