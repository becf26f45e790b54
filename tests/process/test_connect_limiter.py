"""When a process may begin to open a connection: one at a time after failures, few over all processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mppool.database.connection import own_socket
from mppool.process import connect_limiter as module
from mppool.process.connect_limiter import ConnectLimiter
from mppool.settings import BudgetSettings, PoolSettings
from mppool.shared import paths

SERVER, FILE = "postgresql://u@localhost/d", "sqlite:/x.db"


def pool(uri: str, concurrency: int = 16) -> Any:
    return SimpleNamespace(
        name="shop",
        budget=BudgetSettings(uri, 10),
        settings=PoolSettings(connect_concurrency=concurrency),
        machine=SimpleNamespace(opening=set()),
    )


@pytest.fixture(autouse=True)
def told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_socket, "seeing", {pool(SERVER).budget.database.key})


@pytest.fixture(autouse=True)
def folder(runtime_folder: str) -> Any:
    made = paths.make_folder("shop")
    yield made
    paths.remove_folder(made)


@pytest.mark.parametrize("uri", [SERVER, FILE])
def test_failures_in_a_row(uri: str) -> None:
    """One at a time, with pauses that grow up to half a second."""
    limiter, now, pauses = ConnectLimiter(pool(uri)), 100.0, []
    for number in range(1, 12):
        turn = limiter.enter(now)
        assert turn is not None
        turn.give_back()
        limiter._pool.machine.opening = {1}
        pause = limiter.failed(now)
        assert pause is not None
        assert limiter.failed(now + pause / 2) is None, "one that ran beside it tells nothing new"
        assert limiter.failures == number
        assert limiter.opens_at(now + pause) is None, "another try is still under way"
        limiter._pool.machine.opening = set()
        assert limiter.enter(now + pause / 2) is None
        pauses.append(pause)
        now += pause
        assert limiter.opens_at(now) == now
    assert module.PAUSES[0] / 2 <= pauses[0] <= module.PAUSES[0]
    assert module.PAUSES[1] / 2 <= pauses[-1] <= module.PAUSES[1]
    assert limiter.succeeded() == 11
    limiter._pool.machine.opening = {1}
    turn = limiter.enter(now)
    assert turn is not None, "all at once again"
    turn.give_back()
    assert limiter.succeeded() == 0


def test_processes_do_not_march_in_step() -> None:
    pauses = {ConnectLimiter(pool(SERVER)).failed(0.0) for _ in range(10)}
    assert len(pauses) == 10


def test_as_many_at_once_as_all_processes_may() -> None:
    mine, theirs = ConnectLimiter(pool(SERVER, 3)), ConnectLimiter(pool(SERVER, 3))
    turns = [mine.enter(0.0), theirs.enter(0.0), mine.enter(0.0)]
    assert None not in turns
    assert mine.enter(0.0) is None
    again = mine.opens_at(0.0)
    assert again is not None
    assert module.ASK_AGAIN[0] <= again <= module.ASK_AGAIN[1]
    turns[1].give_back()  # type: ignore[union-attr]
    turns[1] = mine.enter(again)
    for turn in turns:
        assert turn is not None
        turn.give_back()


def test_one_at_a_time_until_they_can_be_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_socket, "seeing", set())
    limiter = ConnectLimiter(pool(SERVER))
    limiter._pool.machine.opening = {1}
    assert limiter.opens_at(0.0) is None


def test_no_more_than_one_process_should() -> None:
    limiter = ConnectLimiter(pool(FILE))
    limiter._pool.machine.opening = set(range(module.AT_ONCE - 1))
    assert limiter.enter(0.0) is not None
    limiter._pool.machine.opening = set(range(module.AT_ONCE))
    assert limiter.enter(0.0) is None


def test_a_deleted_folder_keeps_nobody_from_the_database(folder: str) -> None:
    paths.remove_folder(folder)
    turn = ConnectLimiter(pool(SERVER, 1)).enter(0.0)
    assert turn is not None
    turn.give_back()
    paths.make_folder("shop")
