"""The connection whose calls block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mppool.database.connection import calls, deadline, transaction
from mppool.database.connection.base_connection import CLOSE_TIMEOUT, BaseConnection
from mppool.database.connection.opening import open_link
from mppool.database.connection.transaction import Transaction
from mppool.database.runtime.loop_stand_in import drive

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType
    from typing import TypeVar

    from typing_extensions import Self

    T = TypeVar("T")

__all__ = ["PySQLXEngineSync"]


class PySQLXEngineSync(BaseConnection):
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
        link.drop(settled=link.wait_for_end(CLOSE_TIMEOUT))
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
        return self._run(calls.query(self._link, sql, parameters, model), timeout)

    def query_first(
        self,
        sql: str,
        parameters: dict[str, Any] | None = None,
        model: type[Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> Any | None:
        """Run a query and return its first row, None when there is none. Otherwise as `query`."""
        return self._run(calls.query_first(self._link, sql, parameters, model), timeout)

    def query_as_dict(
        self, sql: str, parameters: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> list[dict[str, Any]]:
        """Run a query and return all rows as dicts. Otherwise as `query`."""
        return self._run(calls.query_as_dict(self._link, sql, parameters), timeout)

    def query_first_as_dict(
        self, sql: str, parameters: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any] | None:
        """Run a query and return its first row as a dict, None when there is none. Otherwise as `query`."""
        return self._run(calls.query_first_as_dict(self._link, sql, parameters), timeout)

    def execute(self, sql: str, parameters: dict[str, Any] | None = None, *, timeout: float | None = None) -> int:
        """Run a statement that returns no rows; returns how many it affected.

        Raises:
            ExecuteError: the database refused, or the connection broke. Otherwise as `query`.
        """
        return self._run(calls.execute(self._link, sql, parameters), timeout)

    def raw_cmd(self, sql: str, *, timeout: float | None = None) -> None:
        """Run statements as they are, without parameters and without results.

        Raises:
            RawCmdError: the database refused, or the connection broke.
            NotConnectedError: there is no connection.
        """
        self._run(calls.raw_cmd(self._link, sql), timeout)

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
