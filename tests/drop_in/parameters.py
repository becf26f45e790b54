"""The program's steps with parameters: each Python type into the column that it belongs into, and back."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from typing import Any
from zoneinfo import ZoneInfo

from tests.drop_in.kit import Kit, step


class Colour(enum.Enum):
    RED = "red"


# what a column is called here, and its type in PostgreSQL, MySQL and SQLite
COLUMNS = {
    "c_bool": ("boolean", "boolean", "boolean"),
    "c_int": ("bigint", "bigint", "bigint"),
    "c_small": ("integer", "integer", "integer"),
    "c_float": ("double precision", "double", "double"),
    "c_text": ("text", "text", "text"),
    "c_bytes": ("bytea", "blob", "blob"),
    "c_decimal": ("numeric(20, 4)", "decimal(20, 4)", "decimal(20, 4)"),
    "c_date": ("date", "date", "date"),
    "c_time": ("time", "time(6)", "time"),
    "c_datetime": ("timestamp", "datetime(6)", "datetime"),
    "c_aware": ("timestamptz", "datetime(6)", "datetime"),
    "c_uuid": ("uuid", "char(36)", "text"),
    "c_json": ("jsonb", "json", "text"),
    "c_ints": ("bigint[]", None, None),
    "c_texts": ("text[]", None, None),
}
MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 1)
VALUES: list[tuple[str, str, Any]] = [
    ("True", "c_bool", True),
    ("int", "c_int", 42),
    ("int, the greatest", "c_int", 2**63 - 1),
    ("int beyond 64 bits", "c_int", 2**63),
    ("int into an integer", "c_small", -7),
    ("int into a float", "c_float", 3),
    ("int into a decimal", "c_decimal", 3),
    ("int into a text", "c_text", 3),
    ("float", "c_float", 0.1),
    ("float 16777217", "c_float", 16777217.0),
    ("float 1e300", "c_float", 1e300),
    ("float NaN", "c_float", float("nan")),
    ("float into a decimal", "c_decimal", 1.5),
    ("float into an int", "c_int", 2.0),
    ("str", "c_text", "it's ü 😀 \\ \" :v"),
    ("str, empty", "c_text", ""),
    ("str with a lone surrogate", "c_text", "\ud800"),
    ("str into an int", "c_int", "5"),
    ("bytes", "c_bytes", b"\x00\xff'"),
    ("Decimal", "c_decimal", decimal.Decimal("1.5000")),
    ("Decimal NaN", "c_decimal", decimal.Decimal("NaN")),
    ("date", "c_date", datetime.date(2024, 2, 29)),
    ("time", "c_time", datetime.time(12, 30, 1)),
    ("time with microseconds", "c_time", datetime.time(12, 30, 1, 250001)),
    ("datetime", "c_datetime", MOMENT),
    ("datetime with microseconds", "c_datetime", MOMENT.replace(microsecond=250001)),
    ("datetime in UTC", "c_aware", MOMENT.replace(tzinfo=datetime.timezone.utc)),
    ("datetime at +02:00", "c_aware", MOMENT.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=2)))),
    ("datetime in a ZoneInfo", "c_aware", MOMENT.replace(tzinfo=ZoneInfo("UTC"))),
    ("UUID", "c_uuid", uuid.UUID("12345678-1234-5678-1234-567812345678")),
    ("UUID into a text", "c_text", uuid.UUID("12345678-1234-5678-1234-567812345678")),
    ("dict", "c_json", {"a": [1, None, True, 0.5, "x"], "b": {}}),
    ("dict with a key that is no str", "c_json", {1: 2}),
    ("dict with what JSON cannot hold", "c_json", {"a": {1, 2}}),
    ("list", "c_json", [{"a": 1}, 2]),
    ("tuple of int", "c_ints", (1, 2)),
    ("tuple of str", "c_texts", ("a", "it's")),
    ("tuple, empty", "c_texts", ()),
    ("tuple, mixed", "c_texts", ("a", 1)),
    ("tuple", "c_text", (1, 2)),
    ("Enum", "c_text", Colour.RED),
    *((f"None into {column}", column, None) for column in COLUMNS),
    ("set", "c_text", {1}),
    ("timedelta", "c_text", datetime.timedelta(1)),
    ("an object", "c_text", object()),
]


def create(provider: str) -> str:
    at = ("postgresql", "mysql", "sqlite").index(provider)
    columns = [f"{name} {types[at]}" for name, types in COLUMNS.items() if types[at]]
    return f"CREATE TABLE kinds (id INTEGER, {', '.join(columns)})"


def _parameter(name: str, column: str, value: Any) -> None:
    @step(f"parameter: {name}")
    async def _(kit: Kit) -> Any:
        if column not in create(kit.provider):
            return None
        conn = await kit.open()
        await conn.raw_cmd("DELETE FROM kinds")
        done = await kit.attempt(conn.execute(f"INSERT INTO kinds (id, {column}) VALUES (1, :v)", {"v": value}))
        return done, await kit.attempt(conn.query_first(f"SELECT {column} AS v FROM kinds"))


for each in VALUES:
    _parameter(*each)
