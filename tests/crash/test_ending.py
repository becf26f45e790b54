"""The manager's helper, which ends what a server still does for processes that were killed.

It must end that and nothing else, be a member like any other (at a role or user with as many connections as the
budget has permits), and be missed by nobody when it is killed itself.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from mppool import PoolManager
from mppool.manager import connections
from mppool.membership.member import launch_config
from mppool.reaper import terminating
from mppool.settings import BudgetSettings
from mppool.shared import ledger as L
from mppool.shared import paths
from tests.crash.crew import REPEAT, SLOWEST, Books, crew, say, watched
from tests.crash.relay import relay
from tests.crash.row import Row
from tests.manager.seats import NAME, get, gone, served_here, sit
from tests.servers import Judge, LimitedRole, Server
from tests.waiting import forked, until

ROUNDS = REPEAT or 4
SECRET = "geheim4711"
SLEEP = {"postgresql": "SELECT pg_sleep(60)::text AS a", "mysql": "SELECT SLEEP(60) AS a"}
BLIND = "options=-c%20client_connection_check_interval%3D0"  # a PostgreSQL server that does not look for its clients


def work(manager: PoolManager, sql: str) -> None:
    with manager.pool().connection(20) as conn:
        conn.query(sql)


def at_work(judge: Judge) -> int:
    """Wait until the server has one long statement; its connection."""
    return until(lambda: next((id for id, text in judge.list().items() if "sleep(" in text.lower()), 0), 10)


def helpers(books: Books) -> list[psutil.Process]:
    """The manager's children."""
    return psutil.Process(books.manager()).children()


@contextmanager
def victim(manager: PoolManager, judge: Judge, sql: str) -> Iterator[tuple[int, int]]:
    """A process that was killed in a statement: its pid, and the connection that the server still has."""
    with forked(work, manager, sql) as child:
        connection = at_work(judge)
        child.kill()
        yield child.pid, connection


@pytest.fixture
def limited_user(mysql_server: Server, mysql_uri: str) -> Iterator[Callable[[int], tuple[str, Judge]]]:
    """Makes MariaDB users with so many connections: uri and judge."""
    made, database = [], mysql_uri.rpartition("/")[2]

    def make(limit: int) -> tuple[str, Judge]:
        name = f"mppool_{secrets.token_hex(4)}"
        mysql_server.run(f"CREATE USER {name}@'%' IDENTIFIED BY '{SECRET}' WITH MAX_USER_CONNECTIONS {limit}")
        made.append(name)
        mysql_server.run(f"GRANT ALL ON {database}.* TO {name}@'%'")
        return mysql_server.uri_of(database, name, SECRET), Judge(mysql_server, database, name)

    yield make
    for name in made:
        mysql_server.run(f"DROP USER {name}@'%'")


def killed_under_load(uri: str, judge: Judge, sql: str, rounds: int) -> list[float]:
    """Again and again a process is killed in a long statement while another borrows as fast as it can: the seconds
    until the permit of the dead is the other's."""
    waits = []
    with PoolManager(uri, 2) as manager:
        books = Books(manager.name)
        with watched(books, judge, 2), crew(manager, 1) as (other,):
            other.ask("run", 2, 0)
            for _ in range(rounds):
                with victim(manager, judge, sql):
                    killed = time.monotonic()
                    until(lambda: books.column(L.CREDIT).get(other.pid) == 2, 20)
                    waits.append(time.monotonic() - killed)
            seen = other.ask("rest")
            assert seen["failures"] == []
            if judge.server.kind == "postgresql":  # MariaDB closes the socket a moment before it counts one less
                assert other.ask("stats").connections_refused == 0
        books.close()
    waits.sort()
    began, ended = seen["worst"]
    say(
        f"\nkilled in {sql!r}, {rounds} times: its permit is another's after {waits[len(waits) // 2] * 1e3:.0f} ms "
        f"(median), {waits[-1] * 1e3:.0f} ms (longest); the other's {seen['borrows']} borrows took "
        f"{(ended - began) * 1e3:.0f} ms at most"
    )
    return waits


@pytest.mark.parametrize("database_uri", ["postgresql", "mysql"], indirect=True)
def test_the_servers_word_counts_where_nothing_is_heard_of_the_end(database_uri: str, judge: Judge) -> None:
    """A connection may be cut off silently: the manager never hears of its end, but the server says that it is gone."""

    def hear_nothing() -> None:
        connections.Orphan.listen = lambda self: False  # type: ignore[method-assign]

    budget = BudgetSettings(database_uri, 2, NAME)
    changes = {**launch_config(budget, NAME), "end_orphans": True}
    with served_here(hear_nothing, **changes):
        manager = PoolManager(database_uri, 2, NAME)
        pool = manager.pool()
        with pool.connection(20), victim(manager, judge, SLEEP[budget.database.provider]) as (pid, _):
            killed = time.monotonic()
        until(lambda: all(member.pid != pid for member in manager.stats().members), 20)
        until(lambda: not manager.stats().orphans, 20)
        took = time.monotonic() - killed
        with pool.connection(1), pool.connection(1):
            pass
        pool.stop()
    say(f"\nkilled, and nothing heard of it: its permit is another's after {took:.1f} s")


def test_mariadb_at_the_users_limit(limited_user: Callable[[int], tuple[str, Judge]], row: Row) -> None:
    """MariaDB looks for the client of a SLEEP every 5 s, but not of a statement that waits for a row: 50 s."""
    uri, judge = limited_user(2)
    assert killed_under_load(uri, judge, row.statement, ROUNDS)[-1] <= 20.0


def test_postgresql_that_does_not_look(limited_role: Callable[[int], LimitedRole]) -> None:
    role = limited_role(2)
    assert killed_under_load(f"{role.uri}?{BLIND}", role.judge, SLEEP["postgresql"], ROUNDS)[-1] <= 20.0
    assert role.refusals() in (0, None)


def test_turned_off_it_is_only_waited_for(mysql_uri: str, mysql_judge: Judge, row: Row) -> None:
    with PoolManager(mysql_uri, 2, end_orphans=False) as manager:
        books = Books(manager.name)
        with crew(manager, 1) as (other,), victim(manager, mysql_judge, row.statement) as (_, connection):
            other.ask("hold", 1)
            other.tell("hold", 1)
            looked = time.monotonic()
            while time.monotonic() < looked + 1.0:
                assert helpers(books) == []
            assert connection in mysql_judge.list()
            released = time.monotonic()
            row.let_go()
            assert other.answer() >= released
        books.close()


def test_all_have_it_from_whoever_came_first(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 2, "shop", end_orphans=False):
        joined = PoolManager.attach("shop")
        assert joined._budget.end_orphans is False
        with PoolManager(sqlite_uri, 2, "shop"):  # not a mismatch
            pass
    with pytest.raises(TypeError, match="end_orphans must be a bool"):
        PoolManager(sqlite_uri, end_orphans=1)  # type: ignore[arg-type]


def test_behind_a_proxy_nothing_is_ended(mysql_uri: str, mysql_judge: Judge, row: Row) -> None:
    """The server sees the proxy's ports: they may be anybody's."""
    with relay(mysql_uri) as uri, PoolManager(uri, 2) as manager:
        books = Books(manager.name)
        with victim(manager, mysql_judge, row.statement) as (_, connection):
            (helper,) = until(lambda: helpers(books))
            until(lambda: not helpers(books))
            assert not psutil.pid_exists(helper.pid), "it is buried"
            looked = time.monotonic()
            while time.monotonic() < looked + 1.0:
                assert helpers(books) == [], "nobody tries again"
            assert connection in mysql_judge.list()
            row.let_go()
        books.close()


def test_the_password_is_nowhere_to_be_read(limited_user: Callable[[int], tuple[str, Judge]]) -> None:
    uri, judge = limited_user(2)
    with PoolManager(uri, 2) as manager:
        books = Books(manager.name)
        with victim(manager, judge, SLEEP["mysql"]) as (_, connection):
            (helper,) = until(lambda: helpers(books))
            seen = b""
            while helpers(books):
                for name in ("cmdline", "environ"):
                    try:
                        with open(f"/proc/{helper.pid}/{name}", "rb") as file:
                            seen += file.read()
                    except OSError:
                        pass
            assert b"mppool.reaper.terminating" in seen
            assert SECRET.encode() not in seen
            assert connection not in judge.list()
        with open(os.path.join(paths.folder(manager.name), paths.LOG)) as log:
            assert log.read() == ""
        books.close()


def test_the_helper_is_killed_at_any_moment(mysql_uri: str, mysql_judge: Judge) -> None:
    with PoolManager(mysql_uri, 3) as manager:
        books, before = Books(manager.name), manager.pid
        with watched(books, mysql_judge, 3), crew(manager, 1) as (other,):
            for moment in range(ROUNDS):
                with victim(manager, mysql_judge, SLEEP["mysql"]) as (dead, connection):
                    (helper,) = until(lambda: helpers(books))
                    time.sleep(moment / ROUNDS * 0.5)  # from its first instruction to after its last
                    try:
                        os.kill(helper.pid, signal.SIGKILL)
                    except ProcessLookupError:
                        assert connection not in mysql_judge.list()
                    until(lambda pid=helper.pid: not psutil.pid_exists(pid))
                    until(lambda: connection not in mysql_judge.list())
                    until(lambda: dead not in books.column(L.CREDIT) and not helpers(books))
                    other.ask("hold", 3)
                    other.ask("release")
            assert manager.pid == before
        books.close()


def test_with_the_manager_its_helper_ends() -> None:
    """Also while it tries for a connection: here nobody ever lets it in, and no member is left to be served."""
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    with served_here(theirs.close, end_orphans=True) as manager, listener, ours, theirs:
        dead = sit()
        get(dead, 1)
        assert dead.opened(ours.fileno())
        dead.leave()
        (helper,) = until(psutil.Process(manager.pid).children, 10)
        books = Books(NAME)
        until(lambda: books.column(L.CREDIT).get(helper.pid), 10)  # it has a permit
        manager.kill()
        gone(helper.pid)
        books.close()


def test_a_budget_that_was_stopped_ends_them_too(mysql_uri: str, mysql_judge: Judge) -> None:
    """It takes no new members but this one, and leaves when the last connection is gone."""
    manager = PoolManager(mysql_uri, 2)
    manager.start()
    keeper = manager.pid
    with forked(work, manager, SLEEP["mysql"]) as child:
        at_work(mysql_judge)
        manager.stop()
        child.kill()
        killed = time.monotonic()
        until(lambda: not psutil.pid_exists(keeper) or psutil.Process(keeper).status() == psutil.STATUS_ZOMBIE)
        assert time.monotonic() - killed <= SLOWEST
        assert mysql_judge.count() == 0


def test_with_no_permit_to_be_had_none_is_sent(mysql_uri: str, mysql_judge: Judge) -> None:
    with PoolManager(mysql_uri, 1) as manager:
        books = Books(manager.name)
        with victim(manager, mysql_judge, "SELECT SLEEP(2) AS a") as (_, connection):
            while connection in mysql_judge.list():
                assert helpers(books) == []
        books.close()


# -- what the server says, and how it is read ----------------------------------------------------------------


class Said:
    """A connection of the helper's; the server's words are given."""

    def __init__(self, own: str, others: dict[int, str]) -> None:
        self.own, self.others = own, others
        self._link: Any = self
        self.provider = "mysql"

    def live_socket(self) -> None:
        return None

    def query_as_dict(self, sql: str) -> list[dict[str, Any]]:
        if sql == terminating._OWN["mysql"]:
            return [{"place": self.own}]
        return [{"id": id, "place": place} for id, place in self.others.items()]


@pytest.mark.parametrize(
    ("here", "own", "sees"),
    [
        (("10.0.0.7", 4000), "10.0.0.7:4000", True),
        (("10.0.0.7", 4000), "10.0.0.7:4001", False),
        (("10.0.0.7", 4000), "203.0.113.9:4000", False),  # a router that keeps the ports
        (("127.0.0.1", 4000), "localhost:4000", True),
        (("10.0.0.7", 4000), "localhost:4000", False),
        (("10.0.0.7", 4000), "::ffff:10.0.0.7:4000", True),
        (("::1", 4000), "::1:4000", True),
        (("::1", 4000), "[::1]:4000", True),
        (("10.0.0.7", 4000), "localhost", False),  # a Unix socket
        (("10.0.0.7", 4000), "", False),
        (None, "10.0.0.7:4000", False),
    ],
)
def test_whether_the_server_sees_us(here: tuple[str, int] | None, own: str, sees: bool) -> None:
    server = terminating.Server(Said(own, {}))  # type: ignore[arg-type]
    server.here = here
    assert server.sees_us() is sees


@pytest.mark.parametrize(
    ("own", "others"),
    [
        ("127.0.0.1:4000", {1: "127.0.0.1:4001", 2: "127.0.0.1:4002", 3: "127.0.0.2:4001", 4: "localhost", 5: ""}),
        ("localhost:4000", {1: "localhost:4001", 2: "localhost:4002", 3: "127.0.0.2:4001", 4: "localhost"}),
        ("::ffff:127.0.0.1:4000", {1: "::ffff:127.0.0.1:4001", 2: "::ffff:127.0.0.2:4001"}),
    ],
)
def test_only_what_comes_from_that_very_place(own: str, others: dict[int, str]) -> None:
    server = terminating.Server(Said(own, others))  # type: ignore[arg-type]
    server.here = ("127.0.0.1", 4000)
    assert server.older([("127.0.0.1", 4001), ("::ffff:127.0.0.1", 4001)]).keys() == {1}
    assert server.older([]) == {}
