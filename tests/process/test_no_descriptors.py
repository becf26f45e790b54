"""A moment without free descriptors: nothing is lost by it but the moment."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mppool import errors
from mppool.database.connection import opening
from mppool.database.connection.error_classes import Trust, is_permanent
from mppool.database.connection.opening import open_link
from mppool.database.connection.sync_connection import PySQLXEngineSync
from mppool.settings import Database
from mppool.shared import descriptors
from mppool.shared.descriptors import never_close
from tests import waiting
from tests.process.flavours import Flavour, run, until
from tests.waiting import forked

MOMENT = 0.3  # seconds that it lasts


@contextmanager
def none_free() -> Iterator[None]:
    """This process can open nothing."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers = [os.open(os.devnull, os.O_RDONLY)]
    highest = max(map(int, os.listdir("/proc/self/fd")))
    while fillers[-1] <= highest:
        fillers.append(os.open(os.devnull, os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for filler in fillers:
            os.close(filler)


def in_a_child(scenario: Any) -> None:
    with forked(lambda: run(scenario)) as child:
        assert child.join() == 0
    scenario.close()


async def ask(flavour: Flavour, pool: Any, timeout: float = 20.0) -> None:
    async with flavour.connection(pool, timeout) as conn:
        assert (await conn.query_first("SELECT 1 AS a")).a == 1


def test_when_a_connection_is_opened(flavour: Flavour, database_uri: str) -> None:
    async def scenario() -> None:
        async with flavour.running(database_uri, 0, 1) as pool:
            await ask(flavour, pool)
            async with flavour.connection(pool) as conn:
                (conn.thing if flavour.name == "sync" else conn)._link.distrust()
            await until(lambda: pool.stats().connections_closed)
            with none_free():
                borrower = asyncio.ensure_future(ask(flavour, pool))
                await asyncio.sleep(MOMENT)
            await borrower
            await ask(flavour, pool)

    in_a_child(scenario())


def test_when_a_connection_is_closed(flavour: Flavour, database_uri: str) -> None:
    """A twin of its socket is wanted then, and cannot be made."""

    async def scenario() -> None:
        async with flavour.running(database_uri, 0, 1) as pool:
            async with flavour.connection(pool) as conn:
                assert (await conn.query_first("SELECT 1 AS a")).a == 1
                (conn.thing if flavour.name == "sync" else conn)._link.distrust()
                shortage = none_free()
                shortage.__enter__()
            await asyncio.sleep(MOMENT)
            shortage.__exit__(None, None, None)
            await ask(flavour, pool)
            assert pool.stats().connections_closed == 1

    in_a_child(scenario())


def test_when_the_agent_closes_an_idle_connection(flavour: Flavour, database_uri: str) -> None:
    async def scenario() -> None:
        async with flavour.running(database_uri, 0, 1, max_idle=0.1, check_interval=0.05) as pool:
            await ask(flavour, pool)
            with none_free():
                await asyncio.sleep(MOMENT)
            await until(lambda: not pool.stats().idle and not pool.stats().closing)
            await ask(flavour, pool)

    in_a_child(scenario())


def test_when_a_connection_is_looked_after(flavour: Flavour, database_uri: str) -> None:
    async def scenario() -> None:
        async with flavour.running(database_uri, 0, 1, reset=lambda conn: None) as pool:
            async with flavour.connection(pool) as conn:
                assert (await conn.query_first("SELECT 1 AS a")).a == 1
                (conn.thing if flavour.name == "sync" else conn)._link.distrust(Trust.SUSPECT)
                shortage = none_free()
                shortage.__enter__()
            await asyncio.sleep(MOMENT)
            shortage.__exit__(None, None, None)
            await ask(flavour, pool)

    in_a_child(scenario())


def test_when_a_process_attaches(flavour: Flavour, database_uri: str) -> None:
    """It is the first use of an inherited handle: nothing of it is there yet, neither alarm nor seat nor core."""
    owner = flavour.make(database_uri, 0, 2)

    async def scenario() -> None:
        owner._state = "started"
        with none_free():
            borrower = asyncio.ensure_future(ask(flavour, owner))
            await asyncio.sleep(MOMENT)
        await borrower
        await flavour.stop(owner)

    in_a_child(scenario())


def test_sqlite_does_not_say_that_it_was_for_want_of_descriptors(tmp_path: Path) -> None:
    """Its error is that of a file that cannot be opened, and the moment is over before we look: no refusal for good."""
    database = Database.parse(f"sqlite:{tmp_path / 'shop.db'}")
    looks = opening._refuse_if_short

    def child() -> None:
        open_link(database).close()
        shortage = none_free()
        shortage.__enter__()
        opening._refuse_if_short = lambda database: (shortage.__exit__(None, None, None), looks(database))[1]
        with pytest.raises(errors.ConnectError, match="it can be opened now") as caught:
            open_link(database)
        assert not is_permanent(caught.value)

    with forked(child) as process:
        assert process.join() == 0
    assert not opening._may_be_opened(str(tmp_path))
    assert not opening._may_be_opened(str(tmp_path / "none.db"))


def test_when_the_server_has_ended_a_connection(postgres_uri: str) -> None:
    """Whether the driver has closed its socket, or other code, cannot be found out: the error says that."""

    def child() -> None:
        link = open_link(Database.parse(postgres_uri))
        face = PySQLXEngineSync.lend(link)
        pid = face.query_first("SELECT pg_backend_pid() AS a").a
        with PySQLXEngineSync(postgres_uri) as other:
            assert other.query_first("SELECT pg_terminate_backend(:pid::int4, 5000) AS a", {"pid": pid}).a
        waiting.until(lambda: link.live_socket() is None)
        with none_free(), pytest.raises(errors.NotConnectedError, match=r"cannot find out by whom .*Too many"):
            face.query("SELECT 1 AS a")
        assert link.doubtful
        assert link.close()

    with forked(child) as process:
        assert process.join() == 0


def test_what_must_not_be_closed_is_kept_though_nothing_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked child of a process that has no free descriptor."""
    first, second = [1], [2]
    before = sys.getrefcount(first), sys.getrefcount(second)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ctypes", None)
        never_close(first)
    assert sys.getrefcount(first) > before[0]
    never_close(second)
    assert (sys.getrefcount(first), sys.getrefcount(second)) == (before[0] + 1, before[1] + 1)
    assert not descriptors._kept
