"""The balance sheet: what this process holds before a test and still holds after it.

A sheet is a set of named things per kind (processes, threads, file descriptors, files, server connections).
What counts as left over is a pure comparison of two sheets (`left_over`); taking one is the only part that
looks at the world. Linux tells everything through /proc; elsewhere only children and threads are seen.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import psutil

__all__ = ["Sheet", "describe", "left_over", "stop_forkserver", "take"]

# Helpers of the standard library that live as long as the interpreter once used.
HELPERS = ("multiprocessing.resource_tracker", "multiprocess.resource_tracker")
SPARE = "memfd:mppool-core"  # the copy of the core that a process keeps for those who are forked from it
GUARD = "memfd:mppool-guard"  # by which it is known whether a runtime's descriptors were closed from outside
RUNTIME_THREAD = "tokio-runtime-w"


@dataclass(frozen=True)
class Sheet:
    """What is held at one moment; each entry maps what is compared to what a reader is told.

    Args:
        processes: (pid, start time) of descendants and of whatever runs in the test's name.
        threads: Python threads by identity.
        fds: (number, target) of open file descriptors.
        files: paths in the runtime folder.
        connections: server connections in the test's databases, by backend id.
        runtime_threads: native threads of the core's runtime; they come with file descriptors and stay.
    """

    processes: dict[Any, str] = field(default_factory=dict)
    threads: dict[Any, str] = field(default_factory=dict)
    fds: dict[Any, str] = field(default_factory=dict)
    files: dict[Any, str] = field(default_factory=dict)
    connections: dict[Any, str] = field(default_factory=dict)
    runtime_threads: int = 0


KINDS = ("processes", "threads", "fds", "files", "connections")


def left_over(before: Sheet, after: Sheet) -> dict[str, list[str]]:
    """What `after` has that `before` had not, by kind, empty kinds left out."""
    rest = {}
    for kind in KINDS:
        old = getattr(before, kind)
        new = [text for key, text in getattr(after, kind).items() if key not in old]
        if kind == "fds" and after.runtime_threads > before.runtime_threads:
            new = _without_runtime(new)
        if kind == "fds":
            spare = next((text for text in new if SPARE in text), None)
            new = [text for text in new if text is not spare]
        if new:
            rest[kind] = sorted(new)
    return rest


def _without_runtime(fds: list[str]) -> list[str]:
    """The core's runtime started during the test: its two epolls and one eventfd stay, and what guards them."""
    polls = [text for text in fds if text.endswith("[eventpoll]")]
    events = [text for text in fds if text.endswith("[eventfd]")]
    runtimes = min(len(polls) // 2, len(events))
    guards = [text for text in fds if GUARD in text]
    forgiven = {*polls[: 2 * runtimes], *events[:runtimes], *guards[:runtimes]}
    return [text for text in fds if text not in forgiven]


def describe(rest: dict[str, list[str]]) -> str:
    """A table of what is left, one line each."""
    width = max((len(kind) for kind in rest), default=0)
    return "\n".join(f"  {kind:<{width}}  {text}" for kind, texts in rest.items() for text in texts)


def take(folder: str, connections: dict[Any, str] | None = None, since: float = 0.0) -> Sheet:
    """Look at the world.

    Args:
        folder: the test's runtime folder, held open by this process: forks inherit it, others name it in
            their environment, so that a process is found although its parent is gone.
        connections: server connections, as the servers list them.
        since: what began before this moment of `now` is not looked at.
    """
    return Sheet(
        processes=_processes(folder, since),
        threads={
            thread: f"{thread.name} ({'daemon' if thread.daemon else 'not daemon'})"
            for thread in threading.enumerate()
            if not isinstance(thread, threading._DummyThread)
        },
        fds=_fds(),
        files={
            os.path.join(root, name): os.path.join(root, name) for root, _, names in os.walk(folder) for name in names
        },
        connections=connections or {},
        runtime_threads=_runtime_threads(),
    )


def _fds() -> dict[Any, str]:
    found = {}
    for number in _listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue  # the one that listed the folder
        found[number, target] = f"{number} -> {target}"
    return found


def _runtime_threads() -> int:
    return sum(_read(f"/proc/self/task/{task}/comm").startswith(RUNTIME_THREAD) for task in _listdir("/proc/self/task"))


def _processes(folder: str, since: float) -> dict[Any, str]:
    me = os.getpid()
    if not os.path.isdir("/proc/self"):
        return {
            (child.pid, child.create_time()): f"{child.pid} {child.name()}"
            for child in psutil.Process().children(recursive=True)
        }
    parents = {}
    for pid in map(int, filter(str.isdigit, _listdir("/proc"))):
        fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        if pid != me and len(fields) > 19 and int(fields[19]) >= since:
            parents[pid] = (int(fields[1]), fields[19], fields[0])
    found = {}
    for pid, (_, start, state) in parents.items():
        if not (_descends(pid, parents, me) or _names(pid, folder)):
            continue
        command = _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
        if any(helper in command for helper in HELPERS):
            continue
        found[pid, start] = f"{pid} {'(zombie) ' if state == 'Z' else ''}{command[:150]}"
    return found


def _descends(pid: int, parents: dict[int, tuple[int, str, str]], ancestor: int) -> bool:
    while pid in parents:
        pid = parents[pid][0]
        if pid == ancestor:
            return True
    return False


def _names(pid: int, folder: str) -> bool:
    """Whether the process was started, or forked, in this test's name."""
    if folder in _read(f"/proc/{pid}/environ"):
        return True
    for number in _listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{number}").startswith(folder):
                return True
        except OSError:
            continue
    return False


def now() -> float:
    """The moment in the clock that stamps processes: ticks since boot."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return math.floor(time.clock_gettime(clock) * os.sysconf("SC_CLK_TCK"))


def stop_forkserver() -> None:
    """End multiprocessing's fork server, which would stay for the next test; it has no public word for it."""
    for package in ("multiprocessing", "multiprocess"):
        module = sys.modules.get(f"{package}.forkserver")
        if module is not None and module._forkserver._forkserver_pid is not None:
            module._forkserver._stop()


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""
