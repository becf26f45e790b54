"""Has things happen to the hosts, to their links and to the engine, at random, and undoes them after a while."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from scripts.namespaces.network import DATABASE, ENGINE, HostNamespace
from scripts.namespaces.servers import EngineServer
from scripts.namespaces.sheet import Event

PROCESSES = 3
#: How often each happens, beside the others; and for how many seconds at most.
WEIGHTS: dict[str, tuple[int, float]] = {
    "engine cut off": (6, 25.0),
    "database cut off": (5, 15.0),
    "cable pulled": (3, 20.0),
    "manager killed": (6, 0.0),
    "agent killed": (6, 0.0),
    "manager and agent killed": (3, 0.0),
    "process killed": (4, 0.0),
    "host killed": (4, 20.0),
    "engine killed": (3, 15.0),
}
_MARKS = {"manager": b"mppool.manager.server", "agent": b"mppool.cluster.agent"}


class HostUnderTest:
    """One host: its namespace, its runtime folder and its processes.

    Args:
        number: from 1.
        task: what its processes need, see `app`.
    """

    def __init__(self, number: int, namespace: HostNamespace, folder: str, task: dict[str, Any]) -> None:
        self.number, self.namespace = number, namespace
        self._runtime, self.task = os.path.join(folder, f"host-{number}"), os.path.join(folder, f"task-{number}.json")
        self._log = os.path.join(folder, f"log-{number}")
        os.mkdir(self._runtime, 0o700)
        with open(self.task, "w") as file:
            json.dump({**task, "host": number}, file)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.busy = False  # something lasts here
        self.up = False

    def run(self, what: str, **more: Any) -> subprocess.Popen[bytes]:
        """A process of this host, see `app`."""
        command = [sys.executable, "-m", "scripts.namespaces.app", what, self.task]
        environment = {**os.environ, "MPPOOL_RUNTIME_DIR": self._runtime}
        with open(self._log, "ab") as log:
            return subprocess.Popen(
                self.namespace.command(*command), env=environment, stdin=subprocess.PIPE, stderr=log, **more
            )

    def start(self) -> None:
        """All of its processes; also those that were killed."""
        self.processes = [each for each in self.processes if each.poll() is None]
        self.processes += [self.run("work") for _ in range(PROCESSES - len(self.processes))]
        self.up = True

    def kill(self) -> None:
        """The whole host, at once."""
        self.up = False
        self.namespace.kill()
        for process in self.processes:
            process.communicate()
        self.processes = []

    def kill_one(self, chance: random.Random) -> None:
        """One process, and start another."""
        process = chance.choice(self.processes)
        process.kill()
        process.communicate()
        self.start()

    def kill_helper(self, kind: str) -> bool:
        """The manager, or the agent; False: there is none just now."""
        killed = False
        for pid in self.namespace.pids():
            if _MARKS[kind] in _command(pid):
                try:
                    os.kill(pid, signal.SIGKILL)
                    killed = True
                except ProcessLookupError:
                    pass
        return killed

    def finish(self, patience: float) -> list[str]:
        """Have its processes end; those that did not, or not well."""
        for process in self.processes:
            assert process.stdin is not None
            try:
                process.stdin.write(b"over\n")
                process.stdin.close()
            except OSError:
                pass  # it has ended
        wrong, deadline = [], time.monotonic() + patience
        for process in self.processes:
            try:
                code = process.wait(max(0.1, deadline - time.monotonic()))
                if code:
                    wrong.append(f"host {self.number}: process {process.pid} ended with code {code}: {self._said()}")
            except subprocess.TimeoutExpired:
                wrong.append(f"host {self.number}: process {process.pid} did not end in {patience:g} s")
        return wrong

    def _said(self) -> str:
        with open(self._log, errors="replace") as file:
            return file.read()[-500:]


def _command(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


class Conductor:
    """One run.

    Args:
        engine: None: there is none, and nothing happens to it.
        every: seconds between events, on average.
        say: told of each event.
    """

    def __init__(
        self,
        hosts: list[HostUnderTest],
        engine: EngineServer | None,
        seed: int,
        every: float,
        say: Callable[[str], None],
    ) -> None:
        self._every = every
        self._hosts, self._engine, self._say = hosts, engine, say
        self._random, self._began = random.Random(seed), math.nan
        self._endings: list[tuple[float, int, Callable[[], None]]] = []
        self._engine_dead = False
        self.events: list[Event] = []
        absent = () if engine is not None else ("engine", "agent")
        self._kinds = {kind: often for kind, (often, _) in WEIGHTS.items() if not any(part in kind for part in absent)}

    def run(self, seconds: float) -> None:
        """Have things happen for so long; then everything is mended."""
        over = time.monotonic() + seconds
        next_at = time.monotonic() + self._every
        while (now := time.monotonic()) < over:
            self._end_due(now)
            if now >= next_at:
                self._happen()
                next_at = time.monotonic() + self._random.uniform(0.2, 1.8) * self._every
            time.sleep(0.02)
        self._end_due(math.inf)

    def _end_due(self, now: float) -> None:
        for ending in [each for each in self._endings if each[0] <= now]:
            self._endings.remove(ending)
            _, place, undo = ending
            undo()
            event = self.events[place]
            self.events[place] = event._replace(ended=time.monotonic())
            self._tell(f"{event.kind}: over after {time.monotonic() - event.began:.1f} s", event.host)

    def _tell(self, text: str, host: int | None) -> None:
        where = f"host {host}: " if host is not None else ""
        self._say(f"{time.monotonic() - self._began:6.1f} s  {where}{text}")

    def _happen(self) -> None:
        kind = self._random.choices([*self._kinds], [*self._kinds.values()])[0]
        if kind == "engine killed":
            if not self._engine_dead:
                self._kill_engine()
            return
        free = [host for host in self._hosts if not host.busy and host.up]
        if free:
            self._happen_to(self._random.choice(free), kind)

    def _note(self, kind: str, host: int | None, ended: float = math.inf) -> int:
        self.events.append(Event(kind, host, time.monotonic(), ended))
        self._began = self.events[0].began
        self._tell(kind, host)
        return len(self.events) - 1

    def _lasting(self, place: int, undo: Callable[[], None]) -> None:
        most = WEIGHTS[self.events[place].kind][1]
        self._endings.append((time.monotonic() + self._random.uniform(0.3, most), place, undo))

    def _kill_engine(self) -> None:
        assert self._engine is not None
        engine, place = self._engine, self._note("engine killed", None)
        engine.kill()
        self._engine_dead = True

        def start() -> None:
            engine.start()
            self._engine_dead = False

        self._lasting(place, start)

    def _happen_to(self, host: HostUnderTest, kind: str) -> None:
        if kind == "process killed":
            self._note(kind, host.number, time.monotonic())
            host.kill_one(self._random)
        elif kind.endswith("killed") and kind != "host killed":
            helpers = [helper for helper in _MARKS if helper in kind]
            place = self._note(kind, host.number, time.monotonic())
            if not [helper for helper in helpers if host.kill_helper(helper)]:
                self.events[place] = self.events[place]._replace(kind=f"{kind}: there was none")
        else:
            self._disturb(host, kind)

    def _disturb(self, host: HostUnderTest, kind: str) -> None:
        """Something that lasts."""
        place, net = self._note(kind, host.number), host.namespace
        host.busy = True
        begin, end = {
            "engine cut off": (lambda: net.cut(ENGINE), lambda: net.mend(ENGINE)),
            "database cut off": (lambda: net.cut(DATABASE), lambda: net.mend(DATABASE)),
            "cable pulled": (net.pull, net.plug),
            "host killed": (host.kill, host.start),
        }[kind]

        def undo() -> None:
            end()
            host.busy = False

        begin()
        self._lasting(place, undo)
