"""What the system tells of processes: command line, share of a processor, memory. Command lines are read once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

import psutil

__all__ = ["Facts", "Processes", "command_of"]


#: Secrets that people put into arguments: a uri's password, and values of options that say what they are.
_SECRET = re.compile(
    r"(?P<uri>://[^\s:/@]*:)[^\s@]*(?=@)|(?P<option>(?:password|passwd|pwd|secret|token)[= ]+)\S+", re.I
)


class Facts(NamedTuple):
    """One process. ``cpu`` is of one processor, 1.0 is all of it; ``memory`` is resident, in bytes."""

    command: str = ""
    cpu: float = 0.0
    memory: int = 0


def command_of(pid: int) -> str:
    """The command line of a process, with the path of its program cut off; empty: there is none, or it is not told."""
    try:
        return shortened(psutil.Process(pid).cmdline())
    except (psutil.Error, ValueError):
        return ""


def shortened(words: list[str]) -> str:
    """A command line as people know it: the program without its folder, a Python script instead of the interpreter
    that runs it, and ``***`` for passwords."""
    words = _SECRET.sub(_hidden, " ".join(words)).split()
    if not words:
        return ""
    program = os.path.basename(words[0])
    if program.startswith("python"):
        rest = words[1:]
        while rest and rest[0].startswith("-") and rest[0] not in ("-c", "-m"):
            rest.pop(0)
        if rest and rest[0] not in ("-c", "-m"):
            return " ".join([os.path.basename(rest[0]), *rest[1:]])
    return " ".join([program, *words[1:]])


def _hidden(found: re.Match[str]) -> str:
    return f"{found['uri'] or found['option']}***"


class _Known:
    __slots__ = ("at", "busy", "command", "process")

    def __init__(self, pid: int) -> None:
        self.process = psutil.Process(pid)
        self.command = shortened(self.process.cmdline()) or self.process.name()
        self.at, self.busy = 0.0, 0.0


class Processes:
    """The processes of a budget, looked at again and again."""

    unknown = Facts()

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}

    def look(self, pids: Iterable[int], now: float) -> dict[int, Facts]:
        """What is known of each process that is there; processor time is that since the last look."""
        known, found = {}, {}
        for pid in pids:
            try:
                one = self._known.get(pid) or _Known(pid)
                times, memory = one.process.cpu_times(), one.process.memory_info().rss
            except (psutil.Error, ValueError):
                continue
            busy = times.user + times.system
            cpu = (busy - one.busy) / (now - one.at) if one.at and now > one.at else 0.0
            one.at, one.busy = now, busy
            known[pid], found[pid] = one, Facts(one.command, max(0.0, cpu), memory)
        self._known = known
        return found
