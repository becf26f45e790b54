"""The connector and how it closes connections, on the fake database: without processes, threads and a manager."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from mppool import errors
from mppool.core.slots import Slot, Waiter
from mppool.database.connection.error_classes import Trust
from mppool.database.fake import FakeDatabase, FakeLink, Step
from mppool.process import closing as closing_module
from mppool.process import connector as connector_module
from mppool.process.closing import Closing
from mppool.process.connector import Connector
from mppool.process.lending import Lending
from mppool.process.silent_connections import SilentConnections
from mppool.settings import BudgetSettings, PoolSettings
from mppool.shared.file_slots import FileSlot

BUDGET = BudgetSettings("postgresql://fake/fake", 4)


class Caller(Waiter):
    def __init__(self) -> None:
        super().__init__(0.0)
        self.woken = False

    def wake(self) -> bool:
        self.woken = True
        return True


class Executor:
    """Pieces of work wait until the test has them done."""

    def __init__(self) -> None:
        self.pieces: list[Callable[[], None]] = []

    def do(self, piece: Callable[[], None]) -> None:
        self.pieces.append(piece)

    def work(self) -> None:
        while self.pieces:
            self.pieces.pop(0)()


class Surroundings:
    """What a connector has around it in a process, written down: `Notifier`, `Permits` and `Attempts`.

    Attributes:
        told: in order, what each of them was told.
        permits: put back, and for each the connections that the server counted then.
        others_wait: whether other processes wait for permits.
    """

    def __init__(self, database: FakeDatabase) -> None:
        self.database = database
        self.told: list[str] = []
        self.permits: list[int] = []
        self.others_wait = False
        self.pool: Lending

    def wake(self) -> None:
        self.told.append("wake")

    def notify_manager(self) -> None:
        self.told.append("notify")
        assert not self.pool.lock._is_owned(), "nothing slow under the lock"  # type: ignore[attr-defined]

    def begin_work(self) -> None:
        raise AssertionError("the agent has not left")

    def watch(self, link: Any) -> bool:
        self.told.append("watch")
        return True

    def unwatch(self, link: Any) -> None:
        self.told.append("unwatch")

    def put_back(self) -> bool:
        assert self.pool.amid, "what is held and what lies on the semaphore change in one step"
        self.permits.append(len(self.database.connections))
        return self.others_wait

    def succeeded(self) -> int:
        self.told.append("succeeded")
        return 0

    def failing(self, error: errors.ConnectError) -> tuple[list[Waiter], float | None]:
        assert self.pool.amid
        self.starting.error = error
        return [self.starting], 0.5

    def failed(self, error: errors.ConnectError, pause: float | None) -> None:
        self.told.append(f"failed, {pause} s")

    starting = Caller()


class Scene:
    """A pool whose connector opens connections to a fake database."""

    def __init__(self, **settings: Any) -> None:
        self.database = FakeDatabase()
        self.around = around = Surroundings(self.database)
        around.starting = Caller()
        self.pool = around.pool = pool = Lending(BUDGET, "fake", PoolSettings(min_size=0, **settings), 0)
        pool.notifier = around
        self.machine = pool.machine
        self.executor: Any = Executor()
        silent = SilentConnections(pool, lambda: False, lambda: pytest.fail("the server need not be asked"))
        closing = Closing(pool, self.executor, around, silent)
        self.connector = Connector(pool, self.executor, around, around, closing)

    def open(self) -> Slot:
        """Take a permit and open a connection with it, or try to."""
        with self.pool.step:
            slot = self.machine.take(0.0, 0.0)
        turn = FileSlot()
        self.connector.open(slot, turn)
        self.executor.work()
        return slot

    def lent(self) -> tuple[Caller, FakeLink]:
        """An open connection, and who has borrowed it."""
        self.open()
        caller = Caller()
        slot = self.pool.borrow(caller)
        assert slot is not None
        return caller, slot.link

    def begin_work(self) -> None:
        """What the agent does when it is woken."""
        with self.pool.step:
            todo = self.machine.begin()
        for each in todo:
            (self.connector.close if type(each).__name__ == "Close" else self.connector.check)(each.slot)
        self.executor.work()


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scene]:
    def made(**settings: Any) -> Scene:
        scene = Scene(**settings)
        monkeypatch.setattr(connector_module, "open_link", scene.database.open_link)
        return scene

    for name, seconds in (("END_PATIENCE", 0.2), ("AFTER", 0.05)):
        monkeypatch.setattr(closing_module, name, seconds)
    return made


# -- opening -------------------------------------------------------------------------------------------------


def test_a_connection_is_opened_and_lies_idle(make: Callable[..., Scene]) -> None:
    scene = make()
    slot = scene.open()
    assert scene.machine.idle == [slot]
    assert {slot.link} == scene.database.connections
    assert scene.pool.opened == len(scene.pool.recent) == 1
    assert scene.around.told == ["succeeded", "watch", "wake"]  # the last: start() may go on
    assert scene.around.permits == []


def test_a_connection_goes_to_the_caller_in_line(make: Callable[..., Scene]) -> None:
    scene, caller = make(), Caller()
    with scene.pool.step:
        scene.machine.line_up(caller, 0.0)
    slot = scene.open()
    assert (caller.slot, caller.woken) == (slot, True)


def test_a_permit_goes_back_when_no_connection_can_be_opened(make: Callable[..., Scene]) -> None:
    scene = make()
    scene.around.others_wait = True
    scene.database.opens.append(Step.FAILS)
    scene.open()
    assert scene.machine.slots == set()
    assert scene.around.permits == [0]
    assert scene.around.told == ["notify", "failed, 0.5 s"]
    assert scene.around.starting.woken
    assert scene.pool.connect_errors == 1
    assert "told to refuse" in str(scene.pool.last_connect_error)


def test_a_server_that_is_full_is_asked_again(make: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    scene, pauses = make(), list[float]()
    scene.open()
    scene.database.limit = 1

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            scene.database.limit = 2

    monkeypatch.setattr(connector_module, "time", SimpleNamespace(sleep=sleep))
    scene.open()
    assert len(pauses) == scene.pool.refused_full == 3
    assert len(scene.machine.idle) == 2
    assert scene.pool.connect_errors == 0


def raises(link: Any) -> bool:
    raise SystemExit("a hook of the user's may raise anything")


@pytest.mark.parametrize("hook", [raises, lambda link: False])
def test_a_connection_that_cannot_be_configured_is_closed_before_its_permit_goes_back(
    make: Callable[..., Scene], hook: Callable[[Any], object]
) -> None:
    scene = make(configure=hook)
    scene.open()
    assert scene.machine.slots == set()
    assert scene.around.permits == [0]


# -- checking ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answers", "expected"), [(Step.SUCCEEDS, 1), (Step.SLOW, 1), (Step.FAILS, 0)])
def test_a_transaction_that_was_left_open_is_rolled_back(
    make: Callable[..., Scene], answers: Step, expected: int
) -> None:
    scene = make()
    caller, link = scene.lent()
    link.transaction_begins()
    link.answers = answers
    scene.pool.give_back(caller)
    assert list(scene.machine.checking.values()) == [False]
    scene.begin_work()
    scene.begin_work()  # closes what is not fit
    assert not link.in_transaction
    assert len(scene.machine.idle) == len(scene.database.connections) == expected
    assert scene.around.permits == [0] * (1 - expected)


@pytest.mark.parametrize("hook", [raises, lambda link: False])
def test_when_a_connection_fails_its_check_the_next_one_is_checked(
    make: Callable[..., Scene], hook: Callable[[Any], object]
) -> None:
    scene, caller = make(check=hook), Caller()
    first, second = scene.open(), scene.open()
    with scene.pool.step:
        scene.machine.line_up(caller, 0.0)
        assert scene.machine.check_next()
    scene.begin_work()
    assert second in scene.machine.closing
    assert first in scene.machine.checking
    assert caller.slot is None


# -- closing -------------------------------------------------------------------------------------------------


def test_a_connection_at_rest_is_closed_at_once_and_its_end_awaited_elsewhere(make: Callable[..., Scene]) -> None:
    scene = make()
    slot = scene.open()
    link = slot.link
    with scene.pool.step:
        scene.machine.discard({slot})
        scene.machine.begin()
    scene.connector.close(slot)
    assert link.conn is None
    assert scene.around.permits == [], "the server still counts it"
    scene.executor.work()
    assert scene.around.permits == [0]
    assert scene.machine.slots == set()
    assert scene.pool.closed == 1


def test_one_on_which_a_call_may_run_is_closed_on_another_thread(make: Callable[..., Scene]) -> None:
    scene = make()
    caller, link = scene.lent()
    link.distrust(Trust.DOUBTFUL)
    scene.pool.give_back(caller)
    (slot,) = scene.machine.slots
    with scene.pool.step:
        scene.machine.begin()
    scene.connector.close(slot)
    assert link.conn is not None
    scene.executor.work()
    assert scene.around.permits == [0]


def test_a_server_that_does_not_end_a_connection_keeps_its_permit_for_a_while(
    make: Callable[..., Scene], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make()
    caller, link = scene.lent()
    link.leaving = Step.NEVER
    link.distrust()
    scene.pool.give_back(caller)
    lost: list[int] = []
    real = Lending.publish

    def publish(pool: Lending) -> bool:
        lost.append(len(pool.machine.lost))
        return real(pool)

    monkeypatch.setattr(Lending, "publish", publish)
    scene.begin_work()
    assert lost == [1, 1], "others see that this permit is not soon free"
    assert scene.around.permits == [1]
    assert "may have more than max_size" in caplog.text


ANSWERS = (Step.SUCCEEDS, Step.SLOW, Step.FAILS)  # one that never comes takes the five seconds of a check


@pytest.mark.parametrize(("opens", "answers", "ending", "leaving"), list(product(ANSWERS[::2], ANSWERS, Step, Step)))
def test_a_permit_goes_back_once_whatever_becomes_of_the_steps(
    make: Callable[..., Scene], opens: Step, answers: Step, ending: Step, leaving: Step
) -> None:
    scene = make(reset=lambda link: False)
    scene.database.opens.append(opens)
    scene.open()
    caller = Caller()
    slot = scene.pool.borrow(caller)
    assert (slot is None) == (opens is Step.FAILS)
    if slot is not None:
        slot.link.answers, slot.link.ending, slot.link.leaving = answers, ending, leaving
        slot.link.transaction_begins()
        scene.pool.give_back(caller)
        scene.begin_work()  # checks it
        scene.begin_work()  # closes it
    assert len(scene.around.permits) == 1
    assert scene.machine.slots == set()
    assert not scene.pool.amid
