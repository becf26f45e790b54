"""Many simulated hosts in a few processes, each process with one event loop, and what they do seen in shared memory."""

from __future__ import annotations

import heapq
import math
import mmap
import multiprocessing
import random
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from scripts.benchmarks.engines import PrivateEngine
from scripts.benchmarks.simulated import SimulatedHost, clock

fork = multiprocessing.get_context("fork")


class Board:
    """What each host does, in memory that all processes see. Each cell has one writer: the host's process."""

    def __init__(self, hosts: int) -> None:
        self._memory = mmap.mmap(-1, 7 * 8 * hosts)
        parts = [memoryview(self._memory)[8 * hosts * part : 8 * hosts * (part + 1)] for part in range(7)]
        self.used, self.cap, self.learning, self.calls, self.exchanges, self.failures = (p.cast("q") for p in parts[:6])
        self.sent = parts[6].cast("d")

    def note(self, number: int, host: SimulatedHost) -> None:
        """What it has done in a step. What it uses is noted meanwhile: other hosts may have it before the step ends."""
        self.cap[number], self.learning[number] = host.cap, host.learning
        self.sent[number] = host.sent
        self.calls[number], self.exchanges[number], self.failures[number] = host.calls, host.exchanges, host.failures


def name_of(number: int) -> str:
    return f"host-{number:04}"


class Loop:
    """One process's hosts.

    Args:
        hosts: by number.
        line: where the parent's words come from, see `Fleet`.
    """

    def __init__(self, hosts: dict[int, SimulatedHost], board: Board, line: Any) -> None:
        self._hosts, self._board, self._line = hosts, board, line
        self._epoll, self._heard = select.epoll(), dict[int, int]()
        self._epoll.register(line.fileno(), select.EPOLLIN)
        self._wakes: list[tuple[float, int]] = []
        self._wake_of = dict.fromkeys(hosts, math.inf)
        self._changes: list[tuple[float, int]] = []
        self._often, self._most = 0.0, 0
        self._random = random.Random(min(hosts))

    def run(self) -> None:
        while True:
            due = min(heap[0][0] if heap else math.inf for heap in (self._wakes, self._changes))
            wait = max(0.0, due - clock()) if due < math.inf else -1
            for fd, _ in self._epoll.poll(wait):
                if fd == self._line.fileno():
                    if not self._told():
                        return
                elif (number := self._heard.get(fd)) is not None:
                    self._after(number, self._hosts[number].hear())
            self._do_due()

    def _do_due(self) -> None:
        now = clock()
        while self._changes and self._changes[0][0] <= now:
            self._change(heapq.heappop(self._changes)[1])
        while self._wakes and self._wakes[0][0] <= now:
            at, number = heapq.heappop(self._wakes)
            if at == self._wake_of[number]:
                self._after(number, self._hosts[number].step())

    def _after(self, number: int, wake: float) -> None:
        self._board.note(number, self._hosts[number])
        self._wake_of[number] = wake
        heapq.heappush(self._wakes, (wake, number))
        fd = self._hosts[number].fileno()
        if fd >= 0 and self._heard.get(fd) != number:
            self._heard[fd] = number
            try:
                self._epoll.register(fd, select.EPOLLIN)
            except FileExistsError:
                pass  # another host's of before, whose number this one has now

    def _told(self) -> bool:
        what, *more = self._line.recv()
        if what == "want":
            self._often = 0.0
            for number in self._hosts:
                self._want(number, more[0])
        elif what == "one":
            self._want(*more)
        elif what == "vary":
            self._often, self._most = more
            for host in self._hosts.values():
                host.waits.clear()
            self._changes = sorted((self._next_change(), number) for number in self._hosts)
        elif what == "waits":
            self._line.send([wait for host in self._hosts.values() for wait in host.waits])
        else:
            for host in self._hosts.values():
                host.leave()
            return False
        return True

    def _want(self, number: int, need: int) -> None:
        self._hosts[number].wants(need)
        self._after(number, self._hosts[number].step())

    def _change(self, number: int) -> None:
        if self._often:
            self._want(number, self._random.randint(0, self._most))
            heapq.heappush(self._changes, (self._next_change(), number))

    def _next_change(self) -> float:
        return clock() + self._random.uniform(0, 2) * self._often


class Fleet:
    """So many hosts of one budget; nobody joins before `want`.

    Args:
        engine: where the budget is.
        budget: its name; "": the engine's usual one.
        processes: that simulate them.
    """

    def __init__(self, engine: PrivateEngine, hosts: int, max_size: int, budget: str = "", processes: int = 4) -> None:
        self.board, self.hosts, self.max_size = Board(hosts), hosts, max_size
        self._processes, self._lines = [], []
        count = min(processes, hosts)
        for part in range(count):
            ours, theirs = fork.Pipe()
            numbers = range(part, hosts, count)
            process = fork.Process(target=self._live, args=(engine, budget, numbers, theirs), daemon=True)
            process.start()
            theirs.close()
            self._lines.append(ours)
            self._processes.append(process)
        for line in self._lines:
            line.recv()

    def _live(self, engine: PrivateEngine, budget: str, numbers: range, line: Any) -> None:
        def used(host: str) -> int:
            return self.board.used[int(host.rpartition("-")[2])]

        def simulated(number: int) -> SimulatedHost:
            note = partial(self.board.used.__setitem__, number)
            return SimulatedHost(name_of(number), self.max_size, engine.client(budget), used, note)

        hosts = {number: simulated(number) for number in numbers}
        line.send("ready")
        Loop(hosts, self.board, line).run()

    def _tell(self, *words: Any) -> None:
        for line in self._lines:
            line.send(words)

    def want(self, need: int) -> None:
        """Each wants so many connections from now on; those that have not joined do."""
        self._tell("want", need)

    def one(self, number: int, need: int) -> None:
        """One host wants so many."""
        self._lines[number % len(self._lines)].send(("one", number, need))

    def vary(self, often: float, most: int) -> None:
        """Each wants another number, 0 to ``most``, every ``often`` seconds on average."""
        self._tell("vary", often, most)

    def waits(self) -> list[float]:
        """Seconds that hosts waited for permits, since `vary`, shortest first."""
        self._tell("waits")
        return sorted(wait for line in self._lines for wait in line.recv())

    def end(self) -> None:
        self._tell("end")
        for process in self._processes:
            process.join()

    # -- what is seen ----------------------------------------------------------------------------------------

    def until(self, fact: Callable[[Board], bool], patience: float) -> float | None:
        """Seconds until something is so; None: it did not come to it. Looks every 2 ms."""
        began = clock()
        while not fact(self.board):
            if clock() > began + patience:
                return None
            time.sleep(0.002)
        return clock() - began

    def have(self, count: int, patience: float) -> float | None:
        """Seconds until each has so many connections at least."""
        return self.until(lambda board: min(board.used) >= count, patience)


@contextmanager
def fleet(engine: PrivateEngine, hosts: int, max_size: int, budget: str = "", processes: int = 4) -> Iterator[Fleet]:
    made = Fleet(engine, hosts, max_size, budget, processes)
    try:
        yield made
    finally:
        made.end()
