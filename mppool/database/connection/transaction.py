"""Transactions: the calls, and ``with`` blocks that commit at their end, roll back when an exception leaves them, and
are savepoints inside one another. The blocks' semantics are psycopg's.

The calls are written once, as coroutines that await only the core; the two kinds of block differ in how they wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mppool import errors
from mppool.database.connection.calls import run

if TYPE_CHECKING:
    from types import TracebackType

    from mppool.database.connection.async_connection import PySQLXEngine
    from mppool.database.connection.link import Link
    from mppool.database.connection.sync_connection import PySQLXEngineSync

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
            # the core would open the transaction first and complain then
            message = f"{link.provider} does not know the isolation level {isolation_level}"
            raise errors.StartTransactionError("0", message)
    before, link.in_transaction = link.in_transaction, True  # also if we never hear how it ended
    link.failed = link.failed and before
    try:
        if immediate and link.provider == "sqlite":
            await link.call("raw_cmd", link.statement("BEGIN IMMEDIATE"))
        else:
            await link.call("start_transaction", isolation_level)
    except errors.RawCmdError as error:
        link.in_transaction = before
        raise errors.StartTransactionError(error.code, error.message) from None
    except (errors.PySQLXError, errors.NotConnectedError):
        link.in_transaction = before
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


class _Block:
    """What both kinds of block do; ``conn`` is the connection it was asked of."""

    __slots__ = ("_conn", "_entered", "_immediate", "_level", "_link", "_savepoint")

    _link: Link
    _savepoint: str  # empty: the transaction itself

    def __init__(self, conn: Any, isolation_level: str | None, immediate: bool) -> None:
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
            link.savepoints += 1
        else:
            name = ""
            await begin(link, self._level, self._immediate)
            link.savepoints = 0
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
                link.doubtful = True  # what went wrong first is the block's error; this connection is replaced

    async def _keep(self, link: Link) -> None:
        if link.conn is not None and not link.in_transaction:
            raise RuntimeError("the transaction of this block was ended inside it, by commit() or rollback()")
        if self._savepoint:
            link.savepoints -= 1
            if link.provider != "sqlserver":
                await run(link, "raw_cmd", f"RELEASE SAVEPOINT {self._savepoint}", None)
            return
        try:
            await commit(link)
        except errors.PySQLXError:
            if link.in_transaction and not link.unanswered:  # SQLite's goes on when COMMIT meets a lock
                await rollback(link)
            raise

    async def _undo(self, link: Link) -> None:
        if not self._savepoint:
            await rollback(link)
            return
        link.savepoints -= 1
        if link.provider == "sqlserver":
            await run(link, "raw_cmd", f"ROLLBACK TRANSACTION {self._savepoint}", None)
        else:
            await run(link, "raw_cmd", f"ROLLBACK TO SAVEPOINT {self._savepoint}", None)
            await run(link, "raw_cmd", f"RELEASE SAVEPOINT {self._savepoint}", None)


class Transaction(_Block):
    """``with conn.transaction():``"""

    __slots__ = ()

    def __enter__(self) -> PySQLXEngineSync:
        conn: PySQLXEngineSync = self._conn
        conn._run(self._enter(), None)
        return conn

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._conn._run(self._leave(error), None)


class AsyncTransaction(_Block):
    """``async with conn.transaction():``"""

    __slots__ = ()

    async def __aenter__(self) -> PySQLXEngine:
        conn: PySQLXEngine = self._conn
        await conn._run(self._enter())
        return conn

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._conn._run(self._leave(error))
