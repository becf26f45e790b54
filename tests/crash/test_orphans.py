"""What killed processes leave at the server: a permit is free when the server says that its connection is gone.

The judges are a role with as many connections as the budget has permits, and the server's own list.
"""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from mppool import PoolManager
from mppool.manager import orphans, server, unshared
from mppool.shared import ledger as L
from tests.crash.crew import REPEAT, SLOWEST, Books, crew, say, succeeded, watched
from tests.crash.relay import relay
from tests.crash.row import Row
from tests.manager.seats import get, served_here, sit, want
from tests.servers import Judge, LimitedRole
from tests.waiting import Child, Whistle, forked, until

ROUNDS = REPEAT or 8
BUSY = "SELECT pg_sleep(60)::text AS a"


def work(manager: PoolManager, sql: str) -> None:
    with manager.pool().connection(20) as conn:
        conn.query(sql)


def at_work(judge: Judge, count: int) -> None:
    """Wait until the server has so many of them at their long statement."""
    until(lambda: sum("sleep(" in text.lower() for text in judge.list().values()) == count, 10)


def test_killed_in_a_long_statement_at_the_servers_limit(limited_role: Callable[[int], LimitedRole]) -> None:
    role, waits = limited_role(3), []
    with PoolManager(role.uri, 3) as manager:
        pool = manager.pool()
        for _ in range(ROUNDS):
            with forked(work, manager, BUSY) as one, forked(work, manager, BUSY) as two:
                with forked(work, manager, BUSY) as victim:
                    at_work(role.judge, 3)
                    os.kill(victim.pid, signal.SIGKILL)
                    killed = time.monotonic()
                    with pool.connection(20) as conn:
                        waits.append(time.monotonic() - killed)
                        assert conn.query_first("SELECT 1 AS a").a == 1
                        conn.close()
                one.kill()
                two.kill()
        refused = pool.stats().connections_refused
    waits.sort()
    say(
        f"\nkilled in pg_sleep(60) at the role's limit, {ROUNDS} times: the next borrower waited "
        f"{waits[len(waits) // 2] * 1e3:.0f} ms (median), {waits[-1] * 1e3:.0f} ms (longest); refused {refused}"
    )
    assert refused == 0
    assert role.refusals() in (0, None)
    assert waits[-1] <= SLOWEST


def test_killed_in_a_statement_that_goes_on(mysql_uri: str, mysql_judge: Judge, row: Row) -> None:
    """MariaDB does not look for its client: the permit comes with the statement's end and not before."""
    with PoolManager(mysql_uri, 2, end_orphans=False) as manager:
        books = Books(manager.name)
        with watched(books, mysql_judge, 2), crew(manager, 1) as (other,):
            with forked(work, manager, row.statement) as victim:
                at_work(mysql_judge, 1)
                victim.kill()
            other.ask("hold", 1)
            assert other.ask("refused", 0.2), "its server is still at work for the one that was killed"
            assert mysql_judge.count() == 2
            row.let_go()
            other.ask("hold", 1)
            other.ask("release")
        books.close()


def test_an_idle_connections_permit_comes_at_once(postgres_uri: str, postgres_judge: Judge) -> None:
    waits = []
    with PoolManager(postgres_uri, 2) as manager:
        books = Books(manager.name)
        with watched(books, postgres_judge, 2), crew(manager, 1) as (other,):
            for _ in range(ROUNDS):
                with crew(manager, 1) as (victim,):
                    victim.ask("hold", 2)
                    victim.ask("release")
                    victim.tell("rest")  # it answers nothing more
                    os.kill(victim.pid, signal.SIGKILL)
                    killed = time.monotonic()
                    waits.append(other.ask("hold", 2) - killed)
                    other.ask("release")
        books.close()
    say(f"\nkilled with idle connections: the next borrower waited {max(waits) * 1e3:.0f} ms at most")
    assert max(waits) <= SLOWEST


def test_manager_and_worker_at_once(postgres_uri: str, postgres_judge: Judge) -> None:
    """The successor has none of the dead one's connections: the server gets a moment to end them."""
    waits = []
    with relay(postgres_uri) as uri, PoolManager(uri, 2) as manager:  # by a port of its own: see `own_port`
        books = Books(manager.name)
        with watched(books, postgres_judge, 2), crew(manager, 1) as (other,):
            for _ in range(ROUNDS):
                with forked(work, manager, BUSY) as victim:
                    at_work(postgres_judge, 1)
                    before = books.manager()
                    os.kill(before, signal.SIGKILL)
                    os.kill(victim.pid, signal.SIGKILL)
                    killed = time.monotonic()
                    waits.append(other.ask("hold", 2) - killed)
                    succeeded(books, before)
                    other.ask("release")
        books.close()
    say(f"\nmanager and worker killed at once: the next borrower waited {max(waits) * 1e3:.0f} ms at most")
    assert max(waits) <= SLOWEST


def test_a_server_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing to our end of file: after a bound the permit is free whatever it does."""
    ours, theirs = socket.socketpair()

    def soon() -> None:
        monkeypatch.setattr(orphans, "ORPHANED", 0.3)

    with served_here(soon):
        dead, other = sit(), sit()
        get(dead, 4)
        assert dead.opened(ours.fileno())
        want(other, 4)
        dead.leave()
        began = time.monotonic()
        until(lambda: other.cells[other.at + L.CREDIT] == 3)
        assert theirs.recv(1) == b"", "the manager hangs up"
        until(lambda: other.cells[other.at + L.CREDIT] == 4)
        assert time.monotonic() - began >= 0.25
        other.leave()
    ours.close()
    theirs.close()


@pytest.mark.parametrize("before", ["open", "deaf"])
@pytest.mark.parametrize("ends", ["end of file", "reset"])
def test_the_servers_end_frees_it(ends: str, before: str) -> None:
    """A process that ends during a call shuts its side down for reading, too: that reads like the end of the server."""
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()

    with served_here(theirs.close), listener:  # the manager is a fork here: it must not have the server's end
        dead, other = sit(), sit()
        get(dead, 4)
        assert dead.opened(ours.fileno())
        want(other, 4)
        if before == "deaf":
            ours.shutdown(socket.SHUT_RDWR)
        dead.leave()
        ours.close()
        until(lambda: other.cells[other.at + L.CREDIT] == 3)
        other.channel.notify()
        theirs.sendall(b"x" * 100_000)  # the rest of its answer is of no use to anybody
        assert other.cells[other.at + L.CREDIT] == 3
        if ends == "reset":
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        until(lambda: other.cells[other.at + L.CREDIT] == 4)
        other.leave()


def test_a_connection_that_nobody_had_told_of() -> None:
    """Its process was killed while it was being opened: the server has it, and ends it when it looks."""
    listener = socket.create_server(("127.0.0.1", 0))
    told, untold = (socket.create_connection(listener.getsockname()) for _ in range(2))
    theirs = [listener.accept()[0] for _ in range(2)]

    def apart() -> None:
        server.identity.runs = lambda pid, since: False  # the dead ones are not
        for each in (untold, *theirs, listener):
            each.close()

    with served_here(apart, port=listener.getsockname()[1]), listener:
        dead, other = sit(), sit()
        get(dead, 3)
        assert dead.opened(told.fileno())
        dead.cells[dead.at + L.MOVING] = 2
        want(other, 4)
        for each in (told, untold):
            each.close()
        ended = time.monotonic()
        dead.channel.hang_up()
        until(lambda: other.cells[other.at + L.CREDIT] == 2)  # the third was not a connection yet, or was reset
        assert time.monotonic() - ended >= unshared.RESET
        other.channel.notify()
        assert other.cells[other.at + L.CREDIT] == 2
        for got, each in enumerate(theirs, 3):
            each.close()
            until(lambda got=got: other.cells[other.at + L.CREDIT] == got)
        dead.abandon()
        other.leave()


@contextmanager
def served_apart() -> Iterator[tuple[Child, socket.socket, socket.socket]]:
    """A manager, and both ends of a connection to its server; the manager has neither."""
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()

    def apart() -> None:
        server.identity.runs = lambda pid, since: False  # the dead ones are not
        for each in (ours, theirs, listener):
            each.close()

    with served_here(apart, port=listener.getsockname()[1]) as manager, listener:
        yield manager, ours, theirs


def test_one_that_the_server_speaks_on_is_not_free_at_once() -> None:
    """The kernel resets it, and lists it no more; the server, which was at work, sees that when it looks."""
    with served_apart() as (_, ours, theirs):
        dead, other = sit(), sit()
        get(dead, 1)
        want(other, 4)
        ours.close()
        dead.channel.hang_up()
        died = time.monotonic()
        until(lambda: other.cells[other.at + L.CREDIT] == 3)
        until(lambda: time.monotonic() > died + unshared.RESET + unshared.LOOK[1])  # looked at, and listed
        theirs.sendall(b"x")
        spoke = time.monotonic()
        until(lambda: other.cells[other.at + L.CREDIT] == 4)
        assert time.monotonic() - spoke >= unshared.RESET
        theirs.close()
        dead.abandon()
        other.leave()


def test_with_the_last_that_is_mourned_the_manager_leaves() -> None:
    with served_apart() as (manager, ours, theirs):
        dead = sit()
        get(dead, 1)
        ours.close()
        dead.channel.hang_up()
        assert dead.channel.sock.recv(1) == b"", "the manager has seen it off"
        assert not manager._ended()
        theirs.close()
        assert manager.join() == 0
        dead.abandon()


class Moment:
    """A time that is over when somebody says so; until then it lasts for ever."""

    def __init__(self, over: Whistle) -> None:
        self._over = over

    def __radd__(self, since: float) -> float:
        return since if select.select([self._over.hears], [], [], 0)[0] else math.inf


def test_where_the_kernel_does_not_tell_it_gets_a_moment() -> None:
    ours, theirs = socket.socketpair()

    def apart() -> None:
        server.identity.runs = lambda pid, since: False  # the dead ones are not
        theirs.close()
        unshared.UNTOLD = Moment(over)  # type: ignore[assignment]

    with Whistle() as over, served_here(apart, port=None):
        dead, other = sit(), sit()
        get(dead, 3)
        assert dead.opened(ours.fileno())
        dead.cells[dead.at + L.MOVING] = 2
        want(other, 4)
        dead.channel.hang_up()
        until(lambda: dead.row.started == L.NOBODY)  # else the manager may find the one below ended already
        until(lambda: other.cells[other.at + L.CREDIT] == 1)
        theirs.close()  # the one that it had told of
        until(lambda: other.cells[other.at + L.CREDIT] == 2)
        over.blow()
        until(lambda: other.cells[other.at + L.CREDIT] == 4)
        dead.abandon()
        other.leave()
    ours.close()
