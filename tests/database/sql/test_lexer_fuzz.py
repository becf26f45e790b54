"""Random statements of which the truth is known, read by the lexer: a bounded number here, as many as you like
with ``MPPOOL_TEST_REPEAT=250000 MPPOOL_TEST_SEED=2 pytest -s tests/database/sql/test_lexer_fuzz.py -k truth`` (so many
for each database). Random text beside them must be read without loss, and anything in linear time.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pymysql
import pytest

from mppool import PySQLXEngineSync
from mppool.database.runtime import drivers
from mppool.database.sql import driver_statement, statements
from mppool.database.sql import lexer as lexer_module
from mppool.database.sql.lexer import lexer
from tests.database.sql.random_sql import BITS, Piece, RandomSQL

PROVIDERS = ("postgresql", "mysql", "sqlite", "sqlserver")
STATEMENTS = int(os.environ.get("MPPOOL_TEST_REPEAT", "3000"))
SEED = os.environ.get("MPPOOL_TEST_SEED", "1")
CORE_EVERY = 10  # one in so many statements goes through the core as well
MARKS: dict[str, Callable[[int], str]] = {
    "postgresql": lambda number: f"${number}",
    "sqlserver": lambda number: f"@P{number}",
}


def wrong(provider: str, pieces: list[Piece], with_core: bool) -> str | None:
    """What the lexer got wrong in this statement."""
    sql = "".join(text for text, _ in pieces)
    names = [name for _, name in pieces if name is not None]
    distinct = list(dict.fromkeys(names))
    parsed = statements.parse(provider, sql)
    if list(parsed.pieces[1::2]) != names:
        return f"placeholders {list(parsed.pieces[1::2])} instead of {names}"
    if list(parsed.names) != distinct or parsed.count != len(names):
        return f"names {parsed.names}, count {parsed.count}"
    if parsed.written_out(lambda name: f":{name}") != sql:
        return "it does not reassemble to itself"
    text, keys = parsed.keyed()
    shield = parsed.shield or ""
    if text != shield + rewritten(pieces, lambda number: f":{keys[names[number - 1]]}"):
        return f"keyed text {text!r}"
    if sum(text.count(f":{key}") for key in keys.values()) != len(names):
        return f"a key occurs elsewhere in {text!r}"
    if not with_core or not names:
        return None
    values = {name: number for number, name in enumerate(distinct)}
    made = driver_statement.build(drivers.state.get("sqlite"), provider, parsed, sql, values)
    if made.sql() != shield + rewritten(pieces, MARKS.get(provider, lambda number: "?")):
        return f"the core's text {made.sql()!r}"
    if made.params() != [values[name] for name in names]:
        return f"the core's parameters {made.params()}"
    return None


def rewritten(pieces: list[Piece], mark: Callable[[int], str]) -> str:
    """The text with a mark for each placeholder, and a blank where the mark would become part of a name."""
    made, number, before = "", 0, ""
    for text, name in pieces:
        if name is not None:
            number += 1
            glued = before.isalnum() or before in ("_", "$", "@", "#") or before > "\x7f"
            text = (" " if glued else "") + mark(number)
        before = text[-1:] if name is None else ""
        made += text
    return made


@pytest.mark.parametrize("provider", PROVIDERS)
def test_truth(provider: str) -> None:
    made = RandomSQL(provider, f"{SEED} {provider}")
    failures: list[tuple[str, str]] = []
    placeholders = 0
    for number in range(STATEMENTS):
        pieces = made.statement()
        placeholders += sum(name is not None for _, name in pieces)
        reason = wrong(provider, pieces, number % CORE_EVERY == 0)
        if reason is not None:
            failures.append(("".join(text for text, _ in pieces), reason))
        if number % 100_000 == 99_999:
            print(
                f"{provider}: {number + 1} statements, {placeholders} placeholders, {len(failures)} wrong", flush=True
            )
    failures.sort(key=lambda failure: len(failure[0]))
    assert failures[:3] == [], f"{len(failures)} of {STATEMENTS}, the shortest first"
    assert placeholders > STATEMENTS


# --- the databases themselves as judges ------------------------------------------------------------------


def value_of(name: str) -> str:
    return f"value of {name}"


class Asked(dict[str, str]):
    """Has every key, and remembers which were wanted."""

    def __missing__(self, name: str) -> str:
        self[name] = value_of(name)
        return self[name]


def selects(provider: str, count: int = STATEMENTS // 10) -> Iterator[tuple[statements.Parsed, str, dict[str, str]]]:
    made = RandomSQL(provider, f"{SEED} select {provider}")
    for _ in range(count):
        pieces, row = made.select(value_of)
        sql = "".join(text for text, _ in pieces)
        yield statements.parse(provider, sql), sql, row


def written_out(parsed: statements.Parsed) -> str:
    return parsed.written_out(lambda name: f"'{value_of(name)}'")


def test_sqlite_finds_the_same_names() -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        for parsed, sql, row in selects("sqlite"):
            asked = Asked()
            cursor = db.execute(sql, asked)
            titles = [column[0] for column in cursor.description]
            assert dict(zip(titles, *cursor.fetchall(), strict=True)) == row, sql
            assert asked.keys() == set(parsed.names), sql


def test_postgresql_reads_the_same(postgres_uri: str) -> None:
    with psycopg.connect(postgres_uri) as db:
        for parsed, sql, row in selects("postgresql"):
            cursor = db.execute(written_out(parsed))
            titles = [column.name for column in cursor.description or []]
            assert dict(zip(titles, *cursor.fetchall(), strict=True)) == row, sql


def test_mysql_reads_the_same(mysql_uri: str) -> None:
    at = urlsplit(mysql_uri)
    db = pymysql.connect(
        host=at.hostname, port=at.port or 3306, user=at.username, password=at.password or "", charset="utf8mb4"
    )
    with db, db.cursor() as cursor:
        for parsed, sql, row in selects("mysql"):
            cursor.execute(written_out(parsed))
            titles = [column[0] for column in cursor.description]
            assert dict(zip(titles, *cursor.fetchall(), strict=True)) == row, sql


def test_our_own_connections_send_the_same(database_uri: str) -> None:
    """Through everything: the lexer, the core and whatever its driver for the database does to the text."""
    refused = 0
    with PySQLXEngineSync(database_uri) as db:
        for parsed, sql, row in selects(database_uri.partition(":")[0], STATEMENTS // 20):
            values = {name: value_of(name) for name in parsed.names}
            try:
                assert db.query_first_as_dict(sql, values or None) == row, sql
            except ValueError:
                assert parsed.shield is None
                refused += 1
    assert refused <= STATEMENTS // 80  # where both quotes are used and no shield helps; only on MySQL


# --- any text, and much of it ------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_any_text_is_read_without_loss(provider: str) -> None:
    rng = random.Random(f"{SEED} text {provider}")
    for _ in range(STATEMENTS):
        sql = "".join(rng.choices(BITS, k=rng.randint(0, 25)))
        parsed = statements.parse(provider, sql)
        assert parsed.written_out(lambda name: f":{name}") == sql
        assert len(parsed.pieces) == 2 * parsed.count + 1


class Counting:
    """A lexer that counts its tokens."""

    def __init__(self, rules: Any) -> None:
        self.rules, self.tokens = rules, 0

    def match(self, sql: str, at: int) -> Any:
        self.tokens += 1
        return self.rules.match(sql, at)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_tokens_grow_with_the_text(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = RandomSQL(provider, f"{SEED} long {provider}")
    once = "".join(text for _ in range(100) for text, _ in [*made.statement(closed=True), (" ", None)]) + "\n"
    counts = []
    for times in (1, 10):
        counting = Counting(lexer(provider))
        monkeypatch.setattr(lexer_module, "lexer", {provider: counting}.__getitem__)
        statements.parse(provider, once * times)
        counts.append(counting.tokens)
        monkeypatch.undo()
    assert counts[1] <= 10 * counts[0] + 10


NASTY = [
    *("'", '"', "`", "[", "[]", "$a$", "$a", "$$", "/*", "*/", "/*/", "/*!", "#", "--", "--\n", "\\", "\\'"),
    *("E'", "E''\n", "E'\\", "E''--", "E''--\n", "E'' ", "\n", ":", ":a", "1.", "$a$b", "'\n", "\t--", "a["),
]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_no_text_takes_long(provider: str) -> None:
    """What is read twice as often as it is long already takes minutes at this length."""
    texts = [first + bit * (50_000 // len(bit)) for first in ("", "E'' ", "$a$") for bit in NASTY]
    texts.append("".join(f"$t{number}$ " for number in range(15_000)))
    for sql in texts:
        began = time.process_time()
        statements.parse(provider, sql)
        assert time.process_time() - began < 1, sql[:20]
