"""The manager is killed, and nobody notices but the log: borrowers get their connections, the budget stays exact."""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mppool import PoolManager, PySQLXEnginePoolSync, errors
from mppool.membership import launcher
from mppool.settings import PoolSettings
from mppool.shared import identity, paths
from mppool.shared import ledger as L
from tests.beats import Clock
from tests.crash.crew import REPEAT, SLOWEST, Books, Puppet, crew, kill_manager, say, succeeded, watched
from tests.crash.relay import own_port
from tests.servers import Judge
from tests.waiting import until

KILLS = REPEAT or 8


@contextmanager
def budget(uri: str, max_size: int, members: int = 2) -> Iterator[tuple[PoolManager, Books, list[Puppet]]]:
    """A running budget with members that have all been there."""
    with PoolManager(uri, max_size) as manager:
        books = Books(manager.name)
        try:
            with crew(manager, members) as puppets:
                for puppet in puppets:
                    puppet.ask("probe")
                yield manager, books, puppets
        finally:
            books.close()


def returned(books: Books, puppets: list[Puppet]) -> None:
    """Wait until all of them have a seat with the running manager."""
    until(lambda: books.managed() and not any(puppet.ask("stats").manager_lost for puppet in puppets), 10)


def full_budget(puppets: list[Puppet], max_size: int) -> float:
    """All of them together get everything there is, at once; how long it took."""
    began = time.monotonic()
    shares = [max_size // len(puppets) + (number < max_size % len(puppets)) for number in range(len(puppets))]
    for puppet, share in zip(puppets, shares, strict=True):
        puppet.tell("hold", share)
    for puppet in puppets:
        puppet.answer()
    took = time.monotonic() - began
    assert puppets[0].ask("refused", 0.05), "more than there is"
    for puppet in puppets:
        puppet.ask("release")
    return took


# -- killed ----------------------------------------------------------------------------------------------------


def test_killed_while_nothing_happens(database_uri: str, judge: Judge | None) -> None:
    with budget(database_uri, 4) as (manager, books, puppets), watched(books, judge, 4):
        for _ in range(3):
            before = manager.pid
            kill_manager(books)
            assert succeeded(books, before) == manager.pid == manager.stats().manager_pid
            returned(books, puppets)
            full_budget(puppets, 4)


def test_killed_under_full_load(database_uri: str, judge: Judge | None, clock: Clock) -> None:
    """Four processes of threads and tasks want all there is, and one that has nothing wants one at every kill."""
    moments, growth, bounded = random.Random(1), [], []
    with budget(database_uri, 8, 5) as (_, books, (*workers, prober)), watched(books, judge, 8):
        for worker in workers:
            worker.ask("run", 3, 3)
        for _ in range(KILLS):
            before = books.manager()
            killed = kill_manager(books)
            had = prober.ask("probe")
            growth.append(had - killed)
            bounded.append(clock.between(killed, had))
            succeeded(books, before)
            time.sleep(moments.uniform(0.0, 0.2))  # at any moment of the load, or of the succession before
        seen = [worker.ask("rest") for worker in workers]
        assert [each["failures"] for each in seen] == [[]] * 4
        returned(books, [*workers, prober])
        full_budget([*workers, prober], 8)
    growth.sort()
    waits, borrows = [each["worst"] for each in seen], sum(each["borrows"] for each in seen)
    worst, p99 = max(ended - began for began, ended in waits), growth[-1 - len(growth) // 100]
    say(
        f"\n{database_uri.partition(':')[0]}: {KILLS} kills of the manager under load, {borrows} borrows, no error; "
        f"longest wait {worst:.3f} s; a permit again for one without after {growth[len(growth) // 2]:.3f} s (median), "
        f"{p99:.3f} s (p99), {growth[-1]:.3f} s (longest)"
    )
    assert max(bounded) <= SLOWEST
    assert max(clock.between(*wait) for wait in waits) <= SLOWEST


def test_a_permit_that_lies_idle_elsewhere_comes_over(sqlite_uri: str) -> None:
    """Nobody is near the database at the kill: one waits, and another has all permits idle."""
    growth = []
    with budget(sqlite_uri, 2) as (_, books, (one, other)):
        for _ in range(KILLS):
            one.ask("hold", 2)
            one.ask("release")
            returned(books, [one, other])
            killed = kill_manager(books)
            growth.append(other.ask("hold", 1) - killed)
            other.ask("release")
            one, other = other, one
    say(f"\na permit idle elsewhere, {KILLS} times: {sorted(growth)[-1]:.3f} s at most")
    assert max(growth) <= SLOWEST


def test_killed_again_before_it_has_begun(sqlite_uri: str) -> None:
    """Each successor is killed as soon as it can be seen."""
    with budget(sqlite_uri, 4, 3) as (_, books, puppets), watched(books, None, 4):
        puppets[0].ask("run", 4, 4)
        for _ in range(KILLS):
            before = books.manager()
            kill_manager(books)
            succeeded(books, before)
        returned(books, puppets)
        assert puppets[0].ask("rest")["failures"] == []
        full_budget(puppets, 4)


@pytest.mark.parametrize("first", ["manager", "member"])
def test_manager_and_member_together(database_uri: str, judge: Judge | None, first: str) -> None:
    with own_port(database_uri) as uri, budget(uri, 4, 3) as (_, books, puppets), watched(books, judge, 4):
        victim, *others = puppets
        victim.ask("hold", 3)
        order = [books.manager(), victim.pid]
        before = books.manager()
        for pid in order if first == "manager" else reversed(order):
            os.kill(pid, signal.SIGKILL)
        victim.join()
        succeeded(books, before)
        returned(books, others)
        full_budget(others, 4)
        assert victim.pid not in books.column(L.CREDIT)


@pytest.fixture
def own_uri(database_uri: str) -> Iterator[str]:
    with own_port(database_uri) as uri:
        yield uri


def test_everybody_at_once_and_then_a_newcomer(own_uri: str, judge: Judge | None) -> None:
    manager = PoolManager(own_uri, 4)
    manager.start()
    books = Books(manager.name)
    with watched(books, judge, 4), crew(manager, 2) as puppets:
        for puppet in puppets:
            puppet.ask("hold", 2)
        for pid in (books.manager(), *(puppet.pid for puppet in puppets)):
            os.kill(pid, signal.SIGKILL)
        for puppet in puppets:
            puppet.join()
        if judge is not None:
            judge.wait_for(lambda count: count == 0)
        with crew(manager, 1) as newcomers:
            assert full_budget(newcomers, 4) < SLOWEST
            newcomers[0].ask("leave")
    books.close()
    manager.stop()


# -- without a manager -----------------------------------------------------------------------------------------


@contextmanager
def no_manager(root: str) -> Iterator[None]:
    """For as long as the block lasts nobody can launch one: the launchers' lock is held."""
    from filelock import FileLock

    lock = FileLock(os.path.join(root, paths.LOCK), mode=0o600)
    with lock:
        yield


def test_a_newcomer_launches_the_successor(sqlite_uri: str) -> None:
    """The old member is stopped, so that it cannot; it comes over when it goes on."""
    with budget(sqlite_uri, 4, 1) as (manager, books, (old,)), crew(manager, 1) as (new,):
        old.ask("hold", 3)
        before = books.manager()
        os.kill(old.pid, signal.SIGSTOP)
        kill_manager(books)
        new.ask("hold", 1)
        assert new.ask("refused", 0.1), "three are held by the one that is stopped"
        assert books.manager() != before
        assert books.column(L.CREDIT)[old.pid] >= 3
        os.kill(old.pid, signal.SIGCONT)
        returned(books, [old, new])
        old.ask("release")
        new.ask("release")
        full_budget([old, new], 4)


def test_one_that_is_stopped_and_killed(sqlite_uri: str) -> None:
    with budget(sqlite_uri, 4, 2) as (_, books, (stopped, other)):
        stopped.ask("hold", 3)
        os.kill(stopped.pid, signal.SIGSTOP)
        kill_manager(books)
        other.ask("hold", 1)
        assert other.ask("refused", 0.1)
        stopped.kill()
        other.ask("hold", 3)
        assert books.column(L.CREDIT) == {other.pid: 4}


@pytest.mark.parametrize("what", ["max_size", "database"])
def test_a_newcomer_that_means_something_else(sqlite_uri: str, what: str) -> None:
    pool = PySQLXEnginePoolSync(sqlite_uri, 1, 3, name="shop")
    manager = PoolManager(sqlite_uri, 3, "shop")
    with manager, crew(manager, 1) as (old,):
        old.ask("hold", 1)
        books = Books("shop")
        os.kill(old.pid, signal.SIGSTOP)
        kill_manager(books)
        other = (sqlite_uri + "x", 3) if what == "database" else (sqlite_uri, 5)
        with pytest.raises(errors.BudgetMismatchError, match=what):
            PySQLXEnginePoolSync(other[0], 1, other[1], name="shop").start()
        os.kill(old.pid, signal.SIGCONT)
        returned(books, [old])
        with pool:
            full_budget([old], 2)
        books.close()


def test_one_that_leaves_meanwhile(sqlite_uri: str, runtime_folder: str) -> None:
    with budget(sqlite_uri, 4, 2) as (_, books, (leaver, other)):
        leaver.ask("hold", 3)
        leaver.ask("release")
        with no_manager(runtime_folder):
            kill_manager(books)
            until(lambda: leaver.ask("stats").manager_lost)
            leaver.ask("leave")
        other.ask("hold", 4)
        assert books.column(L.CREDIT) == {other.pid: 4}


def test_one_that_is_forked_meanwhile(sqlite_uri: str, runtime_folder: str) -> None:
    with budget(sqlite_uri, 4, 1) as (manager, books, (old,)):
        own = manager.pool()
        with own.connection() as conn:
            assert conn.query_first("SELECT 1 AS a").a == 1
        with no_manager(runtime_folder):
            kill_manager(books)
            until(lambda: own.stats().manager_lost)
            child = Puppet(manager)
            child.tell("hold", 2)
        try:
            child.answer()
            returned(books, [old, child])
            child.ask("release")
            own.stop()
            full_budget([old, child], 4)
        finally:
            child.close()


# -- the owner -------------------------------------------------------------------------------------------------


def test_the_owner_sees_and_ends_what_came_after(sqlite_uri: str) -> None:
    manager = PoolManager(sqlite_uri, 4)
    manager.start()
    books = Books(manager.name)
    with crew(manager, 1) as (member,):
        member.ask("probe")
        for _ in range(2):
            before = manager.pid
            kill_manager(books)
            succeeded(books, before)
            returned(books, [member])
            stats = manager.stats()
            assert stats.manager_pid == manager.pid != before
            assert [each.pid for each in stats.members] == [member.pid]
        kill_manager(books)
        manager.stop()
        with pytest.raises(errors.ManagerUnavailableError, match="was stopped and takes no new members"):
            PySQLXEnginePoolSync._of(manager._budget, manager.name, PoolSettings(0)).start()
        member.ask("probe")  # who is there may stay
        returned(books, [member])
        member.ask("leave")
    books.close()


def test_the_owner_keeps_it_alive_without_members(sqlite_uri: str) -> None:
    """Members come and go after the succession; whoever asks the owner gets the manager that runs."""
    manager = PoolManager(sqlite_uri, 2)
    manager.start()
    with crew(manager, 1) as (member,):
        member.ask("probe")
        books = Books(manager.name)
        first = manager.pid
        kill_manager(books)
        second = succeeded(books, first)
        member.ask("leave")
        until(lambda: not identity.started(second))  # it did not know of an owner
        books.close()
    with crew(manager, 1) as (member,):
        assert full_budget([member], 2) < SLOWEST
        assert manager.pid == manager.stats().manager_pid
        assert identity.started(manager.pid), "the one that runs now"
        member.ask("leave")
    manager.stop()


# -- it cannot be launched -------------------------------------------------------------------------------------


def failing_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_BOOT", "raise SystemExit('no manager today')")


def unwritable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> str:
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(paths, "make_folder", refuse)


FULL_DISK = (
    "import sys; sys.path.append(sys.argv[1]); import os; from mppool.shared import ledger\n"
    "def full(fd): raise OSError(28, os.strerror(28))\n"
    "ledger.reserve = full; ledger.SIZE += 4096\n"
    "from mppool.manager.server import main; main(sys.argv[2])"
)


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_BOOT", FULL_DISK)


@pytest.mark.parametrize("fault", [failing_boot, unwritable, full_disk])
def test_no_successor_can_be_had(
    database_uri: str, fault: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process goes on with what it holds, says so, and recovers."""
    manager = PoolManager(database_uri, 3)
    manager.start()
    pool = manager.pool()
    leases = [pool.connection(5) for _ in range(3)]
    for lease in leases:
        lease.__enter__()
    before = manager.pid
    with monkeypatch.context() as patch:
        fault(patch)
        os.kill(before, signal.SIGKILL)
        until(lambda: "no new one to be had" in caplog.text)
        assert pool.stats().manager_lost
        leases.pop().__exit__(None, None, None)
        for _ in range(3):
            with pool.connection(5) as conn:
                assert conn.query_first("SELECT 1 AS a").a == 1
        with pool.connection(5) as conn:
            conn.close()  # its permit stays here
        with pool.connection(5) as conn:
            assert conn.query_first("SELECT 1 AS a").a == 1
        with pytest.raises(errors.PoolTimeoutError), pool.connection(5), pool.connection(0.02):
            raise AssertionError
    until(lambda: not pool.stats().manager_lost, 15)
    assert manager.pid != before
    for lease in leases:
        lease.__exit__(None, None, None)
    with crew(manager, 1) as puppets:
        full_budget(puppets, 3)
    logged = [record.levelno for record in caplog.records if "no new one to be had" in record.message]
    assert logged
    assert set(logged) == {logging.ERROR}
    manager.stop()


@pytest.mark.parametrize(
    ("fault", "words"), [(failing_boot, "no manager today"), (unwritable, "denied"), (full_disk, "No space left")]
)
def test_no_manager_can_be_had_at_the_start(
    sqlite_uri: str, fault: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    with pytest.raises(errors.ManagerUnavailableError, match=words):
        PoolManager(sqlite_uri, 3).start()
    with pytest.raises(errors.ManagerUnavailableError, match=words):
        PySQLXEnginePoolSync(sqlite_uri, 1, 3).start()
    if fault is unwritable:
        os.unlink(os.path.join(paths.root(), paths.LOCK))  # it could not be cleared away, of course
