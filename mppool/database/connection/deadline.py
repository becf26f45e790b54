"""A time limit for one call to the database.

The driver has none: its calls are begun and end by themselves. So at the limit we give the call up: the caller gets
its error at once, the server is told that nobody waits for the answer, and the connection is never used again. SQLite
has no server to tell. There, SQLite itself ends a wait for another writer's lock within the limit, and the connection
stays good.
"""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mppool import errors
from mppool.database.runtime.loop_stand_in import drive
from mppool.settings import positive_seconds

if TYPE_CHECKING:
    from asyncio import Future

    from mppool.database.connection.link import Link

__all__ = ["awaited", "driven"]

T = TypeVar("T")


def _for_sqlite(limit: float) -> int:
    """Milliseconds that SQLite may wait for a lock, so that its answer comes before our limit of ``limit`` seconds.

    Subtracted are a tenth of the limit, or 0.1 s if that is more; but never more than half of the limit.
    """
    return max(1, int(1000 * (limit - max(0.1 * limit, min(0.1, 0.5 * limit)))))


def driven(link: Link, coroutine: Coroutine[Any, Any, T], timeout: float) -> T:
    """Drive a call on this thread, for ``timeout`` seconds at most.

    Raises:
        CallTimeoutError: there was no answer in time.
        TypeError, ValueError: ``timeout`` is no positive number of seconds.
        Exception: what the call raises.
    """
    limit = _checked(coroutine, timeout)
    try:
        return drive(_bounded(link, coroutine, limit), limit)
    except TimeoutError:
        raise _late(limit) from None
    finally:
        coroutine.close()


async def awaited(link: Link, coroutine: Coroutine[Any, Any, T], timeout: float) -> T:
    """Await a call for ``timeout`` seconds at most; raises as `driven`."""
    limit = _checked(coroutine, timeout)
    try:
        return await _Limited(_bounded(link, coroutine, limit), limit)
    finally:
        coroutine.close()


def _checked(coroutine: Coroutine[Any, Any, Any], timeout: float) -> float:
    try:
        return positive_seconds("timeout", timeout)
    except BaseException:
        coroutine.close()
        raise


def _late(limit: float) -> errors.CallTimeoutError:
    return errors.CallTimeoutError(
        f"no answer from the database within {limit:g} s: the call was given up and its connection is of no more use; "
        "the server may still carry the statement out"
    )


async def _bounded(link: Link, coroutine: Coroutine[Any, Any, T], limit: float) -> T:
    """Await the call; on SQLite, with a busy timeout that ends a wait for a lock within ``limit`` seconds."""
    if link.provider != "sqlite" or link.conn is None:
        return await coroutine
    usual = await _pragma(link, "PRAGMA busy_timeout")
    patience = _for_sqlite(limit)
    if usual <= patience:
        return await coroutine
    await _pragma(link, f"PRAGMA busy_timeout = {patience}")
    try:
        return await coroutine
    finally:
        if not link.unanswered:
            await _pragma(link, f"PRAGMA busy_timeout = {usual}")


async def _pragma(link: Link, sql: str) -> int:
    response = await link.call("query_typed", link.statement(sql))
    (value,) = response.get_first().values()
    return int(value)


class _Limited(Generic[T]):
    """Awaits a coroutine of ours on asyncio, until a timer of the event loop runs out.

    The timer wakes the task and does not cancel it. So it cannot be confused with a cancellation of the task, and a
    cancellation at the same moment is not lost.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], limit: float) -> None:
        self._coroutine = coroutine
        self._limit = limit
        self._future: Future[None] | None = None
        self._out = False

    def _run_out(self) -> None:
        self._out = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)  # the driver's own wake-up may still come; it finds the future done

    def __await__(self) -> Generator[Any, Any, T]:
        coroutine = self._coroutine
        timer = get_running_loop().call_later(self._limit, self._run_out)
        try:
            while True:
                try:
                    self._future = coroutine.send(None)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                if self._out:
                    raise _late(self._limit)
                yield self._future
                if self._out:
                    raise _late(self._limit)
        finally:
            timer.cancel()
            coroutine.close()
