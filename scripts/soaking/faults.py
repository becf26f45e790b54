"""Faults in the midst of a worker's own work: hooks that raise, signals whose handlers raise or borrow, and moments in
which a member or the manager has no descriptor to spare.

Each is counted: by a line in the worker's journal (``f`` and what it was), or among what the conductor did.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from typing import Any, TypeVar

KINDS = ("descriptors", "hooks", "signals")
HOOKS = ("configure", "check", "reset")
HOOK_RAISES = 0.03  # of its calls
RAISED = (ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError)
SIGNALS = (signal.SIGINT, signal.SIGUSR1)  # that the conductor sends
TIMED = 0.1  # of a job's ways in and ways out, for which a timer is set
FEWEST = 4  # descriptors that a process may have at least: poll() refuses to look at more than it may have
LONGEST_SHORTAGE = 0.05  # seconds for which descriptors are withheld


_USUAL = resource.getrlimit(resource.RLIMIT_NOFILE)

Made = TypeVar("Made")


class Struck(Exception):
    """Raised by a signal's handler, as a program's own time limit would be."""


STRIKES = (Struck, KeyboardInterrupt)


def hooks(note: Callable[[str], None], dice: random.Random) -> dict[str, Callable[[Any], None]]:
    """Settings of a pool: hooks that raise now and then, also what is no `Exception`.

    Args:
        note: told of each.
    """

    def make(name: str) -> Callable[[Any], None]:
        def hook(connection: Any) -> None:
            if dice.random() < HOOK_RAISES:
                error = dice.choice(RAISED)
                note(f"{name} hooks raised {error.__name__}")
                raise error(f"the soak's {name} hook")

        return hook

    return {name: make(name) for name in HOOKS}


class Handlers:
    """What a worker's main thread does on a signal. SIGINT: raise KeyboardInterrupt in the midst of a job. SIGUSR1: do
    another job in the midst of whatever it is at. SIGALRM, which a timer of its own sends: either, or raise `Struck`.

    Args:
        note: told of each.
        job: does another job.
        dice: decides when the timer goes off.

    Attributes:
        exposed: a handler may raise just now; it does so once.
        struck: it has, since this was last set to False.
    """

    def __init__(self, note: Callable[[str], None], job: Callable[[], None], dice: random.Random) -> None:
        self.exposed = self.struck = self._busy = False
        self._note, self._job, self._random = note, job, dice

    def install(self) -> None:
        """In the main thread."""
        signal.signal(signal.SIGINT, lambda number, frame: self._strike(KeyboardInterrupt()))
        signal.signal(signal.SIGUSR1, lambda number, frame: self._interrupt())
        signal.signal(signal.SIGALRM, lambda number, frame: self._time_is_up())

    def set_timer(self) -> None:
        """Perhaps: to go off within a step or two, or within many."""
        if self._random.random() < TIMED:
            signal.setitimer(signal.ITIMER_REAL, 10.0 ** self._random.uniform(-6.0, -3.0))

    def _time_is_up(self) -> None:
        if self._random.random() < 0.5:
            self._interrupt()
        else:
            self._strike(self._random.choice((KeyboardInterrupt, Struck))())

    def _strike(self, error: BaseException) -> None:
        if self.exposed and not self._busy:
            self.exposed, self.struck = False, True
            self._note(f"jobs struck by {type(error).__name__}")
            raise error

    def _interrupt(self) -> None:
        if not self._busy:
            self._busy = True
            try:
                self._note("jobs begun by a signal's handler")
                self._job()
            finally:
                self._busy = False


def hold_back(what: bool) -> None:
    """Have signals wait (or come): nobody is to be struck before its handlers stand."""
    signal.pthread_sigmask(signal.SIG_BLOCK if what else signal.SIG_UNBLOCK, SIGNALS)


def wants_descriptors(error: BaseException | None) -> bool:
    """Whether this came of a descriptor that was not to be had."""
    while error is not None:
        if "Too many open files" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def patiently(make: Callable[[], Made]) -> Made:
    """What is made, once there are descriptors for it: for the worker's own."""
    while True:
        try:
            return make()
        except OSError as error:
            if not wants_descriptors(error):
                raise
        time.sleep(0.001)


def own_limit() -> None:
    """In a forked child: it may have inherited a lowered one."""
    resource.setrlimit(resource.RLIMIT_NOFILE, _USUAL)


class Shortages:
    """Moments in which a process can have no descriptor but those that it has: its limit is the lowest free number."""

    def __init__(self, dice: random.Random) -> None:
        self._random = dice
        self._until: dict[int, float] = {}

    def begin(self, pid: int) -> bool:
        """Now, for a while. False: there is no such process, or it has next to nothing open."""
        try:
            taken = {int(number) for number in os.listdir(f"/proc/{pid}/fd")}
        except OSError:
            return False
        lowest = min(set(range(len(taken) + 1)) - taken)
        if lowest < FEWEST:
            return False
        self._until[pid] = time.monotonic() + self._random.uniform(0.001, LONGEST_SHORTAGE)
        return self._limit(pid, lowest)

    def end_due(self) -> None:
        """End those that have lasted for long enough."""
        now = time.monotonic()
        for pid in [pid for pid, until in self._until.items() if until <= now]:
            self.end(pid)

    def end_all(self) -> None:
        for pid in list(self._until):
            self.end(pid)

    def end(self, pid: int) -> None:
        """Also for a process that has inherited one."""
        self._until.pop(pid, None)
        self._limit(pid, _USUAL[0])

    def _limit(self, pid: int, count: int) -> bool:
        try:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, _USUAL[1]))  # type: ignore[attr-defined, unused-ignore]
        except ProcessLookupError:
            return False
        return True
