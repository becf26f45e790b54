"""Mistakes with connections that a type checker must find: one in each line that ends with ``# wrong``."""

from __future__ import annotations

from mppool import PySQLXEngine, PySQLXEngineSync


class Plain:
    pass


def blocking(conn: PySQLXEngineSync) -> None:
    conn.query("SELECT 1", timeout="soon")  # wrong
    conn.query("SELECT 1", model=Plain)  # wrong
    conn.execute("DELETE FROM users", model=Plain)  # wrong
    conn.query(1)  # wrong
    conn.query("SELECT 1", {1: 2})  # wrong
    conn.transaction(immediat=True)  # wrong
    PySQLXEngineSync()  # wrong


async def awaited(conn: PySQLXEngine) -> None:
    print((await conn.query("SELECT 1")).a)  # wrong
    await conn.query_first("SELECT 1", model=Plain)  # wrong
    async with conn.transaction("Serializable", True):  # wrong
        pass
