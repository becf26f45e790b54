"""Statements: where a ``:name`` is a placeholder and where it only looks like one, and what a statement does
to the transaction.

The core replaces ``:key`` as text, wherever it occurs: inside strings and comments, in ``x::key``, in the
middle of a longer name. So the SQL is read here, by the lexical rules of its database; each placeholder is
rewritten to a private key of equal length that occurs nowhere else in the text, and the core's blind
replacement then hits exactly those. A statement without parameters is sent untouched.

What it does not do: understand SQL. Text that only a server setting gives another meaning (MySQL's
ANSI_QUOTES and NO_BACKSLASH_ESCAPES, PostgreSQL's standard_conforming_strings=off) is read by the default, and
what MySQL executes only from some version on (``/*!80000 … */``) is read as code.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from mppool import errors
from mppool.database.connection.error_classes import is_panic
from mppool.database.values.parameters import convert

if TYPE_CHECKING:
    from mppool.database.runtime.drivers import Driver

__all__ = ["CACHED_LENGTH", "Parsed", "build", "parse", "token_at"]

POSTGRESQL_LIMIT = 65_535  # the server numbers no more
_VARIANTS = 64  # texts of one statement that differ in what is a double
CACHED_LENGTH = 16_384  # longer statements are mostly generated, and seen once

_NAME = (
    r"[^\x00-/:-@\[-^`{-\x7f\s]+"  # as in the databases' names, any non-ASCII letter or mark; may begin with a digit
)
_PLAIN = r"'[^']*(?:''[^']*)*'?"
_ESCAPED = r"'[^'\\]*(?:(?:\\.|'')[^'\\]*)*(?:'|\\?\Z)?"
_DOUBLE = r'"[^"]*(?:""[^"]*)*"?'
_DOUBLE_ESCAPED = _ESCAPED.replace("'", '"')
_BACKTICK = r"`[^`]*(?:``[^`]*)*`?"
_BRACKET = r"\[[^\]]*(?:\]\][^\]]*)*\]?"  # SQL Server doubles the closing one, SQLite cannot
_FLAT_COMMENT = r"/\*.*?(?:\*/|\Z)"
_EXECUTED = r"/\*M?!\d*"  # what follows is code to MySQL and MariaDB, up to a "*/" outside strings
_SPACE = r"[ \t-\r]+"
# Negated, although longer to read: a set up to the last character takes the compiler milliseconds.
_WORD = r"[^\x00-@\[-^`{-\x7f][^\x00-#%-/:-@\[-^`{-\x7f]*"
_NUMBER = r"[0-9][0-9.]*"
# An escape string goes on after a line's end (and line comments), still with escapes.
_CONTINUED = rf"[ \t\f\v]*(?:--[^\n\r]*)?[\n\r](?:[ \t-\r]|--[^\n\r]*[\n\r])*{_ESCAPED}"
_TAG = r"(?:[^\x00-@\[-^`{-\x7f][^\x00-/:-@\[-^`{-\x7f]*)?"


def _rules(quoted: str, comment: str, block: str, space: str = _SPACE) -> str:
    return (
        rf"(?P<space>{space})|(?P<comment>{comment})|(?P<block>{block})"
        rf"|(?P<quoted>{quoted})|(?P<cast>::)|:(?P<name>{_NAME})"
        rf"|(?P<word>{_WORD})|(?P<number>{_NUMBER})|(?P<other>.)"
    )


_RULES = {
    "postgresql": _rules(
        rf"[eE]{_ESCAPED}(?:{_CONTINUED})*|{_PLAIN}|{_DOUBLE}|\$(?P<tag>{_TAG})\$.*?(?:\$(?P=tag)\$|\Z)",
        r"--[^\n\r]*",
        r"/\*",
    ),
    "mysql": _rules(
        rf"{_ESCAPED}|{_DOUBLE_ESCAPED}|{_BACKTICK}",
        r"--(?=[\x00- \x7f]|\Z)[^\n]*|\#[^\n]*",
        _FLAT_COMMENT,
        rf"{_SPACE}|{_EXECUTED}",
    ),
    "sqlite": _rules(rf"{_PLAIN}|{_DOUBLE}|{_BACKTICK}|\[[^\]]*\]?", r"--[^\n]*", _FLAT_COMMENT),
    "sqlserver": _rules(rf"{_PLAIN}|{_DOUBLE}|{_BRACKET}", r"--[^\n]*", r"/\*"),
}


@cache
def lexer(provider: str) -> re.Pattern[str]:
    """One token after the other; made at the first statement, for it takes milliseconds."""
    return re.compile(_RULES[provider], re.DOTALL)


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
_NESTED = re.compile(r"/\*|\*/")
_DRIVER = re.compile(r"""(?P<quote>['"])(?:.*?(?<!\\)(?P=quote)|.*)|:(?P<name>[a-z_])""", re.DOTALL)
_JOINS = re.compile(r"[\w$@#\x80-\U0010ffff]")  # behind one of these, "$1" or "@P1" would become part of a name


class Parsed:
    """A statement as far as we read it.

    Attributes:
        names: the distinct placeholders, in order of first appearance; ``unique``: the same as a set.
        count: placeholders, repeated ones each time.
        pieces: the text between placeholders, and the name of each: text, name, text, …, text.
        transaction: True: it leaves a transaction open; False: it ends one; None: neither.
        shield: on MySQL, what must stand before the text, see `_shield`.
        unclear: on MySQL, it may leave one open unseen (a procedure) or turn autocommit off.
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
        """The keyed text in which these are doubles: they are bound as decimals, which MySQL reads as text."""
        text = self._doubled.get(names)
        if text is None:
            keys = self.keyed()[1]
            marks = [f"(:{keys[name]}+0e0)" if name in names else ":" + keys[name] for name in self.pieces[1::2]]
            if len(self._doubled) >= _VARIANTS:
                self._doubled.clear()
            text = self._doubled[names] = self.with_marks(marks)
        return text

    def keys(self, count: int, more: str = "") -> list[str]:
        """Keys of equal length for so many placeholders, such as occur neither in the text nor in ``more``."""
        text = "".join(self.pieces[::2]) + more
        prefix = "mp"
        while f":{prefix}" in text:
            prefix += "q"
        width = len(str(count))
        return [f"{prefix}{number:0{width}d}" for number in range(count)]

    def with_marks(self, marks: list[str]) -> str:
        """The text with a mark for each placeholder, repeated ones each time, kept apart from a name before it."""
        parts = list(self.pieces)
        for index, mark in enumerate(marks):
            parts[2 * index + 1] = f" {mark}" if _JOINS.match(parts[2 * index][-1:]) else mark
        return (self.shield or "") + "".join(parts)

    def written_out(self, literal: Any) -> str:
        """The text with ``literal(name)`` in place of each placeholder."""
        return "".join(literal(piece) if index % 2 else piece for index, piece in enumerate(self.pieces))


def parse(provider: str, sql: str) -> Parsed:
    """Read a statement; the last thousand are remembered.

    Raises:
        TypeError: ``sql`` is not a str.
    """
    if sql.__class__ is not str:
        if not isinstance(sql, str):
            raise TypeError(f"sql must be a str, not {type(sql).__name__}")
        sql = str(sql)
    return _remembered(provider, sql) if len(sql) <= CACHED_LENGTH else _parse(provider, sql)


def token_at(provider: str, sql: str, at: int) -> tuple[re.Match[str], int]:
    """The token that begins there, and where it ends: a comment that nests ends behind its match."""
    token = lexer(provider).match(sql, at)
    assert token is not None  # "other" takes any character
    if token.lastgroup == "block" and provider in ("postgresql", "sqlserver"):
        return token, _end_of_comment(sql, token.end())
    return token, token.end()


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
    """What to write before MySQL's text so that its driver finds no names of its own in it; None: nothing helps.

    The driver replaces ``:name`` by ``?`` wherever it takes it to be outside quotes, and knows neither comments nor
    backticks nor that a backslash may itself be escaped. A quote in a comment makes it skip all up to the next one.
    """
    for prefix in ("", '/*"*/', "/*'*/"):
        if all(seen["name"] is None for seen in _DRIVER.finditer(prefix + text)):
            return prefix
    return None


def _end_of_comment(sql: str, at: int) -> int:
    depth = 1
    while depth:
        edge = _NESTED.search(sql, at)
        if edge is None:
            return len(sql)
        depth += 1 if edge[0] == "/*" else -1
        at = edge.end()
    return at


def _transaction(provider: str, heads: list[list[str]]) -> bool | None:
    state: bool | None = None
    in_routine = False
    for words in heads:
        if not words:
            continue
        first, second = words[0], words[1] if len(words) > 1 else ""
        if first == "CREATE" and not _ROUTINES.isdisjoint(words):
            in_routine = True  # what follows may be its body, whose END is no transaction's
        if first in ("BEGIN", "START"):
            if (first == "BEGIN" and second != "NOT") or second == "TRANSACTION":
                state = True
        elif first == "SAVEPOINT":
            if provider == "sqlite":
                state = True  # there it begins a transaction when none is open
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


def build(driver: Driver, provider: str, parsed: Parsed, sql: str, parameters: dict[str, Any] | None) -> Any:
    """The core's statement object, with every parameter checked and bound by its Python type.

    Raises:
        TypeError: ``parameters`` is not a dict with names as keys.
        ValueError: the statement has more placeholders than the core can number, or lone surrogates.
        ParameterInvalidValueError: a parameter is missing, not in the statement, or would not arrive unchanged.
        ParameterInvalidProviderError: this database does not know its type.
    """
    if parameters is None:
        return make(driver, provider, f"{parsed.shield}{sql}" if parsed.shield else sql, None)
    check_names(provider, parsed, parameters)
    text, keys = parsed.keyed()
    if provider == "mysql":
        doubles = frozenset(name for name, value in parameters.items() if value.__class__ is float)
        if doubles:
            text = parsed.doubled(doubles)
    values = {keys[name]: convert(name, value, provider) for name, value in parameters.items()}
    return make(driver, provider, text, values or None)


def check_names(provider: str, parsed: Parsed, parameters: dict[str, Any]) -> None:
    """Are these the statement's parameters, no more and no less? Raises as `build`."""
    if not isinstance(parameters, dict):
        raise TypeError(f"parameters must be a dict, not {type(parameters).__name__}")
    if provider == "postgresql" and parsed.count > POSTGRESQL_LIMIT:
        raise ValueError(
            f"a statement on PostgreSQL can have {POSTGRESQL_LIMIT:,} placeholders, this one has {parsed.count:,}; "
            "for a list of values write = ANY(:name) and pass a tuple"
        )
    if parameters.keys() == parsed.unique:
        return
    for name, value in parameters.items():
        if name not in parsed.unique:
            if not isinstance(name, str):
                raise TypeError(f"the keys of parameters must be str, not {type(name).__name__}")
            details = f"the statement has no placeholder :{name}"
            typ = type(value).__name__
            raise errors.ParameterInvalidValueError(name, provider, typ, errors.NOWHERE, details)
    missing = next(name for name in parsed.names if name not in parameters)
    details = f"the statement has :{missing}, and parameters has no such key"
    raise errors.ParameterInvalidValueError(missing, provider, errors.NOTHING, "parameter", details)


def make(driver: Driver, provider: str, sql: str, values: dict[str, Any] | None) -> Any:
    """The core's statement object, of keys and values that it can take."""
    try:
        return driver.Statement(provider=provider, sql=sql, params=values)
    except UnicodeEncodeError:
        raise ValueError("sql must not contain lone surrogates") from None
    except BaseException as error:
        if isinstance(error, driver.InvalidParameter) or is_panic(error):
            # Our checks let something through: it must not become a crash of the caller's.
            raise errors.QueryError("PANIC", f"the driver cannot take this statement: {error}") from None
        raise
