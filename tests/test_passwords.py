"""The password is nowhere: not in a log, a repr, an argument list, an environment, a file of ours, or in what tools
show of a failed function's variables."""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import signal
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

import mppool
from mppool import PoolManager, PySQLXEnginePoolSync, errors
from mppool.settings import BudgetSettings
from mppool.shared import paths
from tests.servers import Server
from tests.waiting import until

PASSWORD = "hunter2hunter"
PACKAGE = os.path.dirname(os.path.abspath(mppool.__file__))


def as_tools_show_it(error: BaseException) -> str:
    """The error with the variables of each of our functions that it went through."""
    shown, seen = "", error
    while seen is not None:
        captured = traceback.TracebackException.from_exception(seen, capture_locals=True)
        ours = [frame for frame in captured.stack if frame.filename.startswith(PACKAGE)]
        shown += str(seen) + "".join(str(frame.locals) for frame in ours)
        seen = seen.__cause__ or seen.__context__  # type: ignore[assignment]
    return shown


def failed(call: Any, *args: Any, **kwargs: Any) -> str:
    try:
        call(*args, **kwargs)
    except errors.PoolError as error:
        return as_tools_show_it(error)
    except errors.PySQLXError as error:
        return as_tools_show_it(error)
    raise AssertionError("it went well")


def borrow(pool: Any, timeout: float = 20.0, sql: str = "SELECT 1 AS a") -> None:
    with pool.connection(timeout) as conn:
        conn.query(sql)


@pytest.fixture(params=["postgresql", "mysql"])
def uri(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of a user with a password."""
    stem = {"postgresql": "postgres", "mysql": "mysql"}[request.param]
    server: Server = request.getfixturevalue(f"{stem}_server")
    database = request.getfixturevalue(f"{stem}_uri").partition("?")[0].rpartition("/")[2]
    name = f"mppool_{secrets.token_hex(4)}"
    if request.param == "postgresql":
        server.run(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    else:
        server.run(f"CREATE USER '{name}'@'%' IDENTIFIED BY '{PASSWORD}'")
        server.run(f"GRANT ALL ON `{database}`.* TO '{name}'@'%'")
    yield server.uri_of(database, name, PASSWORD)
    server.run(f"DROP {'ROLE' if request.param == 'postgresql' else 'USER'} {name}")


def processes(folder: str) -> str:
    """Arguments and environments of this test's processes."""
    told = ""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environ = file.read()
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                arguments = file.read()
        except OSError:
            continue  # it has ended, or is another user's
        if int(pid) == os.getpid() or folder.encode() in environ + arguments:
            told += (environ + arguments).decode(errors="replace")
    return told


def files(folder: str) -> str:
    told = ""
    for where, _, names in os.walk(folder):
        for name in names:
            if name != paths.SOCKET:
                with open(os.path.join(where, name), "rb") as file:
                    told += name + file.read().decode(errors="replace")
    return told


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc here")
def test_while_all_goes_well_and_when_the_manager_is_killed(
    uri: str, runtime_folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with PoolManager(uri, 1) as manager:
        pool, async_pool = manager.pool(min_size=1), manager.async_pool()
        with pool.connection() as conn:
            things = (manager, pool, async_pool, conn, pool._local.machine, pool._budget, pool._settings)  # type: ignore[union-attr]
            told = " ".join(map(repr, things)) + repr(pool.stats()) + repr(manager.stats()) + repr(conn._link)
            told += failed(conn.query, "SELECT nothing FROM nowhere") + failed(pool.connection(0.01).__enter__)
            told += failed(PoolManager(uri, 3, manager.name).start)
        killed = manager.pid
        os.kill(killed, signal.SIGKILL)
        until(lambda: manager.pid != killed and not pool.stats().manager_lost, 20)
        borrow(pool)
        told += processes(runtime_folder) + files(runtime_folder)
    assert "the manager is gone" in caplog.text
    assert "runs with other settings" in told
    assert PASSWORD not in told
    assert PASSWORD not in caplog.text


def test_when_the_database_refuses(uri: str, runtime_folder: str, caplog: pytest.LogCaptureFixture) -> None:
    wrong = uri.replace("@127.0.0.1:", "@127.0.0.1:1#").partition("#")[0] + "/test"  # nobody listens there
    pool = PySQLXEnginePoolSync(wrong, min_size=1)
    told = failed(pool.start) + repr(pool)
    lazy = PoolManager(wrong, 2)
    lazy.start()
    handle = lazy.pool()
    told += failed(borrow, handle, 0.5) + repr(handle.stats()) + str(handle.stats().last_connect_error)
    lazy.stop()
    assert told.count("ConnectError(") >= 4
    assert PASSWORD not in told
    assert PASSWORD not in caplog.text


def test_when_no_manager_can_be_had(uri: str, runtime_folder: str) -> None:
    os.chmod(runtime_folder, 0o777)
    told = failed(PoolManager(uri, 2).start) + failed(PySQLXEnginePoolSync(uri, 1, 2).start)
    os.chmod(runtime_folder, 0o700)
    assert "open to others" in told
    assert PASSWORD not in told


def test_the_uri_is_still_a_uri() -> None:
    uri = "postgresql://u:hunter2hunter@db/shop"
    settings = pickle.loads(pickle.dumps(BudgetSettings(uri, 1)))
    assert settings.uri == settings.database.uri == uri
    assert PASSWORD not in repr([settings, settings.uri, settings.database.uri])
    assert type(PySQLXEnginePoolSync(uri, 0).uri) is str
