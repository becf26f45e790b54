"""A manager that is killed with its members, or while it waits for the end of what they left: its successor has none
of their connections, and still gives no permit away that the server counts.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mppool import PoolManager
from mppool.shared import ledger as L
from tests.crash.crew import REPEAT, SLOWEST, Books, Puppet, crew, kill_manager, say, succeeded, watched
from tests.crash.relay import relay
from tests.crash.row import Row
from tests.crash.test_ending import at_work, helpers, victim, work
from tests.servers import Judge
from tests.waiting import forked, until

ROUNDS = REPEAT or 3


@contextmanager
def budget(uri: str, judge: Judge, max_size: int = 2) -> Iterator[tuple[PoolManager, Books, Puppet]]:
    """A manager, its books, and another member, with the server's judge watching.

    By way of a relay, for a port of its own: what the kernel tells of connections to the server's port may be of other
    tests' dead just as well, and then permits come late.
    """
    with relay(uri) as own, PoolManager(own, max_size) as manager:
        books = Books(manager.name)
        with watched(books, judge, max_size), crew(manager, 1) as (other,):
            other.ask("probe")
            yield manager, books, other
        books.close()


def asleep(judge: Judge) -> int:
    """Statements that the server is still at."""
    return sum("sleep(" in text.lower() for text in judge.list().values())


def killed_with_manager(manager: PoolManager, books: Books, judge: Judge, row: Row) -> int:
    """A process in a statement is killed just after the manager: the manager that was."""
    with forked(work, manager, row.statement) as child:
        at_work(judge)
        before = books.manager()
        os.kill(before, signal.SIGKILL)
        child.kill()
    return before


def all_to(books: Books, member: Puppet, judge: Judge) -> float:
    """Wait until a member that borrows without pause has both permits; the server is done with the dead then."""
    until(lambda: books.column(L.CREDIT).get(member.pid) == 2, 20)
    had = time.monotonic()
    assert asleep(judge) == 0
    return had


def test_manager_and_worker_at_once(mysql_uri: str, mysql_judge: Judge, row: Row) -> None:
    waits = []
    with budget(mysql_uri, mysql_judge) as (manager, books, other):
        other.ask("run", 2, 0)
        for _ in range(ROUNDS):
            row.hold()
            before = killed_with_manager(manager, books, mysql_judge, row)
            succeeded(books, before)
            released = time.monotonic()
            row.let_go()
            waits.append(all_to(books, other, mysql_judge) - released)
        assert other.ask("rest")["failures"] == []
    say(
        f"\nmanager and worker killed in a statement: the next borrower waited {min(waits):.1f} to {max(waits):.1f} s "
        "after its end"
    )
    assert max(waits) <= SLOWEST


def test_what_was_idle_is_free_at_once(mysql_uri: str, mysql_judge: Judge) -> None:
    with budget(mysql_uri, mysql_judge) as (manager, books, other), crew(manager, 1) as (idle,):
        idle.ask("hold", 2)
        idle.ask("release")
        before = kill_manager(books)
        os.kill(idle.pid, signal.SIGKILL)
        assert other.ask("hold", 2) - before <= SLOWEST


def test_the_successor_is_killed_while_it_mourns(mysql_uri: str, mysql_judge: Judge, row: Row) -> None:
    with budget(mysql_uri, mysql_judge) as (manager, books, other):
        other.ask("run", 2, 0)
        before = killed_with_manager(manager, books, mysql_judge, row)
        for _ in range(3):
            before = succeeded(books, before)
            until(lambda: sum(books.column(L.CREDIT).values()) == 2)
            kill_manager(books)
        succeeded(books, before)
        row.let_go()
        all_to(books, other, mysql_judge)
        assert other.ask("rest")["failures"] == []


def test_the_manager_is_killed_while_it_waits(mysql_uri: str, mysql_judge: Judge, row: Row) -> None:
    """It had the connections, and its successor does not."""
    with relay(mysql_uri) as uri, PoolManager(uri, 2, end_orphans=False) as manager:
        books = Books(manager.name)
        with watched(books, mysql_judge, 2), crew(manager, 1) as (other,):
            other.ask("run", 2, 0)
            with victim(manager, mysql_judge, row.statement) as (pid, _):
                until(lambda: books.column(L.STARTED).get(pid) == -1)
                kill_manager(books)
                row.let_go()
                all_to(books, other, mysql_judge)
            other.ask("rest")
        books.close()


def test_all_that_there_are(mysql_uri: str, mysql_judge: Judge, row: Row) -> None:
    """Nobody can ask the server then without a connection too many; nobody needs to."""
    with relay(mysql_uri) as uri, PoolManager(uri, 2) as manager:
        books = Books(manager.name)
        sql = row.statement
        with watched(books, mysql_judge, 2), crew(manager, 1) as (other,):
            with forked(work, manager, sql) as one, forked(work, manager, sql) as two:
                until(lambda: asleep(mysql_judge) == 2)
                kill_manager(books)
                one.kill()
                two.kill()
                other.tell("hold", 2)
                succeeded(books, 0)
                assert helpers(books) == []
                released = time.monotonic()
                row.let_go()
                assert other.answer() - released <= SLOWEST
                assert asleep(mysql_judge) == 0
            other.ask("release")
        books.close()
