"""The lexer: the tokens of a statement, by the lexical rules of its database.

It tells a placeholder (``:name``) from text that only looks like one: inside strings, comments and quoted names, and
in casts (``x::int``). Text that only a server setting gives another meaning (MySQL's ANSI_QUOTES and
NO_BACKSLASH_ESCAPES, PostgreSQL's standard_conforming_strings=off) is read by the default. What MySQL executes only
from some version on (``/*!80000 … */``) is read as code.
"""

from __future__ import annotations

import re
from functools import cache

__all__ = ["lexer", "token_at"]

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
_EXECUTED = r"/\*M?!\d*"  # MySQL and MariaDB execute what follows, up to a "*/" outside strings
_SPACE = r"[ \t-\r]+"
# The sets are negated: a set that reaches to the last character takes the compiler milliseconds.
_WORD = r"[^\x00-@\[-^`{-\x7f][^\x00-#%-/:-@\[-^`{-\x7f]*"
_NUMBER = r"[0-9][0-9.]*"
# An escape string continues after a line's end (and line comments), still with escapes.
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
    """A pattern that matches one token. It is compiled for the first statement, which takes milliseconds."""
    return re.compile(_RULES[provider], re.DOTALL)


_NESTED = re.compile(r"/\*|\*/")


def token_at(provider: str, sql: str, at: int) -> tuple[re.Match[str], int]:
    """The token that begins at ``at``, and its end. A comment that contains comments ends later than its match."""
    token = lexer(provider).match(sql, at)
    assert token is not None  # "other" takes any character
    if token.lastgroup == "block" and provider in ("postgresql", "sqlserver"):
        return token, _end_of_comment(sql, token.end())
    return token, token.end()


def _end_of_comment(sql: str, at: int) -> int:
    depth = 1
    while depth:
        edge = _NESTED.search(sql, at)
        if edge is None:
            return len(sql)
        depth += 1 if edge[0] == "/*" else -1
        at = edge.end()
    return at
