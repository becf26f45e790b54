"""Pools that live as long as an ASGI application, by the ``lifespan=`` of Starlette and FastAPI.

Each worker of the server runs the lifespan for itself; the pools' budget is one if they have a ``name``, are inherited
by a fork, or are in a scope (``mppool run -- uvicorn …``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from mppool import PySQLXEnginePool, PySQLXEnginePoolSync

__all__ = ["lifespan"]


def lifespan(*pools: PySQLXEnginePool | PySQLXEnginePoolSync) -> Callable[[object], AbstractAsyncContextManager[None]]:
    """Start the pools when the application starts, in order; stop those that were started when it ends.

    Args:
        pools: handles that are not started; a sync one is started and stopped in a thread.

    Returns: a function of the application, for ``Starlette(lifespan=…)``. It raises what ``start()`` raises.
    """

    @asynccontextmanager
    async def run(app: object) -> AsyncIterator[None]:
        from asyncio import to_thread

        async with AsyncExitStack() as stack:
            for pool in pools:
                if isinstance(pool, PySQLXEnginePool):
                    await pool.start()
                    stack.push_async_callback(pool.stop)
                else:
                    await to_thread(pool.start)
                    stack.push_async_callback(to_thread, pool.stop)
            yield

    return run
