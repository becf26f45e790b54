"""A host's share: the books follow what the agent says, and members may open only while that is safe."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from mppool.manager import share as module
from mppool.manager.share import Share
from mppool.shared import ledger as L
from mppool.shared import tenure
from tests.manager.watched import Budget, opened

MAX = 10
SECOND = 1_000_000_000
CONFIG = {
    "name": "shop", "uri": "postgresql://db/shop", "cluster": "redis://engine", "engine": "redis://engine", "path": [],
    "lease": 10.0, "slack": 2.0, "kept": 1,
}  # fmt: skip


class FakeAgent:
    """What the manager sees of an agent, without a process."""

    def __init__(self, hosts: int) -> None:
        self.tasks: list[dict[str, Any]] = []
        self.heard: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] | None = []
        self.runs, self.pid, self.dying, self.again_at = False, None, False, 0.0
        self.full = False
        self._ours, self._theirs = socket.socketpair()

    def fileno(self) -> int:
        return self._ours.fileno()

    def launch(self, task: dict[str, Any], now: float) -> bool:
        self.tasks.append(task)
        self.runs = True
        return True

    def hear(self) -> list[dict[str, Any]] | None:
        told, self.told = self.told, []
        return told

    def say(self, message: dict[str, Any]) -> bool:
        if not self.full:
            self.heard.append(message)
        return not self.full

    def let_go(self, now: float) -> None:
        self.runs, self.again_at = False, 0.0

    def reap(self) -> None: ...

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


class Scene:
    """A share of a budget's books, and what its agent says."""

    def __init__(self, budget: Budget, folder: str, *, living: bool = False, **config: Any) -> None:
        self.budget, self.allocator, self.changes, self.now = budget, budget.allocator, 0, 100.0
        self.selector = selectors.DefaultSelector()
        self.share = Share({**CONFIG, **config}, folder, self.allocator, self.selector, self._changed, living)
        self.agent: Any = self.share._agent
        self.header = budget.ledger.header
        self.number = 0
        self.turn()

    def _changed(self) -> None:
        self.changes += 1

    def turn(self) -> None:
        """As the manager does once for all that came together."""
        self.now += 1.0
        for _ in range(3):
            if self.share.before_settling(self.now) or self.budget.rang:
                self.budget.settle(self.now)
        self.share.after_settling(self.now)

    def says(self, cap: int, target: int | None = None, seconds: float = 10.0, **more: Any) -> None:
        self.number += 1
        usual = {"state": tenure.AGREED, "learned_at": 0, "max_size": MAX, "theirs": 0, "resizing": False}
        until = tenure.now_ns() + int(seconds * SECOND)
        message = {"n": self.number, "cap": cap, "target": cap if target is None else target, "until": until}
        self.agent.told = [{**message, **usual, **more}]
        self.share.hear()
        self.turn()

    def lapse(self) -> None:
        self.header.lease = tenure.LAPSED
        self.share._until = tenure.LAPSED
        self.turn()

    @property
    def said(self) -> dict[str, Any]:
        """What the agent was told last of what is used."""
        return next(each for each in reversed(self.agent.heard) if "used" in each)

    def close(self) -> None:
        self.share.leave()
        self.selector.close()
        self.agent.close()


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]) -> Iterator[Scene]:
    monkeypatch.setattr(module, "AgentProcess", FakeAgent)
    with opened(MAX) as budget:
        made = Scene(budget, os.fspath(tmp_path))
        yield made
        made.close()


def test_it_begins_with_nothing_and_the_lease_ended(scene: Scene) -> None:
    assert scene.allocator.books.max_size == 0
    assert not scene.share.is_open
    assert scene.agent.tasks[0]["used"] == 0
    assert scene.agent.tasks[0]["host"] == tenure.host(scene.header) != ""
    assert scene.header.max_size == MAX


def test_members_get_what_the_engine_gives_and_no_more(scene: Scene) -> None:
    member = scene.budget.attach()
    scene.budget.report(member, waiting=5)
    scene.turn()
    assert scene.budget.credit(member) == 0
    scene.says(3)
    assert scene.budget.credit(member) == 3
    assert (scene.said["used"], scene.said["waiting"], scene.said["n"]) == (3, 5, 1)


def test_a_lower_cap_is_followed_and_told(scene: Scene) -> None:
    scene.says(5)
    member = scene.budget.worker(5, in_use=2)
    scene.says(5, target=2)
    assert scene.budget.cell(member, L.TARGET) == 2
    assert scene.said["used"] == 5, "connections are still open"
    scene.budget.report(member, held=2)
    scene.allocator.semaphores[member].real.give(3)  # type: ignore[attr-defined]
    scene.budget.rang.add(member)
    scene.turn()
    assert scene.said["used"] == 2


def test_an_ended_lease_drains_the_semaphores(scene: Scene) -> None:
    scene.says(5)
    member = scene.budget.attach()
    scene.budget.report(member, waiting=4)
    scene.turn()
    assert scene.budget.take_all(member) == 4
    scene.budget.report(member, held=3)
    scene.allocator.semaphores[member].real.give(1)  # type: ignore[attr-defined]
    scene.lapse()
    assert scene.allocator.used == 3
    scene.turn()
    assert scene.said["used"] == 3
    assert scene.budget.credit(member) == 3, "nothing is granted although a caller waits"


def test_a_lease_is_shown_only_while_no_more_is_used_than_the_engine_gives(scene: Scene) -> None:
    """Another host has judged this one meanwhile, and was given what lay unused here."""
    scene.says(5)
    member = scene.budget.worker(4, in_use=4)
    scene.lapse()
    scene.says(2)
    assert not scene.share.is_open
    scene.budget.report(member, held=2, in_use=2)
    scene.allocator.semaphores[member].real.give(2)  # type: ignore[attr-defined]
    changes = scene.changes
    scene.turn()
    assert scene.share.is_open
    assert scene.changes == changes + 1, "members are told that they may open again"


def test_an_older_lease_does_not_shorten_it(scene: Scene) -> None:
    scene.says(5, seconds=10)
    lease = scene.header.lease
    scene.says(5, seconds=-5)
    assert scene.header.lease == lease


def test_a_lost_agent_is_replaced_and_nothing_grows_until_then(scene: Scene) -> None:
    scene.says(5)
    scene.budget.worker(2, in_use=2)
    scene.turn()
    scene.agent.told = None
    scene.share.hear()
    scene.turn()
    assert scene.allocator.books.max_size == 2
    assert [task["used"] for task in scene.agent.tasks] == [0, 2]
    assert len({task["host"] for task in scene.agent.tasks}) == 1


def test_an_agent_that_talks_nonsense_is_replaced(scene: Scene) -> None:
    scene.agent.told = [{"n": "?"}]
    scene.share.hear()
    assert not scene.agent.runs


def test_a_successor_goes_on_as_the_same_host_with_its_lease(scene: Scene, tmp_path: os.PathLike[str]) -> None:
    scene.says(5)
    scene.budget.worker(3, in_use=3)
    name, lease = tenure.host(scene.header), scene.header.lease
    successor = Scene(scene.budget, os.fspath(tmp_path), living=True)
    assert (tenure.host(scene.header), scene.header.lease) == (name, lease)
    assert successor.agent.tasks[0]["used"] == 3
    assert successor.allocator.books.max_size == 3
    successor.close()


def test_what_killed_processes_left_counts_as_in_use(scene: Scene) -> None:
    scene.says(5)
    member = scene.budget.worker(3, in_use=3)
    scene.allocator.retire(member, 2, scene.now)
    scene.turn()
    assert (scene.said["used"], scene.said["in_use"]) == (2, 2)


def test_a_resize_is_passed_on_and_counts_until_the_engine_knows(scene: Scene) -> None:
    scene.says(5)
    scene.share.resize(7)
    scene.turn()
    assert {"resize": 7} in scene.agent.heard
    assert scene.header.max_size == 7
    scene.says(5, max_size=MAX)
    assert scene.header.max_size == 7, "the agent had not heard of it yet"
    scene.says(5, max_size=7)
    scene.says(5, max_size=4)
    assert scene.header.max_size == 4, "resized on another host"
    assert scene.header.resized


def test_what_the_agent_could_not_be_told_is_said_later(scene: Scene) -> None:
    scene.says(5)
    scene.agent.full = True
    scene.share.tell_uri("postgresql://other/shop")
    scene.budget.worker(1, in_use=1)
    scene.turn()
    assert not any("uri" in each for each in scene.agent.heard)
    scene.agent.full = False
    scene.turn()
    assert {"uri": "postgresql://other/shop"} in scene.agent.heard
    assert scene.said["used"] == 1
