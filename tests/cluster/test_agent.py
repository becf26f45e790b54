"""The agent between a manager and the engine in memory: what it tells the manager, and when it asks the engine."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mppool.cluster import judging
from mppool.cluster.agent import Agent
from mppool.cluster.contract import EngineRefused, EngineUnreachable, Request
from mppool.cluster.judge import NotCounted
from mppool.cluster.memory import MemoryEngine
from mppool.shared import tenure
from mppool.shared.messages import Channel
from tests.waiting import until

MAX = 6  # of which one is the judge's
LEASE, SLACK = 1.5, 0.2


class FakeJudge:
    """Says what the test says the database counts."""

    def __init__(self) -> None:
        self.uri = ""
        self.counted: dict[str, int] | Exception = {}
        self.asked = 0
        self._reads, self._writes = os.pipe()
        self.counts = False

    def fileno(self) -> int:
        return self._reads

    def begin(self, now: float) -> None:
        self.counts = True
        self.asked += 1
        os.write(self._writes, b"!")

    def left(self, now: float) -> float:
        return 5.0

    def hear(self) -> dict[str, int]:
        os.read(self._reads, 1)
        self.counts = False
        if isinstance(self.counted, Exception):
            raise self.counted
        return self.counted

    def end(self) -> None:
        self.counts = False

    def close(self) -> None:
        os.close(self._reads)
        os.close(self._writes)


class Flaky(MemoryEngine):
    """An engine that can be cut off."""

    fault: Exception | None = None

    def exchange(self, request: Request) -> Any:
        if self.fault is not None:
            raise self.fault
        return super().exchange(request)


class FakeManager:
    """The manager of one host: it goes by what it is told, unless it is to be slow."""

    def __init__(self, engine: MemoryEngine, name: str, used: int = 0, **task: Any) -> None:
        ours, theirs = socket.socketpair()
        self.channel, self._theirs = Channel(ours), Channel(theirs)
        self.told: list[dict[str, Any]] = []
        self.shown: list[dict[str, Any]] = []
        self.used, self.in_use, self.waiting, self.wanted = used, used, 0, used
        self.slow = False
        self.judge = FakeJudge()
        usual = {"host": name, "max_size": MAX, "kept": 1, "lease": LEASE, "slack": SLACK, "used": used}
        usual |= {"resize": False, "engine": "memory"}
        self.agent = Agent({**usual, **task}, self._theirs, engine, self.judge, self.shown.append, {})  # type: ignore[arg-type]
        self._change = threading.Lock()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._answers = threading.Thread(target=self._answer)
        self._answers.start()

    def _run(self) -> None:
        try:
            self.agent.run()
        except OSError:
            pass
        self._theirs.close()

    def _answer(self) -> None:
        while True:
            select.select([self.channel], [], [])
            heard = self.channel.receive()
            if heard is None:
                return
            self.told += heard[0]
            if not self.slow:
                self.say()

    def say(self) -> None:
        with self._change:
            numbers = {"used": self.used, "in_use": self.in_use, "waiting": self.waiting, "wanted": self.wanted}
            try:
                self.channel.send({**numbers, "n": self.last["n"]})
            except OSError:
                pass

    @property
    def last(self) -> dict[str, Any]:
        return until(lambda: self.told)[-1]

    def use(self, used: int, waiting: int = 0) -> None:
        self.used = self.in_use = used
        self.waiting, self.wanted = waiting, used + waiting
        self.say()

    def tell(self, message: dict[str, Any]) -> None:
        self.channel.send(message)

    def stop(self) -> None:
        """The manager dies."""
        self.channel.hang_up()
        self._thread.join(10)
        self._answers.join(10)
        self.channel.close()
        self.judge.close()


@pytest.fixture
def engine() -> Flaky:
    return Flaky()


@pytest.fixture
def host(engine: Flaky) -> Iterator[Callable[..., FakeManager]]:
    """Makes hosts."""
    made: list[FakeManager] = []

    def make(name: str, **more: Any) -> FakeManager:
        made.append(FakeManager(engine, name, **more))
        return made[-1]

    yield make
    for each in made:
        each.stop()
    engine.close()


def learned(manager: FakeManager) -> FakeManager:
    until(lambda: manager.told and manager.last["state"] == tenure.AGREED, 20)
    return manager


def test_it_learns_then_gets_what_it_wants(engine: Flaky, host: Callable[..., FakeManager]) -> None:
    one = host("one")
    until(lambda: one.told and one.last["state"] == tenure.LEARNING)
    assert one.last["learned_at"] > tenure.now_ns()
    one.use(0, waiting=3)
    learned(one)
    until(lambda: one.last["cap"] == 3)
    assert one.last["until"] > tenure.now_ns()
    assert one.judge.asked == 1
    assert engine.read().max_size == MAX - 1


def test_nothing_is_sent_before_the_manager_goes_by_it(engine: Flaky, host: Callable[..., FakeManager]) -> None:
    one = learned(host("one"))
    one.use(0, waiting=4)
    until(lambda: one.last["cap"] == 4)
    one.use(4)
    one.slow = True
    before = engine.read().rows["one"].seq
    one.use(1)  # the rest may be given back, but the manager still goes by the older number
    time.sleep(LEASE / 2)
    number = one.last["n"]
    assert engine.read().rows["one"].seq == before
    one.used = 3  # and has granted two more meanwhile
    one.slow = False
    one.say()
    until(lambda: engine.read().rows["one"].seq > before)
    assert one.last["n"] >= number
    assert engine.read().rows["one"].credit >= 3


def test_hosts_that_are_short_ring_those_that_have_more(engine: Flaky, host: Callable[..., FakeManager]) -> None:
    one, other = host("one"), host("other")
    learned(one)
    learned(other)
    one.use(0, waiting=5)
    until(lambda: one.last["cap"] == 5)
    one.use(5)
    other.use(0, waiting=2)
    until(lambda: one.last["target"] == 3)
    one.use(3)
    until(lambda: other.last["cap"] == 2)
    assert sum(row.credit for row in engine.read().rows.values()) == MAX - 1


def test_a_lost_engine_ends_the_lease(engine: Flaky, host: Callable[..., FakeManager]) -> None:
    one = learned(host("one"))
    one.use(0, waiting=2)
    until(lambda: one.last["cap"] == 2)
    one.use(1)
    engine.fault = EngineUnreachable("gone")
    until(lambda: one.last["state"] == tenure.LOST, 10)
    assert one.last["cap"] == 1
    until(lambda: one.shown[-1]["error"] == "gone")
    engine.fault = EngineRefused("wrong password")
    until(lambda: one.last["state"] == tenure.REFUSED, 20)
    engine.fault = None
    until(lambda: one.last["state"] == tenure.AGREED, 20)
    until(lambda: one.shown[-1]["error"] == "")
    assert len(engine._listeners) == 1, "it hears rings again"


def test_a_host_that_is_gone_is_judged(engine: Flaky, host: Callable[..., FakeManager]) -> None:
    one, other = host("one"), host("other")
    learned(one)
    learned(other)
    one.use(0, waiting=5)
    until(lambda: one.last["cap"] == 5)
    one.use(5)
    other.judge.counted = {"one": 2}
    one.stop_quietly = one.channel.hang_up()  # type: ignore[attr-defined]
    other.use(0, waiting=5)
    until(lambda: other.last["cap"] == 3, 20)
    assert engine.read().rows["one"].ghost
    other.judge.counted = NotCounted("the database is down")
    until(lambda: "database is down" in other.shown[-1]["error"], 20)
    other.judge.counted = {}
    until(lambda: other.last["cap"] == 5, 20)
    assert "one" not in engine.read().rows


def test_only_one_host_judges_at_a_time(engine: Flaky, host: Callable[..., FakeManager]) -> None:
    hosts = [host(name) for name in ("a", "b", "c")]
    for each in hosts:
        learned(each)
    assert sum(each.judge.asked for each in hosts) == 1


def test_a_leave_gives_back_at_once(engine: Flaky, host: Callable[..., FakeManager]) -> None:
    one = learned(host("one"))
    one.use(0, waiting=2)
    until(lambda: one.last["cap"] == 2)
    one.use(0)
    one.tell({"leave": True})
    until(lambda: "one" not in engine.read().rows)


def test_a_leave_is_heard_although_the_manager_is_gone(engine: Flaky, host: Callable[..., FakeManager]) -> None:
    """It said so and ended, while the agent was about to tell it something."""
    one = learned(host("one"))
    one.use(0, waiting=2)
    until(lambda: one.last["cap"] == 2)
    one.slow = True
    one.agent.host.holding.cap = 1  # something to tell
    one.channel.send({"leave": True})
    one.channel.hang_up()
    until(lambda: "one" not in engine.read().rows)


def test_a_resize_reaches_the_other_host(engine: Flaky, host: Callable[..., FakeManager]) -> None:
    one, other = learned(host("one")), learned(host("other"))
    one.tell({"resize": 9})
    until(lambda: engine.read().max_size == 8)
    until(lambda: other.last["max_size"] == 9, 10)
    until(lambda: not one.last["resizing"])


def test_another_size_holds_nothing(host: Callable[..., FakeManager]) -> None:
    learned(host("one"))
    wrong = host("wrong", max_size=MAX + 2)
    wrong.use(0, waiting=1)
    until(lambda: wrong.told and wrong.last["state"] == tenure.MISMATCH)
    assert (wrong.last["theirs"], wrong.last["target"]) == (MAX, 0)


def test_an_agent_goes_on_as_the_same_host(engine: Flaky, host: Callable[..., FakeManager]) -> None:
    one = learned(host("one"))
    one.use(0, waiting=3)
    until(lambda: one.last["cap"] == 3)
    one.use(3)
    one.channel.hang_up()
    again = learned(host("one", used=3))
    assert again.last["cap"] == 3
    assert engine.read().rows["one"].credit == 3


@pytest.mark.parametrize(
    ("shown", "known"),
    [
        ({"host": "one", "learning": ["an epoch", 5.0]}, ("an epoch", 5.0)),
        ({"host": "another", "learning": ["an epoch", 5.0]}, None),
        ({"host": "one", "learning": ["an epoch", 1e12]}, None),  # of an earlier life of this machine
        ({"host": "one", "learning": None}, None),
        ({}, None),
    ],
)
def test_an_agent_goes_on_learning(engine: Flaky, shown: dict[str, Any], known: tuple[str, float] | None) -> None:
    """Agents that are killed again and again do not put the end off, each by as long as learning takes."""
    task = {"host": "one", "max_size": MAX, "kept": 1, "lease": LEASE, "slack": SLACK, "used": 0}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        judge: Any = FakeJudge()
        agent = Agent({**task, "resize": False, "engine": ""}, Channel(ours), engine, judge, lambda shown: None, shown)
        assert agent.host.ghosts.learning == known
        judge.close()


def test_what_is_shown_names_all_hosts(host: Callable[..., FakeManager]) -> None:
    one = learned(host("one"))
    learned(host("other"))
    until(lambda: {row[0] for row in one.shown[-1]["rows"]} == {"one", "other"}, 10)
    assert one.shown[-1]["engine"] == "memory"


def test_a_name_that_anybody_may_give_is_left_alone() -> None:
    assert judging._is_host("web-1")
    assert not judging._is_host("'; DROP TABLE hosts")
