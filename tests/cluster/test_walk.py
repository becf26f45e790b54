"""The protocol walked in all interleavings (`walk`), as it is and with planted bugs, each of which must be found.

The usual run has late requests, a loss of data, and a second permit one at a time; ``MPPOOL_TEST_WALK=large`` has them
together.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mppool.cluster.ghosts import Ghosts
from mppool.cluster.holding import Holding
from mppool.cluster.memory import Store
from tests.cluster.walk import LEASE, Protocol, walk

if TYPE_CHECKING:
    from mppool.cluster.contract import Answer, Request, State

LARGE = os.environ.get("MPPOOL_TEST_WALK") == "large"
MOST = 20_000_000 if LARGE else 1_000_000  # states; a walk that reaches it has not walked all


class LateAnswer(Holding):
    """A late answer renews the lease."""

    def _renew(self, end: float, credit: int, now: float) -> None:
        super()._renew(max(end, now + LEASE), credit, now)


class Reopens(Holding):
    """What closes after the lease is opened again, up to the cap that there was."""

    def look(self, now: float) -> None:
        pass


class LowersLate(Holding):
    """The cap is lowered by the answer, not before the request."""

    def send(self, keep: int, ask: int, now: float) -> tuple[int, int, int]:
        cap = self.cap
        try:
            return super().send(keep, ask, now)
        finally:
            self.cap = cap if self.leased(now) else self.cap


class NoSlack(Ghosts):
    """A connect that was under way when the lease ended is not waited for."""

    def wait(self, lease: float) -> float:
        return lease


class LearnsShort(Ghosts):
    """Learning ends before the leases of before it have ended."""

    def may_end_learning(self, state: State, now: float) -> bool:
        return state.learning


class NoSeq(Store):
    """A request that was given up is executed after its successor."""

    def exchange(self, request: Request, run: str, fresh: str) -> Answer:
        row = self.rows.get(request.host)
        if row is not None:
            self.rows[request.host] = row._replace(seq=-1)
        return super().exchange(request, run, fresh)


class NoNumber(Store):
    """A host is buried although it has exchanged something since."""

    def bury(self, epoch: str, host: str, number: int, count: int, run: str) -> bool:
        row = self.rows.get(host)
        return super().bury(epoch, host, row.number if row else number, count, run)


class NoLearning(Store):
    """After lost data all is free at once."""

    def _begin(self, request: Request, run: str, fresh: str) -> None:
        super()._begin(request, run, fresh)
        self.learning = False


def as_it_is(max_size: int, losses: int, start: str, delays: bool = True) -> None:
    found = walk(max_size, losses, Protocol(delays=delays), MOST, start)
    print(f"{max_size} permits, {losses} losses, {start}, late {delays}: {found.states} states, {found.seconds:.0f} s")
    print(found.reached)
    assert found.path is None
    assert found.states < MOST, "not all states were seen"
    reached = found.reached
    assert all(count > 0 for what, count in reached.items() if losses or "loss" not in what), reached


@pytest.mark.slow
@pytest.mark.parametrize(
    ("max_size", "losses", "start", "delays"), [(1, 0, "ready", True), (1, 1, "busy", False), (2, 0, "ready", False)]
)
def test_two_hosts_in_all_interleavings(max_size: int, losses: int, start: str, delays: bool) -> None:
    as_it_is(max_size, losses, start, delays)


@pytest.mark.skipif(not LARGE, reason="MPPOOL_TEST_WALK is not large")
@pytest.mark.parametrize(
    ("max_size", "losses", "start"), [(1, 1, "busy"), (1, 1, "empty"), (2, 0, "ready"), (2, 1, "busy")]
)
def test_the_larger_scopes(max_size: int, losses: int, start: str) -> None:
    as_it_is(max_size, losses, start)


#: Losses of data, where to begin, and the protocol. What needs no late request is found sooner without.
PLANTED = {
    "freed by time alone": (0, "busy", Protocol(count=lambda open_now: 0, delays=False)),
    "a late answer renews": (0, "ready", Protocol(LateAnswer, delays=False)),
    "no slack for a connect under way": (0, "ready", Protocol(ghosts=NoSlack, delays=False)),
    "reopened after the lease": (0, "busy", Protocol(Reopens, opens_lapsed=True, delays=False)),
    "no seq": (0, "ready", Protocol(store=NoSeq, forgets=False)),
    "no number": (0, "ready", Protocol(store=NoNumber, forgets=False, delays=False)),
    "lowered late": (0, "busy", Protocol(LowersLate, delays=False)),
    "no learning": (1, "busy", Protocol(store=NoLearning, delays=False)),
    "learning too short": (1, "busy", Protocol(ghosts=LearnsShort, delays=False)),
    "learning without a judge": (1, "busy", Protocol(count=lambda open_now: 0, delays=False)),
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug: str) -> None:
    losses, start, protocol = PLANTED[bug]
    found = walk(1, losses, protocol, MOST, start)
    print(f"{bug}: {found.states} states, {found.seconds:.1f} s: {found.path}")
    assert found.path is not None
