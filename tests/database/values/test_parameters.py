"""Values: what the core would corrupt or panic on is made exact or refused by name, and then survives the trip."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import uuid
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mppool import errors
from mppool.database.connection.sync_connection import PySQLXEngineSync
from mppool.database.values.parameters import MAX_DEPTH, convert


class Colour(enum.Enum):
    RED = "red"
    ONE = 1


class Number(enum.IntEnum):
    TWO = 2


class Text(str):
    __slots__ = ()


COLUMNS = {
    "postgresql": {"text": "text", "bigint": "int8", "double": "float8", "blob": "bytea"},
    "mysql": {"text": "longtext", "bigint": "bigint", "double": "double", "blob": "longblob"},
    "sqlite": {"text": "text", "bigint": "bigint", "double": "real", "blob": "blob"},
}


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize("provider", ["postgresql", "mysql", "sqlite"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        ("x", "x"),
        ("ü\U0001f600", "ü\U0001f600"),
        (b"\0\xff", b"\0\xff"),
        (0.1, decimal.Decimal("0.1")),
        (1e300, decimal.Decimal("1E+300")),
        (decimal.Decimal("1.10"), decimal.Decimal("1.10")),
        (Colour.RED, "red"),
        (Number.TWO, 2),
        ({"a": [1, None, {"b": "c"}]}, {"a": [1, None, {"b": "c"}]}),
        (
            dt.datetime(2024, 1, 1, 12, tzinfo=ZoneInfo("Europe/Berlin")),
            dt.datetime(2024, 1, 1, 11, tzinfo=dt.timezone.utc),
        ),
    ],
)
def test_passed_on(provider: str, value: Any, expected: Any) -> None:
    got = convert("v", value, provider)
    assert got == expected
    assert type(got) is type(expected)


def test_aware_times_are_in_the_one_zone_the_core_takes() -> None:
    """It panics on every other object, even ZoneInfo("UTC")."""
    for zone in (ZoneInfo("UTC"), ZoneInfo("Asia/Kolkata"), dt.timezone(dt.timedelta(hours=-3))):
        got = convert("v", dt.datetime(2024, 5, 1, tzinfo=zone), "postgresql")
        assert got.tzinfo is dt.timezone.utc
        assert got == dt.datetime(2024, 5, 1, tzinfo=zone)


@pytest.mark.parametrize("provider", ["postgresql", "mysql", "sqlite"])
@pytest.mark.parametrize(
    "value",
    [
        2**63,
        -(2**63) - 1,
        math.nan,
        math.inf,
        decimal.Decimal("NaN"),
        decimal.Decimal("-Infinity"),
        "\ud800",
        {1: 2},
        {"a": 2**63},
        {"a": math.nan},
        {"\ud800": 1},
        {"a": object()},
        [{1, 2}],
        nested(MAX_DEPTH + 1),
        set(),
        bytearray(b"x"),
        memoryview(b"x"),
        1j,
        Text("x"),
        dt.timedelta(1),
        dt.time(1, tzinfo=dt.timezone.utc),
        dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_refused_by_name(provider: str, value: Any) -> None:
    with pytest.raises(errors.ParameterInvalidValueError) as refused:
        convert("the_one", value, provider)
    assert refused.value.field == "the_one"
    assert refused.value.details
    assert "the_one" in str(refused.value)


@pytest.mark.parametrize(
    ("provider", "value", "advice"),
    [
        ("sqlite", decimal.Decimal("0.1000000000000000000001"), "str(value)"),
        ("sqlite", decimal.Decimal("1E+23"), "str(value)"),  # 99999999999999990000000 in a DECIMAL column
        ("sqlite", decimal.Decimal("1E+400"), "str(value)"),
        ("mysql", dt.time(1, tzinfo=dt.timezone.utc), "time zone"),
        *[(provider, decimal.Decimal(text), "1E") for provider in COLUMNS for text in ("1E+131072", "1E-16384")],
        *[(provider, decimal.Decimal("1E+999999999"), "1E") for provider in COLUMNS],
    ],
)
def test_refused_with_advice(provider: str, value: Any, advice: str) -> None:
    with pytest.raises(errors.ParameterInvalidValueError) as refused:
        convert("v", value, provider)
    assert advice in (refused.value.details or "")


@pytest.mark.parametrize(
    ("provider", "value", "expected"),
    [
        ("mysql", dt.time(1, 2, 3, 4), "01:02:03.000004"),
        ("mysql", dt.time(1, 2, 3), "01:02:03"),
        ("sqlite", dt.datetime(2024, 1, 1, 1, 2, 3, 4000), dt.datetime(2024, 1, 1, 1, 2, 3, 4000)),
        ("sqlite", dt.datetime(2024, 1, 1, 1, 2, 3, 4999), dt.datetime(2024, 1, 1, 1, 2, 3, 4000)),
        ("sqlite", dt.datetime(1969, 12, 31, 23, 59, 59, 999_999), dt.datetime(1969, 12, 31, 23, 59, 59, 999_000)),
        ("sqlite", dt.time(1, 2, 3), 3_723_000),
        ("sqlite", dt.time(23, 59, 59, 999_999), 86_399_999),
        ("sqlite", decimal.Decimal("-123456789.0123"), decimal.Decimal("-123456789.0123")),
        ("mysql", decimal.Decimal("1E+131071"), decimal.Decimal("1E+131071")),
    ],
)
def test_what_one_database_needs(provider: str, value: Any, expected: Any) -> None:
    assert convert("v", value, provider) == expected


def test_deep_json_up_to_the_limit() -> None:
    with pytest.raises(errors.ParameterInvalidValueError):
        convert("v", nested(100_000), "sqlite")  # the core would take the process with it
    assert convert("v", nested(MAX_DEPTH), "sqlite") == nested(MAX_DEPTH)


def test_arrays() -> None:
    assert convert("v", (1.5, 0.1), "postgresql") == (decimal.Decimal("1.5"), decimal.Decimal("0.1"))
    assert convert("v", (Colour.RED,), "postgresql") == ("red",)
    for value in ((1, "a"), ({"a": 1},), (2**63,), ((1,),)):
        with pytest.raises(errors.ParameterInvalidValueError):
            convert("v", value, "postgresql")
    for provider in ("mysql", "sqlite"):
        with pytest.raises(errors.ParameterInvalidProviderError) as refused:
            convert("v", (1,), provider)
        assert (refused.value.field, refused.value.provider) == ("v", provider)


# --- there and back -------------------------------------------------------------------------------------


@given(x=st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_reads_back_as_the_same_double(x: float) -> None:
    made = convert("v", x, "sqlite")
    assert float(made) == x
    assert math.copysign(1, float(made)) == math.copysign(1, x)


SAMPLES: dict[str, list[Any]] = {
    "text": ["", "x", "it's ':a' \\ \"", "ü\U0001f600\n", ":p", "$1 ?", "0"],
    "bigint": [0, -1, 2**63 - 1, -(2**63)],
    "double": [0.1, 16777217.0, 1e300, -5e-324, 1 / 3, 3.0],
    "blob": [b"", b"\0\xff", bytes(range(256))],
}


@pytest.mark.parametrize("kind", list(SAMPLES))
def test_there_and_back(database_uri: str, kind: str) -> None:
    with PySQLXEngineSync(database_uri) as conn:
        provider = conn._link.provider
        conn.execute("DROP TABLE IF EXISTS there_and_back")
        conn.execute(f"CREATE TABLE there_and_back (n INT, v {COLUMNS[provider][kind]})")
        for number, value in enumerate([*SAMPLES[kind], None]):
            conn.execute("INSERT INTO there_and_back VALUES (:n, :v)", {"n": number, "v": value})
            row = conn.query_first("SELECT v FROM there_and_back WHERE n = :n", {"n": number})
            assert row.v == value
        conn.execute("DROP TABLE there_and_back")


def test_uuid_json_and_times_on_postgresql(postgres_uri: str) -> None:
    values = {
        "u": uuid.uuid4(),
        "j": {"a": [1, 2.5, None, "x"], "b": {"c": True}},
        "d": dt.date(2024, 2, 29),
        "t": dt.time(1, 2, 3, 456789),
        "z": dt.datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=ZoneInfo("Asia/Tokyo")),
        "m": decimal.Decimal("12345.6789"),
    }
    sql = "SELECT :u::uuid u, :j::jsonb j, :d::date d, :t::time t, :z::timestamptz z, :m::numeric m"
    with PySQLXEngineSync(postgres_uri) as conn:
        assert conn.query_first_as_dict(sql, values) == values


def test_now_goes_into_sqlite(sqlite_uri: str) -> None:
    """The commonest insert of all; kept to the millisecond."""
    moments = [
        dt.datetime(2024, 2, 29, 12, 30, 59, 123_999, tzinfo=dt.timezone.utc),
        dt.datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.timezone.utc),
        dt.datetime.now(dt.timezone.utc),
    ]
    with PySQLXEngineSync(sqlite_uri) as conn:
        conn.execute("CREATE TABLE moments (at DATETIME, t TIME)")
        for moment in moments:
            conn.execute("INSERT INTO moments VALUES (:at, :t)", {"at": moment, "t": moment.time()})
            kept = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
            row = conn.query_first("SELECT at, t FROM moments WHERE at = :at", {"at": moment})
            midnight = kept.replace(hour=0, minute=0, second=0, microsecond=0)
            assert row.at == kept
            assert int(row.t) == (kept - midnight) // dt.timedelta(milliseconds=1)
            conn.execute("DELETE FROM moments")
        conn.execute("DROP TABLE moments")
