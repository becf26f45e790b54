"""Simulated time, and simulated processors.

Nothing here reads a clock or draws a random number: events of one instant run in the order in which they were planned,
so a run is the same whenever it is repeated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

MS = 0.001  # all times are in seconds
QUANTUM = 1 * MS  # processor time after which a job goes to the end of the queue
DONE = 1e-9  # seconds: what rounding leaves of a job

Do = Callable[..., object]


class Events:
    """What is to happen, in the order of time."""

    def __init__(self) -> None:
        self.now = 1000.0  # no time that anything compares with is zero or below
        self._heap: list[tuple[float, int, Do, tuple[Any, ...]]] = []
        self._planned = 0

    def at(self, time: float, do: Do, *args: Any) -> None:
        self._planned += 1
        heappush(self._heap, (max(time, self.now), self._planned, do, args))

    def after(self, seconds: float, do: Do, *args: Any) -> None:
        self.at(self.now + seconds, do, *args)

    def run(self, seconds: float) -> None:
        until, heap = self.now + seconds, self._heap
        while heap and heap[0][0] <= until:
            self.now, _, do, args = heappop(heap)
            do(*args)
        self.now = until


class Interpreter:
    """A process that computes on one processor at a time: its jobs run one after another, like threads of Python."""

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()  # the first of them runs, or waits for a processor


@dataclass(eq=False, slots=True)
class Job:
    interpreter: Interpreter | None
    seconds: float
    kind: str
    then: Do
    args: tuple[Any, ...]


class Processors:
    """Cores that serve jobs first come, first served, a quantum at a time.

    Attributes:
        cores: how many there are.
        used: processor seconds by kind of job.
    """

    def __init__(self, events: Events, cores: int) -> None:
        self._events = events
        self.cores = self._free = cores
        self._ready: deque[Job] = deque()
        self.used: dict[str, float] = {}

    def run(self, interpreter: Interpreter | None, seconds: float, kind: str, then: Do, *args: Any) -> None:
        """Compute for so long, and then do that.

        Args:
            interpreter: whose lock is held meanwhile; None: nobody's (a server, the driver's runtime).
        """
        job = Job(interpreter, seconds, kind, then, args)
        if interpreter is not None:
            interpreter.jobs.append(job)
            if len(interpreter.jobs) > 1:
                return
        if self._free:
            self._free -= 1
            self._serve(job)
        else:
            self._ready.append(job)

    def _serve(self, job: Job) -> None:
        seconds = min(job.seconds, QUANTUM)
        job.seconds -= seconds
        self.used[job.kind] = self.used.get(job.kind, 0.0) + seconds
        self._events.after(seconds, self._served, job)

    def _served(self, job: Job) -> None:
        if job.seconds > DONE:
            self._ready.append(job)
        else:
            job.then(*job.args)
            if job.interpreter is not None:
                jobs = job.interpreter.jobs
                jobs.popleft()
                if jobs:
                    self._ready.append(jobs[0])
        if self._ready:
            self._serve(self._ready.popleft())
        else:
            self._free += 1
