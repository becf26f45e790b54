"""Links: opening, the verdict's consequences, closing behind a running call, forks."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from mppool import errors
from mppool.database.connection import driver_uri, opening, own_socket
from mppool.database.connection.driver_uri import scrub, with_defaults
from mppool.database.connection.error_classes import Trust, is_full, is_permanent
from mppool.database.connection.link import Link
from mppool.database.connection.opening import open_link
from mppool.database.connection.sync_connection import PySQLXEngineSync
from mppool.database.runtime import drivers, sockets
from mppool.database.runtime.loop_stand_in import drive
from mppool.settings import Database
from tests import servers

PROBES = "-c%20tcp_keepalives_idle%3D30%20-c%20tcp_keepalives_interval%3D5%20-c%20tcp_keepalives_count%3D3"
LOOKS = f"-c%20client_connection_check_interval%3D100%20{PROBES}"


@pytest.fixture
def link(database_uri: str) -> Iterator[Link]:
    one = open_link(Database.parse(database_uri))
    yield one
    assert one.close(10)


def start_slow_call(link: Link, seconds: float) -> None:
    """Begin a call of that length and give it up."""
    if link.provider == "sqlite":
        # a statement that runs a while: counting takes 0.2 to 1 s, by the machine
        sql = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000000) SELECT count(*) AS a FROM n"
        )
    else:
        sql = {
            "postgresql": f"SELECT pg_sleep({seconds})::text AS a",
            "mysql": f"SELECT SLEEP({seconds}) AS a",
        }[link.provider]
    give_up(link, sql)


def give_up(link: Link, sql: str) -> None:
    """Begin a call and give it up, as a cancelled caller does."""
    from mppool.database.connection import calls

    conn = PySQLXEngineSync.lend(link)
    with pytest.raises(TimeoutError):
        drive(calls.query_as_dict(conn._link, sql, None), timeout=0.02)
    assert link.doubtful


def test_open_check_close(link: Link) -> None:
    assert link.check()
    assert not link.doubtful
    assert link.close()
    assert link.close()
    assert link.conn is None
    assert not link.check()


def test_a_kept_error_does_not_keep_the_connection(sqlite_uri: str) -> None:
    """An error holds the frames it went through; the permit goes back while a log handler still has it."""
    database = Database.parse(sqlite_uri)
    before = descriptors_of(database)
    link = open_link(database)
    face = PySQLXEngineSync.lend(link)
    kept = []
    for call in (face.query, face.execute, face.raw_cmd, face.query_as_dict, face.query_first):
        with pytest.raises(errors.PySQLXError) as caught:
            call("SELECT * FROM nowhere")
        kept.append(caught)
    with pytest.raises(ValueError) as wrong:
        face.start_transaction("nonsense")
    kept.append(wrong)  # type: ignore[arg-type]
    assert descriptors_of(database) > before
    assert link.close()
    assert descriptors_of(database) == before


def descriptors_of(database: Database) -> int:
    path = database.key.partition(":")[2]
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}") == path
        except OSError:
            continue
    return found


def test_check_clears_suspicion(link: Link) -> None:
    link.distrust(Trust.SUSPECT)
    assert link.check()
    assert not link.suspect


def test_doubt_is_for_good(link: Link) -> None:
    link.distrust()
    assert not link.check()
    assert not link.reset()


def test_close_waits_for_a_call_that_still_runs(link: Link) -> None:
    start_slow_call(link, 2)
    dropped = link.close(0.01)
    assert dropped is (link.provider == "postgresql")  # there the driver lets go at once; the server goes on
    assert not (dropped and link.await_close(0.01))
    assert link.close(20) is True
    assert link.conn is None
    assert link.await_close(20)


def test_buried_means_that_the_server_counts_it_no_more(
    link: Link, request: pytest.FixtureRequest, postgres_judge: servers.Judge, mysql_judge: servers.Judge
) -> None:
    judges = {"postgresql": postgres_judge, "mysql": mysql_judge}
    if link.provider not in judges:
        assert link.close()
        assert link.await_close(0.0)
        return
    judge = judges[link.provider]
    assert judge.count() == 1
    link.prepare_close()
    assert link.close()
    assert link.await_close(10)
    assert judge.count() == 0


def test_opens_at_the_same_time_find_their_own_sockets(database_uri: str) -> None:
    database = Database.parse(database_uri)
    if database.provider == "sqlite":
        pytest.skip("SQLite has no sockets")
    with ThreadPoolExecutor(8) as threads:
        links = [future.result() for future in [threads.submit(open_link, database) for _ in range(24)]]
    owned = [link.socket for link in links]
    assert None not in owned
    assert len(set(owned)) == len(links)
    for victim in links[::3]:
        victim.break_off()
    dead = [link for link in links if not link.check()]
    assert dead == links[::3]
    for link in links:
        link.prepare_close()
        assert link.close()
        assert link.await_close(10)


def test_a_proxys_port_that_is_ours_by_chance_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server sees the proxy's; only one that sees the ports of two connections in a row is believed."""
    database = Database.parse("postgresql://u@a-proxy:1/d")
    link = SimpleNamespace(database=database, socket=(9, 9), has_name=lambda name: None)
    monkeypatch.setattr(own_socket, "claim", lambda *args: 1)

    def one_opens(port: int, seen: int) -> bool:
        async def introduce(link: Any) -> Any:
            return "a name", ("127.0.0.1", seen)

        monkeypatch.setattr(sockets, "local_port", lambda descriptor: port)
        monkeypatch.setattr(own_socket, "introduce", introduce)
        asyncio.run(own_socket.find_socket(cast(Link, link), set()))
        return own_socket.one_by_one(database)

    try:
        assert one_opens(40_000, 40_000)
        assert one_opens(40_002, 50_000)
        assert one_opens(40_004, 40_004)
        assert not one_opens(40_006, 40_006)
    finally:
        for known in (own_socket.seeing, own_socket.asked, own_socket.once):
            known.discard(database.key)


def test_opens_over_a_unix_socket_find_theirs_too(postgres_server: servers.Server) -> None:
    """There is no port to ask for: they go one after the other."""
    folder = postgres_server.run("SELECT split_part(current_setting('unix_socket_directories'), ',', 1)")[0][0].strip()
    user = urlsplit(postgres_server.uri).username
    database = Database.parse(f"postgresql://{user}@localhost/postgres?host={folder}")
    try:
        open_link(database).close()
    except errors.ConnectError as error:
        pytest.skip(f"this PostgreSQL lets nobody in over its Unix socket: {error}")
    with ThreadPoolExecutor(8) as threads:
        links = list(threads.map(lambda _: open_link(database), range(12)))
    owned = {link.socket for link in links}
    assert None not in owned
    assert len(owned) == len(links)
    for link in links:
        link.prepare_close()
        assert link.close()
        assert link.await_close(10)


def test_a_call_given_up_is_the_last(link: Link) -> None:
    start_slow_call(link, 0.2)
    with pytest.raises(errors.NotConnectedError, match="cancelled, timed out or interrupted"):
        PySQLXEngineSync.lend(link).query("SELECT 1 AS a")
    assert link.close(20)
    assert link.await_close(20)


def test_a_killed_backend_is_found(postgres_uri: str) -> None:
    victim = open_link(Database.parse(postgres_uri))
    face = PySQLXEngineSync.lend(victim)
    pid = face.query_first("SELECT pg_backend_pid() AS a").a
    with PySQLXEngineSync(postgres_uri) as other:
        assert other.query_first("SELECT pg_terminate_backend(:pid::int4, 5000) AS a", {"pid": pid}).a
    with pytest.raises(errors.QueryError):
        face.query("SELECT 1 AS a")
    assert victim.doubtful
    assert victim.close()


def test_check_finds_a_killed_backend(postgres_uri: str) -> None:
    victim = open_link(Database.parse(postgres_uri))
    pid = PySQLXEngineSync.lend(victim).query_first("SELECT pg_backend_pid() AS a").a
    with PySQLXEngineSync(postgres_uri) as other:
        assert other.query_first("SELECT pg_terminate_backend(:pid::int4, 5000) AS a", {"pid": pid}).a
    assert not victim.doubtful
    assert not victim.check()
    assert victim.doubtful
    assert victim.close()


def test_check_finds_a_killed_mysql_connection(mysql_uri: str) -> None:
    victim = open_link(Database.parse(mysql_uri))
    face = PySQLXEngineSync.lend(victim)
    number = face.query_first("SELECT CONNECTION_ID() AS a").a
    with PySQLXEngineSync(mysql_uri) as other:
        other.raw_cmd(f"KILL {number}")
    with pytest.raises(errors.QueryError):  # the core still calls it healthy after this
        use_until_it_fails(face)
    assert victim.suspect
    assert not victim.check()
    assert victim.close()


def use_until_it_fails(face: PySQLXEngineSync) -> None:
    for _ in range(500):  # the kill takes effect a moment later
        face.query("SELECT 1 AS a")
        time.sleep(0.01)


def test_poisoned_by_a_changed_table(postgres_uri: str) -> None:
    link = open_link(Database.parse(postgres_uri))
    face = PySQLXEngineSync.lend(link)
    face.raw_cmd("DROP TABLE IF EXISTS poison; CREATE TABLE poison (a int)")
    face.query("SELECT * FROM poison")
    face.raw_cmd("ALTER TABLE poison ADD b int")
    with pytest.raises(errors.QueryError) as caught:
        face.query("SELECT * FROM poison")
    assert caught.value.code == "0A000"
    assert link.doubtful
    face.raw_cmd("DROP TABLE poison")
    assert link.close()


def test_poisoned_by_discard_all(postgres_uri: str) -> None:
    link = open_link(Database.parse(postgres_uri))
    face = PySQLXEngineSync.lend(link)
    face.query("SELECT 1 AS a")
    face.raw_cmd("DISCARD ALL")
    with pytest.raises(errors.QueryError) as caught:
        face.query("SELECT 1 AS a")
    assert caught.value.code == "26000"
    assert link.doubtful
    assert link.close()


def test_a_panic_becomes_an_error(mysql_uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    """INSERT … RETURNING through query panics in the core, past ``except Exception``."""
    link = open_link(Database.parse(mysql_uri))
    face = PySQLXEngineSync.lend(link)
    face.raw_cmd("CREATE OR REPLACE TABLE panics (a int)")
    with pytest.raises(errors.QueryError) as caught:
        face.query("INSERT INTO panics VALUES (1) RETURNING a")
    assert caught.value.code == "PANIC"
    assert link.doubtful
    face.raw_cmd("DROP TABLE panics")
    assert link.close()


@pytest.mark.parametrize("provider", ["postgresql", "mysql"])
def test_break_off_ends_a_call_at_once(provider: str, request: pytest.FixtureRequest) -> None:
    uri = request.getfixturevalue("postgres_uri" if provider == "postgresql" else "mysql_uri")
    link = open_link(Database.parse(uri))
    assert link.socket is not None
    start_slow_call(link, 4)
    began = time.monotonic()
    link.break_off()
    assert link.close(3)
    assert time.monotonic() - began < 3


# --- opening ---------------------------------------------------------------------------------------------


def test_mysql_opens_one_connection_not_two(mysql_uri: str) -> None:
    with PySQLXEngineSync(mysql_uri) as conn:
        sql = "SHOW GLOBAL STATUS LIKE 'Connections'"
        before = int(conn.query_as_dict(sql)[0]["Value"])
        open_link(Database.parse(mysql_uri)).close()
        after = int(conn.query_as_dict(sql)[0]["Value"])
    assert after - before < 2 + 1  # others may connect at the same time; two for one would be the rule


@pytest.mark.parametrize(
    ("uri", "more"),
    [
        ("postgresql://h/d", f"?connect_timeout=5&options={LOOKS}"),
        ("postgresql://h/d?x=1", f"&connect_timeout=5&options={LOOKS}"),
        ("postgresql://h/d?connect_timeout=9", f"&options={LOOKS}"),
        ("postgresql://h/d?connect_timeout=9&options=-c%20a%3Db", f"%20{LOOKS}"),
        ("postgresql://h/d?connect_timeout=9&options=-c%20client_connection_check_interval%3D7", f"%20{PROBES}"),
        (
            "postgresql://h/d?connect_timeout=9&options=-c%20tcp_keepalives_idle%3D7",
            "%20-c%20client_connection_check_interval%3D100",
        ),
        ("mysql://h/d", "?connect_timeout=5&prefer_socket=false"),
        ("mysql://h/d?socket=/x", "&connect_timeout=5"),
        ("mysql://h/d?prefer_socket=true&connect_timeout=1", ""),
        ("sqlite:/tmp/x.db", ""),
    ],
)
def test_what_is_added_to_the_uri(uri: str, more: str) -> None:
    database = Database.parse(uri)
    assert with_defaults(database, 4.2) == database.uri + more


def test_connect_timeout_is_whole_seconds_and_at_least_one() -> None:
    database = Database.parse("postgresql://h/d")
    for given, whole in ((0.1, 1), (2.0, 2), (2.1, 3)):
        assert with_defaults(database, given, False).endswith(f"?connect_timeout={whole}")


def test_a_postgresql_server_ends_a_client_that_is_silent(postgres_uri: str) -> None:
    link = open_link(Database.parse(postgres_uri))
    for name, seconds in driver_uri.PROBES.items():
        assert drive(link.call("query_typed", link.statement(f"SHOW {name}"))).get_first() == {name: str(seconds)}
    assert link.close()


def test_a_server_that_does_not_look_after_its_clients(postgres_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before PostgreSQL 14 it refuses a connection that asks for it; it is then asked without, and remembered."""
    monkeypatch.setattr(driver_uri, "LOOK", "client_connection_look_interval")
    monkeypatch.setattr(opening, "_not_looking", set())
    database = Database.parse(postgres_uri)
    for _ in range(2):
        assert open_link(database).close()
        assert opening._not_looking == {database.key}


def test_an_unreachable_server(postgres_uri: str) -> None:
    with pytest.raises(errors.ConnectError) as caught:
        open_link(Database.parse("postgresql://u:p@127.0.0.1:1/d"))
    assert caught.value.code == "0"
    assert not is_permanent(caught.value)
    assert not is_full(caught.value)


def test_a_silent_server_meets_the_timeout() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(errors.ConnectError):
            open_link(Database.parse(f"mysql://u:p@127.0.0.1:{port}/d"), connect_timeout=1)
        assert 0.8 < time.monotonic() - began < 10


def test_permanent_failures(postgres_uri: str, mysql_uri: str, tmp_path: Any) -> None:
    for uri in (
        postgres_uri.rpartition("/")[0] + "/no_such_database_here",
        mysql_uri.rpartition("/")[0] + "/no_such_database_here",
        f"sqlite:{tmp_path}/missing/x.db",
        f"sqlite:{tmp_path}",
    ):
        with pytest.raises(errors.ConnectError) as caught:
            open_link(Database.parse(uri))
        assert is_permanent(caught.value), caught.value


def test_a_full_server(limited_role: Any) -> None:
    role: servers.LimitedRole = limited_role(1)
    database = Database.parse(role.uri)
    first = open_link(database)
    with pytest.raises(errors.ConnectError) as caught:
        open_link(database)
    assert is_full(caught.value)
    assert not is_permanent(caught.value)
    assert "secret" not in str(caught.value)
    assert first.close()


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("postgresql://u:s%40cret@h/d", "no s%40cret, no s@cret"),
        ("postgresql://u:s%40cret@h/d?sslpassword=secr%26et", "no s@cret, no secr&et, no secr%26et"),
        ("postgresql://u:s@cret@h/d", "no s@cret"),
        ("sqlserver://h;user=sa;password=s@cret;database=x", "no s@cret"),
        ("sqlserver://h;user=sa;Password={s;cret};database=x", "no s;cret, no {s;cret}"),
    ],
)
def test_scrub(uri: str, text: str) -> None:
    scrubbed = scrub(text, Database.parse(uri))
    assert "cret" not in scrubbed
    assert "secr" not in scrubbed
    assert scrub("text", Database.parse("postgresql://u@h/d")) == "text"


def test_a_short_password_leaves_other_words_alone() -> None:
    text = 'database "exit" does not exist (x, u:x@h)'
    assert scrub(text, Database.parse("postgresql://u:x@h/d")) == 'database "exit" does not exist (***, u:***@h)'


# --- forks -----------------------------------------------------------------------------------------------


def in_child(work: Any) -> None:
    """Run in a forked child that leaves as a program does, with finalisation; its report must be 'ok'."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            os.write(into, b"ok")
            code = 0
        except BaseException as error:
            os.write(into, repr(error).encode())
        finally:
            os._exit(code)
    os.close(into)
    with os.fdopen(out, "rb") as report:
        text = report.read()
    os.waitpid(pid, 0)
    assert text == b"ok", text


def test_a_child_has_its_own_core_and_leaves_the_parents_alone(database_uri: str) -> None:
    database = Database.parse(database_uri)
    links = [open_link(database) for _ in range(3)]
    owned = PySQLXEngineSync(database_uri)
    owned.connect()

    def child() -> None:
        for link in links:
            assert link.conn is None
        with pytest.raises(errors.NotConnectedError, match="before a fork"):
            owned.query("SELECT 1 AS a")
        assert owned._link.socket is None or not drivers.sockets.is_open(owned._link.socket)
        with PySQLXEngineSync(database_uri) as conn:
            assert conn.query_first("SELECT 1 AS a").a == 1
        assert drivers.state.driver is not None
        in_child(grandchild)

    def grandchild() -> None:
        with PySQLXEngineSync(database_uri) as conn:
            assert conn.query_first("SELECT 2 AS a").a == 2

    in_child(child)
    for link in links:
        assert link.check()
    assert owned.query_first("SELECT 3 AS a").a == 3
    owned.close()
    assert all(link.close() for link in links)


def test_a_connection_closed_by_the_parent_is_gone_while_the_child_lives(mysql_uri: str) -> None:
    """A child's copy of the socket would keep it open on the server."""
    link = open_link(Database.parse(mysql_uri))
    number = PySQLXEngineSync.lend(link).query_first("SELECT CONNECTION_ID() AS a").a
    ready, tell_ready = os.pipe()
    stay, let_go = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(tell_ready, b"x")
            os.close(let_go)
            os.read(stay, 1)
        finally:
            os._exit(0)
    os.read(ready, 1)
    assert link.close()
    try:
        with PySQLXEngineSync(mysql_uri) as other:
            sql = "SELECT COUNT(*) AS n FROM information_schema.processlist WHERE id = :id"
            deadline = time.monotonic() + 5
            while other.query_first(sql, {"id": number}).n and time.monotonic() < deadline:
                time.sleep(0.005)
            assert other.query_first(sql, {"id": number}).n == 0
    finally:
        for descriptor in (let_go, stay, ready, tell_ready):
            os.close(descriptor)
        os.waitpid(pid, 0)


def test_opens_at_the_same_time(database_uri: str) -> None:
    database = Database.parse(database_uri)
    links: list[Link] = []
    threads = [threading.Thread(target=lambda: links.append(open_link(database))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(links) == 8
    known = [link.socket for link in links if link.socket is not None]
    assert len(set(known)) == len(known)  # none is taken for another's
    assert all(link.close() for link in links)


def test_a_forgotten_link_is_let_go_when_its_call_has_ended(sqlite_uri: str) -> None:
    database = Database.parse(sqlite_uri)
    before = descriptors_of(database)
    link = open_link(database)
    other = open_link(database)
    with PySQLXEngineSync.lend(other) as conn:
        conn.execute("CREATE TABLE waits (a INT)")
        conn.raw_cmd("BEGIN IMMEDIATE")
        give_up(link, "INSERT INTO waits VALUES (1) RETURNING a")
        del link
        own = drivers.state
        assert len(own.left) == 1
        conn.raw_cmd("ROLLBACK")
    assert next(iter(own.left)).ended(30)
    own.sweep()
    assert not own.left
    assert other.close()
    assert descriptors_of(database) == before
