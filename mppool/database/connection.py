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
from mppool.database import core, flow
from mppool.database.driver import drive
from mppool.database.link import Link
from mppool.database.opening import open_link, opening
from mppool.database.uris import check_uri
from mppool.settings import Database

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

    def __init__(self, reason: str) -> None:
        self.reason = reason


_NEVER: Any = _NoLink("not connected to the database: call connect() first")
_CLOSED: Any = _NoLink("the connection was closed")
_RETURNED: Any = _NoLink("the connection was given back to its pool")


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
        check_uri(self._database)
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

    @property
    def uri(self) -> str:
        """The uri as the driver takes it, password included."""
        return self._link.database.uri if self._lent else self._database.uri

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

    def __enter__(self) -> Self:
        if not self._lent:
            self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def query(self, sql: str, parameters: dict[str, Any] | None = None, model: type[Any] | None = None) -> list[Any]:
        """Run a query and return all rows, as `BaseRow` or as ``model``; ``[]`` when there are none.

        Args:
            sql: one statement, with ``:name`` where a parameter goes.
            parameters: a value for each name; None: the statement is sent as it is.
            model: a pydantic model class to make of each row.

        Raises:
            QueryError: the database refused, or the connection broke.
            NotConnectedError: there is no connection.
            ParameterInvalidValueError: a parameter is missing, not in the statement, or would not arrive
                unchanged.
            ParameterInvalidProviderError: this database does not know a parameter's type.
            TypeError: sql, parameters or model is not what it should be.
        """
        return drive(flow.query(self._link, sql, parameters, model))

    def query_first(
        self, sql: str, parameters: dict[str, Any] | None = None, model: type[Any] | None = None
    ) -> Any | None:
        """Run a query and return its first row, None when there is none. Otherwise as `query`."""
        return drive(flow.query_first(self._link, sql, parameters, model))

    def query_as_dict(self, sql: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Run a query and return all rows as dicts. Otherwise as `query`."""
        return drive(flow.query_as_dict(self._link, sql, parameters))

    def query_first_as_dict(self, sql: str, parameters: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Run a query and return its first row as a dict, None when there is none. Otherwise as `query`."""
        return drive(flow.query_first_as_dict(self._link, sql, parameters))

    def execute(self, sql: str, parameters: dict[str, Any] | None = None) -> int:
        """Run a statement that returns no rows; returns how many it affected.

        Raises:
            ExecuteError: the database refused, or the connection broke. Otherwise as `query`.
        """
        return drive(flow.execute(self._link, sql, parameters))

    def raw_cmd(self, sql: str) -> None:
        """Run statements as they are, without parameters and without results.

        Raises:
            RawCmdError: the database refused, or the connection broke.
            NotConnectedError: there is no connection.
        """
        drive(flow.raw_cmd(self._link, sql))

    def begin(self) -> None:
        """Start a transaction; see `start_transaction`."""
        drive(flow.begin(self._link, None))

    def start_transaction(self, isolation_level: str | None = None) -> None:
        """Start a transaction.

        Args:
            isolation_level: ReadUncommitted, ReadCommitted, RepeatableRead, Snapshot or Serializable; None:
                the database's default.

        Raises:
            StartTransactionError: it could not be started, or this database does not know the level.
            ValueError: there is no such level.
            NotConnectedError: there is no connection.
        """
        drive(flow.begin(self._link, isolation_level))

    def commit(self) -> None:
        """Commit the transaction.

        Raises:
            RawCmdError: the database refused.
            NotConnectedError: there is no connection.
        """
        drive(flow.end(self._link, "COMMIT"))

    def rollback(self) -> None:
        """Roll the transaction back; raises as `commit`."""
        drive(flow.end(self._link, "ROLLBACK"))

    def set_isolation_level(self, isolation_level: str) -> None:
        """Set the isolation level, as far as the database can outside ``start_transaction``.

        Raises:
            IsoLevelError: the database refused, or does not know the level.
            ValueError: there is no such level.
            NotConnectedError: there is no connection.
        """
        drive(flow.set_isolation_level(self._link, isolation_level))


class PySQLXEngine(_Face):
    """A connection whose calls are awaited, on asyncio or uvloop."""

    __slots__ = ()

    async def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            return await coroutine
        finally:
            core.process.asyncio_used = monotonic()  # the exit hook gives the last wake-up time to end

    async def connect(self) -> None:
        """Open the connection; raises as `PySQLXEngineSync.connect`."""
        self._check_unconnected()
        self._link = await self._run(opening(self._database))

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

    async def __aenter__(self) -> Self:
        if not self._lent:
            await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def query(
        self, sql: str, parameters: dict[str, Any] | None = None, model: type[Any] | None = None
    ) -> list[Any]:
        """See `PySQLXEngineSync.query`. A cancelled call makes the connection unfit for further use."""
        return await self._run(flow.query(self._link, sql, parameters, model))

    async def query_first(
        self, sql: str, parameters: dict[str, Any] | None = None, model: type[Any] | None = None
    ) -> Any | None:
        """See `PySQLXEngineSync.query_first`."""
        return await self._run(flow.query_first(self._link, sql, parameters, model))

    async def query_as_dict(self, sql: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """See `PySQLXEngineSync.query_as_dict`."""
        return await self._run(flow.query_as_dict(self._link, sql, parameters))

    async def query_first_as_dict(self, sql: str, parameters: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """See `PySQLXEngineSync.query_first_as_dict`."""
        return await self._run(flow.query_first_as_dict(self._link, sql, parameters))

    async def execute(self, sql: str, parameters: dict[str, Any] | None = None) -> int:
        """See `PySQLXEngineSync.execute`."""
        return await self._run(flow.execute(self._link, sql, parameters))

    async def raw_cmd(self, sql: str) -> None:
        """See `PySQLXEngineSync.raw_cmd`."""
        await self._run(flow.raw_cmd(self._link, sql))

    async def begin(self) -> None:
        """See `PySQLXEngineSync.begin`."""
        await self._run(flow.begin(self._link, None))

    async def start_transaction(self, isolation_level: str | None = None) -> None:
        """See `PySQLXEngineSync.start_transaction`."""
        await self._run(flow.begin(self._link, isolation_level))

    async def commit(self) -> None:
        """See `PySQLXEngineSync.commit`."""
        await self._run(flow.end(self._link, "COMMIT"))

    async def rollback(self) -> None:
        """See `PySQLXEngineSync.rollback`."""
        await self._run(flow.end(self._link, "ROLLBACK"))

    async def set_isolation_level(self, isolation_level: str) -> None:
        """See `PySQLXEngineSync.set_isolation_level`."""
        await self._run(flow.set_isolation_level(self._link, isolation_level))
