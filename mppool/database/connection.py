"""The two connections a program sees: `PySQLXEngineSync` blocks, `PySQLXEngine` is awaited; both are faces of
a `Link`.

A face is light: made anew for each borrow and detached when the connection is given back, so that whoever
kept it cannot reach a connection that now belongs to somebody else. Used alone, it opens and owns its link.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

from mppool import errors
from mppool.database import core, deadline, flow, transaction
from mppool.database.driver import drive
from mppool.database.link import Link
from mppool.database.opening import open_link, opening
from mppool.database.reasons import explained
from mppool.database.transaction import AsyncTransaction, Transaction
from mppool.uri import Database

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType
    from typing import TypeVar

    from typing_extensions import Self

    T = TypeVar("T")

__all__ = ["PySQLXEngine", "PySQLXEngineSync"]

_CLOSE_TIMEOUT = 5.0
_log = logging.getLogger("mppool.connection")


class _NoLink:
    """Stands where a link was: looks like a closed one and says why."""

    __slots__ = ("reason",)
    conn = None
    provider = ""
    failed = in_transaction = False

    def __init__(self, reason: str) -> None:
        self.reason = reason


_NEVER: Any = _NoLink("not connected to the database: call connect() first")
_CLOSED: Any = _NoLink("the connection was closed")
_RETURNED: Any = _NoLink("the connection was given back to its pool")
_PARENTS: Any = _NoLink(
    "the connection belongs to the process that this one was forked from, inside the block that had borrowed it: "
    "borrow one here, with pool.connection()"
)


class _Face:
    """What both connections are: a link, and whether it is lent."""

    __slots__ = ("_database", "_lent", "_link")

    _link: Link
    _lent: bool
    _database: Database

    def __init__(self, uri: str) -> None:
        """
        Args:
            uri: ``postgresql://…``, ``mysql://…``, ``sqlserver://…``, ``sqlite:path`` or ``file:path``.

        Raises:
            ValueError: the uri is malformed or asks for what is not supported.
            TypeError: it is not a str.
        """
        self._database = Database.parse(uri)
        self._link = _NEVER
        self._lent = False

    @classmethod
    def lend(cls, link: Link) -> Self:
        """A new face for a pool's link; costs two stores."""
        face = _new(cls)
        face._link = link
        face._lent = True
        return face  # type: ignore[no-any-return]

    def _take_back(self) -> None:
        self._link = _RETURNED

    def _leave_to_parent(self) -> None:
        self._link = _PARENTS

    @property
    def uri(self) -> str:
        """The uri as the driver takes it, password included.

        Raises:
            NotConnectedError: it was a pool's connection, and was given back.
        """
        if self._lent and isinstance(self._link, _NoLink):
            raise errors.NotConnectedError(self._link.reason)
        return str(self._link.database.uri if self._lent else self._database.uri)

    @property
    def connected(self) -> bool:
        """Is there a connection? It may be broken all the same."""
        return self._link.conn is not None

    def __repr__(self) -> str:
        link = self._link
        state = f"connected to {link.database.key}" if link.conn is not None else link.reason
        return f"<{type(self).__name__} {state}>"

    def is_healthy(self) -> bool:
        """False when a call has found the connection broken. Asks nobody.

        Raises:
            NotConnectedError: there is no connection.
        """
        link = self._live()
        return not link.doubtful and bool(link.conn.is_healthy())

    def requires_isolation_first(self) -> bool:
        """Must the isolation level be set before a transaction begins (SQL Server, MySQL), or after?

        Raises:
            NotConnectedError: there is no connection.
        """
        return bool(self._live().conn.requires_isolation_first())

    def _live(self) -> Link:
        link = self._link
        if link.conn is None:
            raise errors.NotConnectedError(link.reason)
        return link

    def _check_unconnected(self) -> None:
        if self._lent or self._link.conn is not None:
            raise errors.AlreadyConnectedError()

    def _leave(self) -> Link | None:
        """Detach from the link; returns it if it is for us to close."""
        link = self._link
        if isinstance(link, _NoLink):
            return None
        self._link = _CLOSED
        if self._lent:
            link.doubtful = True  # its user is done with it: the pool discards it when it comes back
            return None
        if link.conn is None:
            return None
        if link.in_transaction:
            _log.warning("connection to %s closed with an open transaction: it is rolled back", link.database.key)
        return link


_new: Any = object.__new__


class PySQLXEngineSync(_Face):
    """A connection whose calls block the calling thread, and only that one."""

    __slots__ = ()

    def __init__(self, uri: str) -> None:  # here, so that Python's own errors say the class's name
        super().__init__(uri)

    def connect(self) -> None:
        """Open the connection.

        Raises:
            AlreadyConnectedError: it is open.
            ConnectError: the database cannot be reached or refuses.
        """
        self._check_unconnected()
        self._link = open_link(self._database)

    def close(self) -> None:
        """Close the connection; does nothing if there is none. A lent one is discarded by its pool."""
        link = self._leave()
        if link is None:
            return
        if link.doubtful:
            link.break_off()  # nobody waits for the answer any more
        link.drop(settled=link.wait_for_end(_CLOSE_TIMEOUT))
        link.forget_twin()

    def __enter__(self) -> Self:
        if not self._lent:
            self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None) -> T:
        return drive(coroutine) if timeout is None else deadline.driven(self._link, coroutine, timeout)

    def query(
        self,
        sql: str,
        parameters: dict[str, Any] | None = None,
        model: type[Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> list[Any]:
        """Run a query and return all rows, as `BaseRow` or as ``model``; ``[]`` when there are none.

        Args:
            sql: one statement, with ``:name`` where a parameter goes.
            parameters: a value for each name; None: the statement is sent as it is.
            model: a pydantic model class to make of each row.
            timeout: seconds until the call is given up; None: no limit. Every call has this parameter.

        Raises:
            QueryError: the database refused, or the connection broke.
            CallTimeoutError: there was no answer in time. The connection is of no more use; a pool replaces it.
            NotConnectedError: there is no connection.
            ParameterInvalidValueError: a parameter is missing, not in the statement, or would not arrive
                unchanged.
            ParameterInvalidProviderError: this database does not know a parameter's type.
            TypeError: sql, parameters or model is not what it should be.
        """
        return self._run(flow.query(self._link, sql, parameters, model), timeout)

    def query_first(
        self,
        sql: str,
        parameters: dict[str, Any] | None = None,
        model: type[Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> Any | None:
        """Run a query and return its first row, None when there is none. Otherwise as `query`."""
        return self._run(flow.query_first(self._link, sql, parameters, model), timeout)

    def query_as_dict(
        self, sql: str, parameters: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> list[dict[str, Any]]:
        """Run a query and return all rows as dicts. Otherwise as `query`."""
        return self._run(flow.query_as_dict(self._link, sql, parameters), timeout)

    def query_first_as_dict(
        self, sql: str, parameters: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any] | None:
        """Run a query and return its first row as a dict, None when there is none. Otherwise as `query`."""
        return self._run(flow.query_first_as_dict(self._link, sql, parameters), timeout)

    def execute(self, sql: str, parameters: dict[str, Any] | None = None, *, timeout: float | None = None) -> int:
        """Run a statement that returns no rows; returns how many it affected.

        Raises:
            ExecuteError: the database refused, or the connection broke. Otherwise as `query`.
        """
        return self._run(flow.execute(self._link, sql, parameters), timeout)

    def raw_cmd(self, sql: str, *, timeout: float | None = None) -> None:
        """Run statements as they are, without parameters and without results.

        Raises:
            RawCmdError: the database refused, or the connection broke.
            NotConnectedError: there is no connection.
        """
        self._run(flow.raw_cmd(self._link, sql), timeout)

    def transaction(self, isolation_level: str | None = None, *, immediate: bool = False) -> Transaction:
        """``with conn.transaction():`` commits at the end of the block, and rolls back when an exception leaves it.

        Inside another transaction it is a savepoint: an exception undoes the block's own work only. A PostgreSQL
        transaction in which a statement has failed cannot be committed, also if the failure was caught: the end of
        the block then raises. (psycopg's semantics.)

        Args:
            isolation_level: as for `start_transaction`; None in a nested one.
            immediate: as for `start_transaction`.

        Raises: as `start_transaction` and `commit`; ValueError: an isolation level for a savepoint; RuntimeError: the
            block itself has ended the transaction.
        """
        return Transaction(self, isolation_level, immediate)

    def begin(self, *, immediate: bool = False, timeout: float | None = None) -> None:
        """Start a transaction; see `start_transaction`."""
        self._run(transaction.begin(self._link, None, immediate), timeout)

    def start_transaction(
        self, isolation_level: str | None = None, *, immediate: bool = False, timeout: float | None = None
    ) -> None:
        """Start a transaction.

        Args:
            isolation_level: ReadUncommitted, ReadCommitted, RepeatableRead, Snapshot or Serializable; None:
                the database's default.
            immediate: on SQLite, take the write lock now (``BEGIN IMMEDIATE``), waiting for another writer as long
                as the busy timeout allows. A transaction that reads first and writes later would fail at once when
                somebody else has written in between: for several writers this is the way. Elsewhere it means nothing.

        Raises:
            StartTransactionError: it could not be started, or this database does not know the level.
            ValueError: there is no such level.
            NotConnectedError: there is no connection.
        """
        self._run(transaction.begin(self._link, isolation_level, immediate), timeout)

    def commit(self, *, timeout: float | None = None) -> None:
        """Commit the transaction.

        Raises:
            RawCmdError: the database refused. Also where a statement of a PostgreSQL transaction had failed (code
                25P02): the server would roll back and call that a success.
            NotConnectedError: there is no connection.
        """
        self._run(transaction.commit(self._link), timeout)

    def rollback(self, *, timeout: float | None = None) -> None:
        """Roll the transaction back; raises as `commit`."""
        self._run(transaction.rollback(self._link), timeout)

    def set_isolation_level(self, isolation_level: str, *, timeout: float | None = None) -> None:
        """Set the isolation level, as far as the database can outside ``start_transaction``.

        Raises:
            IsoLevelError: the database refused, or does not know the level.
            ValueError: there is no such level.
            NotConnectedError: there is no connection.
        """
        self._run(transaction.set_isolation_level(self._link, isolation_level), timeout)


class PySQLXEngine(_Face):
    """A connection whose calls are awaited, on asyncio or uvloop."""

    __slots__ = ()

    def __init__(self, uri: str) -> None:  # here, so that Python's own errors say the class's name
        super().__init__(uri)

    async def _run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        try:
            if timeout is not None:
                return await deadline.awaited(self._link, coroutine, timeout)
            return await coroutine
        finally:
            core.process.asyncio_used = monotonic()  # the exit hook gives the last wake-up time to end

    async def connect(self) -> None:
        """Open the connection; raises as `PySQLXEngineSync.connect`."""
        self._check_unconnected()
        try:
            self._link = await self._run(opening(self._database))
        except errors.ConnectError as error:
            raise await asyncio.to_thread(explained, self._database, error) from None

    async def close(self) -> None:
        """Close the connection; does nothing if there is none. A lent one is discarded by its pool."""
        link = self._leave()
        if link is None:
            return
        settled = False
        try:
            if link.doubtful:
                link.break_off()  # nobody waits for the answer any more
                await asyncio.wait_for(link.answers(), _CLOSE_TIMEOUT)
            settled = True
        except asyncio.TimeoutError:
            pass  # it ends when its statement does
        finally:
            link.drop(settled=settled)
            link.forget_twin()

    async def __aenter__(self) -> Self:
        if not self._lent:
            await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def query(
        self,
        sql: str,
        parameters: dict[str, Any] | None = None,
        model: type[Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> list[Any]:
        """See `PySQLXEngineSync.query`. A cancelled call makes the connection unfit for further use."""
        return await self._run(flow.query(self._link, sql, parameters, model), timeout)

    async def query_first(
        self,
        sql: str,
        parameters: dict[str, Any] | None = None,
        model: type[Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> Any | None:
        """See `PySQLXEngineSync.query_first`."""
        return await self._run(flow.query_first(self._link, sql, parameters, model), timeout)

    async def query_as_dict(
        self, sql: str, parameters: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> list[dict[str, Any]]:
        """See `PySQLXEngineSync.query_as_dict`."""
        return await self._run(flow.query_as_dict(self._link, sql, parameters), timeout)

    async def query_first_as_dict(
        self, sql: str, parameters: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any] | None:
        """See `PySQLXEngineSync.query_first_as_dict`."""
        return await self._run(flow.query_first_as_dict(self._link, sql, parameters), timeout)

    async def execute(self, sql: str, parameters: dict[str, Any] | None = None, *, timeout: float | None = None) -> int:
        """See `PySQLXEngineSync.execute`."""
        return await self._run(flow.execute(self._link, sql, parameters), timeout)

    async def raw_cmd(self, sql: str, *, timeout: float | None = None) -> None:
        """See `PySQLXEngineSync.raw_cmd`."""
        await self._run(flow.raw_cmd(self._link, sql), timeout)

    def transaction(self, isolation_level: str | None = None, *, immediate: bool = False) -> AsyncTransaction:
        """``async with conn.transaction():``; see `PySQLXEngineSync.transaction`."""
        return AsyncTransaction(self, isolation_level, immediate)

    async def begin(self, *, immediate: bool = False, timeout: float | None = None) -> None:
        """See `PySQLXEngineSync.begin`."""
        await self._run(transaction.begin(self._link, None, immediate), timeout)

    async def start_transaction(
        self, isolation_level: str | None = None, *, immediate: bool = False, timeout: float | None = None
    ) -> None:
        """See `PySQLXEngineSync.start_transaction`."""
        await self._run(transaction.begin(self._link, isolation_level, immediate), timeout)

    async def commit(self, *, timeout: float | None = None) -> None:
        """See `PySQLXEngineSync.commit`."""
        await self._run(transaction.commit(self._link), timeout)

    async def rollback(self, *, timeout: float | None = None) -> None:
        """See `PySQLXEngineSync.rollback`."""
        await self._run(transaction.rollback(self._link), timeout)

    async def set_isolation_level(self, isolation_level: str, *, timeout: float | None = None) -> None:
        """See `PySQLXEngineSync.set_isolation_level`."""
        await self._run(transaction.set_isolation_level(self._link, isolation_level), timeout)
