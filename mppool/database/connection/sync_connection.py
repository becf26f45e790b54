"""The connection whose calls block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from mppool.database.connection import calls, deadline, transaction
from mppool.database.connection.base_connection import CLOSE_TIMEOUT, BaseConnection
from mppool.database.connection.opening import open_link
from mppool.database.connection.transaction import Transaction
from mppool.database.runtime.loop_stand_in import drive

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType
    from typing import TypeVar

    from pydantic import BaseModel
    from typing_extensions import Self

    from mppool.database.values.rows import BaseRow

    T = TypeVar("T")
    M = TypeVar("M", bound=BaseModel)
    Parameters = dict[str, Any]

__all__ = ["PySQLXEngineSync"]


class PySQLXEngineSync(BaseConnection):
    """A connection whose calls block the calling thread, and only that one.

    Making one describes the connection; `connect` opens it.

    Args:
        uri: ``postgresql://…``, ``mysql://…``, ``sqlserver://…``, ``sqlite:path`` or ``file:path``.

    Raises:
        ValueError: the uri is malformed, or asks for what is not supported.
        TypeError: it is not a str.
    """

    __slots__ = ()

    def __init__(self, uri: str) -> None:  # defined here, so that Python's own errors have the class's name
        super().__init__(uri)

    def connect(self) -> None:
        """Open the connection.

        Raises:
            AlreadyConnectedError: it is open, or a pool's.
            ConnectError: the database cannot be reached, or refuses.
        """
        self._check_unconnected()
        self._link = open_link(self._database)

    def close(self) -> None:
        """Close the connection, within 5 seconds; does nothing where there is none.

        A pool's connection is discarded by its pool when it is given back. An open transaction is rolled back.
        """
        link = self._leave()
        if link is None:
            return
        if link.doubtful:
            link.break_off()  # no caller waits for the answer any more
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

    @overload
    def query(
        self, sql: str, parameters: Parameters | None = None, model: None = None, *, timeout: float | None = None
    ) -> list[BaseRow]: ...

    @overload
    def query(
        self, sql: str, parameters: Parameters | None = None, *, model: type[M], timeout: float | None = None
    ) -> list[M]: ...

    @overload
    def query(
        self, sql: str, parameters: Parameters | None, model: type[M], *, timeout: float | None = None
    ) -> list[M]: ...

    def query(
        self,
        sql: str,
        parameters: Parameters | None = None,
        model: type[Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> list[Any]:
        """Run a query and return all its rows.

        Args:
            sql: one statement, with ``:name`` where a parameter goes.
            parameters: a value for each name; None: the statement is sent unchanged.
            model: a pydantic model class to make of each row; None: `BaseRow`.
            timeout: seconds until the call is given up; None: no limit.

        Returns:
            A list of ``model`` or `BaseRow`; ``[]`` when there are no rows. A `BaseRow` has the columns as attributes,
            in the order of the SELECT where it is known and else alphabetically.

        Raises:
            QueryError: the database refused, or the connection broke.
            ParameterInvalidValueError: a parameter is missing, not in the statement, or would not arrive unchanged.
            ParameterInvalidProviderError: this database does not know a parameter's type.
            pydantic.ValidationError: a row does not fit ``model``.
            ValueError: sql cannot be sent, or timeout is no positive number of seconds.
            TypeError: sql, parameters, model or timeout has a wrong type.
            CallTimeoutError: there was no answer within ``timeout`` seconds. The connection is of no more use; a pool
                replaces it.
            NotConnectedError: there is no connection, or it is of no more use.
        """
        return self._run(calls.query(self._link, sql, parameters, model), timeout)

    @overload
    def query_first(
        self, sql: str, parameters: Parameters | None = None, model: None = None, *, timeout: float | None = None
    ) -> BaseRow | None: ...

    @overload
    def query_first(
        self, sql: str, parameters: Parameters | None = None, *, model: type[M], timeout: float | None = None
    ) -> M | None: ...

    @overload
    def query_first(
        self, sql: str, parameters: Parameters | None, model: type[M], *, timeout: float | None = None
    ) -> M | None: ...

    def query_first(
        self,
        sql: str,
        parameters: Parameters | None = None,
        model: type[Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> Any | None:
        """Run a query and return its first row as ``model`` or `BaseRow`; None when there are no rows.

        The database still runs the whole query. ``sql``, ``parameters``, ``model``, ``timeout`` and errors: as `query`.
        """
        return self._run(calls.query_first(self._link, sql, parameters, model), timeout)

    def query_as_dict(
        self, sql: str, parameters: Parameters | None = None, *, timeout: float | None = None
    ) -> list[dict[str, Any]]:
        """Run a query and return all its rows as dicts of column name and value; ``[]`` when there are no rows.

        ``sql``, ``parameters``, ``timeout`` and errors: as `query`.
        """
        return self._run(calls.query_as_dict(self._link, sql, parameters), timeout)

    def query_first_as_dict(
        self, sql: str, parameters: Parameters | None = None, *, timeout: float | None = None
    ) -> dict[str, Any] | None:
        """Run a query and return its first row as a dict of column name and value; None when there are no rows.

        ``sql``, ``parameters``, ``timeout`` and errors: as `query`.
        """
        return self._run(calls.query_first_as_dict(self._link, sql, parameters), timeout)

    def execute(self, sql: str, parameters: Parameters | None = None, *, timeout: float | None = None) -> int:
        """Run a statement that returns no rows.

        Args:
            sql, parameters, timeout: as for `query`.

        Returns:
            The number of rows that the statement affected.

        Raises:
            ExecuteError: the database refused, or the connection broke. Other errors as `query`.
        """
        return self._run(calls.execute(self._link, sql, parameters), timeout)

    def raw_cmd(self, sql: str, *, timeout: float | None = None) -> None:
        """Run one or several statements as they are, without parameters and without results.

        Args:
            sql: the statements; a ``:name`` in them is not replaced.
            timeout: seconds until the call is given up; None: no limit.

        Raises:
            RawCmdError: the database refused, or the connection broke.
            CallTimeoutError: there was no answer within ``timeout`` seconds. The connection is of no more use; a pool
                replaces it.
            NotConnectedError: there is no connection, or it is of no more use.
        """
        self._run(calls.raw_cmd(self._link, sql), timeout)

    def transaction(self, isolation_level: str | None = None, *, immediate: bool = False) -> Transaction[Self]:
        """``with conn.transaction():`` commits at the end of the block, or rolls back if an exception leaves it.

        Inside another transaction the block is a savepoint: an exception undoes the block's own work only. A
        PostgreSQL transaction in which a statement has failed cannot be committed, even where the exception was
        caught: the end of the block raises. (These are psycopg's semantics.)

        Args:
            isolation_level: as for `start_transaction`; must be None inside another transaction.
            immediate: as for `start_transaction`.

        Returns:
            The block, to be entered once; ``as`` gives this connection.

        Raises (when the block is entered or left):
            StartTransactionError, RawCmdError, NotConnectedError: as `start_transaction` and `commit`.
            ValueError: an isolation level inside another transaction.
            RuntimeError: the block itself has ended the transaction, or it is entered twice.
        """
        return Transaction(self, isolation_level, immediate)

    def begin(self, *, immediate: bool = False, timeout: float | None = None) -> None:
        """Start a transaction with the database's default isolation level.

        ``immediate``, ``timeout`` and errors: as `start_transaction`.
        """
        self._run(transaction.begin(self._link, None, immediate), timeout)

    def start_transaction(
        self, isolation_level: str | None = None, *, immediate: bool = False, timeout: float | None = None
    ) -> None:
        """Start a transaction.

        Args:
            isolation_level: ReadUncommitted, ReadCommitted, RepeatableRead, Snapshot or Serializable; None: the
                database's default.
            immediate: on SQLite, take the write lock now (``BEGIN IMMEDIATE``), and wait for another writer as long
                as the busy timeout allows. A transaction that reads first and writes later fails at once where
                another writer came in between, so use this where there are several writers. Ignored on servers.
            timeout: seconds until the call is given up; None: no limit.

        Raises:
            StartTransactionError: the database refused, or does not know the level.
            ValueError: there is no such level.
            CallTimeoutError: there was no answer within ``timeout`` seconds. The connection is of no more use; a pool
                replaces it.
            NotConnectedError: there is no connection, or it is of no more use.
        """
        self._run(transaction.begin(self._link, isolation_level, immediate), timeout)

    def commit(self, *, timeout: float | None = None) -> None:
        """Commit the transaction.

        Args:
            timeout: seconds until the call is given up; None: no limit.

        Raises:
            RawCmdError: the database refused. With code 25P02: a statement of this PostgreSQL transaction had failed,
                and the transaction was rolled back; the server itself would report success.
            CallTimeoutError: there was no answer within ``timeout`` seconds. The connection is of no more use; a pool
                replaces it.
            NotConnectedError: there is no connection, or it is of no more use.
        """
        self._run(transaction.commit(self._link), timeout)

    def rollback(self, *, timeout: float | None = None) -> None:
        """Roll the transaction back.

        Args:
            timeout: seconds until the call is given up; None: no limit.

        Raises:
            RawCmdError: the database refused, or the connection broke.
            CallTimeoutError: there was no answer within ``timeout`` seconds. The connection is of no more use; a pool
                replaces it.
            NotConnectedError: there is no connection, or it is of no more use.
        """
        self._run(transaction.rollback(self._link), timeout)

    def set_isolation_level(self, isolation_level: str, *, timeout: float | None = None) -> None:
        """Set the isolation level, as far as the database can outside `start_transaction`.

        Args:
            isolation_level: as for `start_transaction`, but not None.
            timeout: seconds until the call is given up; None: no limit.

        Raises:
            IsoLevelError: the database refused, or does not know the level.
            ValueError: there is no such level.
            CallTimeoutError: there was no answer within ``timeout`` seconds. The connection is of no more use; a pool
                replaces it.
            NotConnectedError: there is no connection, or it is of no more use.
        """
        self._run(transaction.set_isolation_level(self._link, isolation_level), timeout)
