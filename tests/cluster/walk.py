"""All interleavings of the protocol in a small scope: the real `Holding`, `Ghosts` and `Store`, with a network that
delays, drops and reorders, hosts that lapse, and an engine that loses its data.

A state is a tuple; from it the real objects are built, one step is taken, and the result is a state again. Two states
that differ only in names (epochs, numbers, seqs) or in how long ago something ended are the same one; so are two that
differ by which host is which. Time is in leases: a lease is 1, a connect that was under way when it ended takes less
than `SLACK` more, and the clock goes in whole steps.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mppool.cluster.contract import Answer, Report, Request, Row
from mppool.cluster.ghosts import Ghosts
from mppool.cluster.holding import Holding
from mppool.cluster.memory import Store

LEASE, SLACK, OLD = 1.0, 0.5, 2.0  # OLD: longer ago than anything waits for
NOW = 10.0  # the time in each state; what was before is relative to it
NOTHING = Report()
NUMBER = 10  # of the epoch, in each state
HOSTS = ("a", "b")


def _as_it_is(open_now: int) -> int:
    return open_now


@dataclass
class Protocol:
    """What is walked; a planted bug replaces a part.

    Args:
        count: connections that a judge sees of a host, from what there are.
        opens_lapsed: hosts open connections after their lease.
        delays: requests that were given up may still be executed.
        forgets: what cannot do anything any more is forgotten, so that there are fewer states; not with bugs that
            make it do something.
    """

    holding: type[Holding] = Holding
    ghosts: type[Ghosts] = Ghosts
    store: type[Store] = Store
    count: Callable[[int], int] = _as_it_is
    opens_lapsed: bool = False
    delays: bool = True
    forgets: bool = True


@dataclass
class Side:
    """One host with what is on its way from and to it."""

    holding: Holding
    ghosts: Ghosts
    syn: int = 0  # of what is used: connects under way
    request: Request | None = None
    late: Request | None = None  # given up, and not executed yet
    answer: tuple[int, Answer] | None = None
    verdict: tuple[Any, ...] | None = None  # a bury or the end of learning, on its way


class World:
    """One state as objects."""

    def __init__(self, max_size: int, protocol: Protocol) -> None:
        self.max_size, self.protocol, self.now, self.losses = max_size, protocol, NOW, 0
        self.store = protocol.store()
        self.sides = [Side(protocol.holding(), protocol.ghosts(SLACK)) for _ in HOSTS]

    def ready(self) -> World:
        """Both hosts are known to the engine, learning has ended, and nobody has anything."""
        for place, side in enumerate(self.sides):
            for _ in range(2):
                self.send(place, 0, 0)
                self.execute(place)
                self.reply(place)
            side.ghosts.saw(self.store.read(""), self.now)
        self.store.learned(self.store.epoch, self.store.number, {}, "")
        for side in self.sides:
            side.ghosts.saw(self.store.read(""), self.now)
        self.tick()
        return self

    def busy(self) -> World:
        """All that there is is in use by one of them."""
        self.ready().send(0, 0, self.max_size)
        self.execute(0)
        self.reply(0)
        for _ in range(self.max_size):
            self.open(0)
            self.connected(0)
        return self

    # -- to and from a tuple ---------------------------------------------------------------------------------

    def pack(self) -> tuple[Any, ...]:
        store, sides = self.store, [self._pack_side(place) for place in range(len(HOSTS))]
        ends_learning = any(side[-1] and side[-1][0] == "learned" for side in sides)
        head = (store.epoch != "", store.learning, store.declared > NUMBER and not ends_learning, self.losses)
        return (head, *sorted(sides, key=hash))  # a side's tuple has its row, and names no host

    def _name(self, epoch: str) -> bool:
        return epoch == self.store.epoch != ""

    def _pack_side(self, place: int) -> tuple[Any, ...]:
        side, store, me, other = self.sides[place], self.store, HOSTS[place], HOSTS[1 - place]
        holding, ghosts, row = side.holding, side.ghosts, store.rows.get(me)
        forgets = self.protocol.forgets
        late = side.late
        if late and forgets and (not self._name(late.epoch) or (row and late.seq <= row.seq)):
            late = None
        seqs = sorted({row.seq if row else 0, late.seq if late else 0, holding.seq, 0})
        rank = {seq: at for at, seq in enumerate(seqs)}
        known = self._name(holding.epoch)
        return (
            (row.credit, row.ghost, row.number == 0, rank[row.seq]) if row else None,
            (holding.used, holding.cap, side.syn, holding.until > self.now, known, known and holding.declared),
            (rank[holding.seq], min(self.now - holding.sent[1], 1.0) if holding.sent else None),
            self._pack_ghosts(ghosts, other),
            self._pack_request(side.request, rank),
            self._pack_request(late, rank),
            self._pack_answer(side.answer),
            self._pack_verdict(side.verdict, other),
        )

    def _pack_ghosts(self, ghosts: Ghosts, other: str) -> Any:
        if not self._name(ghosts._epoch):
            return None
        since = ghosts._learning_since
        learning = min(self.now - since, OLD) if since is not None and self.store.learning else None
        seen, row = ghosts._seen.get(other), self.store.rows.get(other)
        if seen is None or row is None or seen[0] != row.number:
            return learning, None
        return learning, min(self.now - seen[1], OLD)

    def _pack_request(self, request: Request | None, rank: dict[int, int]) -> Any:
        if request is None:
            return None
        return self._name(request.epoch), rank[request.seq], request.keep, request.ask

    def _pack_answer(self, answer: tuple[int, Answer] | None) -> Any:
        if answer is None:
            return None
        what = answer[1]
        return what.refused, self._name(what.epoch), what.learning, what.credit

    def _pack_verdict(self, verdict: tuple[Any, ...] | None, other: str) -> Any:
        """(kind, what for, whether it is still of the newest number)."""
        if verdict is None or not self._name(verdict[1]):
            return None
        kind, _, number, count = verdict
        if kind == "learned":
            fresh = self.store.learning and self.store.declared <= number
            return (kind, count) if fresh else None
        row = self.store.rows.get(other)
        fresh = row is not None and row.number == number and not self.store.learning
        return (kind, count, fresh) if fresh or not self.protocol.forgets else None

    @classmethod
    def unpack(cls, state: tuple[Any, ...], max_size: int, protocol: Protocol) -> World:
        world = cls(max_size, protocol)
        (alive, learning, declared, world.losses), *sides = state
        store = world.store
        if alive:
            store.epoch, store.learning, store.max_size, store.lease = "now", learning, max_size, LEASE
            store.number, store.declared = NUMBER, NUMBER if declared else 0
        for place, packed in enumerate(sides):
            if packed[0]:
                credit, ghost, booked, seq = packed[0]
                store.rows[HOSTS[place]] = Row(0 if booked else place + 1, seq, credit, ghost, NOTHING)
        for place, packed in enumerate(sides):
            world._unpack_side(place, packed)
        return world

    def _unpack_side(self, place: int, packed: tuple[Any, ...]) -> None:
        _, (used, cap, syn, leased, known, declared), (seq, sent), ghosts, request, late, answer, verdict = packed
        side, holding, me = self.sides[place], self.sides[place].holding, HOSTS[place]
        holding.used, holding.cap, holding.epoch, holding.declared = used, cap, _epoch(known), declared
        holding.until, holding.seq, side.syn = NOW + leased, seq, syn
        if sent is not None:
            holding.sent = seq, NOW - sent
        other = HOSTS[1 - place]
        row = self.store.rows.get(other)
        if ghosts is not None:
            side.ghosts._epoch = "now"
            side.ghosts._learning_since = None if ghosts[0] is None else NOW - ghosts[0]
            if ghosts[1] is not None and row is not None:
                side.ghosts._seen = {other: (row.number, NOW - ghosts[1])}
        side.request, side.late = (_request(me, each, self.max_size) for each in (request, late))
        if answer is not None:
            refused, new, learning, credit = answer
            side.answer = seq, Answer(refused, _epoch(new), learning, self.max_size, LEASE, 0, credit, NUMBER, 0)
        if verdict is not None and verdict[0] == "learned":
            side.verdict = "learned", "now", NUMBER, verdict[1]
        elif verdict is not None:
            side.verdict = "bury", "now", row.number if row and verdict[2] else 99, verdict[1]

    # -- steps -----------------------------------------------------------------------------------------------

    def steps(self, losses: int) -> Iterator[tuple[Any, ...]]:
        """What may happen next: (method, arguments)."""
        if all(side.syn == 0 or side.holding.until > self.now for side in self.sides):
            yield ("tick",)
        if self.store.epoch and self.losses < losses:
            yield ("lose",)
        for place, side in enumerate(self.sides):
            yield from self._host_steps(place, side)
            yield from self._network_steps(place, side)

    def _host_steps(self, place: int, side: Side) -> Iterator[tuple[Any, ...]]:
        holding = side.holding
        used, cap, leased = holding.used, holding.cap, holding.leased(self.now)
        if used < cap and (leased or self.protocol.opens_lapsed):
            yield "open", place
        if side.syn:
            yield "connected", place  # one that fails is a connected one that is closed
        if used > side.syn:
            yield "close", place
        if holding.sent is None:
            choices = {(cap, 0), (cap, 1), (used, 0)} if holding.declared else {(used, 0)}
            for keep, ask in sorted(choices):
                if keep + ask <= self.max_size:
                    yield "send", place, keep, ask
        if self.store.epoch and side.verdict is None:
            yield "read", place

    def _network_steps(self, place: int, side: Side) -> Iterator[tuple[Any, ...]]:
        if side.request is not None:
            yield "execute", place
            if side.late is None and self.protocol.delays:
                yield "give_up", place
        if side.late is not None:
            yield "execute_late", place
        if side.answer is not None:
            yield "reply", place
            yield "lose_reply", place
        if side.verdict is not None:
            yield "judge", place
            yield "lose_verdict", place

    def tick(self) -> None:
        self.now += 1
        for side in self.sides:
            side.holding.look(self.now)

    def lose(self) -> None:
        self.store, self.losses = self.protocol.store(), self.losses + 1

    def _used(self, place: int, change: int, syn: int) -> None:
        side = self.sides[place]
        side.syn += syn
        side.holding.report(side.holding.used + change, self.now)

    def open(self, place: int) -> None:
        self._used(place, 1, 1)

    def connected(self, place: int) -> None:
        self._used(place, 0, -1)

    def close(self, place: int) -> None:
        self._used(place, -1, 0)

    def send(self, place: int, keep: int, ask: int) -> None:
        side = self.sides[place]
        seq, keep, ask = side.holding.send(keep, ask, self.now)
        epoch = side.holding.epoch
        side.request = Request(HOSTS[place], epoch, seq, keep, ask, NOTHING, self.max_size, LEASE)

    def execute(self, place: int) -> None:
        side = self.sides[place]
        assert side.request is not None
        side.answer = side.request.seq, self.store.exchange(side.request, "", "fresh")
        side.request = None

    def execute_late(self, place: int) -> None:
        side = self.sides[place]
        assert side.late is not None
        self.store.exchange(side.late, "", "fresh")
        side.late = None

    def give_up(self, place: int) -> None:
        side = self.sides[place]
        assert side.request is not None
        side.late, side.request = side.request, None
        side.holding.failed(side.late.seq)

    def reply(self, place: int) -> None:
        side = self.sides[place]
        assert side.answer is not None
        seq, answer = side.answer
        side.answer = None
        side.holding.answered(seq, answer, self.now)
        side.ghosts.saw_epoch(answer.epoch, answer.learning, self.now)

    def lose_reply(self, place: int) -> None:
        side = self.sides[place]
        assert side.answer is not None
        side.holding.failed(side.answer[0])
        side.answer = None

    def read(self, place: int) -> None:
        """Read, and if it is time, count at once; the verdict is on its way then."""
        side, other = self.sides[place], HOSTS[1 - place]
        state = self.store.read("")
        side.ghosts.saw(state, self.now)
        holding = side.holding
        if not (holding.leased(self.now) and holding.declared and holding.epoch == state.epoch):
            return
        there = self.sides[1 - place]
        count = self.protocol.count(there.holding.used - there.syn)  # a server lists no connect that is under way
        if side.ghosts.may_end_learning(state, self.now):
            side.verdict = "learned", state.epoch, state.number, 0 if other in state.rows else count
        for suspect in side.ghosts.suspects(state, HOSTS[place], self.now):
            if count < suspect.credit or not state.rows[other].ghost:
                side.verdict = "bury", suspect.epoch, suspect.number, min(count, suspect.credit)

    def judge(self, place: int) -> None:
        side, other = self.sides[place], HOSTS[1 - place]
        assert side.verdict is not None
        kind, epoch, number, count = side.verdict
        side.verdict = None
        if kind == "learned":
            self.store.learned(epoch, number, {other: count}, "")
        else:
            self.store.bury(epoch, other, number, count, "")

    def lose_verdict(self, place: int) -> None:
        self.sides[place].verdict = None


def _epoch(known: bool) -> str:
    return "now" if known else "old"


def _request(host: str, packed: Any, max_size: int) -> Request | None:
    if packed is None:
        return None
    known, seq, keep, ask = packed
    return Request(host, _epoch(known), seq, keep, ask, NOTHING, max_size, LEASE)


@dataclass
class Result:
    """What a walk found.

    Args:
        path: the steps to the first state in which more is open than there is; None: there is none.
        states: that were seen.
        reached: how often what must be possible was.
    """

    path: list[tuple[Any, ...]] | None
    states: int
    seconds: float
    reached: dict[str, int] = field(default_factory=dict)


def walk(
    max_size: int, losses: int, protocol: Protocol | None = None, limit: float = float("inf"), start: str = "ready"
) -> Result:
    """Breadth first over all states.

    Args:
        max_size: permits.
        losses: of the engine's data, at most.
        protocol: with a planted bug, or as it is.
        limit: states.
        start: "ready" or "busy", see `World`; "empty": the engine has no data, and the hosts know nothing.
    """
    protocol = protocol or Protocol()
    world = World(max_size, protocol)
    first = {"ready": world.ready, "busy": world.busy, "empty": lambda: world}[start]().pack()
    came: dict[Any, Any] = {first: None}
    todo, begun = deque([first]), time.process_time()
    reached = {"all in use": 0, "all in use after a loss": 0, "a ghost's permit in use": 0}

    def result(path: list[tuple[Any, ...]] | None) -> Result:
        return Result(path, len(came), time.process_time() - begun, reached)

    while todo and len(came) < limit:
        state = todo.popleft()
        world = World.unpack(state, max_size, protocol)
        for step in list(world.steps(losses)):
            world = World.unpack(state, max_size, protocol)
            getattr(world, step[0])(*step[1:])
            after = world.pack()
            if after in came:
                continue
            came[after] = (state, step)
            todo.append(after)
            used = [side.holding.used for side in world.sides]
            if sum(used) > max_size:
                return result(_path(came, after))
            _reach(reached, world, used)
    return result(None)


def _reach(reached: dict[str, int], world: World, used: list[int]) -> None:
    for place, mine in enumerate(used):
        if mine == world.max_size:
            reached["all in use"] += 1
            reached["all in use after a loss"] += world.losses > 0
            other = world.sides[1 - place].holding
            reached["a ghost's permit in use"] += other.cap > 0 and not other.leased(world.now)
            reached["a ghost's permit in use"] += HOSTS[1 - place] not in world.store.rows and other.declared


def _path(came: dict[Any, Any], state: Any) -> list[tuple[Any, ...]]:
    path = []
    while came[state] is not None:
        state, step = came[state]
        path.append(step)
    return path[::-1]
