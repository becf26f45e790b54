"""The lexer: what is a placeholder, what only looks like one, and what a statement does to the transaction."""

from __future__ import annotations

from typing import Any

import pytest

from mppool import errors
from mppool.database.runtime import drivers
from mppool.database.sql.driver_statement import POSTGRESQL_LIMIT, build
from mppool.database.sql.statements import parse

ALL = ("postgresql", "mysql", "sqlite", "sqlserver")


def names(provider: str, sql: str) -> tuple[str, ...]:
    return parse(provider, sql).names


@pytest.mark.parametrize("provider", ALL)
@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT :a", ("a",)),
        ("SELECT :a, :b, :a", ("a", "b")),
        ("SELECT ':a', :b", ("b",)),
        ("SELECT 'it''s :a', :b", ("b",)),
        ('SELECT ":a" FROM t WHERE x=:b', ("b",)),
        ("SELECT 1 -- :a\n, :b", ("b",)),
        ("SELECT 1 /* :a */, :b", ("b",)),
        ("SELECT '12:30', :b", ("b",)),
        ("SELECT :über, :_x1, :nai\u0308ve, :名", ("über", "_x1", "nai\u0308ve", "名")),
        ("SELECT :a\u3000, :b\xa0", ("a", "b")),
        ("SELECT :1, :2x", ("1", "2x")),
        ("SELECT x::int, :b", ("b",)),
        ("SELECT :a::int", ("a",)),
        ("LIMIT:n", ("n",)),
        ("SELECT 1:a, (x):b, 'x':c, \"x\":d, /**/:e", ("a", "b", "c", "d", "e")),
        ("SELECT a?b:c, ?:d, ?1, x:::e", ("c", "d", "e")),
        ("SELECT ':a", ()),
        ("SELECT /* :a", ()),
        ("SELECT :a:b", ("a", "b")),
        ("", ()),
    ],
)
def test_common_to_all(provider: str, sql: str, expected: tuple[str, ...]) -> None:
    assert names(provider, sql) == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (r"SELECT E'\':a', :b", ("b",)),
        (r"SELECT '\', :b, ':c'", ("b",)),
        ("SELECT E'x'\n'\\':a', :b", ("b",)),
        ("SELECT E'x' -- :a '\n--\r'\\':a', :b", ("b",)),  # comments may stand where it goes on
        ("SELECT E'x' '\\', :b", ("b",)),
        ("SELECT fooE'\\', 1.5E'\\':a', :b", ("b",)),
        ("SELECT $$ :a $$, $t$ :a $$ :a $t$, :b", ("b",)),
        ("SELECT a$b$ :c, :d FROM t$x$ WHERE :e", ("c", "d", "e")),
        ("SELECT $€$ :a $€$, €$x$ :b, ٣$x$ :c, 1$x$ :a $x$, :d", ("b", "c", "d")),
        ("SELECT $1, :b", ("b",)),
        ("SELECT 1 /* /* :a */ :a */, :b", ("b",)),
        ("SELECT arr[1:n], arr[lo:hi], arr[f(1):n], arr[1 : n], :b", ("b",)),
        ("SELECT arr[:i], arr[:a:b], arr[1: :c], arr[x+:d]", ("i", "a", "c", "d")),
        ("SELECT arr[:a::int]", ("a",)),
        ("SELECT ARRAY[:a, :b]", ("a", "b")),
        ("SELECT ARRAY[CASE WHEN :a THEN :b ELSE :c END], ARRAY[(SELECT :d)]", ("a", "b", "c", "d")),
        ("SELECT j->'a' ? 'b', j @> :b, j #>> '{a,:c}'", ("b",)),
        ("SELECT f(a := 1, b := :b)", ("b",)),
        ("SELECT x'1F', U&'\\0061:a', :b", ("b",)),
        ("SELECT $a", ()),
        ("SELECT U&\"\\0061:a\" UESCAPE '!', U&'!0061:a' UESCAPE '!', :b", ("b",)),
        ("SELECT arr[1.:n], :b", ("b",)),
        ("SELECT arr[:2], arr[1:2], arr[f(x) : 2], :1", ("1",)),
        ('SELECT x::name, x:: name, x::"name", :b', ("b",)),
    ],
)
def test_postgresql(sql: str, expected: tuple[str, ...]) -> None:
    assert names("postgresql", sql) == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (r"SELECT '\':a', :b", ("b",)),
        (r'SELECT "\":a", "x"":a", :b', ("b",)),
        ("SELECT `:a`, `x``:a`, :b", ("b",)),
        ("SELECT 1 # :a\n, :b", ("b",)),
        ("SELECT 1--:a", ("a",)),  # no comment without a space
        ("SET @x:=:a", ("a",)),
        ("SELECT 1 /* /* :a */, :b", ("b",)),
        (r"SELECT '\\', :b", ("b",)),
        ("SELECT 1 --\xa0:a\n, :b", ("a", "b")),  # nor with what only looks like one
        ("SELECT 1 --\x7f:a\n, :b", ("b",)),
        # what a server executes is no comment to it, whatever the version it is for
        ("SELECT /*!:a*/ /*!50100 + :b */ /*M! + :c */ /*M!100100+:d*/", ("a", "b", "c", "d")),
        ("SELECT /*! '*/ :a' /* :a */ + */ :b", ("b",)),
    ],
)
def test_mysql(sql: str, expected: tuple[str, ...]) -> None:
    assert names("mysql", sql) == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (r"SELECT '\', :b", ("b",)),
        ("SELECT [:a], `:a`, :b", ("b",)),
        ("SELECT [x], :b, [:c", ("b",)),
        ("SELECT 1 /* /* */, :b", ("b",)),
    ],
)
def test_sqlite(sql: str, expected: tuple[str, ...]) -> None:
    assert names("sqlite", sql) == expected


@pytest.mark.parametrize(
    ("provider", "sql", "effect"),
    [
        *[(provider, "begin", True) for provider in ALL],
        *[(provider, " /* x */ COMMIT ;", False) for provider in ALL],
        *[(provider, "rollback -- x", False) for provider in ALL],
        *[(provider, "SELECT 'BEGIN'", None) for provider in ALL],
        ("postgresql", "START TRANSACTION READ ONLY", True),
        ("mysql", "START SLAVE", None),
        ("postgresql", "ROLLBACK TO SAVEPOINT x", None),
        ("sqlite", "ROLLBACK TRANSACTION TO x", None),
        ("postgresql", "COMMIT AND CHAIN", True),
        ("postgresql", "COMMIT AND NO CHAIN", False),
        ("postgresql", "COMMIT PREPARED 'x'", None),
        ("postgresql", "PREPARE TRANSACTION 'x'", False),
        ("postgresql", "END", False),
        ("mysql", "END", None),
        ("postgresql", "ABORT", False),
        ("sqlite", "BEGIN IMMEDIATE", True),
        ("sqlite", "SAVEPOINT x", True),
        ("postgresql", "SAVEPOINT x", None),
        ("mysql", "BEGIN NOT ATOMIC SELECT 1; END", None),
        ("postgresql", "begin; select 1; commit", False),
        ("postgresql", "select 1; begin", True),
        ("postgresql", "begin;rollback", False),
        ("sqlite", "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END", None),
        ("sqlite", "CREATE TABLE t (a); BEGIN", True),
        ("sqlite", "BEGIN; CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END", True),
        ("postgresql", "DO $$ BEGIN NULL; END $$", None),
        ("mysql", "/*!40101 START TRANSACTION */", True),
        ("mysql", "/*M!100100 COMMIT */", False),
    ],
)
def test_transactions(provider: str, sql: str, effect: bool | None) -> None:
    assert parse(provider, sql).transaction is effect


def statement(provider: str, sql: str, parameters: dict[str, Any] | None) -> Any:
    return build(drivers.state.get("sqlite"), provider, parse(provider, sql), sql, parameters)


def test_the_core_replaces_exactly_the_placeholders() -> None:
    """What its blind replacement would otherwise hit: longer names, casts, strings, its own tokens."""
    sql = "SELECT :p, :pysqlx, :p, :a, :a1, x::a, ':a', \":p\" -- :a1"
    made = statement("postgresql", sql, {"p": 1, "pysqlx": 2, "a": 3, "a1": 4})
    assert made.sql() == "SELECT $1, $2, $3, $4, $5, x::a, ':a', \":p\" -- :a1"
    assert made.params() == [1, 2, 1, 3, 4]


def test_private_keys_avoid_the_text() -> None:
    sql = "SELECT ':mp0 :mpq0 :mpqq1', :a, :b"
    made = statement("sqlite", sql, {"a": 1, "b": 2})
    assert made.sql() == "SELECT ':mp0 :mpq0 :mpqq1', ?, ?"
    assert made.params() == [1, 2]


@pytest.mark.parametrize(("provider", "mark"), [("postgresql", "$1"), ("sqlserver", "@P1"), ("sqlite", "?")])
def test_a_placeholder_does_not_become_part_of_a_name_before_it(provider: str, mark: str) -> None:
    assert statement(provider, "SELECT 1 LIMIT:n", {"n": 1}).sql() == f"SELECT 1 LIMIT {mark}"
    assert statement(provider, "SELECT é:n", {"n": 1}).sql() == f"SELECT é {mark}"
    assert statement(provider, "SELECT (:n", {"n": 1}).sql() == f"SELECT ({mark}"


def test_without_parameters_the_text_is_untouched() -> None:
    sql = "SELECT :a, x::int, ':mp0'"
    assert statement("postgresql", sql, None).sql() == sql


def test_missing_and_surplus_are_named() -> None:
    with pytest.raises(errors.ParameterInvalidValueError) as missing:
        statement("sqlite", "SELECT :a, :b", {"a": 1})
    assert missing.value.field == "b"
    assert ":b" in str(missing.value)
    with pytest.raises(errors.ParameterInvalidValueError) as surplus:
        statement("sqlite", "SELECT :a", {"a": 1, "c": 2})
    assert surplus.value.field == "c"
    with pytest.raises(errors.ParameterInvalidValueError):
        statement("sqlite", "SELECT :a", {})
    assert statement("sqlite", "SELECT 1", {}).sql() == "SELECT 1"


@pytest.mark.parametrize(
    ("sql", "shield"),
    [
        ("SELECT ':x', \":x\", a:=1, :y, 12:30", ""),
        ("SELECT 1 /* :x */", '/*"*/'),
        ("SELECT 1 -- don't\n, ':x'", '/*"*/'),
        (r"SELECT '\\', ':x'", '/*"*/'),
        ("SELECT 1 AS `:x`", '/*"*/'),
        ('SELECT "a:b" /* :x */', "/*'*/"),
        ("SELECT \"a:b\", 'a:b' /* :x */", None),
    ],
)
def test_the_driver_of_mysql_is_kept_from_names_of_its_own(sql: str, shield: str | None) -> None:
    assert parse("mysql", sql).shield == shield
    assert parse("sqlite", sql).shield == ""
    if shield:
        assert statement("mysql", sql, None).sql() == shield + sql
        assert statement("mysql", sql + ", :y", {"y": 1}).sql() == shield + sql + ", ?"


@pytest.mark.parametrize("parameters", [[1], (1,), "a", 0, {1: 1}])
def test_parameters_must_be_a_dict_of_names(parameters: Any) -> None:
    with pytest.raises(TypeError):
        statement("sqlite", "SELECT :a", parameters)


@pytest.mark.parametrize("sql", [None, 1, b"SELECT 1"])
def test_sql_must_be_text(sql: Any) -> None:
    with pytest.raises(TypeError, match="sql must be a str"):
        parse("sqlite", sql)


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        statement("sqlite", "SELECT '\ud800'", None)


def test_too_many_placeholders_on_postgresql() -> None:
    def query(count: int) -> Any:
        keys = [f"k{number}" for number in range(count)]
        sql = "SELECT " + ", ".join(f":{key}" for key in keys)
        return statement("postgresql", sql, dict.fromkeys(keys, 1))

    assert query(127).sql().endswith("$127")
    with pytest.raises(ValueError, match="65,535 placeholders, this one has 65,536"):
        query(POSTGRESQL_LIMIT + 1)


def test_a_long_statement_is_read_in_linear_time() -> None:
    """Quadratic reading of a megabyte would take minutes."""
    sql = "SELECT " + ", ".join(f"'x:{number}', :a" for number in range(60_000))
    assert parse("mysql", sql).count == 60_000
    assert parse("postgresql", "/*" * 100_000 + ":a").count == 0
    assert parse("postgresql", "'" * 200_001 + ":a").count == 0


@pytest.mark.parametrize("provider", ["postgresql", "mysql", "sqlite"])
def test_a_missing_parameter_is_called_missing(provider: str) -> None:
    with pytest.raises(errors.ParameterInvalidValueError, match="parameter 'b' is missing") as missing:
        statement(provider, "SELECT :a, :b", {"a": 1})
    assert "nothing" not in str(missing.value)
    assert "the statement has :b" in str(missing.value)
    assert isinstance(missing.value, TypeError)  # as PySQLXEngine's users catch it
