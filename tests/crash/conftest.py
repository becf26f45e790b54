from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.servers import Judge, Server


@pytest.fixture
def judge(request: pytest.FixtureRequest, database_uri: str) -> Judge | None:
    """The judge of this test's database; None for SQLite, which has no server to ask."""
    for scheme, name in (("postgresql:", "postgres_judge"), ("mysql:", "mysql_judge")):
        if database_uri.startswith(scheme):
            found: Judge = request.getfixturevalue(name)
            return found
    return None


@pytest.fixture
def locked_row(mysql_server: Server, mysql_uri: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """A statement that lasts until it is let go: it waits for a row, for up to 50 s.

    The statement, and what lets it go. The connection that holds the row has no database, so no judge counts it.
    """
    table = f"{mysql_uri.rpartition('/')[2]}.locked"
    holder = mysql_server.connect()
    try:
        with holder.cursor() as cursor:
            cursor.execute(f"CREATE TABLE {table} (a int PRIMARY KEY) ENGINE InnoDB")
            cursor.execute(f"INSERT INTO {table} VALUES (1)")
            cursor.execute("BEGIN")
            cursor.execute(f"SELECT a FROM {table} FOR UPDATE")
            yield "SELECT a /* sleep() */ FROM locked FOR UPDATE", holder.rollback
            holder.rollback()
            cursor.execute(f"DROP TABLE {table}")
    finally:
        holder.close()
