"""The host machine: when a host talks to the engine, and what it says. No I/O, clock, lock or chance of its own.

An agent drives it, one step at a time::

    while (step := host.next(now)) is not None:
        do the step; tell its result by answered, failed or saw
    wait until host.wake_at(now), or until the manager reports, or until a ring comes

What is safe is `Holding`'s and `Ghosts`'; this class only chooses moments and amounts:

    renewal  Every L/3 ± 10 %; what was not needed since the last one is given back with it. After a failure: again in
             0.2 to 10 s, with jitter.
    demand   A host that needs more asks at once for what is free. If that is not enough it reads all rows, plans by
             `fairness`, and rings those that should give; it asks again when it is rung, or now and then.
    rings    A host that is rung has its connections brought down to ``target``, and gives back as they close. It
             remembers the asker for some seconds, and gives it at once what it does not need meanwhile: as many as the
             asker wishes, and no more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from mppool.cluster.contract import FREE, Report, Request
from mppool.cluster.fairness import plan
from mppool.cluster.ghosts import SLACK, Ghosts
from mppool.cluster.holding import Holding
from mppool.core.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from mppool.cluster.contract import Answer, Ring, State
    from mppool.cluster.ghosts import Suspect

LEASE = 10.0  # seconds, by default
HELD = 1.0  # seconds that a target holds, and that a host without permits waits until it takes its turn
REMEMBERED = 3.0  # seconds that a host which rang is remembered
AGAIN = 0.01  # seconds until a host that got less than it asked for asks again, if it was content in between
LOOK = 0.02  # seconds between two reads for demand
POLL = 0.05, 1.0  # seconds until a short host asks again without having been rung: first, and at most
RUNG = 8  # hosts that are rung at a time


class Read(NamedTuple):
    """A step: `Engine.read`, and then `Host.saw`."""


class Rings(NamedTuple):
    """A step: `Engine.ring`. A failure need not be told."""

    targets: dict[str, int]


class Judgement(NamedTuple):
    """Count connections at the database, and tell the engine. May take its time while other steps go on; at its end,
    call `Host.judged`.

    Args:
        state: the rows to judge by; hosts without a row are judged if ``learning``.
        suspects: hosts to `Engine.bury`.
        learning: count for all hosts without a row, and then `Engine.learned`.
    """

    state: State
    suspects: list[Suspect]
    learning: bool


class Host:
    """One host of a budget.

    Args:
        host: this incarnation's name.
        max_size: permits of the budget.
        chance: a random number, 0 to 1.
        lease: seconds, for an epoch that this host begins.
        seq: see `Holding`.
        used: connections that are open already.
        slack: see `ghosts.SLACK`.

    Attributes:
        holding: the part that must be right. Publish its ``cap`` and ``until`` after each call.
        max_size: of the budget, as the engine has it.
        mismatch: the engine's ``max_size`` where it is not this host's; it holds nothing until `resize`. None: agreed.
    """

    def __init__(
        self,
        host: str,
        max_size: int,
        chance: Callable[[], float],
        *,
        lease: float = LEASE,
        seq: int = 0,
        used: int = 0,
        slack: float = SLACK,
    ) -> None:
        self.name, self.max_size = host, max_size
        self.mismatch: int | None = None
        self.holding, self.ghosts = Holding(seq, used), Ghosts(slack)
        self._chance, self._lease, self._backoff = chance, lease, Backoff(0.4, 10.0)
        self._report = Report()
        self._peak = 0  # most that was needed since the last request
        self._renew_at = self._not_before = 0.0
        self._ask_at, self._asked, self._poll = 0.0, -math.inf, POLL[0]
        self._share: int | None = None  # as planned; None: no plan, since it was not short
        self._hungry_since: float | None = None
        self._read_at, self._look_at, self._look = math.inf, 0.0, False
        self._rings: dict[str, int] = {}
        # Hosts that rang: until when they are remembered, and what this host comes down to if it needs no more itself.
        self._askers: dict[str, tuple[float, int]] = {}
        self._target: tuple[int, float] | None = None
        self._agreed = self._resize = self._resizing = self._gave = self._judging = self._refused = False

    # -- what is open and wanted here ------------------------------------------------------------------------

    def report(self, used: int, report: Report, now: float) -> None:
        """Something changed here.

        Args:
            used: connections open, being opened or being closed, permits that members could use at once included.
            report: use and demand.
            now: seconds.
        """
        self.holding.report(used, now)
        self._report = report
        self._peak = max(self._peak, self._need)
        if not self._is_short:
            self._content()
        elif self.holding.cap == 0 and self._hungry_since is None:
            self._hungry_since = now

    def _content(self) -> None:
        """It is not short: if it becomes so again, it asks at once. What it was rung for it has given, or need not."""
        if self._target is not None and self.holding.cap <= self._target[0]:
            self._target = None
        self._share, self._poll, self._hungry_since = None, POLL[0], None
        self._ask_at = self._asked + AGAIN

    def resize(self, max_size: int) -> None:
        """Set the budget to so many permits, on all hosts."""
        self.max_size, self.mismatch, self._resize = max_size, None, True

    @property
    def resizing(self) -> bool:
        """Whether the engine has not heard of a `resize` yet."""
        return self._resize

    @property
    def _need(self) -> int:
        report = self._report
        return min(self.max_size, max(report.in_use + report.waiting, report.wanted))

    @property
    def _is_short(self) -> bool:
        return self.mismatch is None and self._need > self.holding.cap

    def target(self, now: float) -> int:
        """What the local books should come down to: idle connections are closed, others when they are given back."""
        target = self.holding.cap
        if self.mismatch is not None:
            return 0
        if self._target is not None and now < self._target[1]:
            target = min(target, self._target[0])
        for until, least in self._askers.values():
            if now < until:
                target = min(target, max(least, self._report.in_use + self._report.waiting))
        return target

    # -- steps -----------------------------------------------------------------------------------------------

    def next(self, now: float) -> Request | Read | Rings | None:
        """What to do now; None: nothing before `wake_at`. A request counts as sent now."""
        self.holding.look(now)
        if self.holding.sent is not None or now < self._not_before:
            return None
        if self._is_due(now):
            return self._request(now)
        if self._rings:
            rings, self._rings = Rings(self._rings), {}
            return rings
        if now >= self._read_at or (self._look and now >= self._look_at):
            self._look, self._look_at, self._read_at = False, now + LOOK, math.inf
            return Read()
        return None

    def _is_due(self, now: float) -> bool:
        holding = self.holding
        if now >= self._renew_at or self._resize:
            return True
        gives = max(self.target(now), holding.used) < holding.cap
        return gives or (self._wishes(now) > 0 and now >= self._ask_at and not holding.learning)

    def _wishes(self, now: float) -> int:
        """Permits to ask for beyond the cap."""
        if not self._is_short or self.target(now) < self.holding.cap:
            return 0
        if self._target is not None and now < self._target[1]:
            return 0
        most = self._need if self._share is None else min(self._need, self._share)
        return max(0, most - max(self.holding.cap, self.holding.used))

    def _request(self, now: float) -> Request:
        holding = self.holding
        keep = min(holding.cap, self.target(now))
        if now >= self._renew_at:
            keep = min(keep, max(self._peak, self._need))
        ask = self._wishes(now) if keep >= holding.cap else 0
        self._peak, self._resizing, self._gave = self._need, self._resize, keep < holding.cap
        seq, keep, ask = holding.send(keep, ask, now)
        return Request(self.name, holding.epoch, seq, keep, ask, self._report, self.max_size, self._lease, self._resize)

    def wake_at(self, now: float) -> float:
        """When to call `next` again although nothing happened; seconds of the same clock."""
        holding = self.holding
        if holding.sent is not None:
            return math.inf
        times = [self._renew_at, self._read_at]
        if self._wishes(now) and not holding.learning:
            times.append(self._ask_at)
        if self._look:
            times.append(self._look_at)
        if self._target is not None and now < self._target[1]:
            times.append(self._target[1])
        if holding.leased(now):
            times.append(holding.until)
        return max(self._not_before, now if self._rings else min(times))

    # -- results ---------------------------------------------------------------------------------------------

    def answered(self, seq: int, answer: Answer, now: float) -> None:
        """The engine answered."""
        holding = self.holding
        if holding.sent is None or holding.sent[0] != seq:
            return
        sent_at, had = holding.sent[1], holding.cap
        executed = holding.answered(seq, answer, now)
        self.ghosts.saw_epoch(answer.epoch, answer.learning, now)
        self._agree(answer, executed)
        if not executed:
            # once at once, since this is how an epoch is learned; then as after failures
            pause = self._backoff.failed(self._chance()) if self._refused else 0.0
            self._not_before, self._renew_at, self._refused = now + pause, now, True
            return
        self._refused = False
        self._backoff.succeeded()
        self._renew_at = sent_at + answer.lease / 3 * (0.9 + 0.2 * self._chance())
        self._read_at = min(self._read_at, self._next_read(answer.learning, answer.lease, now))
        if self._gave and answer.free > 0:
            self._rings.update({host: FREE for host, (until, _) in self._askers.items() if now < until})
        if self._is_short:
            self._still_short(now)
        elif holding.cap > had:
            self._content()

    def _agree(self, answer: Answer, executed: bool) -> None:
        if executed and self._resizing:
            self._resize = self._resize and answer.max_size != self.max_size
        if answer.max_size == self.max_size:
            self._agreed, self.mismatch = True, None
        elif not self._resize:
            if self._agreed:  # another host resized the budget
                self.max_size = answer.max_size
            else:
                self.mismatch = answer.max_size

    def _next_read(self, learning: bool, lease: float, now: float) -> float:
        """Somebody must look for hosts that are gone, and look again before long: the first three by name do so at each
        renewal, each later one less often. While learning, all look again at its end."""
        end = self.ghosts.learns_until(lease)
        if learning and end is not None:
            return min(now + lease / 3, max(end, now)) + 0.02 * lease * (0.1 + self._chance())
        before = sum(host < self.name for host in self.ghosts.known())
        return now + lease / 3 * max(1.0, before / 3) * (0.9 + 0.2 * self._chance())

    def _still_short(self, now: float) -> None:
        self._asked = now
        self._ask_at, self._poll = now + self._poll, min(2 * self._poll, POLL[1])
        self._look = not self.holding.learning
        if self.holding.cap == 0:
            self._hungry_since = self._hungry_since if self._hungry_since is not None else now
        else:
            self._hungry_since = None

    def failed(self, seq: int, now: float) -> None:
        """A request or a read (seq 0) had no answer, or was refused for reasons that a person must mend."""
        self.holding.failed(seq)
        self._not_before = now + self._backoff.failed(self._chance())
        self._renew_at = min(self._renew_at, self._not_before)
        self._read_at = min(self._read_at, self._not_before)

    def rung(self, ring: Ring, now: float) -> None:
        """Another host rang."""
        if ring.target == FREE:
            if self.holding.learning:
                self._renew_at = min(self._renew_at, now)  # perhaps it is over
            self._ask_at = min(self._ask_at, now)
            self._look = self._look or (self._is_short and not self.holding.learning)  # its share may have grown
            return
        self._askers = {host: asked for host, asked in self._askers.items() if now < asked[0]}
        wished = FREE - ring.target
        least = max(0, self.holding.cap - wished) if wished > 0 else ring.target
        self._askers[ring.sender] = now + REMEMBERED, least
        if 0 <= ring.target < self.holding.cap:
            self._target = ring.target, now + HELD

    def saw(self, state: State, now: float) -> Judgement | None:
        """Rows were read. Returns what to judge by them, if it is time for that."""
        self.ghosts.saw(state, now)
        if not state.epoch:
            self._renew_at = now  # an exchange begins the new epoch
            return None
        self._read_at = self._next_read(state.learning, state.lease, now)
        if self._is_short and not state.learning:
            self._plan(state, now)
        return self._judgement(state, now)

    def _plan(self, state: State, now: float) -> None:
        hungry = self._hungry_since
        turn = self._chance() if hungry is not None and now - hungry >= HELD else None
        made = plan(state, self.name, self._need, lambda host: self.ghosts.is_gone(state, host, now), turn)
        self._share = made.share
        if made.share > self.holding.cap and not made.targets:
            self._ask_at = now  # it is free already
        missing = self._need - self.holding.cap
        others = sorted(state.rows, key=lambda host: (-state.rows[host].credit, host))
        for host in others[:RUNG]:
            if host != self.name and state.rows[host].credit > 0 and not self.ghosts.is_gone(state, host, now):
                self._rings.setdefault(host, FREE - missing)
        self._rings.update(made.targets)

    def _judgement(self, state: State, now: float) -> Judgement | None:
        holding = self.holding
        if self._judging or not holding.leased(now) or not holding.declared or holding.epoch != state.epoch:
            return None
        learning = self.ghosts.may_end_learning(state, now)
        suspects = self.ghosts.suspects(state, self.name, now)
        if not learning and not suspects:
            return None
        for suspect in suspects:
            self.ghosts.counted(suspect.host, now)
        self._judging = True
        return Judgement(state, suspects, learning)

    def judged(self, state: State, freed: bool, now: float) -> None:
        """A judgement has ended.

        Args:
            state: that it was by.
            freed: permits became free, or learning has ended: those that were short are told, or all.
            now: seconds.
        """
        self._judging = False
        self._read_at = min(self._read_at, now + 1.0)  # ghosts are counted again
        if freed:
            self._ask_at, self._renew_at = now, now
            told = [host for host, row in state.rows.items() if state.learning or row.report.wanted > row.credit]
            self._rings.update({host: FREE for host in told if host != self.name})
