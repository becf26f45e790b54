"""The lifespan starts what it was given and stops all of it, whatever happens between."""

from __future__ import annotations

import asyncio

import pytest

from mppool import PySQLXEnginePool, PySQLXEnginePoolSync, errors
from mppool.integrations.asgi import lifespan


def test_both_kinds_of_handles_live_as_long_as_the_application(tmp_path: object) -> None:
    sync = PySQLXEnginePoolSync(f"sqlite:{tmp_path}/a.db", 1, 2)
    tasks = PySQLXEnginePool(f"sqlite:{tmp_path}/b.db", 1, 2)

    async def serve() -> None:
        async with lifespan(sync, tasks)(object()):
            assert not sync.closed
            assert not tasks.closed
            async with tasks.connection() as conn:
                assert (await conn.query_first("SELECT 42 AS a")).a == 42

    asyncio.run(serve())
    assert sync.closed
    assert tasks.closed


def test_one_that_cannot_start_stops_those_before_it(tmp_path: object) -> None:
    first = PySQLXEnginePoolSync(f"sqlite:{tmp_path}/a.db", 1, 2)
    second = PySQLXEnginePool(f"sqlite:{tmp_path}/no/folder/b.db", 1, 2)

    async def serve() -> None:
        async with lifespan(first, second)(object()):
            raise AssertionError("it must not come to this")

    with pytest.raises(errors.ConnectError):
        asyncio.run(serve())
    assert first.closed
