"""What children of these tests do. A module that can be imported, so that they can be spawned as well as forked."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from mppool import PoolManager, PySQLXEnginePool, PySQLXEnginePoolSync

GLOBAL_NAME = "work"

#: The budget that this module brings along wherever it is imported.
GLOBAL: PoolManager | None = None
if uri := os.environ.get("WORK_URI"):
    GLOBAL = PoolManager(uri, 3, GLOBAL_NAME)


def use(pool: PySQLXEnginePoolSync | PySQLXEnginePool, number: int = 20) -> int:
    """Borrow and query, with the async handle twice at a time; the number's successor, by the database."""
    if isinstance(pool, PySQLXEnginePoolSync):
        with pool.connection(20) as conn:
            return int(conn.query_first(f"SELECT {number} + 1 AS a").a)

    async def one() -> int:
        async with pool.connection(20) as conn:
            return int((await conn.query_first(f"SELECT {number} + 1 AS a")).a)

    async def main() -> list[int]:
        return await asyncio.gather(one(), one())

    first, second = asyncio.run(main())
    assert first == second
    return first


def use_and_tell(pool: Any, number: int, line: Any) -> None:
    line.send(use(pool, number))


def use_manager(manager: PoolManager, line: Any) -> None:
    """Handles of the manager's, and what it tells; from wherever this is."""
    answers = use(manager.pool(), 1), use(manager.async_pool(), 2)
    line.send((*answers, manager.pid, os.getpid() in {member.pid for member in manager.stats().members}))


def use_global(line: Any) -> None:
    assert GLOBAL is not None
    use_manager(GLOBAL, line)


def ask_mine(number: int) -> int:
    """A job for `PoolManager.jobs` that brings no handle along."""
    from mppool.integrations.jobs import current_pool

    return use(current_pool(), number)
