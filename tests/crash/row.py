"""A row of MariaDB's that somebody holds: a statement for it lasts until it is let go, on a machine of any speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.servers import Server

__all__ = ["Row", "locked_row"]


class Row:
    """Held from the beginning. MariaDB does not look for the client of a statement that waits for it, up to 50 s.

    The connection that holds it has no database, so no judge counts it.
    """

    statement = "SELECT a /* sleep() */ FROM locked FOR UPDATE"

    def __init__(self, cursor: Any, table: str) -> None:
        self._cursor, self._table = cursor, table
        cursor.execute(f"CREATE TABLE {table} (a int PRIMARY KEY) ENGINE InnoDB")
        cursor.execute(f"INSERT INTO {table} VALUES (1)")
        self.hold()

    def hold(self) -> None:
        self._cursor.execute("BEGIN")
        self._cursor.execute(f"SELECT a FROM {self._table} FOR UPDATE")

    def let_go(self) -> None:
        self._cursor.execute("ROLLBACK")

    def drop(self) -> None:
        self.let_go()
        self._cursor.execute(f"DROP TABLE {self._table}")


@contextmanager
def locked_row(server: Server, uri: str) -> Iterator[Row]:
    """In the database of that uri."""
    holder = server.connect()
    try:
        with holder.cursor() as cursor:
            row = Row(cursor, f"{uri.rpartition('/')[2]}.locked")
            yield row
            row.drop()
    finally:
        holder.close()
