"""The connection whose calls are awaited."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

from mppool import errors
from mppool.database.connection import calls, deadline, transaction
from mppool.database.connection.base_connection import CLOSE_TIMEOUT, BaseConnection
from mppool.database.connection.opening import opening
from mppool.database.connection.reasons import explained
from mppool.database.connection.transaction import AsyncTransaction
from mppool.database.runtime import drivers

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType
    from typing import TypeVar

    from typing_extensions import Self

    T = TypeVar("T")

__all__ = ["PySQLXEngine"]


class PySQLXEngine(BaseConnection):
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
            drivers.state.asyncio_used = monotonic()  # the exit hook gives the last wake-up time to end

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
                await asyncio.wait_for(link.answers(), CLOSE_TIMEOUT)
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
        return await self._run(calls.query(self._link, sql, parameters, model), timeout)

    async def query_first(
        self,
        sql: str,
        parameters: dict[str, Any] | None = None,
        model: type[Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> Any | None:
        """See `PySQLXEngineSync.query_first`."""
        return await self._run(calls.query_first(self._link, sql, parameters, model), timeout)

    async def query_as_dict(
        self, sql: str, parameters: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> list[dict[str, Any]]:
        """See `PySQLXEngineSync.query_as_dict`."""
        return await self._run(calls.query_as_dict(self._link, sql, parameters), timeout)

    async def query_first_as_dict(
        self, sql: str, parameters: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any] | None:
        """See `PySQLXEngineSync.query_first_as_dict`."""
        return await self._run(calls.query_first_as_dict(self._link, sql, parameters), timeout)

    async def execute(self, sql: str, parameters: dict[str, Any] | None = None, *, timeout: float | None = None) -> int:
        """See `PySQLXEngineSync.execute`."""
        return await self._run(calls.execute(self._link, sql, parameters), timeout)

    async def raw_cmd(self, sql: str, *, timeout: float | None = None) -> None:
        """See `PySQLXEngineSync.raw_cmd`."""
        await self._run(calls.raw_cmd(self._link, sql), timeout)

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
