"""The order of columns: what is read off a statement against what the databases say themselves.

The judges are other drivers, which keep the order that the core forgets: sqlite3, psycopg and PyMySQL.
"""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pymysql
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mppool.database.connection.sync_connection import PySQLXEngineSync
from mppool.database.sql import statements
from mppool.database.sql.columns import arranged, in_order, selected
from mppool.settings import Database

PG, MY, LITE = "postgresql", "mysql", "sqlite"
ALL = (PG, MY, LITE)
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?(inf|infinity|nan)", re.IGNORECASE)


def as_core(described: list[str]) -> list[str]:
    """The core's names for these columns; what is overwritten is not there twice."""
    names: list[str] = []
    count = 1
    for index, name in enumerate(described):
        name = f"col_{index}" if name in ("", "?column?") else name
        if NUMBER.fullmatch(name):
            name = "col_" + name.lstrip("-.").replace(".", "_")
        if name in names:
            name, count = f"{name}_{count}", count + 1
        if name not in names:
            names.append(name)
    return names


# What is read off a statement, without any database. None: nothing; "?": the one that remains.
READ: list[tuple[tuple[str, ...], str, str | None]] = [
    (ALL, "SELECT b, a FROM t", "b|a"),
    (ALL, "select t.b , x.y.a\nfrom t", "b|a"),
    (ALL, "SELECT 1 AS b, 'x, y' AS a", "b|a"),
    (ALL, "SELECT b AS \"a b\", 2 AS a WHERE ', c' = ''", "a b|a"),
    ((MY,), "SELECT b AS `from`, `a``b` FROM t", "from|a`b"),
    ((MY,), 'SELECT b AS \'from\', a AS "x""y" FROM t', 'from|x"y'),
    ((MY,), "SELECT b AS 'a\\'b', a, c FROM t", "?|a|c"),
    ((LITE,), "SELECT b AS [x y], `a` FROM t", "x y|a"),
    ((PG,), 'SELECT B, A AS Ä, "B" AS "A" FROM t', "b|Ä|A"),
    ((MY, LITE), "SELECT B, x AS Ä FROM t", "B|Ä"),
    ((MY, LITE), "SELECT A, u.a FROM t", None),  # may come as a, A
    ((MY, LITE), "SELECT x AS A, y AS a FROM t", "A|a"),
    ((PG,), 'SELECT "A", a FROM t', "A|a"),
    (ALL, "SELECT f(a, b) z, (a) y, t.c x FROM t", "z|y|x"),
    (ALL, "SELECT CASE WHEN a THEN b ELSE (SELECT c, d FROM u) END b, a", "b|a"),
    ((PG,), "SELECT CASE a WHEN 1 THEN 2 END, a AS b, c FROM t", "?|b|c"),
    (ALL, "SELECT a, *, b FROM t", None),
    (ALL, "SELECT t.*, b FROM t", None),
    (ALL, "SELECT a * b AS z, c FROM t", "z|c"),
    (ALL, "SELECT b, b, a, b, a FROM t", "b|b_1|a|b_2|a_3"),
    (ALL, "SELECT a, a_1, a FROM t", None),
    (ALL, "SELECT a, :p, b FROM t", "a|?|b"),
    (ALL, "SELECT a, a, :p FROM t", None),
    (ALL, "SELECT :p, :q, a FROM t", None),  # two
    (ALL, "SELECT :p AS b, :q AS a", "b|a"),
    (ALL, "SELECT b /* , c */ , a -- , d\n FROM t", "b|a"),
    (ALL, "SELECT DISTINCT b, a FROM t", "b|a"),
    ((PG,), "SELECT DISTINCT ON (c, d) b, a FROM t", "b|a"),
    ((PG,), "SELECT a IS DISTINCT FROM b AS z, a FROM t", "z|a"),
    ((PG,), "SELECT 1, 'x', count(*), max(b)::int, s.f(c) OVER (ORDER BY d), e[1]", "col_0|col_1|count|max|f|e"),
    ((PG,), "SELECT b::numeric(3, 1)[], a::pg_catalog.text FROM t", "b|a"),
    ((PG,), "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY a) FILTER (WHERE b), a", "percentile_cont|a"),
    ((PG,), "SELECT b::double precision, a AS z, c FROM t", "?|z|c"),
    ((PG,), "SELECT a OPERATOR(pg_catalog.+) b, c", "?|c"),
    ((PG,), 'SELECT $$a, b$$ AS z, $x$ AS "$x$ AS y', "z|y"),
    ((PG,), "SELECT ARRAY[a, b] AS z, x[1:2] AS y", "z|y"),
    ((PG,), f"SELECT {'x' * 64}, a, b FROM t", "?|a|b"),
    ((PG,), 'SELECT a AS U&"d\\0061t", b, c', "?|b|c"),
    ((MY, LITE), "SELECT count(*), max( b ), a FROM t", "count(*)|max( b )|a"),
    ((MY, LITE), "SELECT count(*), :p FROM t", None),
    ((MY,), "SELECT /*!80000 b, */ a, c FROM t", None),
    ((MY,), "SELECT SQL_NO_CACHE b, a FROM t", "b|a"),
    (ALL, 'SELECT 1 AS "1", 2 AS nan, 3 AS a', None),
    (ALL, 'SELECT 1 AS "1a", 2 AS b', "?|b"),
    (ALL, 'SELECT 1 AS limit, 2 AS "union" LIMIT 1', "limit|union"),
    (ALL, "SELECT t.offset, a FROM t", "offset|a"),
    (ALL, "SELECT b, a UNION SELECT c, d", "b|a"),
    (ALL, "WITH x (p, q) AS (SELECT 1, 2), y AS (SELECT 3 AS r, 4) SELECT b, a FROM x, y", "b|a"),
    (ALL, "WITH RECURSIVE x AS NOT MATERIALIZED (SELECT 1) SELECT b, a FROM x", "b|a"),
    ((PG,), "WITH update AS (SELECT 1 AS c) SELECT b, a FROM x", "b|a"),
    ((PG,), "WITH x AS (SELECT 1) SEARCH DEPTH FIRST BY y SET z SELECT b, a FROM x", None),
    ((PG, LITE), "INSERT INTO t (a, b) SELECT c, d FROM u RETURNING b, a", "b|a"),
    ((PG, LITE), "WITH x AS (SELECT 1) UPDATE t SET a = (SELECT c FROM u) RETURNING b AS z, a", "z|a"),
    ((PG, LITE), "DELETE FROM t RETURNING *", None),
    (ALL, "INSERT INTO t VALUES (1, 2)", None),
    (ALL, "VALUES (1, 2)", None),
    (ALL, "(SELECT b, a) UNION (SELECT c, d)", None),
    (ALL, "SELECT b, a; SELECT c, d", "b|a"),
    ((PG,), "SELECT NULL, b, a FROM t", "?|b|a"),
    ((PG,), "SELECT CAST(b AS int), b, a FROM t", "?|b|a"),
    ((MY, LITE), "SELECT a + /* x */ 1, count(*), b FROM t", None),
    (ALL, "SELECT b, , a", None),
    (ALL, "SELECT f(b, a", None),
    (ALL, "SELECT b), a", None),
    (ALL, "SELECT", None),
    (ALL, "", None),
    (("sqlserver",), "SELECT b, a FROM t", None),
]


@pytest.mark.parametrize(("providers", "sql", "expected"), READ)
def test_what_is_read(providers: tuple[str, ...], sql: str, expected: str | None) -> None:
    for provider in providers:
        names = selected(provider, sql)
        if expected is not None:
            assert names == tuple(None if name == "?" else name for name in expected.split("|"))
        else:
            assert names is None, provider


def test_only_a_full_match_is_an_order() -> None:
    assert list(arranged(("b", "a"), {"a", "b"})) == ["b", "a"]
    assert list(arranged(("b", "a"), ["a", "c"])) == ["a", "c"]
    assert list(arranged(("b", "a"), ["c", "b", "a"])) == ["a", "b", "c"]
    assert list(arranged(None, ["c", "b"])) == ["b", "c"]
    assert list(arranged(("b", None), {"a": 1, "b": 2})) == ["b", "a"]
    assert list(arranged((None, "a"), {"a": 1, "b": 2})) == ["b", "a"]
    assert list(arranged((None, "z", "b"), ["a", "b", "c"])) == ["a", "b", "c"]


@pytest.mark.parametrize("came", [["b", "b_1"], ["b", "B"]])
def test_the_remaining_name_is_not_trusted_when_it_may_be_a_known_ones(came: list[str]) -> None:
    """``SELECT f(), b``: if the function is called b too, it is the first that is b, and the second b_1."""
    assert list(arranged((None, "b"), came)) == sorted(came)


def test_rows_are_arranged_in_place() -> None:
    rows = [{"a": 1, "b": 2}, {"b": 3, "a": None}]
    assert in_order(("b", "a"), rows) is rows
    assert [list(row.items()) for row in rows] == [[("b", 2), ("a", 1)], [("b", 3), ("a", None)]]
    assert in_order(("a",), []) == []
    assert in_order(None, [{"a": 1}]) == [{"a": 1}]


def test_a_statement_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "SELECT b AS read_once, a FROM t"
    assert selected(LITE, sql) == ("read_once", "a")
    monkeypatch.setattr("mppool.database.sql.columns._items", None)
    assert selected(LITE, sql) == ("read_once", "a")


def test_a_long_statement_is_read_and_not_kept() -> None:
    sql = f"SELECT b, a FROM t WHERE a IN ({', '.join(map(str, range(6000)))})"
    assert len(sql) > statements.CACHED_LENGTH
    assert selected(LITE, sql) == ("b", "a")


# --- against the databases -------------------------------------------------------------------------------

SCHEMA = "CREATE TEMPORARY TABLE {}t (a INTEGER, B INTEGER, {q}c d{q} INTEGER, {q}from{q} INTEGER, Precision_ INTEGER)"


@contextmanager
def describer(uri: str) -> Iterator[Callable[[str], list[str] | None]]:
    """What tells a statement's columns as the database names them, None when it refuses; with a table t."""
    database = Database.parse(uri)
    connection: Any
    if database.provider == LITE:
        connection, quote = sqlite3.connect(":memory:"), '"'
    elif database.provider == PG:
        connection, quote = psycopg.connect(uri, autocommit=True), '"'
    else:
        parts = re.fullmatch(r"mysql://(\w+)(?::(\w*))?@([\w.]+):(\d+)/(\w+).*", uri)
        assert parts is not None
        user, password, host, port, name = parts.groups()
        connection, quote = (
            pymysql.connect(host=host, port=int(port), user=user, password=password or "", database=name),
            "`",
        )

    def describe(sql: str) -> list[str] | None:
        with closing(connection.cursor()) as cursor:
            try:
                cursor.execute(sql)
            except (sqlite3.Error, psycopg.Error, pymysql.Error):
                return None
            return [column[0] for column in cursor.description or ()]

    with closing(connection):
        describe(SCHEMA.format("", q=quote))
        yield describe


@st.composite
def select(draw: st.DrawFn, provider: str) -> str:
    """A statement with a list of the kinds of things that one finds in lists, aliases that get in each other's way."""
    quote = "`" if provider == MY else '"'
    column = st.sampled_from(["a", "B", "b", "A", "t.a", "t.B", f"{quote}c d{quote}", f"t.{quote}from{quote}"])
    small = column | st.sampled_from(["1", "2.5", "'x'", "', from t'", "NULL", "-a", "user", "Precision_"])
    unary = ["abs({})", "coalesce({}, 1)", "max({}) OVER (ORDER BY a, B)", "CAST({} AS CHAR(3))", "({})", "{} IS NULL"]
    unary += ["CASE WHEN a = 1 THEN 'x, from' ELSE {} END", "(SELECT {} FROM t LIMIT 1)", "count({}) OVER w", "- {}"]
    unary += ["{} IN (1, 2)", "EXISTS (SELECT {}, 2)", "nullif({}, 2) /* , */", "trim({})", "replace('a', 'b', 'c')"]
    if provider == PG:
        unary += ["{}::text", "abs({})::int", "{}::double precision", "{}::varchar(3)", "ARRAY[{}, 1]", "{}::int::text"]
        unary += ["{} IS DISTINCT FROM 1", "$$from$$", "extract(year FROM now())", "now() AT TIME ZONE 'utc'"]
        unary += ["(ARRAY[1, 2])[1]", "a OPERATOR(pg_catalog.+) {}", "sum({}) FILTER (WHERE a > 1) OVER ()", "E'\\''"]
        unary += ["interval '1' day", "date '2020-01-01'", "'x' COLLATE \"C\"", "row_number() OVER w", "B'1'"]
    if provider == MY:
        unary += [
            "now() + INTERVAL 1 DAY",
            "{} DIV 2",
            "BINARY {}",
            "'it\\'s'",
            "_utf8mb4'x'",
            "'a' 'b'",
            "@x",
            "{}#,\n",
        ]
    if provider == LITE:
        unary += ["rowid", "{} COLLATE nocase", "{} ISNULL", "{} NOT NULL", "[c d]", "`a`", "x'41'", "'a' || {}"]
    expression = st.builds(str.format, st.sampled_from(unary), small) | small | column
    names = ["a", "A", "b", "B", "a_1", "b_1", "col_0", "col_1", "x", "abs", "count", "text", "nan", "Z"]
    quoted = ["c d", "from", "1", "A", "a", "?column?", "CASE", "a,b", "--", " a", "max", f"{quote * 2}"]
    name = st.sampled_from(names) | st.sampled_from(quoted).map(lambda text: f"{quote}{text}{quote}")
    alias = st.sampled_from(["", ""]) | name.map(lambda text: f" AS {text}") | name.map(lambda text: f" {text}")
    if provider != PG:
        alias |= st.sampled_from([" AS 'a'", " 'b'", ' AS "b"'])
    items = draw(st.lists(st.builds(str.__add__, expression, alias), min_size=1, max_size=5))
    comma = draw(st.sampled_from([", ", ",", " ,\n", " /* , FROM */, ", ", -- 1, FROM\n"]))
    head = draw(st.sampled_from(["", "", "WITH b (a, z) AS (SELECT 1, 2), d AS (SELECT 3 b) ", "/* SELECT z, y */ "]))
    modifier = draw(st.sampled_from(["", "", "DISTINCT ", "ALL "]))
    tail = draw(st.sampled_from(["", " WHERE a = 1", " GROUP BY a", " HAVING 1 = 1", " ORDER BY 1", " LIMIT 1", ";"]))
    window = " WINDOW w AS (ORDER BY a)" if "OVER w" in "".join(items) else ""
    return f"{head}SELECT {modifier}{comma.join(items)} FROM t{window or tail}"


def test_an_order_that_is_claimed_is_the_true_one(database_uri: str) -> None:
    provider = Database.parse(database_uri).provider
    unordered, claimed = 0, 0  # statements whose columns are not in alphabetical order, and those that we could tell

    with describer(database_uri) as describe:

        @settings(max_examples=max(300, settings.default.max_examples), database=None)
        @given(st.data())
        def run(data: st.DataObject) -> None:
            nonlocal unordered, claimed
            sql = data.draw(select(provider))
            described = describe(sql)
            if not described:
                return
            truth = as_core(described)
            shuffled = random.Random(sql).sample(truth, len(truth))
            found = list(arranged(selected(provider, sql), shuffled))
            assert found in (truth, sorted(truth)), f"{sql}\nis {truth}\nwas claimed to be {found}"
            unordered += truth != sorted(truth)
            claimed += found == truth != sorted(truth)

        run()
    assert unordered > 100
    assert claimed > unordered / 4  # the lists are nastier than anybody's


SELECTS = [
    ("SELECT 1 AS zz, 'x' AS mm, 2 AS aa, NULL AS kk", ["zz", "mm", "aa", "kk"]),
    ("SELECT a, b, a FROM (SELECT 2 AS b, 1 AS a) t UNION ALL SELECT 3, 4, 5", ["a", "b", "a_1"]),
    ("SELECT b, a, b, a FROM (SELECT 2 AS b, 1 AS a) t", ["b", "a", "b_1", "a_2"]),
    ("SELECT b, 1 + 1, a FROM (SELECT 2 AS b, 1 AS a) t", None),
    ("SELECT * FROM (SELECT 2 AS b, 1 AS a) t", ["a", "b"]),
]


@pytest.mark.parametrize(("sql", "expected"), SELECTS)
def test_rows_and_dicts_are_in_the_order_of_the_select(database_uri: str, sql: str, expected: list[str] | None) -> None:
    if expected is None:
        expected = ["b", "col_1" if database_uri.startswith(PG) else "1 + 1", "a"]
    with PySQLXEngineSync(database_uri) as conn:
        for one in (conn.query(sql)[-1], conn.query_first(sql)):
            assert list(one.model_dump()) == list(type(one).model_fields) == list(dict(one)) == expected
        for each in [*conn.query_as_dict(sql), conn.query_first_as_dict(sql)]:
            assert list(each) == expected


def test_placeholders_do_not_disturb(database_uri: str) -> None:
    with PySQLXEngineSync(database_uri) as conn:
        row = conn.query_first("SELECT :b AS z, :a AS y, :b AS a", {"a": "1", "b": "x"})
        assert list(row.model_dump().items()) == [("z", "x"), ("y", "1"), ("a", "x")]


def test_many_rows_are_all_alike(database_uri: str) -> None:
    sql = " UNION ALL ".join(f"SELECT {number} AS z, {-number} AS a, 'x' AS m" for number in range(50))
    expected = [[("z", number), ("a", -number), ("m", "x")] for number in range(50)]
    with PySQLXEngineSync(database_uri) as conn:
        assert [list(each.items()) for each in conn.query_as_dict(sql)] == expected
        assert [list(each) for each in conn.query(sql)] == expected


@pytest.mark.parametrize("sql", ["INSERT INTO t (b, a) VALUES (1, 2) RETURNING {}", "UPDATE t SET a = 5 RETURNING {}"])
def test_returning(tmp_path: Any, postgres_uri: str, sql: str) -> None:
    for uri in (f"sqlite:{tmp_path}/returning.db", postgres_uri):
        with PySQLXEngineSync(uri) as conn:
            conn.execute("CREATE TEMPORARY TABLE t (a INTEGER, b INTEGER)")
            conn.execute("INSERT INTO t VALUES (1, 2)")
            assert list(conn.query_first_as_dict(sql.format("b, t.a AS z, a"))) == ["b", "z", "a"]
            assert list(conn.query_first_as_dict(sql.format("*"))) == ["a", "b"]
