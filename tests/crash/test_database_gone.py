"""The database goes away and comes back: whoever waits, waits; whoever asked at that moment is told; nobody storms.

The outages are made by the server's administrator, by a proxy in front of it, by others who use all its connections,
and by stopping a server of the test's own.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from mppool import PoolManager, errors
from mppool.database.connection import own_socket, reasons
from tests.beats import Clock
from tests.crash.crew import REPEAT, Puppet, crew, say
from tests.private_servers import NoServer, Postgres
from tests.proxy import Proxy
from tests.servers import Judge, LimitedRole, Server, connect, run
from tests.waiting import until

PASSWORD = "hunter2hunter"
OUTAGE = 20.0 if REPEAT else 2.0  # seconds
PATIENCE = 30.0  # seconds; how fast it is, the clock says
BACK = 1.0  # of the clock's seconds in which everything is as before, once the database is there again
NOTICED = 0.05  # seconds after which no process lends a connection that has ended
BUSY = {
    "postgresql": "SELECT pg_sleep(30)::text AS a",
    "mysql": "SELECT SLEEP(2) AS a",
}  # MariaDB does not look for its clients

on_servers = pytest.mark.parametrize("database_uri", ["postgresql", "mysql"], indirect=True)


class Configured:
    """A manager whose handles have these settings besides their own."""

    def __init__(self, manager: PoolManager, **settings: Any) -> None:
        self._manager, self._settings = manager, settings

    def pool(self, **settings: Any) -> Any:
        return self._manager.pool(**settings, **self._settings)

    def async_pool(self, **settings: Any) -> Any:
        return self._manager.async_pool(**settings, **self._settings)


@pytest.fixture
def server(request: pytest.FixtureRequest, database_uri: str) -> Server:
    stem = "postgres" if database_uri.startswith("postgresql") else "mysql"
    found: Server = request.getfixturevalue(f"{stem}_server")
    return found


@pytest.fixture
def proxy(server: Server, database_uri: str) -> Iterator[Proxy]:
    """Leads to the test's database, as a user with a password."""
    database = database_uri.partition("?")[0].rpartition("/")[2]
    name = f"mppool_{secrets.token_hex(4)}"
    if server.kind == "postgresql":
        server.run(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    else:
        server.run(f"CREATE USER '{name}'@'%' IDENTIFIED BY '{PASSWORD}'")
        server.run(f"GRANT ALL ON `{database}`.* TO '{name}'@'%'")
    with Proxy(server.uri_of(database, name, PASSWORD)) as made:
        yield made
    server.run(f"DROP {'ROLE' if server.kind == 'postgresql' else 'USER'} {name}")


def end_all(judge: Judge) -> float:
    """The administrator ends every connection that there is; when all were gone."""
    connection = judge.server.connect()
    try:
        before = judge.list(connection).keys()
        for backend in before:
            run(
                connection,
                f"SELECT pg_terminate_backend({backend})" if judge.server.kind == "postgresql" else f"KILL {backend}",
            )
        until(lambda: not before & judge.list(connection).keys())
    finally:
        connection.close()
    return time.monotonic()


def at_work(judge: Judge, count: int) -> None:
    """Wait until the server has so many of them at their long statement."""
    until(lambda: sum("sleep(" in text.lower() for text in judge.list().values()) == count, 10)


def all_hold(puppets: list[Puppet], each: int) -> float:
    """Every process has so many connections, and gives them back; when the last one had come."""
    for puppet in puppets:
        puppet.tell("hold", each)
    last = max(puppet.answer() for puppet in puppets)
    for puppet in puppets:
        puppet.ask("release")
    return last


def most_attempts(processes: int, seconds: float) -> int:
    """A process that fails tries again after 0.25 s on average at the least, once the pauses have grown."""
    return int(processes * (6 + seconds / 0.25))


class Borrowers:
    """Callers of this process, each with a connection and a statement that is still to come: threads or tasks."""

    def __init__(self, manager: PoolManager, face: str, statements: list[str | None]) -> None:
        self.ended: dict[int, float] = {}
        self.errors: dict[int, BaseException] = {}
        self._statements, self._ready = statements, 0
        self._lock, self.go = threading.Lock(), threading.Event()
        if face == "async":
            self._threads = [threading.Thread(target=lambda: asyncio.run(self._tasks(manager.async_pool())))]
        else:
            pool = manager.pool()
            self._threads = [threading.Thread(target=self._thread, args=(pool, at)) for at in range(len(statements))]
        for thread in self._threads:
            thread.start()

    def _thread(self, pool: Any, at: int) -> None:
        statement = self._statements[at]
        try:
            with pool.connection(PATIENCE) as conn:
                self._is_ready()
                self.go.wait(PATIENCE)
                if statement is not None:
                    conn.query(statement)
        except BaseException as error:
            self.errors[at] = error
        self.ended[at] = time.monotonic()

    async def _tasks(self, pool: Any) -> None:
        async def task(at: int) -> None:
            statement = self._statements[at]
            try:
                async with pool.connection(PATIENCE) as conn:
                    self._is_ready()
                    while not self.go.is_set():
                        await asyncio.sleep(0.002)
                    if statement is not None:
                        await conn.query(statement)
            except BaseException as error:
                self.errors[at] = error
            self.ended[at] = time.monotonic()

        await asyncio.gather(*(task(at) for at in range(len(self._statements))))

    def _is_ready(self) -> None:
        with self._lock:
            self._ready += 1

    def wait_until_ready(self) -> None:
        until(lambda: self._ready == len(self._statements), 10)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE + 10)
            assert not thread.is_alive(), "a borrower hangs"


# -- every backend is killed ----------------------------------------------------------------------------------------


@on_servers
def test_all_killed_while_idle(database_uri: str, judge: Judge, clock: Clock) -> None:
    """No borrower notices. They come back although nobody asks for them."""
    noticed, used, returned, back = [], [], [], []
    with PoolManager(database_uri, 6) as manager, crew(Configured(manager, min_size=2), 3) as puppets:  # type: ignore[arg-type]
        all_hold(puppets, 2)
        for number in range(1, 1 + (REPEAT or 3)):
            until(lambda: [puppet.ask("stats").idle for puppet in puppets] == [2, 2, 2])
            before, killed = judge.list().keys(), end_all(judge)
            until(lambda: min(puppet.ask("stats").connections_closed for puppet in puppets) >= 2 * number)  # noqa: B023
            noticed.append(time.monotonic() - killed)
            used.append(all_hold(puppets, 2) - killed)
            until(lambda: len(judge.list().keys() - before) == 6)  # noqa: B023
            returned.append(time.monotonic() - killed)
            back.append(clock.since(killed))
    say(
        f"\nall killed while idle: noticed within {max(noticed) * 1e3:.0f} ms, used again after "
        f"{max(used) * 1e3:.0f} ms, all there after {max(returned) * 1e3:.0f} ms"
    )
    assert max(back) <= BACK


@on_servers
@pytest.mark.parametrize("face", ["sync", "async"])
def test_all_killed_while_borrowed(database_uri: str, judge: Judge, face: str, clock: Clock) -> None:
    busy = BUSY[judge.server.kind]
    with PoolManager(database_uri, 4) as manager, crew(manager, 1) as (other,):
        other.ask("hold", 1)  # it asks nothing while it is killed
        at_it = Borrowers(manager, face, [busy, None, busy])
        at_it.wait_until_ready()
        before = judge.list().keys()
        at_it.go.set()
        at_work(judge, 2)
        until(lambda: 1 in at_it.ended)
        killed = end_all(judge)
        at_it.join()
        assert at_it.errors.keys() == {0, 2}, "those whose statement ran, and nobody else"
        for error in at_it.errors.values():
            assert isinstance(error, errors.PySQLXError)
        assert clock.between(killed, max(at_it.ended.values())) <= BACK
        time.sleep(NOTICED)
        other.ask("release")
        assert clock.between(killed, all_hold([other], 4)) <= BACK
        assert not before & judge.list().keys()


# -- the network ----------------------------------------------------------------------------------------------------


@on_servers
@pytest.mark.parametrize("how", ["refuse", "reset"])
def test_an_outage(proxy: Proxy, how: str, clock: Clock) -> None:
    with PoolManager(proxy.uri, 10) as manager, crew(manager, 3) as puppets:
        all_hold(puppets, 2)
        pool = manager.pool()
        proxy.delay(0.03)  # so that attempts would be seen together
        began = proxy.mode(how)
        proxy.cut()
        time.sleep(NOTICED)
        for puppet in puppets:
            puppet.tell("run", 3, 2)
            puppet.answer()
        with pytest.raises(errors.PoolTimeoutError) as caught, pool.connection(0.7):
            pass
        assert isinstance(caught.value.__cause__, errors.ConnectError)
        told = f"{caught.value} {caught.value.__cause__!r} {pool.stats()}"
        assert str(caught.value.__cause__) == pool.stats().last_connect_error
        assert PASSWORD not in told
        until(lambda: proxy.seen().connecting <= 4)
        proxy.forget()  # before, several were on their way when the first one failed
        patient = Borrowers(manager, "sync", [None] * 3)
        patient.go.set()
        until(lambda: time.monotonic() - began >= OUTAGE, OUTAGE + 1)
        failed = [puppet.ask("stats").connections_errors for puppet in puppets] + [pool.stats().connections_errors]
        seen = proxy.forget()
        returned = proxy.mode("pass")
        proxy.delay(0)
        patient.join()
        assert not patient.errors
        until(lambda: len(proxy.seen().logins) >= 10)
        served, full = max(patient.ended.values()), proxy.seen().logins[9]
        for puppet in puppets:
            assert puppet.ask("rest")["failures"] == []
        assert {puppet.ask("stats").last_connect_error for puppet in puppets} == {None}
        all_hold(puppets, 3)
    say(
        f"\n{how} for {OUTAGE:g} s: {sum(failed)} attempts failed in 4 processes, at most {seen.peak} at once; "
        f"waiters had theirs after {(served - returned) * 1e3:.0f} ms, full after {(full - returned) * 1e3:.0f} ms"
    )
    assert clock.between(returned, max(served, full)) <= BACK
    assert sum(failed) <= most_attempts(4, OUTAGE)
    assert min(failed) >= OUTAGE / 0.6 / 2, "they went on trying"
    assert seen.peak <= 4, "one attempt of each process at a time"
    assert how == "refuse" or seen.attempts


@on_servers
def test_one_process_tries_once_at_a_time(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(reasons, "_look", lambda database: "reset")  # what it connects for is no attempt; once in 5 s
    with PoolManager(proxy.uri, 6) as manager:
        manager.pool().start()
        proxy.delay(0.1)
        proxy.mode("reset")
        proxy.cut()
        time.sleep(NOTICED)
        waiting = Borrowers(manager, "async", [None] * 6)
        until(lambda: len(proxy.seen().attempts) > 1 and manager.pool().stats().connections_errors)
        until(lambda: proxy.seen().connecting <= 1)
        before = proxy.forget()
        until(lambda: len(proxy.seen().attempts) == 4, 10)
        seen = proxy.seen()
        pauses = list(zip(seen.attempts, seen.attempts[1:], strict=False))
        proxy.mode("pass")
        waiting.go.set()
        waiting.join()
        assert not waiting.errors
    assert seen.peak == 1
    assert min(later - sooner for sooner, later in pauses) >= 0.1 + 0.05 / 2, "and not at once again"
    assert max(clock.between(*pause) for pause in pauses) <= 0.1 + 0.5 + BACK
    assert before.peak <= 6


@on_servers
def test_new_connections_stall(proxy: Proxy, clock: Clock) -> None:
    with PoolManager(proxy.uri, 4) as manager, crew(Configured(manager, connect_timeout=1.0), 2) as puppets:  # type: ignore[arg-type]
        all_hold(puppets, 2)
        proxy.mode("stall")
        proxy.cut()
        time.sleep(NOTICED)
        for puppet in puppets:
            puppet.tell("hold", 2)
        pool, began = manager.pool(connect_timeout=1.0), time.monotonic()
        with pytest.raises(errors.PoolTimeoutError) as caught, pool.connection(2.5):
            pass
        assert time.monotonic() - began >= 2.5
        assert clock.since(began) <= 2.5 + BACK
        assert isinstance(caught.value.__cause__, errors.ConnectError)
        assert "imed out" in (pool.stats().last_connect_error or "")
        assert len(proxy.seen().attempts) <= 2 * 2 + 3 * 3 + 3
        returned = proxy.mode("pass")
        last = max(puppet.answer() for puppet in puppets)
        # A try that was begun before runs into its own timeout, and then there is a pause.
        assert clock.between(returned, last) <= 1.0 + 0.5 + BACK
        for puppet in puppets:
            puppet.ask("release")
        all_hold(puppets, 2)


@on_servers
@pytest.mark.parametrize("face", ["sync", "async"])
@pytest.mark.parametrize("how", ["reset", "end", "corrupt"])
def test_cut_in_the_middle(proxy: Proxy, judge: Judge, how: str, face: str, clock: Clock) -> None:
    busy = BUSY[judge.server.kind] if how != "corrupt" else "SELECT 1 AS a"
    with PoolManager(proxy.uri, 4) as manager, crew(manager, 1) as (other,):
        all_hold([other], 1)
        at_it = Borrowers(manager, face, [busy] * 3)
        at_it.wait_until_ready()
        if how == "corrupt":
            began = proxy.mode("corrupt")
            at_it.go.set()
        else:
            at_it.go.set()
            at_work(judge, 3)
            began = time.monotonic()
            proxy.cut(how)
        at_it.join()
        assert clock.between(began, max(at_it.ended.values())) <= BACK
        assert at_it.errors.keys() == {0, 1, 2}
        for error in at_it.errors.values():
            assert isinstance(error, errors.PySQLXError), repr(error)
        if how == "corrupt":
            with pytest.raises((errors.PoolTimeoutError, errors.ConnectError)), manager.pool().connection(0.3):
                pass
            proxy.mode("pass")
            proxy.cut()
        time.sleep(NOTICED)
        all_hold([other], 4)
        for _ in range(2):
            used = Borrowers(manager, face, ["SELECT 1 AS a"] * 4)
            used.go.set()
            used.join()
            assert not used.errors


@on_servers
def test_ended_while_its_socket_is_looked_for(database_uri: str, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for it waits a little longer."""
    look, ask, ended = own_socket.claim, own_socket.introduce, []

    async def ended_first(link: Any) -> Any:
        if not ended:
            ended.extend(judge.list())
            end_all(judge)
        return await ask(link)

    # as if another were opened at the same time: then the server is asked
    monkeypatch.setattr(own_socket, "claim", lambda *args: look(*args) if args[2] is not None else 2)
    monkeypatch.setattr(own_socket, "introduce", ended_first)
    with PoolManager(database_uri, 2) as manager, manager.pool().connection(5) as conn:
        assert len(ended) == 1
        assert conn.query_first("SELECT 1 AS a").a == 1


@on_servers
def test_ended_while_idle_after_several_were_opened_at_once(proxy: Proxy) -> None:
    with PoolManager(proxy.uri, 4) as manager:
        proxy.delay(0.02)
        for statement in ("SELECT 1 AS a", "SELECT 2 AS a"):
            at_once = Borrowers(manager, "sync", [statement] * 4)
            at_once.wait_until_ready()
            at_once.go.set()
            at_once.join()
            assert not at_once.errors
            assert proxy.seen().peak == 1, "where the server does not see our ports, they go one after the other"
            proxy.cut()
            time.sleep(NOTICED)


@on_servers
@pytest.mark.parametrize("face", ["sync", "async"])
def test_new_connections_are_refused_for_good(server: Server, proxy: Proxy, face: str) -> None:
    """As after a change of the password: the connections that there are go on to serve those who wait, and without any
    these are told at once."""
    user = urlsplit(proxy.uri).username
    locked = f"ALTER ROLE {user} NOLOGIN" if server.kind == "postgresql" else f"ALTER USER '{user}' IDENTIFIED BY 'x'"
    with PoolManager(proxy.uri, 3) as manager:
        pool = manager.pool()
        with pool.connection(5):
            server.run(locked)
            waiting = Borrowers(manager, face, ["SELECT 1 AS a"] * 2)
            waiting.go.set()
            until(lambda: pool.stats().connections_errors >= 2)
            with pytest.raises(errors.PoolTimeoutError) as caught, pool.connection(0.6):
                pass
            assert isinstance(caught.value.__cause__, errors.ConnectError)
            assert not waiting.ended, waiting.errors
        waiting.join()
        assert not waiting.errors
        proxy.cut()
        time.sleep(NOTICED)
        began = time.monotonic()
        with pytest.raises(errors.ConnectError), pool.connection(10):
            pass
        assert time.monotonic() - began <= BACK


# -- few at a time --------------------------------------------------------------------------------------------------


@on_servers
def test_few_connect_at_once_over_all_processes(proxy: Proxy) -> None:
    with PoolManager(proxy.uri, 20) as manager:
        strict = Configured(manager, connect_concurrency=2)
        with crew(strict, 4) as puppets:  # type: ignore[arg-type]
            proxy.delay(0.01)
            for puppet in puppets:
                puppet.ask("run", 5, 0)
            until(lambda: len(proxy.seen().logins) >= 8, 10)
            for puppet in puppets:
                assert puppet.ask("rest")["failures"] == []
            all_hold(puppets, 5)
            seen = proxy.seen()
    assert len(seen.logins) >= 20
    assert seen.peak == 2


@on_servers
def test_a_turn_ends_with_its_process(proxy: Proxy) -> None:
    with PoolManager(proxy.uri, 8) as manager:
        strict = Configured(manager, connect_concurrency=2)
        with crew(strict, 3) as (victim, *others):  # type: ignore[arg-type]
            proxy.mode("stall")
            victim.ask("run", 3, 0)
            until(lambda: len(proxy.seen().attempts) == 1)
            for puppet in others:
                puppet.ask("run", 3, 0)
            until(
                lambda: all(member.waiting for member in manager.stats().members) and len(manager.stats().members) == 3
            )
            time.sleep(0.2)
            assert len(proxy.seen().attempts) == 2, "the turns are taken"
            os.kill(victim.pid, signal.SIGKILL)
            until(lambda: len(proxy.seen().attempts) == 3)
            assert proxy.seen().peak == 2
            proxy.mode("pass")
            for puppet in others:
                assert puppet.ask("rest")["failures"] == []
            all_hold(others, 4)


# -- others have them all -------------------------------------------------------------------------------------------


def test_others_use_all_that_the_server_allows(limited_role: Callable[[int], LimitedRole], clock: Clock) -> None:
    role = limited_role(4)
    with Proxy(role.uri) as proxy, PoolManager(proxy.uri, 4) as manager, crew(manager, 2) as puppets:
        others = [connect(role.uri) for _ in range(4)]
        began = time.monotonic()
        for puppet in puppets:
            puppet.tell("hold", 2)
        pool = manager.pool()
        with pytest.raises(errors.PoolTimeoutError), pool.connection(0.5):
            pass
        until(lambda: time.monotonic() - began >= OUTAGE, OUTAGE + 1)
        attempts = len(proxy.seen().attempts)
        for each in others:
            each.close()
        returned = time.monotonic()
        had = max(puppet.answer() for puppet in puppets)
        for puppet in puppets:
            puppet.ask("release")
        refused = [puppet.ask("stats").connections_refused for puppet in puppets]
        all_hold(puppets, 2)
    say(
        f"\nfull for {OUTAGE:g} s: {attempts} attempts of 3 processes; "
        f"all had theirs {(had - returned) * 1e3:.0f} ms later"
    )
    assert clock.between(returned, had) <= BACK
    assert all(refused)
    assert attempts <= 3 * 2 * (10 + OUTAGE / 0.25)


def test_a_full_server_is_named(limited_role: Callable[[int], LimitedRole]) -> None:
    role = limited_role(1)
    other = connect(role.uri)
    try:
        with PoolManager(role.uri, 1) as manager:
            pool = manager.pool()
            with pytest.raises(errors.PoolTimeoutError) as caught, pool.connection(0.5):
                pass
            assert "too many connections" in (pool.stats().last_connect_error or "")
            assert isinstance(caught.value.__cause__, errors.ConnectError)
    finally:
        other.close()


# -- the server itself ----------------------------------------------------------------------------------------------


@pytest.fixture
def own_server() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="mpp-own-") as folder:
        try:
            made = Postgres(f"{folder}/postgres", lambda uri: connect(uri).close())
            made.start()
        except NoServer as error:
            if os.environ.get("MPPOOL_REQUIRE_SERVERS", "0") != "0":
                raise
            pytest.skip(str(error))
        yield made
        made.stop()


def test_a_restart_under_load(own_server: Postgres, clock: Clock) -> None:
    judge = Server("postgresql", own_server.uri, "own").judge("postgres")
    with PoolManager(own_server.uri, 8) as manager, crew(manager, 4) as puppets:
        for puppet in puppets:
            puppet.ask("run", 3, 2)
        assert judge.wait_for(lambda count: count == 8) == 8
        own_server.stop()
        stopped = time.monotonic()
        until(lambda: time.monotonic() - stopped >= OUTAGE, OUTAGE + 1)
        failed = [puppet.ask("stats").connections_errors for puppet in puppets]
        own_server.start()
        returned = time.monotonic()
        assert judge.wait_for(lambda count: count == 8) == 8
        full, back = time.monotonic() - returned, clock.since(returned)
        seen = [puppet.ask("rest") for puppet in puppets]
        for puppet in puppets:
            assert puppet.ask("stats").waiting == 0
        all_hold(puppets, 2)
    told = [failure for each in seen for failure in each["failures"]]
    say(
        f"\nPostgreSQL stopped for {OUTAGE:g} s: {sum(failed)} attempts of 4 processes, {len(told)} borrowers were "
        f"told, full {full * 1e3:.0f} ms after it answered"
    )
    assert back <= BACK
    assert sum(failed) <= most_attempts(4, OUTAGE)
    assert len(told) <= 8, told
    assert not any("Pool" in failure for failure in told), told
