"""Who rings whom, at any interleaving: nobody is left waiting beside a permit that nobody uses."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from mppool.core import notifications
from mppool.core.policy import Policy
from mppool.core.pool import PoolMachine
from mppool.manager import allocator
from mppool.manager.allocator import Allocator
from mppool.process.agent import Agent
from mppool.process.attachment import Attachment
from mppool.process.row import Row
from mppool.shared import ledger as L
from tests.process.interleaved import HORIZON, World, world_of

WORDS = ("borrow", "borrow", "borrow", "back", "back", "drop", "quit", "rest")


class Script:
    """What callers do: first in turn, each when all is at rest; then in all processes at the same time.

    Args:
        before: (process, word) each.
        then: words of each process.
    """

    def __init__(self, max_size: int, before: list[tuple[int, str]], then: list[list[str]], provider: str) -> None:
        self.max_size, self.before, self.then, self.provider = max_size, before, then, provider

    @classmethod
    def of(cls, seed: int) -> Script:
        """Every second one is a short script in which two sides meet; the others are random."""
        if seed % 2:
            return cls.random(seed)
        max_size, before, then = SHORT[seed // 2 % len(SHORT)]
        return cls(max_size, before, [*map(list, then)], "sqlite" if seed % 4 else "postgresql")

    @classmethod
    def with_a_kill(cls, seed: int) -> Script:
        """The manager is killed on the way, too, and perhaps its successor."""
        script, random = cls.of(seed), Random(f"kill {seed}")
        for _ in range(1 + (seed % 3 == 0)):
            words = random.choice(script.then)
            words.insert(random.randint(0, len(words)), "kill")
        return script

    @classmethod
    def random(cls, seed: int) -> Script:
        random = Random(-1 - seed)
        processes = random.choice((2, 2, 3))
        before = [
            (random.randrange(processes), random.choice(("borrow", "borrow", "back", "quit")))
            for _ in range(random.randint(0, 5))
        ]
        then = [[random.choice(WORDS) for _ in range(random.randint(1, 4))] for _ in range(processes)]
        return cls(random.randint(1, 3), before, then, random.choice(("sqlite", "postgresql")))

    def __repr__(self) -> str:
        return f"Script({self.max_size}, {self.before}, {self.then}, {self.provider!r})"


SHORT: list[tuple[int, list[tuple[int, str]], list[list[str]]]] = [  # permits, before, then
    (1, [(0, "borrow")], [["back"], ["borrow"]]),
    (1, [(0, "borrow")], [["drop"], ["borrow"]]),
    (1, [(0, "borrow"), (1, "borrow")], [["back"], ["quit", "borrow"]]),
    (1, [(0, "borrow"), (0, "borrow"), (0, "back"), (0, "back")], [["borrow", "back"], ["borrow"]]),
    (1, [], [["borrow", "quit", "borrow", "back"], ["borrow"]]),
    (1, [], [["borrow", "quit"], ["borrow"]]),
    (1, [(0, "borrow")], [["drop"], ["borrow", "quit"], ["borrow"]]),
    (2, [(0, "borrow"), (1, "borrow"), (1, "borrow")], [["nap", "back"], ["rest"]]),
    (3, [(0, "borrow"), (1, "borrow")], [["borrow", "quit", "borrow", "back"], ["borrow", "borrow"]]),
    (2, [(0, "borrow"), (1, "borrow")], [["drop", "borrow"], ["borrow", "nap", "quit"]]),
]


def play(script: Script, seed: int) -> World:
    with world_of(seed, script.max_size, len(script.then), script.provider) as world:
        for number, word in script.before:
            world.spawn(lambda process=world.members[number], word=word: process.do(word))
            world.run()
        world.racing = True
        for process, words in zip(world.members, script.then, strict=True):
            world.spawn(lambda process=process, words=words: [process.do(word) for word in words])
        world.pass_time(world.now + 0.02)
        world.racing = False
        world.pass_time(world.now + HORIZON)
        world.judge()
        return world


def walk(runs: int, script_of: Callable[[int], Script] = Script.of) -> None:
    for seed in range(runs):
        script = script_of(seed)
        try:
            play(script, seed)
        except AssertionError as error:
            raise AssertionError(f"{error}\nplay({script}, {seed})") from error


def test_nobody_is_left_waiting() -> None:
    walk(1500)


def test_nobody_is_left_waiting_when_the_manager_is_killed() -> None:
    walk(1000, Script.with_a_kill)


SEEN = [  # schedules that once left somebody waiting
    # Callers for whom permits were granted got connections that came back instead; the permits lay there unused.
    (Script(3, [(1, "borrow")], [["borrow", "borrow", "back"], ["quit", "borrow", "rest"]], "postgresql"), 25395),
    # A connection was lent and came back before its process heard that it was to be closed; then it was too young.
    (
        Script(
            1,
            [(0, "back"), (0, "quit"), (1, "back"), (0, "borrow"), (1, "quit")],
            [["rest", "borrow", "back", "quit"], ["borrow", "borrow", "borrow"]],
            "sqlite",
        ),
        12363,
    ),
    # A permit that was called back was put back before it could be read that others wait; its process waited, too.
    (
        Script(
            1,
            [(1, "borrow"), (2, "quit")],
            [["borrow", "borrow"], ["drop", "borrow", "back"], ["rest", "back"]],
            "sqlite",
        ),
        22353,
    ),
    # A permit was put back, and its process read that nobody waits before it wrote that it holds no permit.
    (
        Script(
            2,
            [(2, "borrow"), (1, "borrow"), (2, "quit")],
            [["borrow", "borrow", "rest"], ["borrow", "drop", "borrow", "back"], ["back", "borrow", "drop", "quit"]],
            "sqlite",
        ),
        27142,
    ),
    # A permit came free for a member that had given up, and was not granted to another.
    (
        Script(
            2,
            [(0, "borrow"), (2, "borrow"), (2, "back")],
            [["borrow"], ["back", "borrow", "back", "quit"], ["quit"]],
            "sqlite",
        ),
        58114,
    ),
    # A connection that was being closed when the plan was made was closed before it could be read that others wait.
    (
        Script(
            1,
            [(1, "borrow"), (0, "back"), (0, "borrow"), (1, "quit"), (1, "quit")],
            [["quit", "borrow", "back"], ["drop", "back", "borrow", "drop"]],
            "sqlite",
        ),
        639,
    ),
    # A permit that was called back was put back before it could be read that others wait; it was being closed when its
    # member was read, and it was not read again.
    (Script(1, [(0, "borrow")], [["drop"], ["borrow"]], "sqlite"), 112394),
    (Script(1, [(0, "borrow")], [["drop"], ["borrow", "quit"], ["borrow"]], "sqlite"), 2118),
    # A permit was called back for callers that had given up when they were read again. Nobody wanted it any more, so
    # its member did not tell that it had put it back, and left it alone although callers of its own came.
    (Script(2, [(0, "borrow"), (1, "borrow")], [["drop", "borrow"], ["borrow", "nap", "quit"]], "sqlite"), 537),
]


@pytest.mark.parametrize(("script", "seed"), SEEN)
def test_nobody_is_left_waiting_any_more(script: Script, seed: int) -> None:
    play(script, seed)


def test_the_end_of_a_task_is_nobodys_turn() -> None:
    """The harness: a task that waits does not go on because one that it made has ended, else a lock lets two in."""
    went_on: list[bool] = []

    def waits() -> None:
        world.spawn(lambda: None)
        world.wait(lambda: False)
        went_on.append(True)

    with world_of(0, 1, 1, "sqlite") as world:
        world.spawn(waits)
        world.run()
        assert not went_on


# -- planted bugs --------------------------------------------------------------------------------------------

Plant = Callable[[pytest.MonkeyPatch], None]


def nothing_is_overlooked(patch: pytest.MonkeyPatch) -> None:
    """Callers that lined up before they could read that the manager knows less than they thought do not count."""
    patch.setattr(allocator, "overlooked", lambda demand, before, after: False)


def known_is_written_after_the_look(patch: pytest.MonkeyPatch) -> None:
    def publish(self: Allocator, member: int) -> bool:
        cells, at = self.ledger.cells, self.ledger.offset(member)
        late, self.ledger.cells = Late(cells, at + L.KNOWN, at + L.IN_USE), cells
        self.ledger.cells = late  # type: ignore[assignment]
        try:
            again = real(self, member)
        finally:
            self.ledger.cells = cells
            late.write()
        return again

    real = Allocator._publish
    patch.setattr(Allocator, "_publish", publish)


class Late:
    """Cells of which one is written after another has been read."""

    def __init__(self, cells: Any, cell: int, until: int) -> None:
        self._cells, self._cell, self._until = cells, cell, until
        self._value: int | None = None

    def __getitem__(self, cell: Any) -> Any:
        value = self._cells[cell]
        if cell == self._until:
            self.write()
        return value

    def __setitem__(self, cell: int, value: int) -> None:
        if cell == self._cell:
            self._value = value
        else:
            self._cells[cell] = value

    def write(self) -> None:
        if self._value is not None:
            self._cells[self._cell], self._value = self._value, None


def nobody_searches_once_others_wait(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Policy, "search_again", lambda self: False)


def nobody_looks_once_members_are_to_tell(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Policy, "look_again", lambda self, now: False)


def an_idle_connection_is_not_told(patch: pytest.MonkeyPatch) -> None:
    def publish_idle(self: Row, machine: PoolMachine) -> bool:
        real(self, machine)
        return False

    real = Row.publish_idle
    patch.setattr(Row, "publish_idle", publish_idle)


def a_permit_put_back_is_not_told(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Row, "short", False)


def lifted_orders_are_not_told(patch: pytest.MonkeyPatch) -> None:
    def tell(said: notifications.Orders | None, say: notifications.Orders, waiting: bool) -> bool:
        return said is None or (said != say and say.must_close)

    patch.setattr(allocator, "must_tell", tell)


def orders_to_close_are_not_told(patch: pytest.MonkeyPatch) -> None:
    def tell(said: notifications.Orders | None, say: notifications.Orders, waiting: bool) -> bool:
        return notifications.must_tell(said, say._replace(must_close=False), waiting)

    patch.setattr(allocator, "must_tell", tell)


def a_line_is_written_after_the_orders_are_read(patch: pytest.MonkeyPatch) -> None:
    def publish_line(self: Row, machine: PoolMachine) -> None:
        read = self._named.known, self._named.credit
        real(self, machine)
        seen[self] = read

    def lacks(self: Row, machine: PoolMachine) -> bool:
        read = seen.get(self) or (self._named.known, self._named.credit)
        return notifications.lacks(machine.demand, *read)

    seen: dict[Row, tuple[int, int]] = {}
    real = Row.publish_line
    patch.setattr(Row, "publish_line", publish_line)
    patch.setattr(Row, "lacks", lacks)


def an_idle_connection_is_written_after_the_orders_are_read(patch: pytest.MonkeyPatch) -> None:
    def publish_idle(self: Row, machine: PoolMachine) -> bool:
        telling = bool(self.cells[L.H_TELLING])
        real(self, machine)
        return telling and len(machine.idle) == 1

    real = Row.publish_idle
    patch.setattr(Row, "publish_idle", publish_idle)


def a_permit_is_put_back_after_the_orders_are_read(patch: pytest.MonkeyPatch) -> None:
    def put_back(self: Attachment) -> bool:
        short = self._pool.row.short
        real(self)
        return short

    real = Attachment.put_back
    patch.setattr(Attachment, "put_back", put_back)


def a_credit_is_written_before_the_target(patch: pytest.MonkeyPatch) -> None:
    def publish(self: Allocator, member: int) -> bool:
        account, cells, at = self.books.accounts[member], self.ledger.cells, self.ledger.offset(member)
        early = Late(cells, at + L.TARGET, at + L.WAITING)
        if not account.frozen:
            cells[at + L.CREDIT] = account.credit
        self.ledger.cells = early  # type: ignore[assignment]
        try:
            return real(self, member)
        finally:
            self.ledger.cells = cells
            early.write()

    real = Allocator._publish
    patch.setattr(Allocator, "_publish", publish)


def the_agent_is_not_woken(patch: pytest.MonkeyPatch) -> None:
    """Callers take it that it listens."""
    patch.setattr(Agent, "listening", property(lambda self: True, lambda self, value: None), raising=False)


def one_that_comes_over_is_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    """By a successor: the member's connection has been idle since before, so it tells of none."""

    def declare(self: Allocator, member: int, held: int, now: float) -> None:
        policy, self.policy = self.policy, SimpleNamespace(notified=lambda member, now: None)  # type: ignore[assignment]
        real(self, member, held, now)
        self.policy = policy

    real = Allocator.declare
    patch.setattr(Allocator, "declare", declare)


PLANTED = [
    one_that_comes_over_is_not_looked_at,
    nothing_is_overlooked,
    known_is_written_after_the_look,
    nobody_searches_once_others_wait,
    nobody_looks_once_members_are_to_tell,
    an_idle_connection_is_not_told,
    a_permit_put_back_is_not_told,
    lifted_orders_are_not_told,
    orders_to_close_are_not_told,
    a_line_is_written_after_the_orders_are_read,
    an_idle_connection_is_written_after_the_orders_are_read,
    a_permit_is_put_back_after_the_orders_are_read,
    a_credit_is_written_before_the_target,
    the_agent_is_not_woken,
]


def short(number: int) -> Script:
    return Script(*SHORT[number], "postgresql")


RARE = {  # what only few schedules show, even of the script that shows it
    nothing_is_overlooked: short(2),
    known_is_written_after_the_look: short(2),
    a_line_is_written_after_the_orders_are_read: short(2),
    an_idle_connection_is_written_after_the_orders_are_read: short(7),
    one_that_comes_over_is_not_looked_at: Script(
        2, [(0, "borrow"), (1, "borrow"), (1, "borrow")], [["kill", "nap", "back"], ["rest"]], "sqlite"
    ),
}


@pytest.mark.parametrize("plant", PLANTED)
def test_planted_bugs_are_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="wait"):
        walk(10_000, (lambda seed: RARE[plant]) if plant in RARE else Script.of)
