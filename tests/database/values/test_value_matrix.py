"""Every Python type into every column type, for real: it comes back as the table says, or it is refused.

The table is the promise (`value_table`), its words are explained there. A pair that is not in it must be refused, by
us or by the database, for every sample. ``python -m tests.database.values.test_value_matrix`` prints it as markdown.
"""

from __future__ import annotations

import datetime as dt
import os
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.database.values.value_probe import SAMPLES, Probe, outcome
from tests.database.values.value_table import COLUMNS, OUTCOMES, TABLE, UNTYPED


def expected(provider: str, kind: str) -> dict[str, list[str]]:
    rows = TABLE[provider].get(kind, {})
    return {column: words.split(", ") for words, columns in rows.items() for column in columns.split("; ")}


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_pair(database_uri: str, kind: str) -> None:
    with Probe(database_uri) as probe:
        found = probe.row(kind)
        listed = expected(probe.provider, kind) if probe.tabled else {}
        for column, words in found.items():
            if column in listed:
                assert words == listed[column], column
            else:
                assert set(words) <= ({"refused", "error"} if probe.tabled else OUTCOMES.keys()), f"{column}: {words}"
        assert probe.conn.query_first("SELECT 1 AS a").a == 1


def test_the_table_speaks_of_what_there_is() -> None:
    for provider, kinds in TABLE.items():
        assert kinds.keys() <= SAMPLES.keys()
        for kind in kinds:
            for column, words in expected(provider, kind).items():
                assert column == UNTYPED or column in COLUMNS[provider]
                assert set(words) <= OUTCOMES.keys()


@pytest.mark.parametrize(
    ("column", "value", "sent"),
    [
        ("int8", 5, "6"),
        ("text", "a", "'b'"),
        ("float8", 0.1, "0.10000000149011612"),
        ("timestamptz", dt.datetime(2024, 1, 1), "'2024-01-01 00:00:00+01'"),
        ("jsonb", {"a": 1}, """'{"a": 2}'"""),
        ("text[]", ("NULL",), "'{NULL}'"),
    ],
)
def test_the_probe_sees_what_is_wrong(postgres_uri: str, column: str, value: Any, sent: str) -> None:
    with Probe(postgres_uri) as probe:
        got = probe.stored(column, sent, None)
        assert outcome(probe.provider, column, value, got, lambda: probe.of_literal(column, value)) is None


# --- any value ----------------------------------------------------------------------------------------------

zones = st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns", "Africa/Monrovia"]).map(ZoneInfo)
zones |= st.integers(-1439, 1439).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
text = st.text(st.characters(exclude_categories=["Cs"]))
ints = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
decimals = st.builds(lambda digits, exponent: Decimal(digits).scaleb(exponent), st.integers(), st.integers(-400, 400))
decimals |= st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**8), max_value=10**8)
json_values = st.recursive(
    st.none() | st.booleans() | ints | floats | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int": ints,
    "float": floats,
    "str": text,
    "bytes": st.binary(),
    "Decimal": decimals,
    "date": st.dates(),
    "time": st.times(),
    "naive datetime": st.datetimes(),
    "aware datetime": st.datetimes(timezones=zones),
    "UUID": st.uuids(),
    "dict": st.dictionaries(text, json_values, max_size=4),
    "list": st.lists(json_values, max_size=4),
}
ITEMS = {"int": ints, "float": floats, "str": text.filter(lambda s: "\0" not in s), "UUID": st.uuids()}
TUPLES = {f"tuple of {kind}": st.lists(st.none() | items, max_size=6).map(tuple) for kind, items in ITEMS.items()}

# The column that is made for the type, and what may come of it there.
HOME: dict[str, dict[str, tuple[str, str]]] = {
    "postgresql": {
        "bool": ("bool", "equal"),
        "int": ("int8", "equal"),
        "float": ("float8", "equal"),
        "str": ("text", "equal, refused"),  # with NUL
        "bytes": ("bytea", "equal"),
        "Decimal": ("numeric", "equal"),
        "date": ("date", "equal"),
        "time": ("time", "equal"),
        "naive datetime": ("timestamp", "utc"),
        "aware datetime": ("timestamptz", "equal, refused"),  # outside the years 1 to 9999 in UTC
        "UUID": ("uuid", "equal"),
        "dict": ("json", "equal"),
        "list": ("json", "equal"),
        "tuple of int": ("int8[]", "equal"),
        "tuple of float": ("float8[]", "equal"),
        "tuple of str": ("text[]", "equal"),
        "tuple of UUID": ("uuid[]", "equal"),
    },
    "mysql": {
        "bool": ("BOOLEAN", "number"),
        "int": ("BIGINT", "equal"),
        "float": ("DOUBLE", "equal"),
        "str": ("LONGTEXT", "equal"),
        "bytes": ("LONGBLOB", "equal"),
        "Decimal": ("LONGTEXT", "text"),
        "date": ("DATE", "midnight"),
        "time": ("TIME(6)", "equal"),
        "naive datetime": ("DATETIME(6)", "utc"),
        "aware datetime": ("DATETIME(6)", "equal, refused"),
        "UUID": ("CHAR(40)", "text"),
        "dict": ("JSON", "text"),
        "list": ("JSON", "text"),
    },
    "sqlite": {
        "bool": ("BOOLEAN", "equal"),
        "int": ("BIGINT", "equal"),
        "float": ("REAL", "equal"),
        "str": ("TEXT", "equal"),
        "bytes": ("BLOB", "equal"),
        "Decimal": ("DECIMAL(10,2)", "equal, number, refused"),
        "date": ("DATE", "equal"),
        "time": ("TIME", "integer"),
        "naive datetime": ("DATETIME", "utc, ms"),
        "aware datetime": ("DATETIME", "equal, ms, refused"),  # outside the years 1 to 9999 in UTC
        "UUID": ("UUID", "text"),
        "dict": ("JSON", "text"),
        "list": ("JSON", "text"),
    },
}
examples = (
    settings(max_examples=int(os.environ["MPPOOL_TEST_REPEAT"])) if "MPPOOL_TEST_REPEAT" in os.environ else settings()
)


@pytest.mark.parametrize("kind", [*VALUES, *TUPLES])
def test_any_value_comes_home(database_uri: str, kind: str) -> None:
    with Probe(database_uri) as probe:
        if kind not in HOME[probe.provider]:
            assert kind in TUPLES
            pytest.skip("arrays are PostgreSQL's")
        column, words = HOME[probe.provider][kind]

        @examples
        @given(value={**VALUES, **TUPLES}[kind])
        def comes_home(value: Any) -> None:
            assert probe.try_one(column, value) in words.split(", ")

        comes_home()


@pytest.mark.parametrize("kind", [*VALUES, *TUPLES])
def test_any_value_anywhere_is_known_or_refused(database_uri: str, kind: str) -> None:
    """Whatever the column: no panic, nothing silently else, and the connection goes on."""
    with Probe(database_uri) as probe:

        @examples
        @given(value={**VALUES, **TUPLES}[kind], column=st.sampled_from([UNTYPED, *probe.columns]))
        def known(value: Any, column: str) -> None:
            word = probe.try_one(column, value)
            assert word in OUTCOMES
            if word in ("literal", "unreadable") and probe.provider == "postgresql":
                # it reads text, 'infinity' too, and rounds where told to
                assert isinstance(value, str) or (word, column) == ("literal", "numeric(10,2)")
            assert probe.conn.query_first("SELECT 1 AS a").a == 1

        known()


# --- for the README -----------------------------------------------------------------------------------------


def markdown() -> str:
    """The table: a row for each kind of value, a column for each database."""
    lines = ["| Python | " + " | ".join(TABLE) + " |", "|---" * (len(TABLE) + 1) + "|"]
    for kind in SAMPLES:
        cells = []
        for provider in TABLE:
            rows = TABLE[provider].get(kind, {})
            cells.append("; ".join(f"**{words}**: {columns.replace('; ', ', ')}" for words, columns in rows.items()))
        lines.append(f"| {kind} | " + " | ".join(cell or "refused" for cell in cells) + " |")
    return "\n".join([*lines, "", *(f"- **{word}**: {meaning}" for word, meaning in OUTCOMES.items())])


if __name__ == "__main__":
    print(markdown())
