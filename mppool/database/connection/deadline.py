"""A time limit for one call to the database.

The core knows none: its calls are begun and end by themselves. So at the limit the call is given up: the caller has
its error at once, the server is told that nobody listens any more, and the connection is never used again. SQLite
has no server to tell; there a wait for another writer's lock is made to end within the limit by SQLite itself, which
leaves the connection as good as it was.
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
    """Milliseconds that SQLite may wait for a lock, so that its answer comes before our limit: all but a tenth, and
    all but 0.1 s (half of a limit that is shorter than 0.2)."""
    return max(1, int(1000 * (limit - max(0.1 * limit, min(0.1, 0.5 * limit)))))


def driven(link: Link, coroutine: Coroutine[Any, Any, T], timeout: float) -> T:
    """Drive a call on this thread, so many seconds at most.

    Raises: CallTimeoutError, and what the call raises; TypeError, ValueError: that is no number of seconds.
    """
    limit = _checked(coroutine, timeout)
    try:
        return drive(_bounded(link, coroutine, limit), limit)
    except TimeoutError:
        raise _late(limit) from None
    finally:
        coroutine.close()


async def awaited(link: Link, coroutine: Coroutine[Any, Any, T], timeout: float) -> T:
    """Await a call, so many seconds at most; raises as `driven`."""
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
    """On SQLite, wait for a lock no longer than the limit allows; elsewhere just the call."""
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
    """Awaits a coroutine of ours on asyncio, until a timer of the loop's runs out.

    The timer wakes the task instead of cancelling it: nobody can mistake it for a cancellation of the task's, and a
    cancellation that comes at the same time is not lost.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], limit: float) -> None:
        self._coroutine = coroutine
        self._limit = limit
        self._future: Future[None] | None = None
        self._out = False

    def _run_out(self) -> None:
        self._out = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)  # the core's own wake-up, should it still come, finds it done

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
