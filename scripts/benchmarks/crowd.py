"""Many members on one budget: what an event costs the manager, what it needs, and how long things take.

``attach``: seconds until all have attached, 200 at once. ``move``: processor time of the manager for one caller that
lines up in a member without a connection and gets a permit for which another member closes its idle one; that is three
events or so. ``successor``: seconds from SIGKILL of the manager until all members have come over to the next one and
declared what they hold. ``resident`` and ``descriptors``: the manager's, with all attached.

The members are seats without a pool, held by a few processes, so that the processors are there for the manager and not
for a thousand interpreters. Each has a row, a semaphore and a connection to the manager like any other.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import secrets
import selectors
import signal
import tempfile
import threading
import time
from typing import Any

import psutil

from mppool import PoolManager
from mppool.membership.member import Member
from mppool.settings import BudgetSettings
from mppool.shared import ledger as L
from scripts.benchmarks.contract import Benchmark, Sample, Setting

SHARE, BATCH, PROCESSES = 5, 200, 5  # members a permit; members that attach at once; processes that hold them
SECONDS = float(os.environ.get("BENCH_SECONDS", "5"))
ACTIVE = 16  # callers that come to members chosen at random, all the time
COST = 2_000_000  # ns that an open is said to take


class Seats:
    """Members of a budget in this process, each with a caller that may want something."""

    def __init__(self, uri: str, name: str, count: int, permits: int) -> None:
        self._settings = BudgetSettings(uri, permits, name)
        self._name, self._member = name, Member
        self._tokens: dict[Any, int] = {}
        self.seats: list[Any] = []
        self._sit([(secrets.randbits(60), 0, False) for _ in range(count)])

    def _sit(self, places: list[tuple[int, int, bool]]) -> None:
        """Take so many seats at once, each by a thread: (token, connections held, whether it comes over)."""

        def sit(token: int, held: int, returning: bool) -> None:
            seat = self._member(self._settings, self._name, 0, token, returning)
            seat.cells[seat.at + L.HELD] = held
            if seat.undeclared:
                seat.declare(held)
            self.seats.append(seat)
            self._tokens[seat] = token

        threads = [threading.Thread(target=sit, args=place) for place in places]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(self.seats) == len(places), f"{len(places) - len(self.seats)} could not attach"

    def come_over(self) -> None:
        """The manager is gone: go to its successor, which one of all launches."""
        before, self.seats = self.seats, []
        self._sit([(self._tokens.pop(seat), seat.cells[seat.at + L.HELD], True) for seat in before])
        for seat in before:
            seat.abandon()

    def want(self, seat: Any, callers: int) -> None:
        seat.cells[seat.at + L.WAITING] = callers
        seat.cells[seat.at + L.RIPE_AT] = seat.cells[seat.at + L.SINCE] = time.monotonic_ns() if callers else 0
        seat.channel.notify()

    def serve(self, seconds: float, active: int) -> int:
        """So many callers want a connection, each in a member chosen at random: if that has an idle one, it is lent;
        else a permit must come from another member, which closes its own. How many were opened for that."""
        end, moved = time.monotonic() + seconds, 0
        with selectors.DefaultSelector() as selector:
            for seat in self.seats:
                selector.register(seat.semaphore, selectors.EVENT_READ, seat)
                selector.register(seat.channel, selectors.EVENT_READ, seat)
            for _ in range(active):
                self.come()
            while time.monotonic() < end:
                for key, _ in selector.select(0.1):
                    if key.fileobj is key.data.channel:
                        key.data.heard()
                        self.obey(key.data)
                    elif self.open(key.data):
                        moved += 1
                        self.come()
        return moved

    def come(self) -> None:
        """A caller comes to a member. If that has a connection, it uses it in no time, and the next one comes."""
        for seat in random.choices(self.seats, k=100):
            if seat.cells[seat.at + L.HELD]:
                seat.cells[seat.at + L.IDLE_SINCE] = time.monotonic_ns()
            elif not seat.cells[seat.at + L.WAITING]:
                self.want(seat, 1)
                return

    def open(self, seat: Any) -> bool:
        """A permit has come: take it, and have an idle connection."""
        cells, at = seat.cells, seat.at
        if not cells[at + L.WAITING] or not seat.semaphore.take():
            return False
        cells[at + L.WAITING] = cells[at + L.SINCE] = cells[at + L.RIPE_AT] = 0
        cells[at + L.HELD], cells[at + L.COST], cells[at + L.IDLE_SINCE] = 1, COST, time.monotonic_ns()
        if cells[L.H_TELLING]:
            seat.channel.notify()
        return True

    def obey(self, seat: Any) -> None:
        """Close the idle connection if the manager says so."""
        cells, at = seat.cells, seat.at
        ripe = cells[at + L.IDLE_SINCE] + cells[L.H_COST] <= time.monotonic_ns()
        if cells[at + L.HELD] > cells[at + L.TARGET] and (ripe or cells[at + L.HELD] > cells[at + L.LIMIT]):
            cells[at + L.HELD] = cells[at + L.IDLE_SINCE] = 0
            seat.semaphore.give()
            if cells[L.H_SHORT]:
                seat.channel.notify()

    def leave(self) -> None:
        for seat in self.seats:
            seat.leave()


def _process(uri: str, name: str, count: int, permits: int, pipe: Any) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    pipe.recv()
    seats = Seats(uri, name, count, permits)
    pipe.send(None)
    while order := pipe.recv():
        if order[0] == "serve":
            pipe.send(seats.serve(*order[1:]))
        else:
            seats.come_over()
            pipe.send(None)
    seats.leave()


def measure(members: int, setting: Setting) -> Sample:
    os.environ["MPPOOL_RUNTIME_DIR"] = tempfile.mkdtemp(dir=setting.folder)
    uri, name = setting.sqlite_uri, "crowd"
    with PoolManager(uri, members // SHARE, name=name) as manager:
        context = multiprocessing.get_context("fork")
        each, lines = max(1, members // PROCESSES), []
        for _ in range(members // each):
            ours, theirs = context.Pipe()
            process = context.Process(target=_process, args=(uri, name, each, members // SHARE, theirs), daemon=True)
            process.start()
            lines.append((process, ours))
        began = time.monotonic()
        at_once = max(1, BATCH // each)
        for first in range(0, len(lines), at_once):
            for _, line in lines[first : first + at_once]:
                line.send(None)
            for _, line in lines[first : first + at_once]:
                line.recv()
        attached = time.monotonic() - began
        process = psutil.Process(manager.pid)
        memory, descriptors = process.memory_info().rss, process.num_fds()
        before = sum(process.cpu_times()[:2])
        for _, line in lines:
            line.send(("serve", SECONDS, max(1, min(ACTIVE, members // 2) // len(lines))))
        served = sum(line.recv() for _, line in lines)
        spent = sum(process.cpu_times()[:2]) - before
        os.kill(manager.pid, signal.SIGKILL)
        killed = time.monotonic()
        for _, line in lines:
            line.send(("come over",))
        for _, line in lines:
            line.recv()
        came = time.monotonic() - killed
        for _, line in lines:
            line.send(None)
        for child, _ in lines:
            child.join()
    return {
        "attach": attached,
        "move": spent / max(1, served) * 1e6,
        "moves": served / SECONDS,
        "successor": came,
        "resident": memory / 2**20,
        "descriptors": float(descriptors),
    }


BENCHMARK = Benchmark(
    "crowd",
    f"many members on one budget, {SHARE} a permit, {ACTIVE} callers at random members",
    {"attach": "s", "move": "µs", "moves": "/s", "successor": "s", "resident": "MiB", "descriptors": ""},
    {f"{count} members": lambda setting, count=count: measure(count, setting) for count in (10, 100, 1000)},
    rounds=1,
    timeout=120.0,
    more_is_better=frozenset({"moves"}),
)
