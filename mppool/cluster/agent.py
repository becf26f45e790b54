"""The agent: a process beside the manager that alone talks to the engine. It drives this host's `Host` machine.

The manager keeps the books of this host. The agent tells it how many permits they may hold (`cap`), what they should
come down to (`target`) and until when connections may be opened. The manager tells the agent what they hold. No
request is sent to the engine before the manager has said that it goes by the newest of these: so what a request says is
kept is true, and what it gives back cannot be granted any more.

If the manager ends, so does the agent. If the agent ends, the manager launches another one, which goes on as the same
host. `mppool.cluster.launching` is the manager's half, and says what the messages are.
"""

from __future__ import annotations

import os
import random
import select
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from mppool.cluster.contract import FREE, EngineError, EngineRefused, Report, Request, Ring, State
from mppool.cluster.engines import engine_of
from mppool.cluster.host import Host, Read
from mppool.cluster.judge import Judge
from mppool.cluster.judging import Judging
from mppool.shared import hosts_file, tenure
from mppool.shared.messages import Channel
from mppool.shared.tags import prefix

if TYPE_CHECKING:
    from collections.abc import Callable

    from mppool.cluster.contract import Engine, Listener

__all__ = ["Agent", "main"]

PATIENCE = 1.0  # seconds between looks while the manager does not answer
SHOW_AGAIN = 0.1  # seconds between two writes of what is shown
HOSTS = 3  # the descriptor of the file for `PoolManager.stats`
_NS = 1e9


class Agent:
    """One host's agent.

    Args:
        task: what `launching` sends first.
        manager: the way to the manager.
        engine: the budget's.
        judge: counts at the database.
        publish: told what `PoolManager.stats` shows of all hosts, whenever it has changed.
        shown: what this host's last agent told last; empty: there was none. The end of learning is not put off by it.
    """

    def __init__(
        self,
        task: dict[str, Any],
        manager: Channel,
        engine: Engine,
        judge: Judge,
        publish: Callable[[dict[str, Any]], None],
        shown: dict[str, Any],
    ) -> None:
        self._manager, self._engine, self._publish = manager, engine, publish
        self._kept = int(task["kept"])
        now = _now()
        self.host = Host(
            task["host"], task["max_size"] - self._kept, random.random,
            lease=task["lease"], slack=task["slack"], seq=int(now * 1e6), used=task["used"],
        )  # fmt: skip
        if task["resize"]:
            self.host.resize(task["max_size"] - self._kept)
        if shown.get("host") == task["host"] and shown.get("learning"):
            epoch, since = shown["learning"]
            if since <= now:
                self.host.ghosts.go_on(epoch, since)
        self._judging = Judging(self.host, engine, judge, self._failed)
        self._lease, self._where = float(task["lease"]), str(task["engine"])
        self._held: Request | None = None  # until the manager goes by what was told last
        self._said: dict[str, Any] = {}
        self._told = self._followed = 0  # by number: what the manager was told last, and what it goes by
        self._listener: Listener | None = None
        self._listened = ""  # in this epoch
        self._linked = False  # the last call was answered
        self._trouble = ""
        self._is_refused = self._was_leased = False
        self._state: State | None = None  # as read last
        self._show_at, self._unshown = 0.0, False

    def run(self) -> None:
        """Serve until the manager is gone, or says that this host leaves."""
        self._tell()
        while True:
            self._work()
            self._tell()
            for ready in self._sleep():
                if ready is self._manager:
                    if not self._hear_manager():
                        return
                elif ready is self._judging.judge:
                    self._judging.hear(_now())
            self._hear_rings()
            self._judging.look(_now())
            if self._unshown:
                self._show()

    def _sleep(self) -> list[Any]:
        now, sources = _now(), list[Any]([self._manager])
        times = [self.host.wake_at(now) if self._held is None else now + PATIENCE]
        if not self._said:
            times.append(now + PATIENCE)
        if self._judging.judge.counts:
            sources.append(self._judging.judge)
        times += self._judging.due(now)
        if self._unshown:
            times.append(self._show_at)
        if self._linked and self._listener is not None:
            try:
                self._listener.fileno()
                sources.append(self._listener)
            except EngineError:
                self._stop_listening()  # until the next exchange
        pause = min(times) - now
        ready, _, _ = select.select(sources, [], [], None if pause == float("inf") else max(0.0, pause))
        return ready

    # -- the manager -----------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Tell the manager what it does not know yet."""
        say = self._share()
        if say != self._said or (self._held is not None and self._told == self._followed):
            self._told, self._said = self._told + 1, say
            try:
                self._manager.send({"n": self._told, **say})
            except OSError:  # it does not read just now; or it is gone, and perhaps said before that this host leaves
                self._said = {}
            self._show()

    def _share(self) -> dict[str, Any]:
        now, host = _now(), self.host
        learned_at = host.ghosts.learns_until(self._lease) if self._is_learning(now) else None
        return {
            "cap": host.holding.cap,
            "target": host.target(now),
            "until": int(host.holding.until * _NS),
            "state": self._standing(now),
            "learned_at": int((learned_at or 0.0) * _NS),
            "max_size": host.max_size + self._kept,
            "theirs": (host.mismatch or 0) + self._kept if host.mismatch is not None else 0,
            "resizing": host.resizing,
        }

    def _is_learning(self, now: float) -> bool:
        return self.host.holding.learning and self.host.holding.leased(now)

    def _standing(self, now: float) -> int:
        """How this host stands with the engine."""
        holding = self.host.holding
        if self.host.mismatch is not None:
            return tenure.MISMATCH
        if holding.leased(now):
            return tenure.LEARNING if holding.learning else tenure.AGREED
        if self._is_refused:
            return tenure.REFUSED
        return tenure.LOST if self._trouble or self._was_leased else tenure.STARTING

    def _hear_manager(self) -> bool:
        """False: it is gone, or this host has left."""
        heard = self._manager.receive()
        if heard is None:
            return False
        for message in heard[0]:
            if "used" in message:
                report = Report(message["in_use"], message["waiting"], message["wanted"])
                self.host.report(message["used"], report, _now())
                self._followed = message["n"]
            if "resize" in message:
                self.host.resize(message["resize"] - self._kept)
            if "uri" in message:
                self._judging.judge.uri = message["uri"]
            if "leave" in message:
                self._leave()
                return False
        return True

    def _leave(self) -> None:
        """Give everything back: nothing is open here."""
        host, now = self.host, _now()
        host.report(0, Report(), now)
        seq, keep, _ = host.holding.send(0, 0, now)
        request = Request(host.name, host.holding.epoch, seq, keep, 0, Report(), host.max_size, self._lease)
        try:
            answer = self._engine.exchange(request)
            if not answer.refused:
                self._engine.bury(answer.epoch, host.name, answer.number, 0)
            others = self._state.rows if self._state is not None else ()
            self._engine.ring(host.name, {other: FREE for other in others if other != host.name})
        except EngineError:
            pass  # other hosts will find that it is gone

    # -- the engine ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Do all that is to be done now."""
        if self._held is not None:
            if self._followed < self._told:
                return
            self._exchange(self._held)
        while (step := self.host.next(_now())) is not None:
            if isinstance(step, Request):
                self._held = step
                self._tell()
                return
            if isinstance(step, Read):
                self._read()
            else:
                try:
                    self._engine.ring(self.host.name, step.targets)
                except EngineError:
                    pass  # a ring may be lost

    def _exchange(self, request: Request) -> None:
        """The manager goes by what was told it, so this is true now."""
        self._held, used = None, self.host.holding.used
        try:
            answer = self._engine.exchange(request._replace(keep=max(request.keep, used)))
        except EngineError as error:
            self._failed(error)
            self.host.failed(request.seq, _now())
            return
        self._succeeded()
        now = _now()
        self.host.answered(request.seq, answer, now)
        self._was_leased = self._was_leased or self.host.holding.leased(now)
        self._lease = answer.lease
        self._listen(answer.epoch)

    def _read(self) -> None:
        try:
            state = self._engine.read()
        except EngineError as error:
            self._failed(error)
            self.host.failed(0, _now())
            return
        self._succeeded()
        self._state = state
        judgement = self.host.saw(state, _now())
        if judgement is not None:
            self._judging.begin(judgement, _now())
        self._show()

    def _failed(self, error: EngineError) -> None:
        self._linked, self._trouble = False, str(error)
        self._stop_listening()
        self._is_refused = isinstance(error, EngineRefused)

    def _succeeded(self) -> None:
        self._linked = True
        self._trouble, self._is_refused = "", False

    def _hear_rings(self) -> None:
        if not self._linked or self._listener is None:
            return
        try:
            for ring in self._listener.heard():
                self.host.rung(ring, _now())
        except EngineError:
            self._stop_listening()

    def _listen(self, epoch: str) -> None:
        """Hear rings from now on, after an exchange; those that were missed are made up for by one look. In a new epoch
        the engine may be another server, to which the way that there was does not lead."""
        if epoch != self._listened:
            self._stop_listening()
        if self._listener is not None:
            return
        try:
            self._listener, self._listened = self._engine.listen(self.host.name), epoch
        except EngineError as error:
            self._failed(error)
            return
        self.host.rung(Ring(self.host.name, FREE), _now())

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        try:
            if listener is not None:
                listener.close()
        except EngineError:
            pass  # it is closed, or its server is gone

    # -- what is shown ---------------------------------------------------------------------------------------

    def _show(self) -> None:
        """Publish what this host knows of all hosts, without a secret."""
        now, state, known = _now(), self._state, self.host.ghosts.known()
        self._unshown = now < self._show_at
        if self._unshown:
            return
        self._show_at = now + SHOW_AGAIN
        rows = []
        for host, row in state.rows.items() if state is not None else ():
            age = now - known[host][1] if host in known else 0.0
            rows.append([host, row.credit, *row.report, int(row.ghost), round(age, 2)])
        holding = self.host.holding
        shown = {
            "host": self.host.name,
            "engine": self._where,
            "error": self._trouble or self._judging.uncounted,
            "lease": self._lease,
            "left": round(holding.until - now, 2),
            "at": now,
            "rows": rows,
            "learning": self.host.ghosts.learning,
        }
        self._publish(shown)

    def close(self) -> None:
        """Leave nothing open."""
        self._judging.judge.end()
        self._engine.close()


def _now() -> float:
    return tenure.now_ns() / _NS


def _write(shown: dict[str, Any]) -> None:
    try:
        hosts_file.write(HOSTS, shown)
    except OSError:
        pass  # no room: then it is not shown


def main(task: dict[str, Any]) -> None:
    """The process's entry. Standard input is the way to the manager and back.

    Args:
        task: see `launching`.
    """
    manager = Channel(socket.socket(fileno=os.dup(0)))
    judge = Judge(task["uri"], task["path"], prefix(task["name"]))
    try:
        engine = engine_of(task["cluster"], task["name"])
        agent = Agent(task, manager, engine, judge, _write, hosts_file.read(HOSTS))
    except (ImportError, ValueError) as error:  # a ValueError may show a part of a url
        what = error if isinstance(error, ImportError) else "the url names no engine"
        os.write(2, f"the cluster's agent cannot begin: {what}\n".encode())
        time.sleep(1.0)
        sys.exit(1)
    try:
        agent.run()
    except OSError:
        pass  # the manager is gone, or does not read
    agent.close()
    os._exit(0)
