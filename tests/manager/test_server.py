"""The manager at work, seen by its members: who gets what, whose death is noticed how, when it leaves."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator

import pytest

from mppool.manager import leaving, server
from mppool.membership import asking, launcher
from mppool.membership import member as member_module
from mppool.shared import ledger as L
from mppool.shared import messages, paths
from tests.manager import seats
from tests.manager.seats import NAME, config, credit, get, gone, manager_of, runs, served_here, sit, want
from tests.waiting import Whistle, forked, until


class Holder:
    """A process that takes so many permits and lives on. Its child, if wanted, inherits all it has and outlives it."""

    def __init__(self, permits: int, offspring: bool) -> None:
        self.permits, self.offspring = permits, offspring
        self.ready, self.end = Whistle(), Whistle()

    def __call__(self) -> None:
        member = sit()
        get(member, self.permits)
        if self.offspring and not os.fork():
            self.end.wait_for_silence()
            os._exit(0)
        self.ready.blow()
        signal.pause()


@pytest.fixture(params=[False, True], ids=["alone", "its child lives on with all it had"])
def holder(request: pytest.FixtureRequest) -> Iterator[Holder]:
    made = Holder(4, request.param)
    with made.ready, made.end:
        yield made


# -- permits -------------------------------------------------------------------------------------------------


def test_what_is_wanted_is_granted_and_no_more() -> None:
    member, other = sit(max_size=5), sit(max_size=5)
    get(member, 3)
    want(other, 4)
    until(lambda: credit(other) == 2)
    assert credit(member) == 3
    assert [other.semaphore.take() for _ in range(3)] == [True, True, False]
    other.leave()
    member.leave()


def test_warm_permits_are_there_on_arrival() -> None:
    member = sit(warm=3)
    assert [member.semaphore.take() for _ in range(4)] == [True, True, True, False]
    member.leave()


def test_a_permit_put_back_goes_to_whoever_waits() -> None:
    holder, taker = sit(max_size=1), sit(max_size=1)
    get(holder, 1)
    want(taker, 1)
    until(lambda: holder.cells[L.H_SHORT] == 1)
    holder.cells[holder.at + L.HELD] = holder.cells[holder.at + L.IN_USE] = 0
    holder.semaphore.give()
    holder.channel.notify()
    until(taker.semaphore.take)
    assert (credit(holder), credit(taker)) == (0, 1)
    holder.leave()
    taker.leave()


# -- the end of a member -------------------------------------------------------------------------------------


def test_whatever_a_member_says_of_its_times() -> None:
    """It would be due in some thousand years, which is longer than a selector can sleep."""
    odd, other = sit(2), sit(2)
    get(odd, 1)
    get(other, 1)
    for cell in (L.SINCE, L.COST):
        odd.cells[odd.at + cell] = L.NEVER
    want(odd, 1)
    until(lambda: other.cells[L.H_SHORT] == 1)
    want(odd, 0)
    until(lambda: other.cells[L.H_SHORT] == 0)
    for member in (odd, other):
        member.leave()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda each: each.name)
def test_a_dead_members_credit_is_free(holder: Holder, number: signal.Signals) -> None:
    waiter = sit()
    with forked(holder) as child:
        holder.ready.wait()
        want(waiter, 4)
        until(lambda: waiter.cells[L.H_SHORT] == 4)
        assert not waiter.semaphore.take()
        assert child.kill(number) == -number
        until(lambda: credit(waiter) == 4)
    waiter.leave()


def test_who_leaves_frees_what_it_had() -> None:
    leaver, waiter = sit(), sit()
    get(leaver, 4)
    want(waiter, 4)
    until(lambda: waiter.cells[L.H_SHORT] == 4)
    at = leaver.at
    leaver.leave()
    until(lambda: credit(waiter) == 4)
    assert not any(waiter.cells[at : at + L.ROW]), "its row is blank"
    waiter.leave()


def test_death_is_seen_where_the_kernel_does_not_tell_of_it(holder: Holder) -> None:
    """No pidfd: the socket's end tells, and where a child holds that open, looking does."""

    def blind() -> None:
        server.identity.death_notice = lambda pid: None

    with served_here(blind):
        waiter = sit()
        with forked(holder) as child:
            holder.ready.wait()
            want(waiter, 4)
            child.kill()
            until(lambda: credit(waiter) == 4)
        waiter.leave()


# -- the end of the manager ----------------------------------------------------------------------------------


def own(named: bool = False) -> messages.Channel:
    return launcher.enter(config(named=named), {"do": "own"})[1]


def pid_of_manager() -> int:
    answer, channel = asking.ask(seats.call(), {"do": "describe"}, NAME)
    channel.close()
    return int(answer["manager"])


def test_it_leaves_with_its_last_member_and_takes_its_files_along(runtime_folder: str) -> None:
    first, second = sit(), sit()
    pid = manager_of(first)
    first.leave()
    get(second, 4)
    second.leave()
    gone(pid)
    assert os.listdir(runtime_folder) == []


def test_one_with_a_name_lingers_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_module, "LINGER_NAMED", 0.5)
    member = sit(named=True)
    pid = manager_of(member)
    member.leave()
    member = sit(named=True)
    assert manager_of(member) == pid, "it was still there"
    left = time.monotonic()
    member.leave()
    gone(pid)
    assert time.monotonic() - left >= 0.5


def test_an_owner_keeps_it_while_nobody_is_a_member() -> None:
    channel = own()
    pid = pid_of_manager()
    sit().leave()
    assert pid_of_manager() == pid
    assert runs(pid)
    channel.close()
    gone(pid)


def test_a_dead_owner_does_not() -> None:
    def live() -> None:
        channel = own()
        ready.blow()
        signal.pause()
        channel.close()

    with Whistle() as ready, forked(live) as child:
        ready.wait()
        pid = pid_of_manager()
        assert runs(pid)
        child.kill()
        gone(pid)


def test_stopped_by_another_it_does_not_wait_for_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "FIRST_MEMBER", 0.1)
    with served_here(lambda: None) as child:
        channel = own()
        asking.ask(seats.call(), {"do": "stop"}, NAME)[1].close()
        assert child.join() == 0
        channel.close()


@pytest.mark.parametrize("words", [b"", b'{"do":"desc', messages.encode({"do": "describe"})], ids=repr)
def test_who_only_looks_or_is_silent_does_not_keep_it(monkeypatch: pytest.MonkeyPatch, words: bytes) -> None:
    monkeypatch.setattr(leaving, "FIRST_MEMBER", 0.3)
    with served_here(lambda: None) as child, seats.call() as sock:
        sock.sendall(words)
        sit().leave()
        assert child.join() == 0


def test_whom_nobody_comes_to_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "FIRST_MEMBER", 0.1)
    with served_here(lambda: None) as child:
        assert child.join() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda each: each.name)
def test_it_goes_after_its_members_not_with_them(number: signal.Signals) -> None:
    """Signals that end a service are for the members; it knows when to leave."""
    member = sit()
    pid = manager_of(member)
    for _ in range(3):
        os.kill(pid, number)
    get(member, 4)
    assert manager_of(member) == pid
    assert runs(pid)
    member.leave()


def test_a_manager_whose_folder_was_deleted_steps_down(monkeypatch: pytest.MonkeyPatch, runtime_folder: str) -> None:
    """Newcomers cannot find it any more: they would launch a second one beside it."""
    root = os.path.join(runtime_folder, "root")
    monkeypatch.setenv("MPPOOL_RUNTIME_DIR", root)
    member = sit()
    pid = manager_of(member)
    log = os.open(os.path.join(root, NAME, paths.LOG), os.O_RDONLY)
    shutil.rmtree(root)
    member.channel.notify()
    gone(pid)
    until(lambda: not member.heard())
    assert os.read(log, 1000) == b""
    os.close(log)
    member.abandon()


# -- asleep --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc here")
def test_nothing_happens_while_nothing_happens() -> None:
    members = [sit() for _ in range(3)]
    get(members[0], 4)
    want(members[1], 2)
    until(lambda: members[1].cells[L.H_SHORT] == 2)

    def switches() -> str:
        with open(f"/proc/{manager_of(members[0])}/status") as status:
            return next(line for line in status if line.startswith("voluntary"))

    until(lambda: switches() == (time.sleep(0.05), switches())[1])
    before = switches()
    time.sleep(1.0)  # the one thing that can only be seen by watching
    assert switches() == before
    for member in members:
        member.leave()
