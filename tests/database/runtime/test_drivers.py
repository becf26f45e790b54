"""Copies of the core: when a private one is loaded, with how many workers, and what happens at the exit.

What touches the state of a whole process runs in one of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from mppool import errors
from mppool.database.connection.opening import open_link
from mppool.database.runtime import drivers
from mppool.settings import Database

LONG = 60


FORKS = ["-W", "ignore:This process:DeprecationWarning"]  # Python 3.12 and later warn of any fork beside threads


def program(text: str, *, env: dict[str, str] | None = None, arguments: tuple[str, ...] = ()) -> str:
    """Run a program in a fresh interpreter; its output, provided that it exits with 0 and without noise."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", *FORKS, "-c", textwrap.dedent(text), *arguments],
        capture_output=True,
        text=True,
        timeout=LONG,
        env={**os.environ, **(env or {})},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def test_one_copy_serves_all_and_the_installed_library_is_left_alone() -> None:
    program(
        """
        import sys
        from mppool.database.runtime import drivers
        first = drivers.state.get("postgresql")
        assert drivers.state.get("mysql") is first
        assert not any(name.startswith("pysqlx_core") for name in sys.modules)
        import pysqlx_core
        assert pysqlx_core.PySQLxError is not first.Error
        """
    )


def test_somebody_elses_blocking_calls_beside_ours(postgres_uri: str) -> None:
    """Imported after us, and hammered at the same time: on one runtime this deadlocks within a second."""
    program(
        """
        import sys, threading, time
        from mppool import PySQLXEngineSync
        conn = PySQLXEngineSync(sys.argv[1])
        conn.connect()
        import pysqlx_core
        theirs = pysqlx_core.new_sync(sys.argv[1])
        statement = pysqlx_core.PySQLxStatement(provider="postgresql", sql="SELECT 2 AS a", params=None)
        end = time.monotonic() + 2
        def blocking():
            while time.monotonic() < end:
                assert theirs.query_one_sync(statement) == {"a": 2}
        thread = threading.Thread(target=blocking)
        thread.start()
        while time.monotonic() < end:
            assert conn.query_first("SELECT 1 AS a").a == 1
        thread.join()
        conn.close()
        """,
        arguments=(postgres_uri,),
    )


def test_certificate_authorities_are_read_by_those_who_verify() -> None:
    """Our copy asks for a variable of its own; what the program's other libraries ask for is left alone."""
    program(
        """
        import os
        from mppool.database.connection import driver_uri
        from mppool.database.runtime import drivers, private_library
        from mppool.settings import Database
        data = open(private_library.installed(), "rb").read()
        assert data.count(private_library.BUNDLE) >= 2
        assert len(private_library.BUNDLE) == len(private_library.OUR_BUNDLE)
        strict = Database.parse("postgresql://localhost/x?sslmode=require&sslaccept=strict")
        lax = Database.parse("postgresql://localhost/x?sslmode=require")
        assert driver_uri.verifies(strict) and not driver_uri.verifies(lax)
        assert driver_uri.verifies(Database.parse("sqlserver://localhost;database=x"))
        one, other = (drivers.state.get("postgresql", verify=each) for each in (False, True))
        assert one is not other and other.verifies and not one.verifies
        assert drivers.state.get("postgresql", verify=True) is other
        assert drivers.state.get("postgresql") is one
        """
    )


def test_a_server_is_verified_when_that_is_asked_for(postgres_server: Any) -> None:
    """The test server's certificate, if it has one, is its own; nobody vouches for it."""
    if postgres_server.run("SHOW ssl")[0][0] != "on":
        pytest.skip("this PostgreSQL has no TLS")
    for extra, works in (("sslmode=require", True), ("sslmode=require&sslaccept=strict", False)):
        uri = postgres_server.uri + ("&" if "?" in postgres_server.uri else "?") + extra
        if works:
            assert open_link(Database.parse(uri)).close()
        else:
            with pytest.raises(errors.ConnectError, match="TLS"):
                open_link(Database.parse(uri))


@pytest.mark.parametrize("way", ["memory", "disk"])
def test_beside_somebody_elses_import(way: str, tmp_path: Any) -> None:
    """Their blocking calls and our asynchronous ones never meet on one runtime."""
    out = program(
        """
        import os, sys, tempfile
        if sys.argv[1] == "disk":
            del os.memfd_create
        tempfile.tempdir = sys.argv[2]
        import pysqlx_core
        from pysqlx_core import pysqlx_core as theirs
        from mppool import PySQLXEngineSync
        from mppool.database.runtime import drivers
        with PySQLXEngineSync(f"sqlite:{sys.argv[2]}/x.db") as conn:
            own = drivers.state.driver
            assert own.Error is not pysqlx_core.PySQLxError
            assert sys.modules["pysqlx_core.pysqlx_core"] is theirs
            assert conn.query_first("SELECT 1 AS a").a == 1
            theirs_too = pysqlx_core.new_sync(f"file:{sys.argv[2]}/x.db")
            statement = pysqlx_core.PySQLxStatement(provider="sqlite", sql="SELECT 2 AS a", params=None)
            assert theirs_too.query_one_sync(statement) == {"a": 2}
        print(sorted(os.listdir(sys.argv[2])))
        """,
        arguments=(way, str(tmp_path)),
    )
    assert out == "['x.db']\n"  # the copy on disk is removed


def test_somebody_imports_theirs_while_ours_is_being_loaded(sqlite_uri: str) -> None:
    program(
        """
        import sys
        from importlib.machinery import ExtensionFileLoader
        from mppool import PySQLXEngineSync
        from mppool.database.runtime import drivers

        load = ExtensionFileLoader.exec_module

        def import_theirs_first(self, module):
            if self.name.endswith(".pysqlx_core"):
                ExtensionFileLoader.exec_module = load
                import pysqlx_core
            return load(self, module)

        ExtensionFileLoader.exec_module = import_theirs_first
        with PySQLXEngineSync(sys.argv[1]) as conn:
            assert conn.query_first("SELECT 1 AS a").a == 1
        import pysqlx_core
        assert pysqlx_core.PySQLxError is not drivers.state.driver.Error
        assert {name for name in sys.modules if "pysqlx_core" in name} == {"pysqlx_core", "pysqlx_core.pysqlx_core"}
        """,
        arguments=(sqlite_uri,),
    )


def test_connections_without_a_pool_survive_forks(database_uri: str) -> None:
    """The program never imports a pool: a child begins anew all the same, and so does its child."""
    program(
        """
        import os, sys
        from mppool import PySQLXEngineSync, errors

        def ask():
            with PySQLXEngineSync(sys.argv[1]) as conn:
                assert conn.query_first("SELECT 1 AS a").a == 1

        with PySQLXEngineSync(sys.argv[1]) as inherited:
            for _ in range(2):
                child = os.fork()
                if child:
                    assert os.waitpid(child, 0)[1] == 0
                    break
                try:
                    inherited.query("SELECT 1 AS a")
                except errors.NotConnectedError:
                    ask()
            else:
                os._exit(0)
            if inherited._link.conn is None:
                os._exit(0)
            assert inherited.query_first("SELECT 2 AS a").a == 2
        assert "mppool.process.registry" not in sys.modules
        """,
        arguments=(database_uri,),
    )


def test_a_fork_waits_for_a_copy_that_is_being_loaded(sqlite_uri: str) -> None:
    """What the loading thread sets in the environment for a moment would stay in the child."""
    program(
        """
        import os, sys, threading
        from importlib.machinery import ExtensionFileLoader
        from mppool import PySQLXEngineSync

        loading, forked, load = threading.Event(), threading.Event(), ExtensionFileLoader.exec_module

        def load_slowly(self, module):
            if self.name.endswith(".pysqlx_core"):
                assert os.environ["RUST_LOG"] == "off"
                loading.set()
                forked.wait(0.2)  # in vain, if it is as it should be
            return load(self, module)

        def ask():
            with PySQLXEngineSync(sys.argv[1]) as conn:
                assert conn.query_first("SELECT 1 AS a").a == 1

        ExtensionFileLoader.exec_module = load_slowly
        asker = threading.Thread(target=ask)
        asker.start()
        loading.wait()
        child = os.fork()
        forked.set()
        if not child:
            ask()
            os._exit("RUST_LOG" in os.environ or "TOKIO_WORKER_THREADS" in os.environ)
        assert os.waitpid(child, 0)[1] == 0
        asker.join()
        """,
        arguments=(sqlite_uri,),
    )


def test_copies_upon_copies_are_all_different(tmp_path: Any) -> None:
    """Both Python and the linker remember a library by its path; a path that came again would be an old one."""
    program(
        """
        from mppool.database.runtime import drivers
        from mppool.database.runtime.loop_stand_in import drive
        seen = []
        for workers in (2, 40, 80, 120):
            drivers.state.driver = drivers._load(workers, False, None)
            seen.append(drivers.state.driver)
        assert len({one.Error for one in seen}) == 4
        """
    )


def test_workers_outnumber_sqlite_connections(tmp_path: Any) -> None:
    out = program(
        """
        import os, sys, threading
        from mppool.database.runtime import drivers
        from mppool.database.connection.opening import open_link
        from mppool.settings import Database
        from tests.waiting import until

        def runtime_threads():
            tasks = os.listdir("/proc/self/task")
            return sum(open(f"/proc/self/task/{task}/comm").read().startswith("tokio") for task in tasks)

        database = Database.parse(f"sqlite:{sys.argv[1]}/x.db")
        drivers.state.get("postgresql")
        few = drivers.state.driver.workers
        links = [open_link(database, sqlite_connections=40)]
        until(lambda: runtime_threads() - few == drivers.state.driver.workers)  # they start one after the other
        print(drivers.state.driver.workers > 40)
        print("TOKIO_WORKER_THREADS" in os.environ, "RUST_LOG" in os.environ)
        links += [open_link(database, sqlite_connections=80) for _ in range(80)]
        assert len({link.driver for link in links}) == 1, "two SQLites on one file would not see each other's locks"
        other = open_link(Database.parse(f"sqlite:{sys.argv[1]}/y.db"), sqlite_connections=80)
        print(other.driver.workers > 160)
        assert all(link.check() for link in [*links, other])
        drivers.state.get("sqlite", 100_000, file="z.db")
        print(drivers.state.driver.workers)
        """,
        arguments=(str(tmp_path),),
    )
    assert out == f"True\nFalse False\nTrue\n{drivers.SQLITE_WORKERS_LIMIT}\n"


def test_one_file_has_one_copy_whatever_was_loaded_before(sqlite_uri: str) -> None:
    """A file's locks are the process's: with a second copy of SQLite on it, both would hold the write lock."""
    program(
        """
        import os, sys
        from mppool import PySQLXEngineSync, errors
        from mppool.database.runtime import drivers
        drivers.state.get("postgresql")  # with few workers
        os.symlink(sys.argv[1], sys.argv[1] + ".link")
        conns = [PySQLXEngineSync("sqlite:" + path) for path in (sys.argv[1], sys.argv[1], sys.argv[1] + ".link")]
        for conn in conns:
            conn.connect()
            conn.raw_cmd("PRAGMA busy_timeout = 0")
        assert len({conn._link.driver for conn in conns}) == 1
        conns[0].begin(immediate=True)
        for conn in conns[1:]:
            try:
                conn.begin(immediate=True)
            except errors.StartTransactionError as error:
                assert error.code == "5"
            else:
                raise AssertionError("two writers")
        """,
        arguments=(sqlite_uri.partition(":")[2],),
    )


def test_the_users_number_of_workers_wins(tmp_path: Any) -> None:
    out = program(
        """
        import os
        from mppool.database.runtime import drivers
        drivers.state.get("sqlite", 30)
        assert drivers.state.get("sqlite", 60) is drivers.state.driver
        print(drivers.state.driver.workers, os.environ["TOKIO_WORKER_THREADS"])
        """,
        env={"TOKIO_WORKER_THREADS": "3"},
    )
    assert out == "3 3\n"


def test_waiting_writers_do_not_starve_the_one_that_commits(tmp_path: Any) -> None:
    out = program(
        """
        import sys, threading, time
        from mppool import PySQLXEngineSync
        uri = f"sqlite:{sys.argv[1]}/x.db"
        holder = PySQLXEngineSync(uri); holder.connect()
        holder.execute("CREATE TABLE t (a INT)")
        holder.raw_cmd("BEGIN IMMEDIATE")
        failures = []
        def write():
            with PySQLXEngineSync(uri) as conn:
                started.release()
                try:
                    conn.execute("INSERT INTO t VALUES (1)")
                except Exception as error:
                    failures.append(error)
        started = threading.Semaphore(0)
        threads = [threading.Thread(target=write) for _ in range(6)]
        for thread in threads: thread.start()
        for _ in threads: started.acquire()
        time.sleep(0.2)   # they are in their busy loops now
        began = time.monotonic()
        holder.raw_cmd("COMMIT")
        took = time.monotonic() - began
        for thread in threads: thread.join()
        print(took < 1.5, failures, holder.query_first("SELECT count(*) AS n FROM t").n)
        holder.close()
        """,
        arguments=(str(tmp_path),),
    )
    assert out == "True [] 6\n"


def test_database_errors_make_no_noise(postgres_uri: str) -> None:
    """The core would log the loss of a connection on stderr, with everything in it when RUST_LOG says so."""
    program(
        """
        import sys
        from mppool import PySQLXEngineSync, errors
        with PySQLXEngineSync(sys.argv[1]) as conn, PySQLXEngineSync(sys.argv[1]) as other:
            pid = conn.query_first("SELECT pg_backend_pid() AS a").a
            other.query("SELECT pg_terminate_backend(:pid::int4, 5000) AS a", {"pid": pid})
            try:
                conn.query("SELECT 1 AS a")
            except errors.QueryError:
                print("gone")
        """,
        arguments=(postgres_uri,),
        env={name: value for name, value in os.environ.items() if name != "RUST_LOG"},
    )


# --- the exit --------------------------------------------------------------------------------------------

EXITS = {
    "asyncio, closed": """
        async def main():
            async with PySQLXEngine(uri) as conn:
                await conn.query("SELECT 1 AS a")
        asyncio.run(main())
        """,
    "asyncio, left open": """
        async def main():
            global conn
            conn = PySQLXEngine(uri)
            await conn.connect()
            await conn.query("SELECT 1 AS a")
        asyncio.run(main())
        """,
    "blocking, left open": """
        conn = PySQLXEngineSync(uri)
        conn.connect()
        conn.query("SELECT 1 AS a")
        """,
    "asyncio, cancelled and forgotten": """
        async def main():
            conn = PySQLXEngine(uri)
            await conn.connect()
            try:
                await asyncio.wait_for(conn.query(slow), 0.02)
            except asyncio.TimeoutError:
                pass
        asyncio.run(main())
        """,
    "a daemon thread in a call": """
        def work():
            with PySQLXEngineSync(uri) as conn:
                ready.set()
                while True:
                    conn.query(slow)
        ready = threading.Event()
        threading.Thread(target=work, daemon=True).start()
        ready.wait()
        time.sleep(0.03)
        """,
}
SLOW = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300000) SELECT count(*) a FROM n",
    "postgresql": "SELECT pg_sleep(0.08)::text AS a",
    "mysql": "SELECT SLEEP(0.08) AS a",
}


@pytest.mark.parametrize("case", list(EXITS))
def test_clean_exits(case: str, database_uri: str) -> None:
    """Without the hook, one in ten or so of these programs aborts. Six at a time."""
    head = """
import asyncio, sys, threading, time
from mppool import PySQLXEngine, PySQLXEngineSync, errors
uri, slow = sys.argv[1:]
"""
    text = head + textwrap.dedent(EXITS[case])
    slow = SLOW[database_uri.partition(":")[0]]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", text, database_uri, slow],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    ends = [(process.communicate(timeout=LONG)[1], process.returncode) for process in running]
    assert [end for end in ends if end[1] or "FATAL" in end[0]] == []


def test_settle_refuses_new_calls_and_may_come_twice(sqlite_uri: str) -> None:
    out = program(
        """
        import sys
        from mppool import PySQLXEngineSync, errors
        from mppool.database.runtime import drivers
        conn = PySQLXEngineSync(sys.argv[1]); conn.connect()
        drivers.settle(); drivers.settle()
        for call in (lambda: conn.query("SELECT 1"), PySQLXEngineSync(sys.argv[1]).connect):
            try:
                call()
            except (errors.NotConnectedError, errors.ConnectError) as error:
                print(error)
        conn.close()
        """,
        arguments=(sqlite_uri,),
    )
    assert out.count("the interpreter is exiting") == 2


def test_settle_does_not_wait_for_nothing() -> None:
    core_free = program(
        """
        import time
        from mppool.database.runtime import drivers
        pauses = []
        time.sleep = pauses.append
        drivers.settle()
        print(pauses)
        """
    )
    assert core_free == "[]\n"


def test_settle_ends_what_is_in_flight(postgres_uri: str) -> None:
    out = program(
        """
        import sys, threading, time
        from mppool import PySQLXEngineSync, errors
        from mppool.database.runtime import drivers
        def work():
            try:
                conn.query("SELECT pg_sleep(4)::text AS a")
            except errors.QueryError as error:
                print(error.message)
        conn = PySQLXEngineSync(sys.argv[1]); conn.connect()
        thread = threading.Thread(target=work); thread.start()
        while not conn._link.busy:
            time.sleep(0.001)
        time.sleep(0.05)
        began = time.monotonic()
        drivers.settle()
        thread.join()
        print(time.monotonic() - began < 2)
        """,
        arguments=(postgres_uri,),
    )
    assert out == "The server terminated the connection.\nTrue\n"
