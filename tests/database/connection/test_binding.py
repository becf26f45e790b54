"""Binding on PostgreSQL: the server is asked once, every placeholder gets its type, and what changes is noticed."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from mppool import errors
from mppool.database.connection import binding
from mppool.database.connection.async_connection import PySQLXEngine
from mppool.database.connection.sync_connection import PySQLXEngineSync


class Level(enum.IntEnum):
    HIGH = 3


@pytest.fixture
def conn(postgres_uri: str) -> Iterator[PySQLXEngineSync]:
    binding._plans.clear()
    with PySQLXEngineSync(postgres_uri) as one:
        one.raw_cmd("DROP TABLE IF EXISTS bound; CREATE TABLE bound (id int8, name text, price float8, day date)")
        yield one
        one.raw_cmd("DROP TABLE IF EXISTS bound CASCADE")


class Calls:
    """Counts what goes to the database."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from mppool.database.connection.link import Link

        self.seen: list[str] = []
        real = Link.call

        async def call(link: Any, method: str, *arguments: Any) -> Any:
            self.seen.append(arguments[0].sql() if hasattr(arguments[0], "sql") else method)
            return await real(link, method, *arguments)

        monkeypatch.setattr(Link, "call", call)


@pytest.fixture
def calls(conn: PySQLXEngineSync, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return Calls(monkeypatch).seen


def prepared(conn: PySQLXEngineSync) -> int:
    sql = "SELECT count(*) AS n FROM pg_prepared_statements WHERE name LIKE 'mppool%'"
    return int(conn.query_first(sql).n)


# --- asking -------------------------------------------------------------------------------------------------


def test_the_server_is_asked_once_for_a_statement(conn: PySQLXEngineSync, calls: list[str], postgres_uri: str) -> None:
    sql = "INSERT INTO bound (id, price) VALUES (:id, :price)"
    conn.execute(sql, {"id": 1, "price": 2})
    assert [text.split()[0] for text in calls] == ["PREPARE", "WITH", "DEALLOCATE", "INSERT"]
    calls.clear()
    conn.execute(sql, {"id": 2, "price": 0.5})
    with PySQLXEngineSync(postgres_uri) as other:
        other.execute(sql, {"id": 3, "price": None})
    assert [text.split()[0] for text in calls] == ["INSERT", "INSERT"]
    assert prepared(conn) == 0
    rows = conn.query_as_dict("SELECT id, price FROM bound ORDER BY id")
    assert rows == [{"id": 1, "price": 2.0}, {"id": 2, "price": 0.5}, {"id": 3, "price": None}]


def test_without_parameters_nothing_is_asked(conn: PySQLXEngineSync, calls: list[str]) -> None:
    assert conn.query_first("SELECT 1 AS a").a == 1
    assert conn.query_first("SELECT 1 AS a", {}).a == 1
    assert calls == ["SELECT 1 AS a"] * 2


def test_the_answers_kept_are_bounded(conn: PySQLXEngineSync, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "_REMEMBERED", 3)
    monkeypatch.setattr(binding, "_VARIANTS", 2)
    for number in range(5):
        conn.query(f"SELECT :a::int AS a{number}", {"a": number})
        conn.query("SELECT :a::int AS used", {"a": number})  # the one in use is not the one to go
    assert len(binding._plans) == 3
    assert [sql for _, sql in binding._plans][-1] == "SELECT :a::int AS used"
    for value in (1, True, 1.5, Decimal(1), dt.date(2024, 1, 1), "x"):
        conn.query("SELECT :a AS b", {"a": value})
    assert len(next(reversed(binding._plans.values())).texts) <= 2


def test_an_error_of_the_statement_is_raised_as_its_own(conn: PySQLXEngineSync, calls: list[str]) -> None:
    with pytest.raises(errors.QueryError, match="nowhere") as query:
        conn.query("SELECT * FROM nowhere WHERE a = :a", {"a": 1})
    with pytest.raises(errors.ExecuteError, match="nowhere") as execute:
        conn.execute("DELETE FROM nowhere WHERE a = :a", {"a": 1})
    assert (query.value.code, execute.value.code) == ("42P01", "42P01")
    assert all(text.startswith("PREPARE") for text in calls)
    assert conn.query_first("SELECT :a::int AS a", {"a": 1}).a == 1


def test_in_a_failed_transaction(conn: PySQLXEngineSync) -> None:
    conn.begin()
    with pytest.raises(errors.QueryError):
        conn.query("SELECT 1/0")
    with pytest.raises(errors.QueryError) as aborted:
        conn.query("SELECT :a::int AS a", {"a": 1})
    assert aborted.value.code == "25P02"
    conn.rollback()
    assert conn.query_first("SELECT :a::int AS a", {"a": 1}).a == 1


@pytest.mark.parametrize("sql", ["SELECT :a::int; DROP TABLE bound", "SELECT :a::int AS a; SELECT ';'"])
def test_a_second_statement_is_never_run(conn: PySQLXEngineSync, sql: str) -> None:
    with pytest.raises(errors.QueryError) as refused:
        conn.query(sql, {"a": 1})
    assert refused.value.code == "42601"
    assert conn.query("SELECT * FROM bound") == []


def test_semicolons_that_separate_nothing(conn: PySQLXEngineSync) -> None:
    assert conn.query_first("SELECT :a::int AS a, ';' AS b;", {"a": 1}).a == 1
    assert conn.query_first("-- x\n/* ; :b */ (SELECT :a::float4 AS a)", {"a": 1}).a == 1.0


def test_the_cores_own_statements_live_on(conn: PySQLXEngineSync) -> None:
    """A DEALLOCATE of any other name would make this fail for as long as the connection lives."""
    sql = "SELECT :a::int AS a"
    for number in range(3):
        assert conn.query_first(sql, {"a": number}).a == number
        conn.query(f"SELECT :a::int AS b{number}", {"a": 1})
    assert conn.is_healthy()


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("EXPLAIN SELECT * FROM bound WHERE id = :a AND price > :b", None),
        ("/* /* */ */ SELECT :a AS a, :b AS b", [{"a": 5, "b": 0.1}]),
    ],
)
def test_what_cannot_be_asked_goes_by_python_type(
    conn: PySQLXEngineSync, calls: list[str], sql: str, rows: list[dict[str, Any]] | None
) -> None:
    got = conn.query_as_dict(sql, {"a": 5, "b": 0.1})
    assert got == rows if rows else got
    assert len(calls) == 1


def test_calls_and_tables_made_of_queries(conn: PySQLXEngineSync) -> None:
    conn.raw_cmd("CREATE OR REPLACE PROCEDURE put(a int, b text) LANGUAGE sql AS 'INSERT INTO bound VALUES (a, b)'")
    conn.execute("CALL put(:a, :b)", {"a": 7, "b": "x"})
    conn.execute(
        "CREATE TEMP TABLE made AS SELECT :a AS a, :b AS b, :c AS c", {"a": 2**40, "b": Decimal("1.5"), "c": (1, 2)}
    )
    assert conn.query_as_dict("SELECT id, name FROM bound") == [{"id": 7, "name": "x"}]
    assert conn.query_first_as_dict("SELECT * FROM made") == {"a": 2**40, "b": Decimal("1.5"), "c": (1, 2)}
    conn.raw_cmd("DROP PROCEDURE put")


def test_a_proxy_that_asks_another_session(
    conn: PySQLXEngineSync, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row comes back: every value goes with the cast to its own type."""
    monkeypatch.setattr(binding, "_DESCRIBE", "SELECT 1::int8 AS number WHERE :name::text = 'x'")
    sql = "INSERT INTO bound VALUES (:id, :name, :price, :day)"
    values = {"id": 5, "name": "x", "price": 1, "day": dt.date(2024, 2, 29)}
    conn.execute(sql, values)
    conn.execute(sql, values)
    assert [text.split()[0] for text in calls] == ["PREPARE", "SELECT", "INSERT", "INSERT"]
    assert conn.query_as_dict("SELECT * FROM bound") == [values] * 2
    with pytest.raises(errors.ExecuteError) as refused:
        conn.execute(sql, values | {"id": "12345678"})
    assert refused.value.code == "42804"


def test_a_proxy_that_forgets_in_another_session(conn: PySQLXEngineSync, monkeypatch: pytest.MonkeyPatch) -> None:
    real = binding.driver_statement.make

    def make(core: Any, provider: str, sql: str, values: Any) -> Any:
        return real(core, provider, "DEALLOCATE nothing" if sql.startswith("DEALLOCATE") else sql, values)

    monkeypatch.setattr(binding.driver_statement, "make", make)
    assert conn.query_first("SELECT :a::int AS a", {"a": 1}).a == 1
    assert conn.is_healthy()


def test_async(postgres_uri: str) -> None:
    async def main() -> None:
        async with PySQLXEngine(postgres_uri) as conn:
            for _ in range(2):
                row = await conn.query_first("SELECT :a::float8 AS a, :b AS b", {"a": 1, "b": uuid.UUID(int=1)})
                assert (row.a, row.b) == (1.0, uuid.UUID(int=1))

    binding._plans.clear()
    asyncio.run(main())


# --- types --------------------------------------------------------------------------------------------------


def test_one_name_may_have_two_types(conn: PySQLXEngineSync) -> None:
    conn.execute("INSERT INTO bound (id, name, price) VALUES (:a, :a, :a)", {"a": 5})
    assert conn.query_as_dict("SELECT id, name, price FROM bound") == [{"id": 5, "name": "5", "price": 5.0}]


def test_an_untyped_placeholder_gives_the_value_back(conn: PySQLXEngineSync) -> None:
    values = {
        "a": True,
        "b": 0.1,
        "c": Decimal("1.10"),
        "d": dt.date(2024, 2, 29),
        "e": None,
        "f": "x",
        "g": Level.HIGH,
    }
    row = conn.query_first_as_dict("SELECT " + ", ".join(f":{name} AS {name}" for name in values), values)
    assert row == values | {"g": "3"}


def test_unnamed_columns_keep_their_names(conn: PySQLXEngineSync) -> None:
    assert conn.query_first_as_dict("select :a, :b ;", {"a": "x", "b": 0.5}) == {"col_0": "x", "col_1": 0.5}


def test_places_where_a_cast_could_break_the_syntax(conn: PySQLXEngineSync) -> None:
    sql = (
        "SELECT (ARRAY[:a, 2])[:i] AS a, :t[1] AS t FROM generate_series(:lo::int, :hi::int) g WHERE g IN (:lo, :hi) "
        "ORDER BY g OFFSET :o ROWS FETCH FIRST :n ROWS ONLY"
    )
    values = {"a": 1, "i": 2, "t": ("x",), "lo": 1, "hi": 2, "o": 0, "n": 1}
    assert conn.query_as_dict(sql.replace(":t", "(:t::text[])"), values) == [{"a": 2, "t": "x"}]
    assert conn.query_as_dict("SELECT x FROM (VALUES (1), (2)) v(x) LIMIT:n", {"n": 1}) == [{"x": 1}]
    assert conn.query_as_dict("SELECT 1 AS x WHERE 'a' LIKE:p AND 5 = ANY(:ids)", {"p": "a%", "ids": (4, 5)}) == [
        {"x": 1}
    ]


def test_types_with_odd_names(conn: PySQLXEngineSync) -> None:
    conn.raw_cmd(
        """CREATE SCHEMA mp0; CREATE TYPE mp0."M ""x:mp" AS ENUM ('a'); CREATE TABLE mp0.t (v mp0."M ""x:mp")"""
    )
    conn.execute("INSERT INTO mp0.t VALUES (:v)", {"v": "a"})
    assert conn.query_first("SELECT v FROM mp0.t WHERE v = :v", {"v": "a"}).v == "a"
    conn.raw_cmd("DROP SCHEMA mp0 CASCADE")


@pytest.mark.parametrize("style", ["German", "SQL, DMY", "Postgres, YMD"])
def test_session_settings_do_not_matter(conn: PySQLXEngineSync, style: str) -> None:
    conn.raw_cmd(f"SET DateStyle = '{style}'; SET TimeZone = 'America/New_York'; SET extra_float_digits = -15")
    moment = dt.datetime(2024, 2, 3, 4, 5, 6, 7, tzinfo=dt.timezone.utc)
    values = {"a": (moment,), "b": moment, "c": (dt.date(1, 2, 3),), "d": 0.1 + 0.2, "e": (b"\\x41",)}
    sql = "SELECT :a::timestamptz[] AS a, :b::timestamptz AS b, :c::date[] AS c, :d::float8 AS d, :e::bytea[] AS e"
    assert conn.query_first_as_dict(sql, values) == values
    assert conn.query_first("SELECT :a::timestamp AS a", {"a": dt.date(31, 2, 3)}).a == dt.datetime(
        31, 2, 3, tzinfo=dt.timezone.utc
    )


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("int8", True, ":v::"),
        ("int8", 1.5, "whole number"),
        ("int4", 2**31, "2147483647"),
        ("float8", 2**53 + 1, "exactly"),
        ("float8", Decimal("0.1000000000000000000001"), "exactly"),
        ("money", Decimal("1.005"), "cents"),
        ("date", dt.datetime(2024, 1, 1, 1), "value.date()"),
        ("bytea", "abc", ":v::"),
        ("text", b"abc", ":v::"),
        ("text", "a\0b", "NUL"),
        ("name", "x" * 64, "63 bytes"),
        ("int8", (1, 2), "ANY(:v)"),
        ("int8[]", (1, "2"), None),
        ("int8[]", (1, True), "tuple"),
        ("numeric", float("nan"), "finite"),
        ("float8", 10**400, "64 bits"),
        ("float4", 10**400, "64 bits"),
    ],
)
def test_refusals_say_what_to_do(conn: PySQLXEngineSync, column: str, value: Any, why: str | None) -> None:
    sql = f"SELECT :v::{column} AS v"
    if why is None:
        assert conn.query_first(sql, {"v": value}).v == (1, 2)
        return
    with pytest.raises(errors.ParameterInvalidValueError) as refused:
        conn.query(sql, {"v": value})
    assert refused.value.field == "v"
    assert why in (refused.value.details or "")
    assert refused.value.typ_from == type(value).__name__


# --- more placeholders than the driver can number -----------------------------------------------------------

MIXED: dict[str, list[Any]] = {
    "int8": [1, -(2**63), None],
    "numeric": [Decimal("1.10"), Decimal("1E+300"), 3, None],
    "float8": [0.1, float("inf"), 5e-324, 2, None],
    "text": ["", "v", "it's \\ \" {x,y} NULL ü\U0001f600", None, {"a": 1}, True, 7],
    "bytea": [b"", b"\0\xff\\", None],
    "bool": [True, False, None],
    "date": [dt.date(1, 1, 1), dt.date(2024, 2, 29), None],
    "time": [dt.time(23, 59, 59, 999_999), None],
    "timestamp": [dt.datetime(2024, 2, 29, 1, 2, 3, 4), dt.datetime(1, 1, 1), None],
    "timestamptz": [dt.datetime(2024, 2, 29, 12, tzinfo=dt.timezone(dt.timedelta(hours=5))), dt.datetime(2024, 1, 1)],
    "uuid": [uuid.UUID(int=7), None],
    "jsonb": [{"a": [1, None, 'x"\\', 0.1]}, [], None],
    "money": [Decimal("12.34"), None],
    "int4[]": [(1, None, 3), [4, 5], (), None],
    "text[]": [("a", 'q"\\', "NULL", "", None)],
    "varchar(3)": ["abc", Level.HIGH],
}


@pytest.mark.parametrize("count", [127, 128, 129, 256, 257, 1000, 10_000])
def test_as_many_values_as_are_wanted(conn: PySQLXEngineSync, count: int) -> None:
    """Each arrives as it would alone."""
    conn.raw_cmd("SET TimeZone = 'Asia/Tokyo'")
    columns = ", ".join(f"c{number} {typ}" for number, typ in enumerate(MIXED))
    conn.raw_cmd(f"DROP TABLE IF EXISTS mixed; CREATE TABLE mixed (id int, {columns}); CREATE TABLE alone (LIKE mixed)")
    most = max(map(len, MIXED.values()))
    rows = [[values[row % len(values)] for values in MIXED.values()] for row in range(most)]
    alone = f"INSERT INTO alone VALUES (:id, {', '.join(f':v{at}' for at in range(len(MIXED)))})"
    for number, row in enumerate(rows):
        conn.execute(alone, {"id": number, **{f"v{at}": value for at, value in enumerate(row)}})
    parts, parameters = [], {}
    for place in range(count // (len(MIXED) + 1)):
        names = [f"p{place}_{at}" for at in range(len(MIXED) + 1)]
        parts.append(f"(:{names[0]} + 0, {', '.join(f':{name}' for name in names[1:])})")
        parameters.update(zip(names, [place % most, *rows[place % most]], strict=True))
    rest = [f"r{number}" for number in range(count - len(parameters))]
    parameters.update(dict.fromkeys(rest, 5))
    parts[0] = parts[0].replace("+ 0", "+ 0 * (0" + "".join(f" + :{name}" for name in rest) + ")", 1)
    sql = f"INSERT INTO mixed VALUES {', '.join(parts)}"
    try:
        for _ in range(2):
            assert conn.execute(sql, parameters) == len(parts)
        same = "SELECT count(*) AS n FROM mixed m JOIN alone a ON m.id = a.id AND m::text = a::text"
        assert conn.query_first(same).n == 2 * len(parts)
    finally:
        conn.raw_cmd("DROP TABLE mixed; DROP TABLE alone")


def test_many_of_no_type(conn: PySQLXEngineSync) -> None:
    names = [f"a{number}" for number in range(200)]
    values: dict[str, Any] = {name: [None, "x", "", Level.HIGH][number % 4] for number, name in enumerate(names)}
    row = conn.query_first_as_dict("SELECT " + ", ".join(f":{name} AS {name}" for name in names), values)
    assert row == {name: str(value.value) if isinstance(value, Level) else value for name, value in values.items()}


def test_one_that_is_refused_among_many(conn: PySQLXEngineSync) -> None:
    names = [f"a{number}" for number in range(300)]
    values: dict[str, Any] = dict.fromkeys(names, 1)
    sql = "SELECT 1 AS a WHERE 1::int4 IN (" + ", ".join(f":{name}" for name in names) + ")"
    assert conn.query_first(sql, values).a == 1
    with pytest.raises(errors.ParameterInvalidValueError) as refused:
        conn.query(sql, {**values, "a250": 2**40})
    assert refused.value.field == "a250"


def test_the_big_plans_kept_are_few(conn: PySQLXEngineSync) -> None:
    names = [f"a{number}" for number in range(130)]
    sql = "SELECT 1 AS a WHERE 1 IN (" + ", ".join(f":{name}" for name in names) + ")"
    for number in range(binding._BIG_REMEMBERED + 3):
        conn.query(f"{sql} AND {number} = {number}", dict.fromkeys(names, 1))
    assert len(binding._plans) == binding._BIG_REMEMBERED


def test_no_more_than_the_server_can_number(conn: PySQLXEngineSync) -> None:
    names = [f"a{number}" for number in range(65_536)]
    with pytest.raises(ValueError, match=r"65,535 placeholders.*ANY\(:name\)"):
        conn.query("SELECT 1 WHERE 1 IN (" + ", ".join(f":{name}" for name in names) + ")", dict.fromkeys(names, 1))


# --- arrays of types that are not built in --------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


@pytest.fixture
def types(conn: PySQLXEngineSync) -> Iterator[None]:
    drop = 'DROP TABLE IF EXISTS arrays; DROP DOMAIN IF EXISTS tints, small, smaller, "od d"; DROP TYPE IF EXISTS tint'
    conn.raw_cmd(
        f"{drop}; CREATE TYPE tint AS ENUM ('red', 'green'); CREATE DOMAIN smaller AS int4 CHECK (VALUE < 100); "
        'CREATE DOMAIN small AS smaller; CREATE DOMAIN "od d" AS text; CREATE DOMAIN tints AS tint[]; '
        'CREATE TABLE arrays (e tint[], s small[], i inet[], v interval[], o "od d"[], t tints)'
    )
    yield
    conn.raw_cmd(drop)


@pytest.mark.usefixtures("types")
@pytest.mark.parametrize(
    ("column", "value", "stored"),
    [
        ("e", ("red", None, "green"), "{red,NULL,green}"),
        ("e", (Colour.RED,), "{red}"),
        ("e", ["red"], "{red}"),
        ("e", (), "{}"),
        ("e", "{green}", "{green}"),
        ("e", None, None),
        ("s", (1, -5, None), "{1,-5,NULL}"),
        ("s", [99], "{99}"),
        ("i", ("10.0.0.1", "::1", None), "{10.0.0.1,::1,NULL}"),
        ("v", ("1 day", "02:00:00"), '{"1 day",02:00:00}'),
        ("o", ("a b", 'x"'), '{"a b","x\\""}'),
        ("t", ("green", "red"), "{green,red}"),
    ],
)
def test_arrays_of_any_type(conn: PySQLXEngineSync, column: str, value: Any, stored: str | None) -> None:
    conn.execute(f"INSERT INTO arrays ({column}) VALUES (:v)", {"v": value})
    assert conn.query_first(f"SELECT {column}::text AS v FROM arrays").v == stored


@pytest.mark.usefixtures("types")
def test_what_does_not_fit_such_an_array(conn: PySQLXEngineSync) -> None:
    for column, value in (("s", ("x", 1.5)), ("e", (1,)), ("s", (2**40,))):
        with pytest.raises(errors.ParameterInvalidValueError):
            conn.execute(f"INSERT INTO arrays ({column}) VALUES (:v)", {"v": value})
    for column, value in (("e", ("blue",)), ("s", (100,))):
        with pytest.raises(errors.ExecuteError):
            conn.execute(f"INSERT INTO arrays ({column}) VALUES (:v)", {"v": value})


@pytest.mark.parametrize("made", [tuple, list])
def test_a_list_goes_where_a_tuple_goes(conn: PySQLXEngineSync, made: Any) -> None:
    assert conn.query_first("SELECT 2 = ANY(:ids) AS a, :ids::int8[] AS b", {"ids": made([1, 2])}).a is True
    assert conn.query_first("SELECT :j::jsonb AS j", {"j": [1, 2]}).j == [1, 2]


# --- change -------------------------------------------------------------------------------------------------

INSERT = "INSERT INTO bound (price) VALUES (:v)"


def test_a_change_through_this_process_is_noticed(conn: PySQLXEngineSync) -> None:
    conn.execute(INSERT, {"v": 0.5})
    conn.raw_cmd("ALTER TABLE bound DROP COLUMN price; ALTER TABLE bound ADD price date")
    conn.execute(INSERT, {"v": dt.date(2024, 2, 29)})
    assert conn.query_first("SELECT max(price) AS v FROM bound").v == dt.date(2024, 2, 29)


def test_a_change_by_somebody_else_is_an_error_once(conn: PySQLXEngineSync, postgres_uri: str) -> None:
    conn.execute(INSERT, {"v": 0.5})
    changed = dict(binding._plans)
    conn.raw_cmd("ALTER TABLE bound DROP COLUMN price; ALTER TABLE bound ADD price uuid")
    binding._plans.update(changed)  # as if it had not gone through this process
    with PySQLXEngineSync(postgres_uri) as other:
        with pytest.raises(errors.ExecuteError) as stale:
            other.execute(INSERT, {"v": None})
        assert stale.value.code == "42804"
        other.execute(INSERT, {"v": uuid.UUID(int=1)})
        assert other.query_first("SELECT max(price::text) AS v FROM bound").v == str(uuid.UUID(int=1))


def test_a_refusal_asks_again_first(conn: PySQLXEngineSync) -> None:
    conn.execute(INSERT, {"v": 0.5})
    changed = dict(binding._plans)
    conn.raw_cmd("ALTER TABLE bound ALTER price TYPE text")
    binding._plans.update(changed)
    conn.execute(INSERT, {"v": uuid.UUID(int=1)})
    assert conn.query_first("SELECT max(price) AS v FROM bound WHERE price LIKE '%-%'").v == str(uuid.UUID(int=1))


@pytest.mark.parametrize(
    ("before", "after", "value", "stored"),
    [("int8", "float8", 5, 5.0), ("float8", "int8", 5, 5), ("text", "int8", None, None), ("int4", "text", 5, "5")],
)
def test_a_type_of_before_never_becomes_other_bytes(
    conn: PySQLXEngineSync, postgres_uri: str, before: str, after: str, value: Any, stored: Any
) -> None:
    conn.raw_cmd(f"DROP TABLE bound; CREATE TABLE bound (price {before})")
    conn.execute(INSERT, {"v": value})
    changed = dict(binding._plans)
    conn.raw_cmd(f"DROP TABLE bound; CREATE TABLE bound (price {after})")
    binding._plans.update(changed)
    with PySQLXEngineSync(postgres_uri) as other:
        try:
            other.execute(INSERT, {"v": value})
        except errors.ExecuteError as error:
            assert error.code == "42804"  # noqa: PT017
            other.execute(INSERT, {"v": value})
        assert other.query_first("SELECT price FROM bound").price == stored


# --- functions that return nothing ----------------------------------------------------------------------------


def test_void_is_none(conn: PySQLXEngineSync) -> None:
    assert conn.query_first_as_dict("SELECT pg_sleep(0)") == {"pg_sleep": None}
    assert conn.query_first("SELECT pg_advisory_xact_lock(:n) AS lock", {"n": 5}).lock is None
    assert conn.query_as_dict("SELECT pg_notify('a', 'b')") == [{"pg_notify": None}]
    assert conn.query("SELECT pg_sleep(0)")[0].model_dump() == {"pg_sleep": None}
    assert conn.is_healthy()


@pytest.mark.parametrize("sql", ["SELECT pg_sleep(0), 1 AS b", "SELECT pg_sleep(0) FROM generate_series(1, 3)"])
def test_void_beside_others_says_what_to_do(conn: PySQLXEngineSync, sql: str) -> None:
    with pytest.raises(errors.QueryError, match=r"::text"):
        conn.query(sql)
    assert conn.query_first("SELECT 1 AS a").a == 1
