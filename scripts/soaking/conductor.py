"""The conductor: keeps workers at work, and has things happen to them, to their manager and to the database."""

from __future__ import annotations

import mmap
import os
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import NoReturn

import psutil

from mppool import PoolManager, errors
from scripts.soaking.databases import Server, Target
from scripts.soaking.faults import SIGNALS, Shortages, hold_back
from scripts.soaking.sheet import Usage
from scripts.soaking.worker import Worker

MEMBER_EVERY, MANAGER_EVERY, CUT_EVERY = 0.35, 4.0, 30.0  # seconds, on average
FAULT_EVERY = 0.02
STEER_EVERY = 2.0
LONGEST_PAUSE = 0.3  # seconds
SURVIVORS = 2
SUCCESSION = 10.0  # seconds within which a manager must have a successor


class Conductor:
    """One run.

    Args:
        folder: of the journals.
        faults: kinds of them.
        say: told of progress, a line now and then.
    """

    def __init__(
        self, target: Target, manager: PoolManager, workers: int, seed: int, folder: str, faults: frozenset[str]
    ) -> None:
        self.target, self.manager, self.folder, self.faults = target, manager, folder, faults
        self.random = random.Random(seed)
        self._shortages = Shortages(self.random)
        self.over = mmap.mmap(-1, 1)
        self.chaos: Counter[str] = Counter()
        self.usage: dict[str, Usage] = {f"survivor {number + 1}": Usage() for number in range(SURVIVORS)}
        self.usage["manager"] = Usage()
        self._manager_now = 0  # its pid, as of the last look
        self.greatest = target.max_size  # permits that there were at any time
        self._resume_at: float | None = None  # it is paused until then
        self._stopped: dict[int, float] = {}  # workers that are to be continued, and when
        self.survivors = [self._fork(forks=False) for _ in range(SURVIVORS)]
        self.victims = {self._fork(forks=number % 3 == 0) for number in range(max(1, workers - SURVIVORS))}

    def _fork(self, forks: bool) -> int:
        seed = self.random.getrandbits(32)
        hold_back(True)
        pid = os.fork()
        if not pid:
            self._work(seed, forks)
        hold_back(False)
        return pid

    def _work(self, seed: int, forks: bool) -> NoReturn:
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            worker = Worker(self.manager, self.target.provider, self.over, self.folder, seed, self.faults)
            hold_back(False)
            worker.run(forks)
            self.manager = None  # type: ignore[assignment]
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    # -- what happens ----------------------------------------------------------------------------------------

    def run(self, seconds: float, cuts: bool, say: Callable[[str], None]) -> None:
        began = now = time.monotonic()
        member_at, manager_at, cut_at, sample_at, say_at = now, now + MANAGER_EVERY, now + 5.0, now, now + 10.0
        fault_at, steer_at = now, now + STEER_EVERY
        server = Server(self.target.admin) if cuts else None
        try:
            while (now := time.monotonic()) < began + seconds:
                self._reap()
                if now >= member_at:
                    self._hit_a_member()
                    member_at = now + self.random.uniform(0.3, 1.7) * MEMBER_EVERY
                if now >= manager_at:
                    self._hit_the_manager()
                    manager_at = time.monotonic() + self.random.uniform(0.3, 1.5) * MANAGER_EVERY
                if server is not None and now >= cut_at:
                    self.target.cut(server)
                    self.chaos["cuts of all connections"] += 1
                    cut_at = time.monotonic() + self.random.uniform(0.5, 1.5) * CUT_EVERY
                if now >= steer_at:
                    self._steer()
                    steer_at = time.monotonic() + self.random.uniform(0.3, 1.7) * STEER_EVERY
                if self._resume_at is not None and now >= self._resume_at:
                    self._go_on()
                self._shortages.end_due()
                if now >= fault_at:
                    self._have_a_fault()
                    fault_at = now + self.random.uniform(0.3, 1.7) * FAULT_EVERY
                if now >= sample_at:
                    self._sample()
                    sample_at = now + 1.0
                if now >= say_at:
                    say(f"{now - began:5.0f} s: " + ", ".join(f"{n} {what}" for what, n in sorted(self.chaos.items())))
                    say_at = now + 10.0
                time.sleep(0.01)
        finally:
            if server is not None:
                server.close()

    def _reap(self) -> None:
        for pid, at in list(self._stopped.items()):
            if time.monotonic() >= at:
                os.kill(pid, signal.SIGCONT)
                del self._stopped[pid]
        for pid in list(self.victims):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self.victims.remove(pid)
                self._stopped.pop(pid, None)
                self.victims.add(self._fork(forks=self.random.random() < 0.3))

    def _hit_a_member(self) -> None:
        pid = self.random.choice(sorted(self.victims))
        what = self.random.choices(("killed", "terminated", "stopped"), (16, 2, 2))[0]
        if what == "stopped":
            os.kill(pid, signal.SIGSTOP)
            self._stopped[pid] = time.monotonic() + self.random.uniform(0.1, 1.0)
        else:
            os.kill(pid, signal.SIGKILL if what == "killed" else signal.SIGTERM)
            self._stopped.pop(pid, None)
            if what == "terminated":
                os.kill(pid, signal.SIGCONT)
        self.chaos[f"members {what}"] += 1

    def _have_a_fault(self) -> None:
        pid = self.random.choice((*self.survivors, *sorted(self.victims)))
        if "signals" in self.faults:
            number = self.random.choice(SIGNALS)
            os.kill(pid, number)
            self.chaos[f"{number.name} sent"] += 1
        if "descriptors" in self.faults:
            whose = "a member"
            if self.random.random() < 0.2:
                pid, whose = self._manager_now, "the manager"
            if self._shortages.begin(pid):
                self.chaos[f"moments without descriptors for {whose}"] += 1

    def _steer(self) -> None:
        """Another size (never more than the server allows), a pause, or all connections anew."""
        what = self.random.choice(("resizes", "resizes", "pauses", "drains"))
        size = self.random.randint(max(1, self.greatest // 4), self.greatest)
        self._shortages.end_all()  # this waits for the manager, and nobody else ends them meanwhile
        try:
            if what == "resizes":
                self.manager.resize(size)
            elif what == "pauses":
                self.manager.pause()
                self._resume_at = time.monotonic() + self.random.uniform(0.0, LONGEST_PAUSE)
            else:
                self.manager.drain()
        except errors.PoolError:
            what = f"{what} that found no manager"
        self.chaos[what] += 1

    def _go_on(self) -> None:
        self._shortages.end_all()
        try:
            self.manager.resume()
            self._resume_at = None
        except errors.PoolError:
            pass  # there is no manager just now: again in a moment

    def _hit_the_manager(self) -> None:
        pid = self._manager()
        if pid is None:
            return
        if self.random.random() < 0.3:
            self._hit_a_member()
        os.kill(pid, signal.SIGKILL)
        self.chaos["managers killed"] += 1
        if self.random.random() < 0.2 and (successor := self._manager(pid)) is not None:
            os.kill(successor, signal.SIGKILL)
            self.chaos["managers killed"] += 1
        self._manager_now = self._manager(pid) or 0

    def _manager(self, before: int = 0) -> int | None:
        """The manager's pid, once it is another than the one before."""
        deadline = time.monotonic() + SUCCESSION
        while time.monotonic() < deadline:
            try:
                pid = self.manager.pid
            except errors.PoolError:
                pid = before
            if pid != before and psutil.pid_exists(pid):
                return pid
            time.sleep(0.002)
        self.chaos["managers without a successor"] += 1
        return None

    def _sample(self) -> None:
        self._manager_now = self._manager() or 0
        if "descriptors" in self.faults:
            self._shortages.end(self._manager_now)
        pids = dict(zip(self.usage, (*self.survivors, self._manager_now), strict=True))
        for who, pid in pids.items():
            try:
                process = psutil.Process(pid)
                fds, memory = process.num_fds(), process.memory_info().rss / 2**20
            except psutil.Error:
                continue  # a manager that was just killed
            self.usage[who].descriptors.append(fds)
            self.usage[who].memory.append(memory)

    # -- the end ---------------------------------------------------------------------------------------------

    def finish(self, patience: float) -> list[str]:
        """Let everybody finish; who did not, and what the survivors' exit codes were if not 0."""
        self.over[0] = 1
        self._shortages.end_all()
        self.manager.resume()
        self.manager.resize(self.greatest)
        for pid in self._stopped:
            os.kill(pid, signal.SIGCONT)
        left, deadline = {*self.victims, *self.survivors}, time.monotonic() + patience
        wrong = []
        while left and time.monotonic() < deadline:
            for pid in list(left):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    left.remove(pid)
                    code = os.waitstatus_to_exitcode(status)
                    if code > 0 or (code and pid in self.survivors):
                        wrong.append(f"worker {pid} ended with code {code}")
            time.sleep(0.01)
        for pid in left:
            wrong.append(f"worker {pid} did not finish within {patience:g} s")
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.over.close()
        return wrong


def assigned(manager: PoolManager) -> int:
    """Permits that members have, by the ledger. It is written while it is read: two readings must agree."""
    before: dict[int, int] | None = None
    while True:
        now = {member.pid: member.credit for member in manager.stats().members}
        if now == before:
            return sum(now.values())
        before = now


def count_until_over(target: Target, manager: PoolManager, over: mmap.mmap, seen: mmap.mmap) -> None:
    """Sample the server's count and the ledger's in a process of its own; peaks and samples go to shared memory."""
    cells = memoryview(seen).cast("q")
    server = Server(target.admin) if target.admin else None
    with closing(server) if server is not None else closing(mmap.mmap(-1, 1)):
        while not over[0]:
            if server is not None:
                cells[0] = max(cells[0], target.count(server))
            try:
                cells[1] = max(cells[1], assigned(manager))
            except errors.PoolError:
                pass  # between two managers
            cells[2] += 1
            time.sleep(0.005)
