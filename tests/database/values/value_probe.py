"""Puts values into columns of every type and says what came back, in the words of `value_table.OUTCOMES`."""

from __future__ import annotations

import datetime as dt
import enum
import json
import math
import re
import struct
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from mppool import errors
from mppool.database.connection.sync_connection import PySQLXEngineSync
from tests.database.values.value_table import COLUMNS, OUTCOMES, UNTYPED

UTC = dt.timezone.utc


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    TWO = 2


SAMPLES: dict[str, list[Any]] = {
    "None": [None],
    "bool": [True, False],
    "int": [0, 1, -5, 2**15 - 1, 2**31 - 1, 16_777_217, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)],
    "float": [0.0, -0.0, 2.0, -1.5, 0.1, 0.1 + 0.2, 1e300, 5e-324, 1.7976931348623157e308, 1e23],
    "float, not finite": [math.nan, math.inf, -math.inf],
    "Decimal": [
        *map(Decimal, ("0", "-0.0", "2", "1.10", "-2.5", "0.1", "1E+4", "1E+20", "9007199254740993", "1E+300")),
        Decimal("12345678901234567890.123456789012345678901234567890"),
    ],
    "Decimal, odd": [*map(Decimal, ("NaN", "Infinity", "1E+5000000", "1E-16384"))],
    "str": [
        "",
        "x",
        "5",
        "1.5",
        "12345678",
        "it's ':a' \\ \"",
        "ü\U0001f600\n",
        "2024-02-29",
        "12:30",
        "null",
        "{}",
        "t",
    ],
    "str with NUL": ["a\0b"],
    "bytes": [b"", b"abcdefgh", b"\0\xff", bytes(range(256)), b"5"],
    "date": [dt.date(1, 1, 1), dt.date(2024, 2, 29), dt.date(9999, 12, 31)],
    "time": [dt.time(0), dt.time(12, 30, 59), dt.time(12, 30, 59, fold=1)],
    "time with µs": [dt.time(23, 59, 59, 999_999), dt.time(1, 2, 3, 4000)],
    "naive datetime": [dt.datetime(1999, 12, 31), dt.datetime(2024, 2, 29, 12, 30, 59)],
    "datetime with µs": [dt.datetime(2024, 2, 29, 12, 30, 59, 123_456), dt.datetime(2024, 2, 29, 1, 2, 3, 4000)],
    "aware datetime": [
        dt.datetime(2024, 2, 29, 12, 30, 59, tzinfo=UTC),
        dt.datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
        dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.timezone(dt.timedelta(hours=-3, minutes=-30))),
    ],
    "datetime at the edge": [dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)],
    "UUID": [uuid.UUID(int=0), uuid.UUID("12345678-9abc-def0-1234-56789abcdef0")],
    "dict": [{}, {"b": [1, 2.5, None, True, "ü'\\"], "a": {"": 1e300, "big": 2**63 - 1, "f": 0.1}}],
    "list": [[], [1, [2, ["x"]]]],
    "Enum of str": [Colour.RED],
    "Enum of int": [Size.TWO],
    "tuple of int": [(1, -2, None), (2**63 - 1,)],
    "tuple of float": [(0.1, 5e-324, 1e300, None), (-0.5,)],
    "tuple of Decimal": [(Decimal("1.1"), None), (Decimal("12345678901234567890.5"),)],
    "tuple of str": [("", 'a"b\\c', "NULL", "{x,y}", " ü", None), ("x",)],
    "tuple of bool": [(True, False, None)],
    "tuple of bytes": [(b"", b"\0\xff\\", None)],
    "tuple of date": [(dt.date(2024, 2, 29), None)],
    "tuple of datetime": [(dt.datetime(2024, 2, 29, 12, tzinfo=ZoneInfo("Asia/Tokyo")), None)],
    "tuple of UUID": [(uuid.UUID(int=7), None)],
    "tuple of dict": [({"a": ['"\\', 0.1]}, None)],
    "empty tuple": [()],
    "nested tuple": [((1, 2), (3, 4))],
    "other": [{1, 2}, 1j, dt.timedelta(1), bytearray(b"x"), object(), dt.time(1, tzinfo=UTC), "\ud800", 2**63],
}


# --- what came of it ----------------------------------------------------------------------------------------


def _ms(value: Any) -> int:
    if isinstance(value, dt.time):
        return (value.hour * 3600 + value.minute * 60 + value.second) * 1000 + value.microsecond // 1000
    if not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day)
    since = value.replace(tzinfo=value.tzinfo or UTC) - dt.datetime(1970, 1, 1, tzinfo=UTC)
    return since // dt.timedelta(milliseconds=1)


def _same(got: Any, value: Any) -> bool:
    """Equal and of the same type, all the way down."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, (list, tuple)):
        return isinstance(got, (list, tuple)) and len(got) == len(value) and all(map(_same, got, value))
    if isinstance(value, dict):
        return (
            isinstance(got, dict) and got.keys() == value.keys() and all(_same(got[key], value[key]) for key in value)
        )
    if isinstance(value, float) and math.isnan(value):
        return isinstance(got, float) and math.isnan(got)
    return type(got) is type(value) and bool(got == value)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal))


def _floats(value: Any) -> Any:
    """All numbers as floats: jsonb keeps decimals, of which whole ones are read as integers."""
    if isinstance(value, dict):
        return {key: _floats(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):  # an array comes as a tuple, also for a list
        return [_floats(item) for item in value]
    return float(value) if type(value) in (int, float) else value


def _each(check: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """A check that looks into tuples, and takes None for None there."""

    def checked(got: Any, value: Any) -> bool:
        if isinstance(value, tuple):
            return isinstance(got, (list, tuple)) and len(got) == len(value) and all(map(checked, got, value))
        return got is None if value is None else check(got, value)

    return checked


@_each
def _is_number(got: Any, value: Any) -> bool:
    if not (_number(value) and _number(got)):
        return False
    if isinstance(value, float) and isinstance(got, Decimal) and got.is_finite():
        return Decimal(repr(value)) == got
    if isinstance(got, float) and isinstance(value, Decimal):
        return Decimal(repr(got)) == value
    return bool(got == value)


@_each
def _is_utc(got: Any, value: Any) -> bool:
    return isinstance(value, dt.datetime) and isinstance(got, dt.datetime) and got.tzinfo is UTC and got == _utc(value)


def _utc(value: dt.datetime) -> dt.datetime:
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def _to_ms(value: dt.datetime) -> dt.datetime:
    return _utc(value).replace(microsecond=value.microsecond // 1000 * 1000)


@_each
def _is_midnight(got: Any, value: Any) -> bool:
    return type(value) is dt.date and got == dt.datetime(value.year, value.month, value.day, tzinfo=UTC)


def _from_text(text: str, value: Any) -> Any:
    """The value made again from its text."""
    if isinstance(value, (dt.date, dt.time)):
        text = re.sub(r"\.\d+", lambda digits: digits[0].ljust(7, "0"), text)  # Python 3.10 wants three or six
    if isinstance(value, bool):
        return {"true": True, "false": False, "1": True, "0": False}.get(text)
    if isinstance(value, (dict, list)):
        return json.loads(text)
    if isinstance(value, dt.datetime):
        made = dt.datetime.fromisoformat(text + ":00" if text[-3:-2] in "+-" else text)
        return made.replace(tzinfo=made.tzinfo or UTC) if value.tzinfo else made
    if isinstance(value, dt.date):
        return dt.datetime.fromisoformat(text).date()
    if isinstance(value, dt.time):
        return dt.time.fromisoformat(text)
    return type(value)(text) if isinstance(value, (int, float, Decimal, str, uuid.UUID)) else None


@_each
def _is_text(got: Any, value: Any) -> bool:
    if not isinstance(got, str):
        return False
    if isinstance(value, bytes):
        return got.encode() == value
    try:
        made = _from_text(got, value)
    except (ValueError, ArithmeticError):
        return False
    return _same(made, value) or bool(made == value) or (math.nan != value != value and made != made)


@_each
def _is_single(got: Any, value: Any) -> bool:
    if not (_number(value) and isinstance(got, float)):
        return False
    # MySQL shows six digits of it
    return got == struct.unpack("f", struct.pack("f", float(value)))[0] or math.isclose(got, value, rel_tol=1e-6)


def outcome(provider: str, column: str, value: Any, got: Any, of_literal: Callable[[], Any]) -> str | None:
    """The word for what came back; None: it is something else."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, dt.datetime) and value.tzinfo:
        value = value.astimezone(UTC)  # an ambiguous time in another zone equals nothing
    if _same(got, value):
        return "equal"
    moment = isinstance(value, dt.datetime)
    padded = "char(40)" in column and isinstance(got, str)
    checks: list[tuple[str, Callable[[], bool]]] = [
        ("number", lambda: _is_number(got, value)
            or (column in ("jsonb", "jsonb[]") and _same(_floats(got), _floats(value)))),
        ("utc", lambda: _is_utc(got, value)),
        ("ms", lambda: provider == "sqlite" and moment and _same(got, _to_ms(value))),
        ("midnight", lambda: _is_midnight(got, value)),
        ("date", lambda: moment and type(got) is dt.date and got == value.date() and value.time() == dt.time()),
        ("text", lambda: _is_text(got, value)),
        ("padded", lambda: padded and len(got) == 40 and _is_text(got.rstrip(" "), value)),
        ("32 bits", lambda: ("float4" in column or column == "FLOAT") and _is_single(got, value)),
        ("integer", lambda: isinstance(value, (dt.date, dt.time)) and str(got) == str(_ms(value))),
        ("cut", lambda: column == "DATE" and moment and type(got) is dt.date and got == _utc(value).date()),
        ("16 digits", lambda: provider == "sqlite" and column == "DECIMAL(10,2)" and isinstance(value, float)
            and isinstance(got, Decimal) and math.isclose(got, value, rel_tol=1e-15)),
        ("bytes", lambda: isinstance(got, bytes) and _is_text(got.decode(), value)),
        ("literal", lambda: _same(got, of_literal())),
    ]  # fmt: skip
    return next((word for word, holds in checks if holds()), None)


def literal(value: Any, provider: str) -> str:
    """SQL for the value as the driver encodes it there."""
    if isinstance(value, enum.Enum):
        value = value.value
    if provider == "sqlite" and isinstance(value, (dt.date, dt.time)):
        return str(_ms(value))
    if provider == "mysql" and isinstance(value, dt.date):
        moment = _utc(value).replace(tzinfo=None) if isinstance(value, dt.datetime) else value
        return f"TIMESTAMP'{moment.strftime('%Y').zfill(4)}{moment.strftime('-%m-%d %H:%M:%S.%f')}'"
    if provider == "mysql" and isinstance(value, float):
        text = repr(value or abs(value))  # the driver drops a zero's sign
        return text if "e" in text else f"{text}e0"  # without an exponent it would be a decimal
    if provider == "mysql" and isinstance(value, Decimal):
        return f"'{value or abs(value):f}'"
    if isinstance(value, (bool, int, float, Decimal)):
        return str(value)
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    text = (value.decode("latin-1") if isinstance(value, bytes) else str(value)).replace("'", "''")
    return "'" + (text.replace("\\", "\\\\") if provider == "mysql" else text) + "'"


class Probe:
    """A table with a column of each type."""

    def __init__(self, uri: str) -> None:
        self.conn = PySQLXEngineSync(uri)
        self.conn.connect()
        self.provider = self.conn._link.provider
        # the table was made on MariaDB; MySQL has other conversions of its own
        self.tabled = self.provider != "mysql" or "MariaDB" in self.conn.query_first("SELECT version() AS v").v
        self.columns = COLUMNS[self.provider]
        self.clean()
        if self.provider == "postgresql":
            self.conn.raw_cmd("CREATE TYPE colour AS ENUM ('red', 'green')")
            self.conn.raw_cmd("CREATE DOMAIN smaller AS int4 CHECK (VALUE < 100)")
            self.conn.raw_cmd("CREATE DOMAIN small AS smaller CHECK (VALUE > -100)")
        columns = ", ".join(f"c{number} {column} NULL" for number, column in enumerate(self.columns))
        self.conn.raw_cmd(f"CREATE TABLE matrix ({columns})")
        self.numbers = {column: number for number, column in enumerate(self.columns)}

    def clean(self) -> None:
        self.conn.raw_cmd("DROP TABLE IF EXISTS matrix")
        if self.provider == "postgresql":
            self.conn.raw_cmd("DROP DOMAIN IF EXISTS small")
            self.conn.raw_cmd("DROP DOMAIN IF EXISTS smaller")
            self.conn.raw_cmd("DROP TYPE IF EXISTS colour")

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self.clean()
        self.conn.close()

    def stored(self, column: str, expression: str, parameters: dict[str, Any] | None) -> Any:
        name = f"c{self.numbers[column]}"
        self.conn.execute("DELETE FROM matrix")
        assert self.conn.execute(f"INSERT INTO matrix ({name}) VALUES ({expression})", parameters) == 1
        return self.read(column)

    def read(self, column: str) -> Any:
        shown = self.columns[column].format(f"c{self.numbers[column]}")
        row = self.conn.query_first_as_dict(f"SELECT {shown} AS v FROM matrix")
        assert row is not None
        return row["v"]

    def of_literal(self, column: str, value: Any) -> Any:
        if column == UNTYPED:
            return None
        try:
            return self.stored(column, literal(value, self.provider), None)
        except errors.PySQLXError as error:
            return error

    def try_one(self, column: str, value: Any) -> str:
        """What becomes of one value in one column: a word, or what it came back as."""
        try:
            if column == UNTYPED:
                row = self.conn.query_first_as_dict("SELECT :v AS v", {"v": value})
                assert row is not None
                got = row["v"]
            else:
                got = self.stored(column, ":v", {"v": value})
        except (errors.ParameterInvalidValueError, errors.ParameterInvalidProviderError) as error:
            return "refused" if error.field == "v" else f"refused as {error.field}"
        except errors.PySQLXError as error:
            if error.error() == "ExecuteError" or column == UNTYPED:
                return "error" if error.code != "PANIC" else "panic"
            return "unreadable"
        word = outcome(self.provider, column, value, got, lambda: self.of_literal(column, value))
        return word or f"{self.provider}: {value!r} into {column} came back as {got!r}"

    def row(self, kind: str) -> dict[str, list[str]]:
        """For one kind of value: what becomes of it in each column."""
        found: dict[str, list[str]] = {}
        for column in (UNTYPED, *self.columns):
            words = [self.try_one(column, value) for value in SAMPLES[kind]]
            found[column] = sorted(set(words), key=[*OUTCOMES, *words].index)
        return found
