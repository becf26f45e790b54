"""The simulated world: processes that serve requests, the clients that send them, and what is measured.

A request computes in its process, borrows a connection, waits for the database (which has room for all permits and
computes on processors of its own), computes with the answer, gives the connection back, and computes again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from scripts.simulation.engine import MS, Events, Interpreter, Processors
from scripts.simulation.pools import Pool

Draw = Callable[[Random], float]  # seconds
Choose = Callable[[Random], int]  # a process

START = 3 * MS  # within which closed clients send their first request
KEPT = 100  # requests that a client sends over one TCP connection to a server
BATCH = 0.2 * MS  # seconds between two TCP connections that an event loop still accepts in one go


@dataclass(frozen=True)
class Program:
    """What runs in each process. Seconds of processor time a request.

    Attributes:
        before: until it borrows.
        within: from the database's answer until the connection is given back.
        after: until the client has its answer.
        client: of the load generator, which is one process.
        threads: requests that a process works on at a time; None: any number.
        favour: share of new TCP connections that go to the first sleeping process (the kernel wakes them in a fixed
            order) and not to any of them.
        batches: whether a process accepts all TCP connections that come in one go.
    """

    before: float
    within: float
    after: float
    client: float = 0.0
    threads: int | None = None
    favour: float = 0.0
    batches: bool = False


@dataclass(frozen=True)
class Figures:
    """What was measured. Times in ms, processor times as a share of one core."""

    per_second: float
    p99: float
    worst_wait: float
    moves: float
    moves_cores: float
    manager_cores: float


@dataclass(eq=False, slots=True)
class Request:
    process: int
    hold: float
    began: float
    done: Callable[[], object] | None
    asked: float = 0.0  # when it asked for a connection


class World:
    """Processes and clients; set its ``pool``, add clients, and `run` it.

    Args:
        seed: of everything that is random. Each source of requests draws from a stream of its own, so that every pool
            meets the same arrivals.
    """

    pool: Pool

    def __init__(self, seed: int, processes: int, program: Program, cores: int = 2) -> None:
        self.events = Events()
        self.processors = Processors(self.events, cores)
        self.interpreters = [Interpreter() for _ in range(processes)]
        self.processes = processes
        self._seed, self._program = seed, program
        self._working = [0] * processes
        self._backlogs: list[deque[Request]] = [deque() for _ in range(processes)]
        self._load_generator = Interpreter()
        self._dealer, self._accepting, self._accepts_until = self.stream("dealer"), 0, 0.0
        self._sources = 0
        self._waiting: dict[Request, None] = {}
        self._latencies: list[float] = []
        self._worst = 0.0
        self._measuring = False

    def stream(self, name: str) -> Random:
        return Random(f"{self._seed} {name}")

    def _source(self) -> Random:
        self._sources += 1
        return self.stream(f"source {self._sources}")

    # -- clients ---------------------------------------------------------------------------------------------

    def closed(self, count: int, hold: Draw, think: Draw | None = None, process: Choose | None = None) -> None:
        """Clients that send their next request after the last answer.

        Args:
            think: seconds from an answer to the next request; None: none but the load generator's own.
            process: where a client always asks, chosen once; None: dealt anew every 100 requests, as TCP connections
                are.
        """
        for _ in range(count):
            source = self._source()
            where = (lambda _: self._deal()) if process is None else partial(lambda chosen, _: chosen, process(source))
            self._client(source, hold, think, where)

    def _client(self, source: Random, hold: Draw, think: Draw | None, process: Choose) -> None:
        asked = where = 0

        def ask(began: float) -> None:
            nonlocal asked, where
            if asked % KEPT == 0:
                where = process(source)
            asked += 1
            self.request(where, hold(source), done, began)

        def done() -> None:
            if think is None:
                now = self.events.now  # the request begins, but the load generator may take a while to send it
                self.processors.run(self._load_generator, self._program.client, "load", ask, now)
            else:
                pause = think(source)
                self.events.after(pause, ask, self.events.now + pause)

        first = source.uniform(0, START)
        self.events.after(first, ask, self.events.now + first)

    def poisson(self, rate: float, hold: Draw, process: Choose) -> None:
        """So many requests a second, however long answers take."""
        source = self._source()

        def arrive() -> None:
            self.request(process(source), hold(source), None, self.events.now)
            self.events.after(source.expovariate(rate), arrive)

        self.events.after(source.expovariate(rate), arrive)

    def on_off(self, rate: float, hold: Draw, process: Choose, on: float, off: float) -> None:
        """Poisson arrivals at one process; then a pause; then at the next process that is chosen. on, off: seconds on
        average. It begins in the midst of it."""
        source = self._source()

        def begin() -> None:
            arrive(process(source), self.events.now + source.expovariate(1 / on))

        def pause() -> None:
            self.events.after(source.expovariate(1 / off) if off else 0.0, begin)

        def arrive(where: int, until: float) -> None:
            if self.events.now >= until:
                pause()
                return
            self.request(where, hold(source), None, self.events.now)
            self.events.after(source.expovariate(rate), arrive, where, until)

        self.events.after(0.0, begin if source.random() * (on + off) < on else pause)

    def _deal(self) -> int:
        """The process that accepts a new TCP connection."""
        if not self._program.batches or self.events.now >= self._accepts_until:
            self._accepting = self._whoever_accepts()
        self._accepts_until = self.events.now + BATCH
        return self._accepting

    def _whoever_accepts(self) -> int:
        dealer, asleep = self._dealer, [number for number, each in enumerate(self.interpreters) if not each.jobs]
        if not asleep:
            idleness = [(1 + len(each.jobs)) ** -2.0 for each in self.interpreters]
            return dealer.choices(range(self.processes), idleness)[0]
        return asleep[-1] if dealer.random() < self._program.favour else dealer.choice(asleep)

    # -- requests --------------------------------------------------------------------------------------------

    def request(self, process: int, hold: float, done: Callable[[], object] | None, began: float) -> None:
        """A request comes to a process and will keep the database busy for ``hold`` seconds."""
        request = Request(process, hold, began, done)
        if self._program.threads is not None and self._working[process] >= self._program.threads:
            self._backlogs[process].append(request)
        else:
            self._begin(request)

    def _compute(self, process: int, seconds: float, then: Callable[..., object], *args: Any) -> None:
        self.processors.run(self.interpreters[process], seconds, "program", then, *args)

    def _begin(self, request: Request) -> None:
        self._working[request.process] += 1
        self._compute(request.process, self._program.before, self._borrow, request)

    def _borrow(self, request: Request) -> None:
        request.asked = self.events.now
        self._waiting[request] = None
        self.pool.borrow(request.process, lambda connection: self._lent(request, connection))

    def _lent(self, request: Request, connection: Any) -> None:
        del self._waiting[request]
        if self._measuring:
            self._worst = max(self._worst, self.events.now - request.asked)
        self.events.after(request.hold, self._answer, request, connection)

    def _answer(self, request: Request, connection: Any) -> None:
        def read() -> None:
            self._compute(request.process, self._program.within, self._give_back, request, connection)

        self.pool.answered(request.process, connection, read)

    def _give_back(self, request: Request, connection: Any) -> None:
        self.pool.give_back(request.process, connection)
        self._compute(request.process, self._program.after, self._respond, request)

    def _respond(self, request: Request) -> None:
        process = request.process
        self._working[process] -= 1
        if self._backlogs[process]:
            self._begin(self._backlogs[process].popleft())
        if self._measuring:
            self._latencies.append(self.events.now - request.began)
        if request.done is not None:
            request.done()

    # -- measuring -------------------------------------------------------------------------------------------

    def run(self, settle: float, seconds: float) -> Figures:
        """Let it come to steady load for ``settle`` seconds, and measure for ``seconds``."""
        self.events.run(settle)
        moves, used = self.pool.moves, dict(self.processors.used)
        self._measuring = True
        self.events.run(seconds)
        unserved = max((self.events.now - request.asked for request in self._waiting), default=0.0)
        latencies = sorted(self._latencies)

        def cores(*kinds: str) -> float:
            return sum(self.processors.used.get(kind, 0.0) - used.get(kind, 0.0) for kind in kinds) / seconds

        return Figures(
            per_second=len(latencies) / seconds,
            p99=latencies[int(len(latencies) * 0.99)] / MS if latencies else float("inf"),
            worst_wait=max(self._worst, unserved) / MS,
            moves=(self.pool.moves - moves) / seconds,
            moves_cores=cores("open", "close"),
            manager_cores=cores("manager"),
        )
