"""Statements: the placeholders of a statement, and what it does to the transaction.

The driver replaces ``:key`` as text, wherever it occurs: inside strings and comments, in ``x::key``, in the middle of
a longer name. So we read the SQL with our own lexer and rewrite each placeholder to a private key. All keys have the
same length and occur nowhere else in the text, so the driver's replacement finds exactly those. A statement without
parameters is sent unchanged.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from mppool.database.sql.lexer import token_at

__all__ = ["CACHED_LENGTH", "Parsed", "parse"]

_VARIANTS = 64  # texts of one statement that differ in what is a double
CACHED_LENGTH = 16_384  # longer statements are mostly generated, and seen once

# In brackets, a ':' after a name belongs to a slice; after one of these it begins a placeholder.
_NO_OPERANDS = frozenset(
    [
        "ALL",
        "AND",
        "ANY",
        "ARRAY",
        "AS",
        "BETWEEN",
        "BY",
        "CASE",
        "COLLATE",
        "DISTINCT",
        "ELSE",
        "EXCEPT",
        "FROM",
        "HAVING",
        "ILIKE",
        "IN",
        "INTERSECT",
        "INTERVAL",
        "IS",
        "ISNULL",
        "LIKE",
        "LIMIT",
        "NOT",
        "NOTNULL",
        "OFFSET",
        "ON",
        "OR",
        "RETURNING",
        "SELECT",
        "SIMILAR",
        "SOME",
        "THEN",
        "TO",
        "UNION",
        "USING",
        "VALUES",
        "WHEN",
        "WHERE",
    ]
)
_ROUTINES = frozenset({"EVENT", "FUNCTION", "PACKAGE", "PROCEDURE", "TRIGGER"})
_DRIVER = re.compile(r"""(?P<quote>['"])(?:.*?(?<!\\)(?P=quote)|.*)|:(?P<name>[a-z_])""", re.DOTALL)
_JOINS = re.compile(r"[\w$@#\x80-\U0010ffff]")  # behind one of these, "$1" or "@P1" would become part of a name


class Parsed:
    """A statement, as far as we read it.

    Attributes:
        names: the distinct placeholders, in order of first appearance; ``unique``: the same as a set.
        count: placeholders, repeated ones each time.
        pieces: the text between placeholders, and the name of each: text, name, text, …, text.
        transaction: True: the statement leaves a transaction open; False: it ends one; None: neither.
        shield: on MySQL, the prefix that the text needs; see `_shield`.
        unclear: on MySQL, the statement may leave one open unseen (a procedure), or turn autocommit off.
    """

    __slots__ = ("_doubled", "_keyed", "count", "names", "pieces", "shield", "transaction", "unclear", "unique")

    def __init__(
        self, pieces: list[str], transaction: bool | None, unclear: bool = False, shield: str | None = ""
    ) -> None:
        self.pieces = tuple(pieces)
        self.names = tuple(dict.fromkeys(pieces[1::2]))
        self.unique = frozenset(self.names)
        self.count = len(pieces) // 2
        self.transaction = transaction
        self.unclear = unclear
        self.shield = shield
        self._doubled: dict[frozenset[str], str] = {}
        self._keyed: tuple[str, dict[str, str]] | None = None

    def keyed(self) -> tuple[str, dict[str, str]]:
        """The text with private keys for names, and the key of each name."""
        if self._keyed is None:
            keys = dict(zip(self.names, self.keys(len(self.names)), strict=True))
            self._keyed = self.with_marks([":" + keys[name] for name in self.pieces[1::2]]), keys
        return self._keyed

    def doubled(self, names: frozenset[str]) -> str:
        """The keyed text where these names are doubles: they are bound as decimals, which MySQL reads as text."""
        text = self._doubled.get(names)
        if text is None:
            keys = self.keyed()[1]
            marks = [f"(:{keys[name]}+0e0)" if name in names else ":" + keys[name] for name in self.pieces[1::2]]
            if len(self._doubled) >= _VARIANTS:
                self._doubled.clear()
            text = self._doubled[names] = self.with_marks(marks)
        return text

    def keys(self, count: int, more: str = "") -> list[str]:
        """``count`` keys of equal length that occur neither in the text nor in ``more``."""
        text = "".join(self.pieces[::2]) + more
        prefix = "mp"
        while f":{prefix}" in text:
            prefix += "q"
        width = len(str(count))
        return [f"{prefix}{number:0{width}d}" for number in range(count)]

    def with_marks(self, marks: list[str]) -> str:
        """The text with a mark for each occurrence of a placeholder, separated from a name before it."""
        parts = list(self.pieces)
        for index, mark in enumerate(marks):
            parts[2 * index + 1] = f" {mark}" if _JOINS.match(parts[2 * index][-1:]) else mark
        return (self.shield or "") + "".join(parts)

    def written_out(self, literal: Any) -> str:
        """The text with ``literal(name)`` in place of each placeholder."""
        return "".join(literal(piece) if index % 2 else piece for index, piece in enumerate(self.pieces))


def parse(provider: str, sql: str) -> Parsed:
    """Read a statement; the results for the last 1024 are remembered.

    Raises:
        TypeError: ``sql`` is not a str.
    """
    if sql.__class__ is not str:
        if not isinstance(sql, str):
            raise TypeError(f"sql must be a str, not {type(sql).__name__}")
        sql = str(sql)
    return _remembered(provider, sql) if len(sql) <= CACHED_LENGTH else _parse(provider, sql)


def _parse(provider: str, sql: str) -> Parsed:
    pieces: list[str] = []
    start = 0  # of the piece that is being collected
    brackets = 0
    operand = False  # does the last token end an operand, so that in brackets a ':' after it is a slice's?
    heads: list[list[str]] = [[]]  # the first words of each statement
    slices = provider == "postgresql"
    at, end = 0, len(sql)
    while at < end:
        token, after = token_at(provider, sql, at)
        kind = token.lastgroup
        if kind == "word":
            if len(heads[-1]) < 8:
                heads[-1].append(token[0].upper())
            operand = token[0].upper() not in _NO_OPERANDS
        elif kind == "name":
            if slices and brackets and (operand or token["name"][0].isdecimal()):
                operand = False
                at += 1  # the ':' of a slice; what follows is a column
                continue
            pieces += (sql[start:at], token["name"])
            start = after
            operand = True
        elif kind == "other":
            char = token[0]
            if char == ";":
                heads.append([])
            elif char == "[":
                brackets += 1
            elif char == "]":
                brackets = max(0, brackets - 1)
            operand = char in ")]"
        elif kind in ("quoted", "number"):
            operand = True
        at = after
    pieces.append(sql[start:])
    shield = _shield("?".join(pieces[::2])) if provider == "mysql" and ":" in sql else ""
    return Parsed(pieces, _transaction(provider, heads), _unclear(provider, heads), shield)


_remembered = lru_cache(maxsize=1024)(_parse)


def _shield(text: str) -> str | None:
    """A prefix for a text to MySQL in which the driver would find names of its own; None: no prefix helps.

    The driver replaces ``:name`` by ``?`` where it thinks that it is outside quotes. It knows neither comments nor
    backticks nor escaped backslashes. A quote in a comment makes it skip everything up to the next quote.
    """
    for prefix in ("", '/*"*/', "/*'*/"):
        if all(seen["name"] is None for seen in _DRIVER.finditer(prefix + text)):
            return prefix
    return None


def _transaction(provider: str, heads: list[list[str]]) -> bool | None:
    state: bool | None = None
    in_routine = False
    for words in heads:
        if not words:
            continue
        first, second = words[0], words[1] if len(words) > 1 else ""
        if first == "CREATE" and not _ROUTINES.isdisjoint(words):
            in_routine = True  # its body may follow, whose END does not end a transaction
        if first in ("BEGIN", "START"):
            if (first == "BEGIN" and second != "NOT") or second == "TRANSACTION":
                state = True
        elif first == "SAVEPOINT":
            if provider == "sqlite":
                state = True  # on SQLite it begins a transaction when none is open
        elif first in ("COMMIT", "ROLLBACK", "END", "ABORT") and not in_routine:
            if second == "PREPARED" or "TO" in words[1:3] or (first in ("END", "ABORT") and provider == "mysql"):
                continue
            state = "CHAIN" in words and "NO" not in words
        elif first == "PREPARE" and second == "TRANSACTION":
            state = False
    return state


def _unclear(provider: str, heads: list[list[str]]) -> bool:
    return provider == "mysql" and any(
        words[:1] in (["CALL"], ["EXECUTE"]) or (words[:1] == ["SET"] and "AUTOCOMMIT" in words) for words in heads
    )
