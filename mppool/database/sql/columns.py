"""The order of a result's columns, read from the statement: the driver returns rows as hash maps, without an order.

`selected` names the columns of a statement's select list (or RETURNING list) as far as their names are certain, by
each database's rules and with the driver's changes to duplicates. `arranged` compares these names with the columns of
the result. Only a full match is an order; anything else (``*``, two columns whose names are unknown, a name that the
database spells otherwise) gives alphabetical order. So a statement read wrongly loses its order, but never gets a
wrong one: for that, two columns would have to be taken for each other.

Not read: SQL Server, statements without a list (VALUES, CALL, PRAGMA), and a list in parentheses.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from mppool.database.sql.lexer import token_at
from mppool.database.sql.statements import CACHED_LENGTH

__all__ = ["arranged", "in_order", "selected"]

Names = tuple["str | None", ...]  # None: a column whose name is not known; there is at most one


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# These end a select list, if they are not part of an expression or a name.
_ENDS = _words("EXCEPT FETCH FOR FROM GROUP HAVING INTERSECT INTO LIMIT OFFSET ORDER UNION WHERE WINDOW")
_MODIFIERS = _words(
    "ALL DISTINCT DISTINCTROW HIGH_PRIORITY SQL_BIG_RESULT SQL_BUFFER_RESULT SQL_CACHE SQL_CALC_FOUND_ROWS SQL_NO_CACHE"
    " SQL_SMALL_RESULT STRAIGHT_JOIN"
)
_VERBS = _words("DELETE INSERT MERGE REPLACE UPDATE")
# Unquoted, these are no column, function or alias; the last line's functions have other names in PostgreSQL.
_KEYWORDS = _words(
    "ALL AND ANY ARRAY BETWEEN BINARY BY CASE CAST COLLATE CURRENT_CATALOG CURRENT_DATE CURRENT_ROLE CURRENT_SCHEMA"
    " CURRENT_TIME CURRENT_TIMESTAMP CURRENT_USER DEFAULT DISTINCT DIV ELSE ESCAPE EXISTS FALSE GLOB ILIKE IN INTERVAL"
    " IS ISNULL LIKE LOCALTIME LOCALTIMESTAMP MATCH MOD NOT NOTNULL NULL OR REGEXP RLIKE ROW SESSION_USER SIMILAR SOME"
    " SYSTEM_USER THEN TRUE UNKNOWN USER VARIADIC WHEN XOR"
    " EXTRACT NORMALIZE OVERLAY POSITION SUBSTRING TREAT TRIM XMLSERIALIZE"
)
_LETTERS = {"AS": "A", "END": "E", "FILTER": "F", "GROUP": "G", "OPERATOR": "P", "OVER": "O", "WITHIN": "W"}

# The shape of an item has a letter for each of its tokens: w word, q quoted name, s string, n number, g (…), b […],
# c ::, d dot, o anything else, k keyword, and those above.
_DOTTED = "[wq](?:d[wqkAEFGOPW])*"
_ALIASED = re.compile(r".*A[wqskAEFGOPW]")
_COLUMN = re.compile(_DOTTED)
_IMPLIED = re.compile(rf"(?:{_DOTTED}|[^P]*[gE])[wq]")  # an operand and a name after it
_OPEN = re.compile(r".*[wqsngbE][wqs]")  # ends in an alias or in the rest of the expression
# PostgreSQL: a function's name, or a column's, also through casts to types of one word
_NAMED = re.compile(rf"(?P<name>{_DOTTED})(?:g(?:WGg)?(?:Fg)?(?:O[gwq])?)?b*(?:c[wq](?:d[wq])*g?b*)*")

_NUMERIC = re.compile(r"[-+.]?\d|[-+]?(?:inf|infinity|nan)\Z", re.IGNORECASE)  # the driver gives such names another
_CLOSING = {"(": ")", "[": "]"}
_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
_POSTGRESQL_NAME = 63  # bytes; the server cuts longer ones


class _Token(NamedTuple):
    kind: str  # one of the letters above, or "," ";"
    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        """In capitals; empty for what is no word."""
        return self.text.upper() if self.kind.isalpha() and self.kind not in "qsngbcdo" else ""


class _Unreadable(Exception):
    """The statement has no list that we could read."""


def selected(provider: str, sql: str) -> Names | None:
    """The names of the result's columns, in order, as the driver will name them.

    Returns None where they are not certain. One name may be None: it is then the remaining column's.
    """
    return _remembered(provider, sql) if len(sql) <= CACHED_LENGTH else _selected(provider, sql)


def arranged(names: Names | None, came: Collection[str]) -> Collection[str]:
    """The result's columns: in the order of ``names`` if these are the same columns, else in alphabetical order."""
    if names is None or len(names) != len(came):
        return sorted(came)
    if None not in names:
        for name in names:
            if name not in came:
                return sorted(came)
        return names  # type: ignore[return-value]
    left = [name for name in came if name not in names]
    if len(left) == 1 and not _might_be(left[0], names):
        return [left[0] if name is None else name for name in names]
    return sorted(came)


def _might_be(left: str, names: Names) -> bool:
    """Could this column be one of the known names, spelled otherwise, or numbered as a duplicate?"""
    base, _, number = left.rpartition("_")
    return (number.isdecimal() and base in names) or left.lower() in {name.lower() for name in names if name}


def in_order(names: Names | None, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows with their keys arranged. The list is reused; each old row is freed when its new one is made."""
    if rows and len(rows[0]) > 1:
        order = dict.fromkeys(arranged(names, rows[0]))
        for index, row in enumerate(rows):
            rows[index] = order | row
    return rows


def _selected(provider: str, sql: str) -> Names | None:
    if provider == "sqlserver" or (provider == "mysql" and ("/*!" in sql or "/*M!" in sql)):
        return None
    try:
        items = list(_items(_grouped(_tokens(provider, sql))))
    except _Unreadable:
        return None
    found = [_name(provider, sql, item, index) for index, item in enumerate(items)]
    names = [name for name, _ in found]
    known = [name for name in names if name is not None]
    sources = {source for name, source in found if name is not None}
    # a column may be spelled as its table was declared: "A, a" may come as "a, A"
    spelled = provider != "postgresql" and sources != {"alias"}
    if spelled and len({name.lower() for name in known}) < len(set(known)):
        return None
    # one unknown name is the remaining column's only if the others are different and certain
    doubtful = len(set(known)) < len(known) or "text" in sources
    if len(known) < len(names) - (0 if doubtful else 1):
        return None
    result = tuple(_as_core_names_them(names))
    return result if len(set(result)) == len(result) else None  # a column would overwrite another


_remembered = lru_cache(maxsize=1024)(_selected)


def _as_core_names_them(names: list[str | None]) -> Iterator[str | None]:
    """A name that is there already gets a number: that of the duplicate, counted over all names of the row."""
    seen: set[str | None] = set()
    duplicates = 0
    for name in names:
        if name is not None and name in seen:
            duplicates += 1
            name = f"{name}_{duplicates}"
        seen.add(name)
        yield name


def _tokens(provider: str, sql: str) -> Iterator[_Token]:
    """The lexer's tokens, without space and comments."""
    quotes = "`" if provider == "mysql" else '"`['
    at, end = 0, len(sql)
    while at < end:
        start = at
        token, at = token_at(provider, sql, at)
        kind, text = token.lastgroup, token[0]
        if kind == "word":
            upper = text.upper()
            yield _Token(_LETTERS.get(upper) or ("k" if upper in _KEYWORDS else "w"), text, start, at)
        elif kind == "quoted":
            yield _Token("q" if text[0] in quotes else "s", text, start, at)
        elif kind == "number":
            yield _Token("n", text, start, at)
        elif kind == "cast":
            yield _Token("c", text, start, at)
        elif kind == "other" and text in "()[],;":
            yield _Token(text, text, start, at)
        elif kind in ("name", "other"):
            yield _Token("d" if text == "." else "o", text, start, at)


def _grouped(tokens: Iterator[_Token]) -> Iterator[_Token]:
    """The same with everything in parentheses or brackets as one token."""
    open_ones: list[str] = []
    start, kind = 0, ""
    for token in tokens:
        if token.kind in _CLOSING:
            if not open_ones:
                start, kind = token.start, "g" if token.kind == "(" else "b"
            open_ones.append(_CLOSING[token.kind])
        elif token.kind in (")", "]"):
            if not open_ones or open_ones.pop() != token.kind:
                raise _Unreadable
            if not open_ones:
                yield _Token(kind, "", start, token.end)
        elif not open_ones:
            yield token
    if open_ones:
        raise _Unreadable


def _items(tokens: Iterator[_Token]) -> Iterator[list[_Token]]:
    """The list's items: of the outermost SELECT, of the first in a UNION, or of RETURNING."""
    verb = _verb(tokens)
    if verb in _VERBS:
        before = ""
        for token in tokens:
            if token.word == "RETURNING" and before != "d":
                break
            before = token.kind
        else:
            raise _Unreadable
    elif verb != "SELECT":
        raise _Unreadable
    item: list[_Token] = []
    first = True
    for token in tokens:
        word = token.word
        if first and not item:
            if word in _MODIFIERS:
                continue
            if word == "ON":  # PostgreSQL: DISTINCT ON (…)
                next(tokens, None)
                continue
        before = item[-1].word if item else ""
        if token.kind == ",":
            yield _checked(item)
            item, first = [], False
        elif token.kind == ";" or (word in _ENDS and not _goes_on(item, before, word)):
            break
        else:
            item.append(token)
    yield _checked(item)


def _goes_on(item: list[_Token], before: str, word: str) -> bool:
    """Is this word, which could end the list, part of the item?"""
    if before == "AS" or (item and item[-1].kind == "d"):
        return True
    return (before, word) in (("DISTINCT", "FROM"), ("WITHIN", "GROUP"))


def _checked(item: list[_Token]) -> list[_Token]:
    if not item or item[-1].text == "*":
        raise _Unreadable
    return item


def _verb(tokens: Iterator[_Token]) -> str:
    """The word that begins the statement proper, behind a WITH."""
    first = next(tokens, None)
    if first is None or first.word != "WITH":
        return "" if first is None else first.word
    before = first
    for token in tokens:
        # what follows the parenthesis of a common table expression, and not that of its columns
        if before.kind == "g" and token.kind != "," and token.word != "AS":
            return token.word
        before = token
    return ""


def _name(provider: str, sql: str, item: list[_Token], index: int) -> tuple[str | None, str]:
    """The name that the database gives to this item, or None; and its source: alias, column, text."""
    shape = "".join(token.kind for token in item)
    if _ALIASED.fullmatch(shape):
        return (None if shape[-1] == "s" and provider == "postgresql" else _certain(provider, item[-1])), "alias"
    if _COLUMN.fullmatch(shape):
        return _certain(provider, item[-1]), "column"
    if _IMPLIED.fullmatch(shape):
        return _certain(provider, item[-1]), "alias"
    if _OPEN.fullmatch(shape):
        return None, ""
    if provider == "postgresql":
        if shape in ("n", "s"):
            return f"col_{index}", "column"
        named = _NAMED.fullmatch(shape)
        return (_certain(provider, item[named.end("name") - 1]) if named else None), "column"
    text = sql[item[0].start : item[-1].end]
    # a placeholder is sent under another name, and strings and comments are not always left unchanged
    plain = not any(mark in text for mark in (":", "--", "/*", "#"))
    return (text if plain and shape != "s" and _is_usual(text) else None), "text"


def _certain(provider: str, token: _Token) -> str | None:
    name = token.text
    if token.kind in "qs":
        if "\\" in name:
            return None
        quote = name[-1]
        name = name[1:-1].replace(quote * 2, quote)
    elif provider == "postgresql":
        name = name.translate(_LOWER)
    if provider == "postgresql" and len(name.encode(errors="replace")) > _POSTGRESQL_NAME:
        return None
    return name if _is_usual(name) else None


def _is_usual(name: str) -> bool:
    """Do the driver and the database leave this name unchanged?"""
    return bool(name) and name == name.strip() and name != "?column?" and not _NUMERIC.match(name)
