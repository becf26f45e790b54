"""The uri is said by a function: a password that changes breaks nothing."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mppool import PoolManager, PySQLXEnginePoolSync, errors
from tests.crash.crew import crew
from tests.servers import Judge
from tests.waiting import until

HERE = "MPPOOL_TEST_URI_FILE"


def read() -> str:
    """As a secret that is mounted into a container."""
    return Path(os.environ[HERE]).read_text()


async def read_async() -> str:
    await asyncio.sleep(0)
    return read()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(HERE, str(tmp_path / "uri"))
    return tmp_path / "uri"


def rotate(role: Any, place: Path, password: str) -> None:
    role.judge.server.run(f"ALTER ROLE {role.name} PASSWORD '{password}'")
    role_uri = role.judge.server.uri_of(role.judge.database, role.name, password)
    place.write_text(role_uri)


@pytest.mark.parametrize("source", [read, read_async])
def test_it_is_asked_at_every_open(sqlite_uri: str, place: Path, source: Any) -> None:
    place.write_text(sqlite_uri)
    asked: list[int] = []

    def say() -> Any:
        asked.append(threading.get_ident())
        return source()

    with PoolManager(say, 2) as manager:
        assert len(asked) == 1
        pool = manager.pool()
        with pool.connection(), pool.connection():
            assert len(asked) == 3
        with pool.connection():
            assert len(asked) == 3, "it was open"
    assert threading.get_ident() not in asked[1:], "callers never connect"


def test_an_async_one_is_asked_inside_a_running_loop(sqlite_uri: str, place: Path) -> None:
    place.write_text(sqlite_uri)

    async def main() -> str:
        return PySQLXEnginePoolSync(read_async, 0, 1).uri

    assert asyncio.run(main()).startswith("sqlite:")


def test_a_password_changes_under_load(limited_role: Any, place: Path) -> None:
    """The server may trust all that come from here: then only the log could tell. What is shown is that nothing fails,
    and that each process asks for itself."""
    role = limited_role(8)
    rotate(role, place, "one")
    with PoolManager(read, 6) as manager, crew(manager, 3) as puppets:
        for puppet in puppets:
            puppet.ask("run", 3, 3)
        for password in ("two", "three", "four"):
            before = set(role.judge.list())
            rotate(role, place, password)
            manager.drain()
            until(lambda before=before: not before & set(role.judge.list()), 10)  # type: ignore[misc]
            attached = PoolManager.attach(manager.name)
            until(lambda password=password: f":{password}@" in described(manager))  # type: ignore[misc]
            attached._ledger = None
        assert [puppet.ask("rest")["failures"] for puppet in puppets] == [[]] * 3


@pytest.fixture
def mysql_user(mysql_judge: Judge) -> Iterator[str]:
    """One whose password MariaDB asks for, wherever it comes from."""
    name = f"mppool_{secrets.token_hex(4)}"
    mysql_judge.server.run(f"CREATE USER {name}@'%' IDENTIFIED BY 'none'")
    mysql_judge.server.run(f"GRANT ALL ON `{mysql_judge.database}`.* TO {name}@'%'")
    yield name
    mysql_judge.server.run(f"DROP USER {name}@'%'")


def standing(manager: PoolManager) -> int:
    """Connections that stand, over all processes."""
    stats = manager.stats()
    return stats.in_use + stats.idle


def test_the_old_password_is_refused(mysql_user: str, mysql_judge: Judge, place: Path) -> None:
    """While connections of a process serve, nobody there is told of those that cannot be opened between the changes."""
    server = mysql_judge.server

    def change(password: str) -> None:
        server.run(f"ALTER USER {mysql_user}@'%' IDENTIFIED BY '{password}'")

    def say(password: str) -> None:
        place.write_text(server.uri_of(str(mysql_judge.database), mysql_user, password))

    change("first")
    say("first")
    with PoolManager(read, 4) as manager, crew(manager, 1) as (puppet,):
        puppet.ask("run", 3, 3)
        until(lambda: standing(manager) == 4, 20)
        for password in ("second", "third", "fourth"):
            before = set(mysql_judge.list())
            failed = manager.stats().connections_errors
            change(password)
            manager.resize(6)
            until(lambda failed=failed: manager.stats().connections_errors > failed, 20)  # type: ignore[misc]
            say(password)
            until(lambda: standing(manager) > 4, 20)  # it tries once at a time: none with the old one is under way
            manager.drain()
            until(lambda before=before: not before & set(mysql_judge.list()), 20)  # type: ignore[misc]
            manager.resize(4)
            until(lambda: standing(manager) == 4, 20)
        assert puppet.ask("rest")["failures"] == []
        with pytest.raises(errors.ConnectError, match=r"(?i)access denied|credentials|authentication"):
            PoolManager(server.uri_of(str(mysql_judge.database), mysql_user, "first"), 1).pool().start()


def described(manager: PoolManager) -> str:
    """The uri that the manager knows: a reaper is given it."""
    return str(manager._request({"do": "describe"})["uri"])


def test_another_database_is_refused(sqlite_uri: str, place: Path) -> None:
    place.write_text(sqlite_uri)
    with PoolManager(read, 1) as manager:
        place.write_text(f"{sqlite_uri}x")
        with pytest.raises(errors.PoolTimeoutError) as caught:
            manager.pool().connection(0.2).__enter__()
        assert "it says another database" in str(caught.value.__cause__)
        place.write_text(sqlite_uri)
        with manager.pool().connection(20):
            pass


def test_one_that_fails_now_and_then(sqlite_uri: str, place: Path) -> None:
    place.write_text(sqlite_uri)
    with PoolManager(read, 1) as manager:
        place.unlink()
        with pytest.raises(errors.PoolTimeoutError) as caught:
            manager.pool().connection(0.2).__enter__()
        assert "the function that says the uri failed: FileNotFoundError" in str(caught.value.__cause__)
        place.write_text(sqlite_uri)
        with manager.pool().connection(20):
            pass


@pytest.mark.parametrize("said", [None, 7, "", "no-such:thing"])
def test_what_is_no_uri_is_refused_at_once(said: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="uri"):
        PoolManager(lambda: said)


def test_it_travels(sqlite_uri: str, place: Path) -> None:
    place.write_text(sqlite_uri)
    with PoolManager(read, 1) as manager:
        arrived = pickle.loads(pickle.dumps(manager.pool()))
        assert arrived._budget.ask is read
        with arrived.connection(20):
            pass
        arrived.stop()
        unpicklable = PoolManager(lambda: sqlite_uri, 1)
        with pytest.raises((pickle.PicklingError, AttributeError)):
            pickle.dumps(unpicklable)


def test_a_repr_hides_it(sqlite_uri: str) -> None:
    made = PoolManager(lambda: "postgresql://user:geheim@localhost/shop", 1)
    assert "geheim" not in repr(made) + repr(made._budget) + json.dumps(repr(made.pool()))
