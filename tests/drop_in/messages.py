"""The program's steps about rows, errors as text, and what is logged."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from tests.drop_in.kit import Kit, step
from tests.drop_in.outcomes import Text

SWITCHES = ("PYSQLX_DEV_MODE", "PYSQLX_SQL_LOG", "PYSQLX_USE_COLOR", "PYSQLX_ERROR_JSON_FMT")
COLOUR = re.compile(r"\x1b\[[\d;]*m")


def _row(name: str, sql: str, see: Callable[[Any, Kit], Any]) -> None:
    @step(f"row: {name}")
    async def _(kit: Kit) -> Any:
        return see(await (await kit.open()).query_first(sql), kit)


_row("str", "SELECT 1 AS a", lambda row, kit: str(row))
_row("repr", "SELECT 'x' AS a", lambda row, kit: repr(row))
_row("model_dump", "SELECT 1 AS a, 'x' AS b", lambda row, kit: row.model_dump())
_row("model_dump_json", "SELECT 'x' AS b", lambda row, kit: row.model_dump_json())
_row("a BaseRow", "SELECT 1 AS a", lambda row, kit: (isinstance(row, kit.package.BaseRow), type(row).__name__))
_row("equal", "SELECT 1 AS a", lambda row, kit: row == row.model_copy())
_row("dict()", "SELECT 1 AS a", lambda row, kit: dict(row))
_row("an attribute that is no column", "SELECT 1 AS a", lambda row, kit: row.b)
_row("set an attribute", "SELECT 1 AS a", lambda row, kit: (setattr(row, "a", 2), row.a))
_row("pickle", "SELECT 1 AS a", lambda row, kit: pickle.loads(pickle.dumps(row)).a)
_row("NULL", "SELECT NULL AS a", lambda row, kit: row.a)
_row("column types", "SELECT 1 AS a, 'x' AS b", lambda row, kit: sorted(map(str, type(row).model_fields)))
_row("no column name", "SELECT 1", lambda row, kit: row.model_dump())
_row("the same name twice", "SELECT 1 AS a, 2 AS a", lambda row, kit: row.model_dump())
for column in ("a b", "_a", "__a", "class", "model_dump", "copy", "json", "ü", "1a", "A", "schema", "model_x", "self"):

    async def _odd(kit: Kit, column: str = column) -> Any:
        quote = "`" if kit.provider == "mysql" else '"'
        row = await (await kit.open()).query_first(f"SELECT 1 AS {quote}{column}{quote}")
        seen = getattr(row, column)
        return type(row).model_dump(row), Text("a method") if callable(seen) else seen

    step(f"row: a column named {column}")(_odd)


def _order(name: str, method: str) -> None:
    @step(f"row: order of columns, {name}")
    async def _(kit: Kit) -> Any:
        conn = await kit.open()
        sql = "SELECT 1 AS c, 2 AS a, 3 AS f, 4 AS b, 5 AS e, 6 AS d"
        rows = [row for _ in range(20) for row in await getattr(conn, method)(sql)]
        orders = {"".join(dict(row)) for row in rows}
        return Text(f"always {orders.pop()}" if len(orders) == 1 else "another one each time")


_order("rows", "query")
_order("dicts", "query_as_dict")


@step("row: values that differ in type (SQLite)")
async def _(kit: Kit) -> Any:
    sql = "SELECT 1 AS a UNION ALL SELECT 'x' ORDER BY 1"
    return await (await kit.open()).query(sql) if kit.provider == "sqlite" else None


# --- errors ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def switched(kit: Kit, *switches: str) -> Iterator[None]:
    for switch in SWITCHES:
        setattr(kit.package.LOG_CONFIG, switch, switch in switches)
    yield
    for switch in SWITCHES:
        setattr(kit.package.LOG_CONFIG, switch, False)


async def caught(awaitable: Awaitable[Any]) -> Any:
    try:
        return await awaitable
    except BaseException as error:
        return error


def looks(error: Any) -> Any:
    """How an error's text is built; the words may be each package's own."""
    plain = COLOUR.sub("", str(error))
    if plain.startswith("\n"):
        inner = json.loads(plain)
        return {**inner, "message": Text("…")} if "Parameter" in inner["error"] else inner
    return Text(re.sub(r"'.*'", "'…'", plain) if "Parameter" in plain else plain)


def _error(name: str, fail: Callable[[Kit, Any], Awaitable[Any]]) -> None:
    for title, switches in (("", []), (", JSON", ["PYSQLX_ERROR_JSON_FMT"])):

        @step(f"str of {name}{title}")
        async def _(kit: Kit, switches: list[str] = switches) -> Any:
            conn = await kit.open()
            with switched(kit, *switches):
                error = await caught(fail(kit, conn))
                return type(error).__name__, looks(error)


_error("QueryError", lambda kit, conn: conn.query("SELEKT 1"))
_error("ExecuteError", lambda kit, conn: conn.execute("SELEKT 1"))
_error("RawCmdError", lambda kit, conn: conn.raw_cmd("SELEKT 1"))
_error("AlreadyConnectedError", lambda kit, conn: conn.connect())
_error("ParameterInvalidValueError", lambda kit, conn: conn.query("SELECT :a", {"a": (1, "x")}))


@step("str of QueryError, JSON in colour")
async def _(kit: Kit) -> Any:
    conn = await kit.open()
    with switched(kit, "PYSQLX_ERROR_JSON_FMT", "PYSQLX_USE_COLOR"):
        error = await caught(conn.query("SELEKT 1"))
        return "\x1b[" in str(error), looks(error)


@step("pickle an error")
async def _(kit: Kit) -> Any:
    error = await caught((await kit.open()).query("SELEKT 1"))
    again = pickle.loads(pickle.dumps(error))
    return type(again).__name__, again.code == error.code, str(again) == str(error)


# --- logs ------------------------------------------------------------------------------------------------------


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record)


@contextlib.contextmanager
def recorded() -> Iterator[Records]:
    root, records = logging.getLogger(), Records()
    root.addHandler(records)
    root.setLevel(logging.DEBUG)
    yield records
    root.removeHandler(records)
    root.setLevel(logging.WARNING)


def texts(records: Records) -> list[tuple[str, Text]]:
    return [(each.levelname, Text(" ".join(COLOUR.sub("", each.getMessage()).split()))) for each in records.seen]


def _logged(name: str, switches: tuple[str, ...], see: Callable[[Records], Any]) -> None:
    @step(f"log: {name}")
    async def _(kit: Kit) -> Any:
        conn = await kit.open()
        with switched(kit, *switches), recorded() as records:
            await conn.query_first("SELECT id FROM people WHERE name = :name", {"name": "it's"})
            await conn.query_first("SELECT 1 AS a")
            return see(records)


_logged("all off", (), texts)
_logged("PYSQLX_SQL_LOG", ("PYSQLX_SQL_LOG",), texts)
_logged("PYSQLX_DEV_MODE", ("PYSQLX_DEV_MODE",), texts)
_logged("logger's name", ("PYSQLX_SQL_LOG",), lambda records: sorted({each.name for each in records.seen}))
_logged(
    "PYSQLX_USE_COLOR",
    ("PYSQLX_SQL_LOG", "PYSQLX_USE_COLOR"),
    lambda records: [bool(COLOUR.search(each.getMessage())) for each in records.seen if each.levelname == "INFO"],
)


@step("log: close in a transaction")
async def _(kit: Kit) -> Any:
    conn = await kit.open()
    await conn.begin()
    with recorded() as records:
        await conn.close()
        return [each.levelname for each in records.seen]


def _environment(value: str) -> None:
    @step(f"environment: all four switches {value!r}", once=True)
    async def _(kit: Kit) -> Any:
        code = f"from {kit.name} import LOG_CONFIG as c; print([getattr(c, name) for name in {SWITCHES!r}])"
        environment = {**os.environ, **dict.fromkeys(SWITCHES, value)}
        return Text(
            subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout
        )


for each in ("1", "0", "", "true"):
    _environment(each)


@step("LOG_CONFIG: set and read", once=True)
async def _(kit: Kit) -> Any:
    before = [getattr(kit.package.LOG_CONFIG, name) for name in SWITCHES]
    with switched(kit, *SWITCHES):
        return before, [getattr(kit.package.LOG_CONFIG, name) for name in SWITCHES]
