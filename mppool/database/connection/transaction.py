"""Transactions: the calls, and ``with`` blocks. A block commits at its end, rolls back when an exception leaves it, and
is a savepoint inside another block. The semantics are psycopg's.

The calls are written once, as coroutines that await only the driver. The two kinds of block differ in how they wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from mppool import errors
from mppool.database.connection.calls import run

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

    from mppool.database.connection.link import Link

__all__ = ["AsyncTransaction", "Transaction", "begin", "commit", "rollback", "set_isolation_level"]

_LEVELS = {
    level.lower(): level for level in ("ReadUncommitted", "ReadCommitted", "RepeatableRead", "Snapshot", "Serializable")
}
_KNOWN = {
    "postgresql": frozenset({"ReadUncommitted", "ReadCommitted", "RepeatableRead", "Serializable"}),
    "mysql": frozenset({"ReadUncommitted", "ReadCommitted", "RepeatableRead", "Serializable"}),
    "sqlite": frozenset({"Serializable"}),
    "sqlserver": frozenset(_LEVELS.values()),
}


async def begin(link: Link, isolation_level: str | None, immediate: bool) -> None:
    if link.conn is None:
        raise errors.NotConnectedError(link.reason)
    if isolation_level is not None:
        isolation_level = _level(isolation_level)
        if isolation_level not in _KNOWN[link.provider]:
            # the driver would begin the transaction first, and raise afterwards
            message = f"{link.provider} does not know the isolation level {isolation_level}"
            raise errors.StartTransactionError("0", message)
    before = link.transaction_begins()
    try:
        if immediate and link.provider == "sqlite":
            await link.call("raw_cmd", link.statement("BEGIN IMMEDIATE"))
        else:
            await link.call("start_transaction", isolation_level)
    except errors.RawCmdError as error:
        link.transaction_is_open(before)
        raise errors.StartTransactionError(error.code, error.message) from None
    except (errors.PySQLXError, errors.NotConnectedError):
        link.transaction_is_open(before)
        raise


async def commit(link: Link) -> None:
    if link.failed and link.in_transaction and await link.aborted():
        await rollback(link)
        message = "a statement of this transaction had failed: it was rolled back, and not committed"
        raise errors.RawCmdError("25P02", message)
    await _end(link, "COMMIT")


async def rollback(link: Link) -> None:
    await _end(link, "ROLLBACK")


async def _end(link: Link, word: str) -> None:
    await run(link, "raw_cmd", f"{word} TRANSACTION" if link.provider == "sqlserver" else word, None)


async def set_isolation_level(link: Link, isolation_level: str) -> None:
    if link.conn is None:
        raise errors.NotConnectedError(link.reason)
    level = _level(isolation_level)
    if level not in _KNOWN[link.provider]:
        raise errors.IsoLevelError("0", f"{link.provider} does not know the isolation level {level}")
    await link.call("set_isolation_level", level)


def _level(name: object) -> str:
    level = _LEVELS.get(name.lower()) if isinstance(name, str) else None
    if level is None:
        raise ValueError(f"isolation_level must be one of {', '.join(_LEVELS.values())}, not {name!r}")
    return level


# -- blocks --------------------------------------------------------------------------------------------------


class _Connection(Protocol):
    _link: Link


class _Blocking(_Connection, Protocol):
    def _run(self, coroutine: Coroutine[Any, Any, None], timeout: float | None) -> None: ...


class _Awaited(_Connection, Protocol):
    async def _run(self, coroutine: Coroutine[Any, Any, None], timeout: float | None = None) -> None: ...


C = TypeVar("C", bound=_Connection)
B = TypeVar("B", bound=_Blocking)
A = TypeVar("A", bound=_Awaited)


class _Block(Generic[C]):
    """What both kinds of block do; ``conn`` is the connection whose ``transaction()`` was called."""

    __slots__ = ("_conn", "_entered", "_immediate", "_level", "_link", "_savepoint")

    _link: Link
    _savepoint: str  # empty: the block is the transaction itself

    def __init__(self, conn: C, isolation_level: str | None, immediate: bool) -> None:
        self._conn = conn
        self._level = isolation_level
        self._immediate = immediate
        self._entered = False

    async def _enter(self) -> None:
        if self._entered:
            raise RuntimeError("a transaction block is entered once: ask the connection for another")
        link: Link = self._conn._link
        if link.conn is not None and link.in_transaction:
            if self._level is not None:
                raise ValueError("a transaction inside another has no isolation level of its own: it is a savepoint")
            name = f"mppool_{link.savepoints + 1}"
            save = "SAVE TRANSACTION" if link.provider == "sqlserver" else "SAVEPOINT"
            await run(link, "raw_cmd", f"{save} {name}", None)
            link.savepoint_set()
        else:
            name = ""
            await begin(link, self._level, self._immediate)
            link.savepoints_gone()
        self._link, self._savepoint, self._entered = link, name, True

    async def _leave(self, error: BaseException | None) -> None:
        link = self._link
        if self._conn._link is not link:
            if error is None:
                raise errors.NotConnectedError("the connection was given back or closed before its transaction's end")
            return
        if error is None:
            await self._keep(link)
        elif link.conn is not None and not link.unanswered and link.in_transaction:
            try:
                await self._undo(link)
            except (errors.PySQLXError, errors.NotConnectedError):
                link.distrust()  # the block's own error is raised; a pool replaces the connection

    async def _keep(self, link: Link) -> None:
        if link.conn is not None and not link.in_transaction:
            raise RuntimeError("the transaction of this block was ended inside it, by commit() or rollback()")
        if self._savepoint:
            link.savepoint_left()
            if link.provider != "sqlserver":
                await run(link, "raw_cmd", f"RELEASE SAVEPOINT {self._savepoint}", None)
            return
        try:
            await commit(link)
        except errors.PySQLXError:
            if link.in_transaction and not link.unanswered:  # SQLite's transaction stays open when COMMIT meets a lock
                await rollback(link)
            raise

    async def _undo(self, link: Link) -> None:
        if not self._savepoint:
            await rollback(link)
            return
        link.savepoint_left()
        if link.provider == "sqlserver":
            await run(link, "raw_cmd", f"ROLLBACK TRANSACTION {self._savepoint}", None)
        else:
            await run(link, "raw_cmd", f"ROLLBACK TO SAVEPOINT {self._savepoint}", None)
            await run(link, "raw_cmd", f"RELEASE SAVEPOINT {self._savepoint}", None)


class Transaction(_Block[B]):
    """``with conn.transaction():``"""

    __slots__ = ()

    def __enter__(self) -> B:
        self._conn._run(self._enter(), None)
        return self._conn

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._conn._run(self._leave(error), None)


class AsyncTransaction(_Block[A]):
    """``async with conn.transaction():``"""

    __slots__ = ()

    async def __aenter__(self) -> A:
        await self._conn._run(self._enter())
        return self._conn

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._conn._run(self._leave(error))
