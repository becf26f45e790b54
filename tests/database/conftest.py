"""A connection of each kind to each database, called in one way, so that one test serves all."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from mppool.database.connection.async_connection import PySQLXEngine
from mppool.database.connection.sync_connection import PySQLXEngineSync


class Blocking:
    """The asynchronous connection called as the blocking one, so that one test serves both."""

    def __init__(self, uri: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._face = PySQLXEngine(uri)

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._face, name)
        if not inspect.iscoroutinefunction(member):
            return member
        return lambda *args, **kwargs: self._loop.run_until_complete(member(*args, **kwargs))

    def transaction(self, *args: Any, **kwargs: Any) -> BlockingBlock:
        return BlockingBlock(self._loop, self._face.transaction(*args, **kwargs))

    def shut(self) -> None:
        self.close()
        self._loop.close()


class BlockingBlock:
    """An ``async with`` block entered by ``with``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, block: Any) -> None:
        self._loop, self._block = loop, block

    def __enter__(self) -> Any:
        return self._loop.run_until_complete(self._block.__aenter__())

    def __exit__(self, *error: Any) -> Any:
        return self._loop.run_until_complete(self._block.__aexit__(*error))


@pytest.fixture(params=["sync", "async"])
def conn(request: pytest.FixtureRequest, database_uri: str) -> Iterator[Any]:
    """A connection of each kind to each database, with an empty table t."""
    one: Any = PySQLXEngineSync(database_uri) if request.param == "sync" else Blocking(database_uri)
    try:
        one.connect()
        one.raw_cmd("DROP TABLE IF EXISTS t")
        one.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b VARCHAR(20))")
        yield one
        if not one.connected:
            one.connect()
        if one._link.in_transaction:
            one.rollback()
        one.raw_cmd("DROP TABLE IF EXISTS t")
    finally:
        one.shut() if isinstance(one, Blocking) else one.close()
