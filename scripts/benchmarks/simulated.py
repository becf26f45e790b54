"""A simulated host: the real host machine and a real engine client; its connections are a number.

It opens and closes at once: queries are short, so what should go is given back in a moment. It keeps a connection that
it no longer needs until another host rings for it, or until a renewal gives back what was not needed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from mppool.cluster.contract import Engine, EngineError, Listener, Report, Request
from mppool.cluster.host import Host, Judgement, Read, Rings

clock = time.monotonic


class SimulatedHost:
    """
    Args:
        engine: of this host alone.
        used_elsewhere: for its judgements: how many connections a host has.
        note: told how many it has: of fewer before the engine is, of more after it.

    Attributes:
        need: connections that it would like to have; change it by `wants`.
        used: that it has.
        waits: seconds for each permit that it had to wait for.
        calls: of the engine.
        sent: when the last request was sent that was executed.
    """

    def __init__(
        self,
        name: str,
        max_size: int,
        engine: Engine,
        used_elsewhere: Callable[[str], int],
        note: Callable[[int], object] = int,
    ) -> None:
        self.name, self.engine, self._count, self._note = name, engine, used_elsewhere, note
        self.host = Host(name, max_size, random.Random(name).random)
        self.listener: Listener | None = None
        self.need = self.used = self.calls = self.exchanges = self.failures = 0
        self.sent, self.waits = 0.0, list[float]()
        self._asked_at: float | None = None

    @property
    def cap(self) -> int:
        return self.host.holding.cap

    @property
    def learning(self) -> bool:
        return self.host.holding.learning

    def wants(self, need: int) -> None:
        """Its callers need so many connections now. Call `step` after it."""
        self._asked_at = clock() if need > max(self.need, self.used) else None
        self.need = need

    def leave(self) -> None:
        """Close the links."""
        self.engine.close()

    # -- connections -----------------------------------------------------------------------------------------

    def _tell(self) -> None:
        now, host, holding = clock(), self.host, self.host.holding
        holding.look(now)
        target = host.target(now)
        used = min(self.used, target)
        if holding.leased(now):
            used = max(used, min(self.need, holding.cap, target))
        self.used = used
        self._note(used)
        busy = min(used, self.need)
        host.report(used, Report(busy, self.need - busy, self.need), now)
        if self._asked_at is not None and used >= self.need:
            self.waits.append(now - self._asked_at)
            self._asked_at = None

    # -- the engine ------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Do what is to be done now; when to come again, by `clock`."""
        self._tell()
        while (step := self.host.next(clock())) is not None:
            self.calls += 1
            try:
                self._do(step)
            except EngineError:
                self.failures += 1
                if not isinstance(step, Rings):
                    self.host.failed(step.seq if isinstance(step, Request) else 0, clock())
            self._tell()
            self._hear()
        return self.host.wake_at(clock())

    def _do(self, step: Any) -> None:
        if isinstance(step, Request):
            sent = clock()
            if self.listener is None:
                self.listener = self.engine.listen(self.name)
            answer = self.engine.exchange(step)
            self.exchanges += 1
            self.host.answered(step.seq, answer, clock())
            if not answer.refused:
                self.sent = sent
        elif isinstance(step, Read):
            state = self.engine.read()
            judgement = self.host.saw(state, clock())
            if judgement is not None:
                self._judge(judgement)
        else:
            self.engine.ring(self.name, step.targets)

    def _judge(self, judgement: Judgement) -> None:
        state, freed = judgement.state, False
        try:
            for suspect in judgement.suspects:
                count = self._count(suspect.host)
                freed = self.engine.bury(suspect.epoch, suspect.host, suspect.number, count) or freed
            if judgement.learning:  # here all hosts declare, and none has anything before it has
                freed = self.engine.learned(state.epoch, state.number, {}) or freed
        except EngineError:
            self.failures += 1
        self.host.judged(state, freed, clock())

    def _hear(self) -> None:
        if self.listener is None:
            return
        try:
            for ring in self.listener.heard():
                self.host.rung(ring, clock())
        except EngineError:
            pass  # it listens again with a later call

    def hear(self) -> float:
        """Something can be heard; when to come again."""
        self._hear()
        return self.step()

    def fileno(self) -> int:
        """What to wait for; -1: nothing now."""
        if self.listener is None:
            return -1
        try:
            return self.listener.fileno()
        except EngineError:
            return -1
