"""Which host judges, and what becomes of a count: the agent's part in judging hosts that are gone, and in learning.

The one permit that no host gets is for the judge's connection. So the first living host by name judges, and each of the
others only sees to it, one after another, that somebody does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mppool.cluster.contract import EngineError, check_host
from mppool.cluster.host import Judgement
from mppool.cluster.judge import LIFE, NotCounted

if TYPE_CHECKING:
    from collections.abc import Callable

    from mppool.cluster.contract import Engine
    from mppool.cluster.host import Host
    from mppool.cluster.judge import Judge

__all__ = ["Judging"]

TURN = LIFE + 1.0  # seconds that the next host in line gives the one before it to judge


class _Later(NamedTuple):
    """A judgement that another host is to make first."""

    at: float
    judgement: Judgement


class Judging:
    """One host's.

    Args:
        host: whose machine asks for judgements.
        engine: the budget's.
        judge: counts at the database.
        failed: told of each call of the engine that failed.

    Attributes:
        uncounted: why the last count failed; empty: it did not.
    """

    def __init__(self, host: Host, engine: Engine, judge: Judge, failed: Callable[[EngineError], None]) -> None:
        self._host, self._engine, self.judge, self._failed = host, engine, judge, failed
        self.uncounted = ""
        self._judged: Judgement | None = None  # while it is counted for
        self._later: _Later | None = None

    def begin(self, judgement: Judgement, now: float) -> None:
        """Only one permit is kept for a judge's connection: the first living host judges, the others see to it that one
        does."""
        state, ghosts = judgement.state, self._host.ghosts
        before = [host for host in state.rows if host < self._host.name and not ghosts.is_gone(state, host, now)]
        if before:
            self._later = _Later(now + TURN * min(len(before), 10), judgement)
        else:
            self._count(judgement, now)

    def due(self, now: float) -> list[float]:
        """When to `look`."""
        times = [now + self.judge.left(now)] if self.judge.counts else []
        return [*times, self._later.at] if self._later is not None else times

    def look(self, now: float) -> None:
        """Do what is due."""
        if self.judge.counts and self.judge.left(now) == 0.0:
            self.judge.end()
            self._not_counted("the database did not answer in time", now)
        if self._later is not None and now >= self._later.at:
            later, self._later = self._later.judgement, None
            self._count_after_all(later, now)

    def _count_after_all(self, judgement: Judgement, now: float) -> None:
        """Another host should have judged by now: count for what it has left."""
        try:
            state = self._engine.read()
        except EngineError as error:
            self._failed(error)
            self._host.judged(judgement.state, False, now)
            return
        left = [
            suspect
            for suspect in judgement.suspects
            if (row := state.rows.get(suspect.host)) and row.number == suspect.number and not row.ghost
        ]
        learning = judgement.learning and state.learning and state.epoch == judgement.state.epoch
        if state.epoch != judgement.state.epoch or not (left or learning):
            self._host.judged(state, False, now)
            return
        self._count(Judgement(state, left, learning), now)

    def _count(self, judgement: Judgement, now: float) -> None:
        self._judged = judgement
        try:
            self.judge.begin(now)
        except OSError as error:
            self._not_counted(f"no process can be started: {error.strerror}", now)

    def hear(self, now: float) -> None:
        """The judge is readable."""
        try:
            counts = self.judge.hear()
        except NotCounted as error:
            self._not_counted(str(error), now)
            return
        if counts is not None:
            self._pass_judgement(counts, now)

    def _not_counted(self, why: str, now: float) -> None:
        judged, self._judged = self._judged, None
        self.uncounted = f"the connections at the database cannot be counted: {why}"
        if judged is not None:
            self._host.judged(judged.state, False, now)

    def _pass_judgement(self, counts: dict[str, int], now: float) -> None:
        judged, self._judged, self.uncounted, freed = self._judged, None, "", False
        assert judged is not None
        try:
            for suspect in judged.suspects:
                count = counts.get(suspect.host, 0)
                buried = self._engine.bury(suspect.epoch, suspect.host, suspect.number, count)
                freed = freed or (buried and count < suspect.credit)
            if judged.learning:
                ghosts = {host: count for host, count in counts.items() if _is_host(host)}
                ghosts = {host: count for host, count in ghosts.items() if host not in judged.state.rows}
                freed = self._engine.learned(judged.state.epoch, judged.state.number, ghosts) or freed
        except EngineError as error:
            self._failed(error)
        self._host.judged(judged.state, freed, now)


def _is_host(name: str) -> bool:
    try:
        return bool(check_host(name))
    except ValueError:
        return False  # anybody may call an application so
