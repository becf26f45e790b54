"""A user's program with connections: type checkers read it, nothing runs it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from typing_extensions import assert_type

from mppool import BaseRow, PySQLXEngine, PySQLXEngineSync


class User(BaseModel):
    id: int
    name: str


class Order(BaseRow):
    total: int


def blocking(conn: PySQLXEngineSync) -> None:
    assert_type(conn.query("SELECT 1 AS a"), list[BaseRow])
    assert_type(conn.query("SELECT :a AS a", {"a": 1}), list[BaseRow])
    assert_type(conn.query("SELECT id, name FROM users", model=User), list[User])
    assert_type(conn.query("SELECT id, name FROM users WHERE id = :id", {"id": 1}, User), list[User])
    assert_type(conn.query("SELECT id, name FROM users", model=User, timeout=1.5), list[User])
    assert_type(conn.query("SELECT total FROM orders", model=Order)[0].total, int)
    assert_type(conn.query_first("SELECT 1 AS a"), BaseRow | None)
    assert_type(conn.query_first("SELECT id, name FROM users", None, User), User | None)
    row = conn.query_first("SELECT 1 AS a")
    if row is not None:
        assert_type(row.a, Any)
    assert_type(conn.query_as_dict("SELECT 1 AS a"), list[dict[str, Any]])
    assert_type(conn.query_first_as_dict("SELECT 1 AS a"), dict[str, Any] | None)
    assert_type(conn.execute("DELETE FROM users"), int)
    with conn.transaction(immediate=True) as inside:
        assert_type(inside, PySQLXEngineSync)
    with PySQLXEngineSync("sqlite:./dev.db") as alone:
        assert_type(alone, PySQLXEngineSync)
        assert_type(alone.connected, bool)


async def awaited(conn: PySQLXEngine) -> None:
    assert_type(await conn.query("SELECT 1 AS a"), list[BaseRow])
    assert_type(await conn.query("SELECT id, name FROM users", model=User), list[User])
    assert_type(await conn.query("SELECT id, name FROM users", {"id": 1}, User), list[User])
    assert_type(await conn.query_first("SELECT 1 AS a"), BaseRow | None)
    assert_type(await conn.query_first("SELECT id, name FROM users", model=User, timeout=1), User | None)
    assert_type(await conn.query_as_dict("SELECT 1 AS a"), list[dict[str, Any]])
    assert_type(await conn.query_first_as_dict("SELECT 1 AS a"), dict[str, Any] | None)
    assert_type(await conn.execute("DELETE FROM users"), int)
    async with conn.transaction() as inside:
        assert_type(inside, PySQLXEngine)
    async with PySQLXEngine("sqlite:./dev.db") as alone:
        assert_type(alone, PySQLXEngine)
