"""What we rely on pysqlx-core for, or defend against, fact by fact: a release that changes one shows here.

A defence whose reason is gone may go too; a support that is gone must be replaced.
"""

from __future__ import annotations

import decimal
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mppool.database.connection.link import Link
from mppool.database.connection.opening import open_link
from mppool.database.runtime import drivers, private_library
from mppool.database.runtime.loop_stand_in import drive
from mppool.settings import Database


@pytest.fixture
def link(database_uri: str) -> Iterator[Link]:
    one = open_link(Database.parse(database_uri))
    yield one
    assert one.close(10)


@pytest.fixture
def postgres(postgres_uri: str) -> Iterator[Link]:
    one = open_link(Database.parse(postgres_uri))
    yield one
    assert one.close(10)


def statement(link: Link, sql: str, parameters: dict[str, Any] | None = None) -> Any:
    return link.driver.Statement(provider=link.provider, sql=sql, params=parameters)


def rows(link: Link, sql: str, parameters: dict[str, Any] | None = None, timeout: float | None = 20) -> Any:
    return drive(link.conn.query_typed(statement(link, sql, parameters)), timeout).get_all()


# --- driving ---------------------------------------------------------------------------------------------


def test_calls_are_lazy_and_want_a_running_loop(link: Link) -> None:
    call = link.conn.query_typed(statement(link, "SELECT 1 AS a"))
    with pytest.raises(RuntimeError, match="no running event loop"):
        call.send(None)


def test_import_starts_no_runtime_and_the_first_call_obeys_the_environment() -> None:
    text = """
import os
from mppool.database.runtime.loop_stand_in import drive
import pysqlx_core
threads = lambda: len(os.listdir("/proc/self/task"))
before = threads()
os.environ["TOKIO_WORKER_THREADS"] = "7"
try:
    drive(pysqlx_core.new("file:/dev/null/x"))
except pysqlx_core.PySQLxError as error:
    print(error.code(), before, threads())
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "14 1 8\n"


def test_the_runtime_has_one_edge_triggered_epoll() -> None:
    watch = drivers.state.get("sqlite").watch
    if sys.platform == "linux":
        assert watch._epoll is not None


def test_copies_do_not_know_each_other(sqlite_uri: str) -> None:
    link = open_link(Database.parse(sqlite_uri))
    other = private_library.load(verify=False)
    assert other.PySQLxError is not link.driver.Error
    foreign = other.PySQLxStatement(provider="sqlite", sql="SELECT 1", params=None)
    with pytest.raises(TypeError):
        drive(link.conn.query_typed(foreign))
    assert link.close()


def test_a_forked_child_cannot_use_the_inherited_runtime(sqlite_uri: str) -> None:
    """The reason for private copies: remove them when this fails."""
    own = drivers.state.get("sqlite")  # not what a child would get, which begins anew
    path = Database.parse(sqlite_uri).uri
    pid = os.fork()
    if pid == 0:
        try:
            drive(own.new(path), timeout=1)
        except TimeoutError:
            os._exit(33)
        except BaseException:
            os._exit(2)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 33


# --- connections -----------------------------------------------------------------------------------------


def test_dropping_the_last_reference_closes(postgres_uri: str, postgres: Link) -> None:
    victim = open_link(Database.parse(postgres_uri))
    [row] = rows(victim, "SELECT pg_backend_pid() AS pid")
    assert not hasattr(victim.conn, "close")
    victim.conn = None
    deadline = time.monotonic() + 5
    sql = f"SELECT pid FROM pg_stat_activity WHERE pid = {row['pid']}"
    while rows(postgres, sql) and time.monotonic() < deadline:
        time.sleep(0.002)
    assert rows(postgres, sql) == []


def test_a_cancelled_statement_goes_on_and_the_next_waits_for_it(link: Link) -> None:
    count = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000000) SELECT count(*) a FROM n"
    slow = {
        "sqlite": count,
        "postgresql": "SELECT pg_sleep(0.4)::text AS a",
        "mysql": "SELECT SLEEP(0.4) AS a",
    }[link.provider]
    with pytest.raises(TimeoutError):
        rows(link, slow, timeout=0.02)
    with pytest.raises(TimeoutError):
        rows(link, "SELECT 2 AS a", timeout=0.02)
    assert rows(link, "SELECT 3 AS a") == [{"a": 3}]


def test_a_refused_isolation_level_leaves_the_transaction_open(postgres: Link) -> None:
    with pytest.raises(postgres.driver.Error):
        drive(postgres.conn.start_transaction("Snapshot"))
    where = "SELECT virtualtransaction AS v FROM pg_locks WHERE pid = pg_backend_pid() LIMIT 1"
    assert rows(postgres, where) == rows(postgres, where)  # outside, each query has its own
    drive(postgres.conn.raw_cmd(statement(postgres, "ROLLBACK")))
    assert rows(postgres, where) != rows(postgres, where)


def test_errors_are_type_errors_with_methods(link: Link) -> None:
    with pytest.raises(TypeError) as caught:
        rows(link, "SELECT * FROM nowhere")
    error: Any = caught.value
    assert (error.error(), "nowhere" in error.message(), error.code().isalnum()) == ("QueryError", True, True)


def test_panics_pass_except_exception(sqlite_uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    own = drivers.state.get("sqlite")
    with pytest.raises(BaseException) as caught:
        drive(own.new("nonsense:"))
    assert not isinstance(caught.value, Exception)
    assert type(caught.value).__name__ == "PanicException"


# --- statements and values -------------------------------------------------------------------------------


def made(sql: str, parameters: dict[str, Any], provider: str = "postgresql") -> Any:
    return drivers.state.get("sqlite").Statement(provider=provider, sql=sql, params=parameters)


def test_replacement_is_blind() -> None:
    assert made("SELECT ':a', x::a, :ab", {"a": 1}).sql() == "SELECT '$1', x:$2, $3b"


def test_replacement_is_in_text_order_and_longest_first() -> None:
    one = made("SELECT :mp1, :mp0, :mp1", {"mp0": 0, "mp1": 1})
    assert (one.sql(), one.params()) == ("SELECT $1, $2, $3", [1, 0, 1])


def test_short_keys_panic(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BaseException, match=r".+") as caught:
        made("SELECT :p, :p", {"p": 1})
    assert type(caught.value).__name__ == "PanicException"


def test_without_parameters_the_text_is_left_alone() -> None:
    sql = "SELECT ':a', x::a"
    assert drivers.state.get("sqlite").Statement(provider="mysql", sql=sql, params=None).sql() == sql


def test_more_than_127_placeholders_fail_on_postgresql(postgres: Link) -> None:
    def query(count: int) -> Any:
        keys = [f"mp{number:03d}" for number in range(count)]
        sql = "SELECT ARRAY[" + ", ".join(f":{key}::int8" for key in keys) + "] AS a"
        return rows(postgres, sql, dict.fromkeys(keys, 1))

    assert len(query(127)[0]["a"]) == 127
    with pytest.raises(postgres.driver.Error):
        query(128)


def test_floats_lose_half_their_bits_and_decimals_do_not(link: Link) -> None:
    cast = {"sqlite": "CAST(:v AS REAL)", "postgresql": ":v::float8", "mysql": "CAST(:v AS DOUBLE)"}
    sql = f"SELECT {cast[link.provider]} AS v"
    assert rows(link, sql, {"v": 0.1}) != [{"v": 0.1}]
    assert rows(link, sql, {"v": decimal.Decimal(repr(0.1))}) == [{"v": 0.1}]


def test_types_of_a_result(link: Link) -> None:
    response = drive(link.conn.query_typed(statement(link, "SELECT 1 AS a, 'x' AS b")))
    assert (len(response), response.get_types()) == (1, {"a": "int", "b": "str"})
    empty = drive(link.conn.query_typed(statement(link, "SELECT 1 AS a WHERE 1 = 0")))
    assert (len(empty), empty.get_types(), empty.get_all()) == (0, {}, [])
