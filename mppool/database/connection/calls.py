"""Each call of the connections, written once, as a coroutine that awaits only the driver.

The asynchronous connection awaits these coroutines; the blocking one drives them on the calling thread. They take the
link, so they do not depend on the connection object that lent it.
"""

from __future__ import annotations

import re
from typing import Any

from mppool import errors
from mppool.database.connection import binding
from mppool.database.connection.link import Link
from mppool.database.sql import columns, sqllog, statements
from mppool.fork_lock import import_late
from mppool.settings import LOG_CONFIG

__all__ = ["execute", "query", "query_as_dict", "query_first", "query_first_as_dict", "raw_cmd", "run"]


async def run(link: Link, method: str, sql: str, parameters: dict[str, Any] | None) -> Any:
    """Run one statement by one of the driver's methods, and note what it does to the transaction."""
    if link.conn is None:
        raise errors.NotConnectedError(link.reason)
    parsed = statements.parse(link.provider, sql)
    statement = await binding.bind(link, method, parsed, sql, parameters)
    if LOG_CONFIG.PYSQLX_SQL_LOG or LOG_CONFIG.PYSQLX_DEV_MODE:
        sqllog.log(link.provider, parsed, statement, parameters)
    effect = parsed.transaction
    if effect:
        link.transaction_begins()
    if parsed.unclear:
        link.transaction_may_begin()
    try:
        result = await link.call(method, statement)
    except errors.PySQLXError as error:
        if error.code == "0" and _VOID in error.message:
            return _void(link, sql, error)
        binding.failed(link, sql, error.code)
        if effect is False and link.provider == "postgresql":
            link.transaction_is_open(False)  # PostgreSQL's COMMIT ends the transaction even when it fails
        raise
    if effect is False:
        link.transaction_is_open(False)
    return result


_VOID = "Column type 'void' could not be deserialized"
_ALONE = re.compile(r"\s*SELECT\s(?!.*\b(?:FROM|WHERE|UNION|LIMIT|HAVING)\b)", re.IGNORECASE | re.DOTALL)


class _Void:
    """The answer to ``SELECT pg_sleep(0)``: a row with one column that is None. The driver cannot read ``void``, and
    raises an error after the statement has been executed."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __len__(self) -> int:
        return 1

    def get_types(self) -> dict[str, str]:
        return {self.name: "void"}

    def get_first(self) -> dict[str, Any]:
        return {self.name: None}

    def get_all(self) -> list[dict[str, Any]]:
        return [self.get_first()]


def _void(link: Link, sql: str, error: errors.PySQLXError) -> _Void:
    """The row for a single function that returns void. Raises: the error, with advice, for any other statement."""
    names = columns.selected(link.provider, sql)
    if names is not None and len(names) == 1 and names[0] is not None and _ALONE.match(sql):
        return _Void(names[0])
    advice = "the statement was executed; give a function that returns void a type to be read, as in f(x)::text"
    raise type(error)(error.code, f"{error.message} ({advice})") from None


async def query(link: Link, sql: str, parameters: dict[str, Any] | None, model: Any) -> list[Any]:
    if model is not None:
        _check_model(model)
    response = await run(link, "query_typed", sql, parameters)
    if not len(response):
        return []
    types, rows = link.read(response.get_types), link.read(response.get_all)
    del response  # frees its memory for the rows
    return _rows().all_rows(types, rows, model, columns.selected(link.provider, sql))  # type: ignore[no-any-return]


async def query_first(link: Link, sql: str, parameters: dict[str, Any] | None, model: Any) -> Any:
    if model is not None:
        _check_model(model)
    response = await run(link, "query_typed", sql, parameters)
    if not len(response):
        return None
    types = link.read(response.get_types)
    return _rows().first_row(types, link.read(response.get_first), model, columns.selected(link.provider, sql))


async def query_as_dict(link: Link, sql: str, parameters: dict[str, Any] | None) -> list[dict[str, Any]]:
    # query_all would convert the rows on a worker thread, with the interpreter's lock
    response = await run(link, "query_typed", sql, parameters)
    rows = link.read(response.get_all)
    del response
    return columns.in_order(columns.selected(link.provider, sql), rows)


async def query_first_as_dict(link: Link, sql: str, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    # query_one would convert all rows to return one
    response = await run(link, "query_typed", sql, parameters)
    if not len(response):
        return None
    return columns.in_order(columns.selected(link.provider, sql), [link.read(response.get_first)])[0]


async def execute(link: Link, sql: str, parameters: dict[str, Any] | None) -> int:
    return await run(link, "execute", sql, parameters)  # type: ignore[no-any-return]


async def raw_cmd(link: Link, sql: str) -> None:
    await run(link, "raw_cmd", sql, None)


def _check_model(model: object) -> None:
    from pydantic import BaseModel

    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise TypeError(f"model must be a pydantic model class, not {model!r}")


_rows_module: Any = None


def _rows() -> Any:
    """The module `rows`; it is imported, with pydantic, when the first row arrives."""
    global _rows_module
    if _rows_module is None:
        _rows_module = import_late("mppool.database.values.rows")
    return _rows_module
