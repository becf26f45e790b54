"""One program over the whole public surface of a connection, for either package and either flavour of connection.

It is a list of named steps; each opens what it needs and returns what it saw, or fails. `tests/drop_in/runner.py`
runs it in a process of its own and writes each step's outcome down. The parameters are in `parameters.py`, the
logs and errors in `messages.py`.
"""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import BaseModel

from tests.drop_in.kit import Kit, call, script, step

LEVELS = ("ReadUncommitted", "ReadCommitted", "RepeatableRead", "Snapshot", "Serializable")
CALLS: dict[str, tuple[Any, ...]] = {
    "query": ("SELECT 1 AS a",),
    "query_first": ("SELECT 1 AS a",),
    "query_as_dict": ("SELECT 1 AS a",),
    "query_first_as_dict": ("SELECT 1 AS a",),
    "execute": ("DELETE FROM scratch",),
    "raw_cmd": ("DELETE FROM scratch",),
    "begin": (),
    "start_transaction": ("Serializable",),
    "commit": (),
    "rollback": (),
    "set_isolation_level": ("Serializable",),
    "is_healthy": (),
    "requires_isolation_first": (),
}
FETCHES = ("query", "query_first", "query_as_dict", "query_first_as_dict")
PARAMETERS = {"self", "uri", "sql", "parameters", "model", "isolation_level"}
NAMES = ("BaseRow", "LOG_CONFIG", "PySQLXEngine", "PySQLXEnginePool", "PySQLXEnginePoolSync", "PySQLXEngineSync")
ERRORS = (
    *("AlreadyConnectedError", "ConnectError", "ExecuteError", "IsoLevelError", "NotConnectedError"),
    *("ParameterInvalidJsonValueError", "ParameterInvalidProviderError", "ParameterInvalidValueError"),
    *("PoolAlreadyStartedError", "PoolClosedError", "PoolTimeoutError", "PySQLXError", "QueryError", "RawCmdError"),
    "StartTransactionError",
)

# --- the package -----------------------------------------------------------------------------------------------


@step("names of the package", once=True)
async def _(kit: Kit) -> Any:
    return [name for name in NAMES if hasattr(kit.package, name)]


@step("names of errors", once=True)
async def _(kit: Kit) -> Any:
    made = [name for name in ERRORS if hasattr(kit.errors, name)]
    return [(name, issubclass(getattr(kit.errors, name), kit.errors.PySQLXError)) for name in made]


@step("parameters of each call", once=True)
async def _(kit: Kit) -> Any:
    made = {}
    for maker in (kit.package.PySQLXEngine, kit.package.PySQLXEngineSync):
        for name in ["__init__", "connect", "close", *CALLS]:
            found = inspect.signature(getattr(maker, name)).parameters
            made[f"{maker.__name__}.{name}"] = [each for each in found if each in PARAMETERS]
    return made


@step("which calls are coroutines", once=True)
async def _(kit: Kit) -> Any:
    made = kit.package.PySQLXEngine
    return {name: inspect.iscoroutinefunction(getattr(made, name)) for name in ["connect", "close", *CALLS]}


URIS: list[Any] = [
    *(
        "",
        "hello",
        "http://localhost",
        "mariadb://root@localhost/test",
        "postgres://u@localhost/x",
        None,
        1,
        b"sqlite:x",
    ),
    *("sqlite:", "sqlite:./x.db", "sqlite://x.db", "sqlite:///tmp/x.db", "file:x.db", "file:x.db?foo", "sqlite:a\0b"),
    *("postgresql://u@localhost/x?sslmode=bogus", "mysql://u@localhost/x?sslmode=require", "sqlite:x.db?mode=ro"),
    *("postgresql://u@localhost/x?sslmode=verify-full", "postgresql://u:p/w@localhost/x", "sqlite:///./x.db"),
    *("postgresql:", "postgresql://", "postgresql://u:p@localhost:5432/x", "postgresql://u@localhost:port/x"),
    *("postgresqlx://u@localhost/x", "mysql://u@localhost/x", "mysql://u@localhost/x?socket_timeout=1"),
    "sqlserver://localhost:1433;database=x;user=u;password=p",
]


def _constructor(uri: Any) -> None:
    @step(f"PySQLXEngine({uri!r})", once=True)
    async def _(kit: Kit) -> Any:
        made = kit.connection(uri)
        return made.uri, made.connected


for each_uri in URIS:
    _constructor(each_uri)


# --- connecting ------------------------------------------------------------------------------------------------


@step("connect, close: connected")
async def _(kit: Kit) -> Any:
    conn = kit.connection()
    seen = [conn.connected, await conn.connect(), conn.connected, await conn.close(), conn.connected]
    return [*seen, await conn.close(), await conn.connect(), (await conn.query_first("SELECT 1 AS a")).a]


@step("connect twice")
async def _(kit: Kit) -> Any:
    conn = await kit.open()
    return await kit.attempt(conn.connect()), conn.connected, (await conn.query_first("SELECT 1 AS a")).a


@step("close without connect")
async def _(kit: Kit) -> Any:
    return await kit.connection().close()


@step("with: connected inside and after")
async def _(kit: Kit) -> Any:
    async def body(conn: Any) -> Any:
        kept.append(conn)
        return conn.connected

    kept: list[Any] = []
    return await kit.within(body), kept[0].connected


@step("with: an error inside comes out, the connection is closed")
async def _(kit: Kit) -> Any:
    async def body(conn: Any) -> Any:
        kept.append(conn)
        raise KeyError("mine")

    kept: list[Any] = []
    return await kit.attempt(kit.within(body)), kept[0].connected


def _connect(name: str, uris: dict[str, str]) -> None:
    @step(f"connect: {name}")
    async def _(kit: Kit) -> Any:
        uri = uris.get(kit.provider)
        return await kit.open(uri.format(kit.uri.rpartition("/")[0])) if uri else None


_connect("refused", {"postgresql": "postgresql://postgres@127.0.0.1:1/x", "mysql": "mysql://root@127.0.0.1:1/x"})
_connect("unknown database", {"postgresql": "{}/nope", "mysql": "{}/nope", "sqlite": "sqlite:/nope/nope.db"})
_connect("a folder", {"sqlite": "sqlite:/"})
_connect("unresolvable host", {"postgresql": "postgresql://u@nope.invalid/x", "mysql": "mysql://u@nope.invalid/x"})


def _unconnected(name: str, args: tuple[Any, ...]) -> None:
    @step(f"before connect: {name}")
    async def _(kit: Kit) -> Any:
        return await getattr(kit.connection(), name)(*args)

    @step(f"after close: {name}")
    async def _(kit: Kit) -> Any:
        conn = await kit.open()
        await conn.close()
        return await getattr(conn, name)(*args)


for each_name, each_args in CALLS.items():
    _unconnected(each_name, each_args)

call("is_healthy", "is_healthy")
call("requires_isolation_first", "requires_isolation_first")

# --- queries ---------------------------------------------------------------------------------------------------


class Person(BaseModel):
    id: int
    name: str


class Strict(BaseModel):
    id: int
    missing: str


PEOPLE = "SELECT id, name FROM people ORDER BY id"
ONE = "SELECT id, name FROM people WHERE id = :id"

for each in FETCHES:
    call(f"{each}: rows", each, PEOPLE)
    call(f"{each}: no rows", each, "SELECT id FROM people WHERE id < 0")
    call(f"{each}: parameters", each, ONE, {"id": 2})
    call(f"{each}: keywords", each, sql=ONE, parameters={"id": 2})
    call(f"{each}: a parameter twice", each, f"{ONE} OR id = :id + 1 ORDER BY id", {"id": 1})
    call(f"{each}: a string", each, "SELECT id FROM people WHERE name = :name", {"name": "Bob"})
    call(f"{each}: parameters={{}}", each, PEOPLE, {})
    call(f"{each}: a missing parameter", each, f"{ONE} AND name = :name", {"id": 2})
    call(f"{each}: no parameters at all", each, ONE)
    call(f"{each}: a surplus parameter", each, ONE, {"id": 2, "more": 1})
    call(f"{each}: not SQL", each, "SELEKT 1")
    call(f"{each}: unknown table", each, "SELECT * FROM nope")
    call(f"{each}: empty SQL", each, "")
    call(f"{each}: a statement without rows", each, "DELETE FROM scratch")
    for bad in (None, 1, b"SELECT 1"):
        call(f"{each}: sql={bad!r}", each, bad)
    for wrong in ([1], (1,), "id", 5, {1: 1}):
        call(f"{each}: parameters={wrong!r}", each, ONE, wrong)

for each in ("query", "query_first"):
    call(f"{each}: model=", each, PEOPLE, model=Person)
    call(f"{each}: model= a BaseRow of ours", each, PEOPLE, None, lambda kit: type("Mine", (kit.package.BaseRow,), {}))
    call(f"{each}: model=BaseRow", each, PEOPLE, None, lambda kit: kit.package.BaseRow)
    call(f"{each}: model= lacks a column", each, PEOPLE, model=Strict)
    call(f"{each}: model=, no rows", each, "SELECT id FROM people WHERE id < 0", model=Strict)
    for bad_model in (dict, 1, "Person"):
        call(f"{each}: model={bad_model!r}", each, PEOPLE, None, bad_model)
call("query: model= an instance", "query", PEOPLE, None, Person(id=1, name="x"))

# Text that only looks like a placeholder, and names that begin alike.
call("a placeholder's name in a string", "query", "SELECT ':id' AS a FROM people WHERE id = :id", {"id": 1})
call("a placeholder's name in a comment", "query", "SELECT id /* :id */ FROM people WHERE id = :id", {"id": 1})
call("a time in a string", "query_first", "SELECT '12:id' AS a FROM people WHERE id = :id", {"id": 1})
call("names that begin alike", "query", f"{ONE} AND id = :id2 AND id < :id1", {"id": 1, "id1": 2, "id2": 1})
call("a name that begins another's, alone", "query", "SELECT id FROM people WHERE id = :idx", {"id": 1})
call("a parameter p, twice", "query", "SELECT id FROM people WHERE id = :p OR id = :p", {"p": 1})
call("a digit as a name", "query", "SELECT id FROM people WHERE id = :1", {"1": 1})
script(
    "200 parameters",
    (
        "query",
        f"SELECT id FROM people WHERE {' OR '.join(f'id = :i{n}' for n in range(200))}",
        {f"i{n}": -n - 1 for n in range(200)},
    ),
)


# --- execute, raw_cmd --------------------------------------------------------------------------------------------

CLEAN = ("execute", "DELETE FROM scratch")
INSERT = ("execute", "INSERT INTO scratch (id, name) VALUES (1, 'x')")
COUNT = ("query_first_as_dict", "SELECT count(*) AS n FROM scratch")

script(
    "execute: counts",
    ("raw_cmd", "DELETE FROM scratch"),
    INSERT,
    ("execute", "INSERT INTO scratch (id, name) VALUES (:id, :name)", {"id": 2, "name": "y"}),
    ("execute", "UPDATE scratch SET name = :name", {"name": "z"}),
    ("execute", "UPDATE scratch SET name = 'z' WHERE id = 9"),
    ("execute", "DELETE FROM scratch WHERE id > :id", {"id": 0}),
    COUNT,
)
script("execute: unique violation", CLEAN, INSERT, INSERT, CLEAN)
script("execute: not null violation", ("execute", "INSERT INTO scratch (id, name) VALUES (3, NULL)"))
script("execute: DDL", ("execute", "CREATE TABLE made (id INT)"), ("execute", "DROP TABLE made"))
script("execute: no parameter given", ("execute", "DELETE FROM scratch WHERE id = :id"))
script("execute: a surplus parameter", ("execute", "DELETE FROM scratch WHERE id = :id", {"id": 1, "more": 2}))
script("execute: a SELECT", ("execute", "SELECT id FROM people"))
script("execute: not SQL", ("execute", "SELEKT 1"))
script("execute: sql and parameters of wrong types", ("execute", 1), ("execute", "SELECT 1", [1]), ("execute", None))
script(
    "raw_cmd: several statements",
    ("raw_cmd", "DELETE FROM scratch; INSERT INTO scratch (id, name) VALUES (1, 'x')"),
    COUNT,
    CLEAN,
)
script("raw_cmd: not SQL", ("raw_cmd", "SELEKT 1"))
script("raw_cmd: wrong types", ("raw_cmd", 1), ("raw_cmd", None))
script("raw_cmd: a colon", ("raw_cmd", "DELETE FROM scratch WHERE name = ':x'"))

# --- transactions --------------------------------------------------------------------------------------------------

script("commit keeps", CLEAN, ("begin",), INSERT, ("commit",), COUNT, CLEAN)
script("rollback undoes", CLEAN, ("begin",), INSERT, ("rollback",), COUNT)
script("begin twice", ("begin",), ("begin",), ("rollback",))
script("commit without begin", ("commit",))
script("rollback without begin", ("rollback",))
script("an error in a transaction", CLEAN, ("begin",), INSERT, INSERT, COUNT, ("commit",), COUNT, CLEAN)
for level in (*LEVELS, "serializable", "Nope", "", 1, None):
    script(f"start_transaction({level!r})", ("start_transaction", level), COUNT, ("rollback",))
    script(f"set_isolation_level({level!r})", ("set_isolation_level", level), ("query_first", "SELECT 1 AS a"))
script("set_isolation_level in a transaction", ("begin",), ("set_isolation_level", "Serializable"), ("rollback",))


@step("close in a transaction rolls back")
async def _(kit: Kit) -> Any:
    conn = await kit.open()
    await conn.execute("DELETE FROM scratch")
    await conn.begin()
    await conn.execute("INSERT INTO scratch (id, name) VALUES (1, 'x')")
    await conn.close()
    return (await (await kit.open()).query_first("SELECT count(*) AS n FROM scratch")).n
