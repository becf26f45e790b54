"""A manager that is short of descriptors: it serves those that it has, and turns newcomers away until there is room."""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from mppool import PoolManager, PySQLXEnginePoolSync, errors
from mppool.membership import launcher
from mppool.membership.member import Member
from mppool.shared import ledger as L
from mppool.shared import messages, room
from tests.manager.seats import NAME, credit, get, manager_of, settings, sit, want
from tests.process.test_no_descriptors import none_free
from tests.waiting import Whistle, forked, until

LIMIT = 64  # files that the manager may open
EACH, MEMBERS = 10, 5  # connections


@contextmanager
def small_manager(uri: str) -> Iterator[None]:
    """A manager that was launched where few files may be opened, and stays while its owner lives."""

    def own() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
        manager = PoolManager(uri, EACH * MEMBERS, NAME)
        manager.start()
        ready.blow()
        signal.pause()

    with Whistle() as ready, forked(own):
        ready.wait()
        yield


def hold(uri: str, ready: Whistle, ask: Whistle, told: Whistle) -> None:
    """Borrow, say so; when asked, use all that was borrowed and say that it works."""
    pool = PySQLXEnginePoolSync(uri, 0, EACH * MEMBERS, name=NAME)
    pool.start()
    leases = [pool.connection(20) for _ in range(EACH)]
    connections = [lease.__enter__() for lease in leases]
    ready.blow()
    ask.wait(60)
    for connection in connections:
        assert connection.query_first("SELECT 1 AS a").a == 1
    told.blow()
    signal.pause()


def test_no_borrowed_connection_ends(postgres_uri: str) -> None:
    with small_manager(postgres_uri), ExitStack() as stack:
        crowd = []
        for _ in range(MEMBERS):
            ready, ask, told = (stack.enter_context(Whistle()) for _ in range(3))
            crowd.append((stack.enter_context(forked(hold, postgres_uri, ready, ask, told)), ask, told))
            ready.wait()
        for _, ask, told in crowd:
            ask.blow()
            told.wait()


def _fill(seats: list[Member], uri: str) -> None:
    while True:
        seats.append(sit(EACH * MEMBERS, uri, named=True))


def test_newcomers_wait_until_somebody_leaves(postgres_uri: str) -> None:
    def come(timeout: float, said: Whistle) -> None:
        pool = PoolManager(postgres_uri, EACH * MEMBERS, NAME).pool()
        with pytest.raises(errors.PoolTimeoutError) as caught, pool.connection(timeout):
            pass
        assert isinstance(caught.value.__cause__, errors.ManagerFullError)
        assert "ulimit -Hn" in str(caught.value.__cause__)
        said.blow()
        with pool.connection(60) as connection:
            assert connection.query_first("SELECT 1 AS a").a == 1
        pool.stop()

    with small_manager(postgres_uri), ExitStack() as stack:
        seats: list[Member] = []
        with pytest.raises(errors.ManagerFullError, match=f"may open {LIMIT} files and has"):
            _fill(seats, postgres_uri)
        assert len(seats) >= 8
        said = stack.enter_context(Whistle())
        child = stack.enter_context(forked(come, 0.5, said))
        said.wait()
        for seat in seats[:4]:
            seat.leave()
        assert child.join() == 0
        for seat in seats[4:]:
            seat.leave()


def test_a_member_that_attaches_again_gives_its_seat_up() -> None:
    """Its end of the old channel may still be open: a thread that sleeps on it keeps it, though its number is gone."""
    before = Member(settings(), NAME, 0, token=7)
    other = Member(settings(), NAME, 0, token=8)
    get(before, 3)
    after = Member(settings(), NAME, 0, token=7, returning=True)
    after.declare(0)
    until(lambda: before.channel.receive() is None)
    get(after, 4)
    for each in (before, other, after):
        each.channel.hang_up()
        each.abandon()


@pytest.mark.parametrize("how", ["channel", "answer"])
def test_a_member_that_loses_its_channel_keeps_its_permits(how: str, tmp_path: Any) -> None:
    """It lives and will attach again: for want of descriptors it may have had to close the channel, or it could not
    receive the answer when it attached again."""
    where = settings(uri=f"sqlite:{tmp_path}/shop.db")

    def cannot_receive() -> None:
        returning = Member(where, NAME, 0, token=7, returning=True)
        returning.channel.close()
        returning.abandon()

    before = Member(where, NAME, 0, token=7)
    other = Member(where, NAME, 0, token=8)
    get(before, 3)
    if how == "channel":
        before.channel.hang_up()
    else:
        cannot_receive()
    want(other, 4)
    until(lambda: credit(other) > 0)
    assert credit(other) == 1
    after = Member(where, NAME, 0, token=7, returning=True)
    assert after.at == before.at
    assert after.undeclared
    after.declare(3)
    assert (credit(after), credit(other)) == (3, 1)
    after.leave()
    until(lambda: credit(other) == 4)
    other.leave()
    before.abandon()


@contextmanager
def descriptors_left(count: int, pid: int) -> Iterator[None]:
    """A process may have so many more."""
    taken = {int(number) for number in os.listdir(f"/proc/{pid}/fd")}
    free = sorted(set(range(len(taken) + count + 1)) - taken)
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[count], limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def test_a_newcomer_that_cannot_be_looked_at_is_told_to_come_again() -> None:
    member = sit()
    with descriptors_left(1, manager_of(member)), pytest.raises(errors.ManagerFullError, match="no descriptor left"):
        sit()
    member.leave()


def test_a_living_member_does_not_count_as_ended_for_want_of_descriptors() -> None:
    """Whether a member that hung up lives is not to be seen without a descriptor: it counts as alive."""
    member, other = Member(settings(), NAME, 0, token=7), Member(settings(), NAME, 0, token=8)
    get(member, 1)
    key = member.row.key
    with descriptors_left(0, manager_of(member)):
        member.channel.hang_up()
        get(other, 1)  # by now the manager has seen that
    assert member.row.key == key
    member.row.left = 1
    other.leave()
    member.abandon()


def test_the_limit_is_told_at_launch(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher.resource, "getrlimit", lambda which: (256, 256))
    with caplog.at_level(logging.WARNING, "mppool.pool"):
        member = sit()
    member.leave()
    (record,) = caplog.records
    members = room.members_within(256, 4)
    assert f"may open 256 files, which is enough for about {members} processes with 4 connections" in record.message
    assert str(room.needed(L.ROWS, 4)) in record.message


def test_descriptors_that_could_not_be_received_are_not_garbage() -> None:
    ours, theirs = socket.socketpair()
    mine, peer = messages.Channel(ours), messages.Channel(theirs)
    with open(os.devnull) as null:
        peer.send({"do": "opened"}, [null.fileno()])
        with none_free():
            heard = mine.receive()
    assert heard is not None
    assert heard[0] == [{"do": "opened"}]
    with pytest.raises(messages.CutShort):
        mine.claim_fds(1)
    mine.close()
    peer.close()
