"""One scenario, both handles: a test is written once, as a coroutine, and run with the async handle as it is and
with the sync handle behind threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from mppool import PySQLXEnginePool, PySQLXEnginePoolSync


class Threaded:
    """Something sync with its methods made awaitable, each call on a thread."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self.thing, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(method, *args, **kwargs)

        return call


class Flavour:
    """Makes handles of one kind and lends their connections in one way."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def make(self, uri: str, min_size: int = 0, max_size: int = 3, **settings: Any) -> Any:
        cls = PySQLXEnginePool if self.name == "async" else PySQLXEnginePoolSync
        return cls(uri, min_size, max_size, **settings)

    async def start(self, pool: Any) -> None:
        await self._call(pool.start)

    async def stop(self, pool: Any) -> None:
        await self._call(pool.stop)

    async def _call(self, method: Callable[[], Any]) -> Any:
        return await (method() if self.name == "async" else asyncio.to_thread(method))

    @asynccontextmanager
    async def connection(self, pool: Any, timeout: float | None = None) -> AsyncIterator[Any]:
        if self.name == "async":
            async with pool.connection(timeout) as conn:
                yield conn
            return
        lease = pool.connection(timeout)
        conn = await asyncio.to_thread(lease.__enter__)
        try:
            yield Threaded(conn)
        finally:
            await asyncio.to_thread(lease.__exit__, None, None, None)

    @asynccontextmanager
    async def running(self, uri: str, min_size: int = 0, max_size: int = 3, **settings: Any) -> AsyncIterator[Any]:
        pool = self.make(uri, min_size, max_size, **settings)
        await self.start(pool)
        try:
            yield pool
        finally:
            if not pool.closed:
                await self.stop(pool)


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Run a scenario; its threads are gone afterwards."""

    async def main() -> Any:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(64, "flavour"))
        return await asyncio.wait_for(scenario, 50)

    return asyncio.run(main())


async def until(fact: Callable[[], Any], timeout: float = 5.0) -> None:
    """Wait for a fact."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while not fact():
        assert loop.time() < deadline, f"not within {timeout} s: {fact}"
        await asyncio.sleep(0.002)
