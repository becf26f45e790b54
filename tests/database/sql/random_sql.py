"""Random SQL that knows the truth: pieces of text, each with the name of the placeholder that it is, or None.

Pieces are valid tokens of one database, put together so that the joint never makes another token. `statement`
cares for tokens only; `select` makes what a database can run, and knows its result.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

Piece = tuple[str, str | None]

NAMES = [
    "a",
    "ab",
    "a1",
    "p",
    "pysqlx",
    "mp0",
    "mp",
    "e",
    "E",
    "n",
    "über",
    "имя",
    "_x",
    "select",
    "名",
    "nai\u0308ve",
    "1",
    "2x",
]
WORDS = [
    "SELECT",
    "x",
    "FROM",
    "t1",
    "AND",
    "LIMIT",
    "E",
    "e",
    "N",
    "fooE",
    "b$a$",
    "U",
    "a_1",
    "straße",
    "名前",
    "_utf8",
    "M",
]
BITS = [
    *(f":{name}" for name in NAMES),
    *("'", '"', "`", "''", '""', "\\", "\\'", "\\\\", "[", "]", "]]", "$", "$$", "$a$", "$é$", "#", "--", "-- ", "-"),
    *("/*", "*/", "*", "/", "/*!", "::", ":=", ":", ";", "\n", "\r", "\r\n", "\t", " ", "%", "?", "{}", "@x", "$1"),
    *("12:30", ":pysqlx_0", "E'", "é", "€", "\u3000", "😀", "NULL", "\\:a", "x", "1"),
]
OPERATORS = ["=", "<>", ",", ",", "(", ")", "+", "-", "*", "/", "||", ".", "<", ">=", ";", "%", "|", "&", "~", "!="]
MORE_OPERATORS = {
    "postgresql": ["::int", "::", ":=", "->", "->>", "#>", "#>>", "@>", "?", "?|", "?&", "@", "#-", "=>", "$1", "@@"],
    "mysql": [":=", "@x:=", "->", "->>", "<=>", "&&", "?", "\\N", "^"],
    "sqlite": ["->", "->>", "==", "<<", "?"],
    "sqlserver": ["::", "@x", "@@y", "#t", "^", "!<"],
}
NUMBERS = ["0", "1", "42", "1.5", ".5", "1e5", "1E-3", "0x1F", "12345678901234567890", "1."]
SPACES = [" ", " ", " ", "\n", "\t", "\r\n", "  ", "\n\n", "\f"]
# In PostgreSQL's brackets; each ^ is a placeholder, any other colon is not.
BRACKETS = [
    *(
        "arr[1:n]",
        "arr[lo:hi]",
        "arr[1:2]",
        "arr[:2]",
        "arr[x+:2]",
        "arr[1 : n]",
        "arr[1 :n]",
        "arr[f(1):n]",
        'arr["x":n]',
        "arr['k':n]",
        "arr[$1:n]",
    ),
    *("arr[^]", "arr[^:n]", "arr[1: ^]", "arr[^: ^]", "arr[:]", "arr[1:]", "arr[^:]", "arr[f(^):n]", "arr[x+^]"),
    *("arr[1:n][^:m]", "arr[x/*:c*/:n]", "arr[x::int:n]", "arr[^::int]", "arr[arr[1:n]:m]", "arr[arr[^]:m]"),
    *("ARRAY[^, ^]", "ARRAY[x, ^]", "ARRAY[[^, 1], [2, ^]]", "ARRAY[(SELECT ^)]", "ARRAY[x AND^]", "ARRAY[NOT ^]"),
    *("ARRAY[CASE WHEN ^ THEN ^ ELSE ^ END]", "arr[CASE WHEN x THEN y END:n]", "j['k'][^]", "ARRAY[]", "arr[1.5:n]"),
]
NESTING = ("postgresql", "sqlserver")


class RandomSQL:
    """Makes statements for one database; the same seed makes the same ones."""

    def __init__(self, provider: str, seed: int | str) -> None:
        self.provider = provider
        self.rng = random.Random(seed)
        self.operators = OPERATORS + MORE_OPERATORS[provider]
        self.quotes: list[Callable[[str], str]] = [self.plain, self.plain, self.double, self.prefixed]
        if provider == "postgresql":
            self.quotes += [self.escaped, self.escaped, self.dollar, self.dollar]
        if provider in ("mysql", "sqlite"):
            self.quotes.append(self.backtick)
        if provider in ("sqlite", "sqlserver"):
            self.quotes.append(self.bracket)

    # --- tokens of which the text inside is random -----------------------------------------------------------

    def inside(self) -> str:
        return "".join(self.rng.choices(BITS, k=self.rng.choice((0, 1, 2, 2, 3, 5))))

    def plain(self, text: str) -> str:
        if self.provider == "mysql":
            return self.backslashed("'", text)
        return "'" + text.replace("'", "''") + "'"

    def backslashed(self, quote: str, text: str) -> str:
        """A string in which a backslash escapes, and a quote is doubled or escaped."""
        escaped = text.replace("\\", "\\\\").replace(quote, self.rng.choice((quote * 2, "\\" + quote)))
        return quote + escaped + quote

    def escaped(self, text: str) -> str:
        made = self.rng.choice("eE")
        while self.rng.random() < 0.3:  # it goes on in the next line, escapes and all
            cut = self.rng.randint(0, len(text))
            part, text = text[:cut], text[cut:]
            gap = self.rng.choice(["\n", " \n ", "\r\n", " -- :a' \n", "--'\n--:a\n\t", "\n\n--\r"])
            made += self.backslashed("'", part) + gap
        return made + self.backslashed("'", text)

    def double(self, text: str) -> str:
        return self.backslashed('"', text) if self.provider == "mysql" else '"' + text.replace('"', '""') + '"'

    def backtick(self, text: str) -> str:
        return "`" + text.replace("`", "``") + "`"

    def bracket(self, text: str) -> str:
        return "[" + text.replace("]", "" if self.provider == "sqlite" else "]]") + "]"

    def dollar(self, text: str) -> str:
        tag = self.rng.choice(["$$", "$$", "$a$", "$b_1$", "$é$", "$€$"])
        return tag + text + tag if (text + tag).index(tag) == len(text) else self.plain(text)

    def prefixed(self, text: str) -> str:
        kinds = {"postgresql": ["N", "n", "U&", "B", "x"], "mysql": ["N", "n", "_utf8mb4", "X", "@"]}
        return self.rng.choice(kinds.get(self.provider, ["N", "x"])) + self.plain(text)

    def block(self, depth: int = 2) -> str:
        text = re.sub(r"/(?=[*])|[*](?=/)", r"\g<0> ", self.inside())
        if self.provider in NESTING:
            text = text.rstrip("/*")
            while depth and self.rng.random() < 0.4:
                text += self.block(depth - 1) + self.inside().replace("*", "").replace("/", "")
        if self.provider == "mysql" and text.startswith(("!", "M!")):
            text = " " + text
        return f"/*{text}*/"

    def line(self) -> str:
        text = self.inside().replace("\n", " ")
        if self.provider == "mysql":
            return self.rng.choice(["-- ", "--\t", "--\x01", "#"]) + text + "\n"
        if self.provider == "postgresql":
            return "--" + text.replace("\r", "") + self.rng.choice("\n\r")
        return "--" + text + "\n"

    def unfinished(self) -> str:
        """What begins a token and has no end; everything behind it belongs to it."""
        whole = self.rng.choice([*self.quotes, lambda text: self.block(0), lambda text: self.line()])(self.inside())
        if whole.startswith("--") or whole[0] in "#@":
            return whole.rstrip("\r\n") if whole[0] != "@" else "'"
        if whole[0] == "$" and whole[-1] == "$":
            tag = whole[: whole.index("$", 1) + 1]
            return whole[: -len(tag)]
        text = whole[:-2] if whole.startswith("/*") else whole[:-1]
        return text + (":a" if self.rng.random() < 0.5 and not text.endswith(("'", '"', "`", "]", "\\", "*")) else "")

    # --- statements ------------------------------------------------------------------------------------------

    def placeholder(self, names: int = len(NAMES)) -> Piece:
        name = self.rng.choice(NAMES[:names])
        return ":" + name, name

    def token(self) -> list[Piece]:
        rng = self.rng
        kind = rng.random()
        if kind < 0.25:
            return [self.placeholder()]
        if kind < 0.45:
            return [(rng.choice(self.quotes)(self.inside()), None)]
        if kind < 0.60:
            return [(rng.choice(self.operators), None)]
        if kind < 0.75:
            return [(rng.choice(WORDS), None)]
        if kind < 0.81:
            return [(rng.choice(NUMBERS), None)]
        if kind < 0.88:
            return [(self.block(), None)]
        if kind < 0.94:
            return [(self.line(), None)]
        if self.provider == "postgresql":
            first, *others = rng.choice(BRACKETS).split("^")
            return [(first, None)] + [piece for other in others for piece in (self.placeholder(16), (other, None))]
        if self.provider == "mysql":
            if kind < 0.96:  # not a comment: two minus signs
                return [("--", None), self.placeholder()]
            opening = rng.choice(["/*!", "/*!50100", "/*M!", "/*M!100100", "/*!999999"])
            return [(opening, None), (" ", None), *self.statement(3, closed=True), (" */", None)]
        return [("12", None)]

    def statement(self, longest: int = 12, closed: bool = False) -> list[Piece]:
        """Up to so many tokens, side by side where they may be; a closed one ends in no unfinished token."""
        made: list[Piece] = []
        for _ in range(self.rng.randint(1, longest)):
            token = self.token()
            self.join(made, token[0])
            made += token
        if not closed and self.rng.random() < 0.1:
            token = [(self.unfinished(), None)]
            self.join(made, token[0])
            made += token
        return made

    def join(self, made: list[Piece], right: Piece) -> None:
        """Add what keeps the last piece and the next one apart: nothing, where nothing is needed."""
        if not made:
            return
        if right[0][0] == "'" and self.provider == "postgresql":
            made.append((" , ", None))  # an escape string must not seem to go on
        elif self.rng.random() < 0.5 or not self.may_touch(made[-1], right):
            made.append((self.rng.choice(SPACES), None))

    def may_touch(self, left_piece: Piece, right_piece: Piece) -> bool:
        (left, name), (right, _) = left_piece, right_piece
        last, first = left[-1], right[0]
        if self.in_a_name(last) and self.in_a_name(first):
            return False
        if last == first and last in "'\"`]-$":
            return False
        if name is not None and (first in "($#@" or right.startswith("::")):
            return False  # SQLite has its own idea of what belongs to a name
        return last + first not in ("/*", "*/", "E'", "e'", "\\:") and last not in "\\@"

    def in_a_name(self, char: str) -> bool:
        return char.isalnum() or ord(char) > 127 or char in ("_$@#" if self.provider == "sqlserver" else "_$")

    # --- statements that a database can run ------------------------------------------------------------------

    def gap(self) -> Piece:
        made = "".join(self.rng.choice([self.rng.choice(SPACES), self.block(), self.line()]) for _ in range(2))
        return self.rng.choice(SPACES) + made + self.rng.choice(SPACES), None

    def select(self, value_of: Callable[[str], str]) -> tuple[list[Piece], dict[str, str]]:
        """A SELECT of strings, and its one row; placeholders count as strings."""
        made: list[Piece] = [("SELECT", None)]
        row: dict[str, str] = {}
        if self.provider == "mysql" and self.rng.random() < 0.5:
            made += [self.gap(), (self.rng.choice(["/*!", "/*!50100", "/*M!", "/*M!100100"]), None)]
        executed = len(made) > 1
        quotes = [quote for quote in self.quotes if quote in (self.plain, self.escaped, self.dollar)]
        for number in range(self.rng.randint(1, 4)):
            made += [(",", None)] if number else []
            made.append(self.gap())
            if self.rng.random() < 0.4:
                piece = self.placeholder()
                value = value_of(piece[0][1:])
            else:
                value = self.inside()
                piece = self.rng.choice(quotes)(value), None
            title = f"c{number}{self.inside()[:9]}."
            if self.provider == "sqlite":
                title = title.replace("]", "")
            names = [quote for quote in self.quotes if quote in (self.double, self.backtick, self.bracket)]
            if self.provider == "mysql":
                title, names = title.replace("😀", ""), [self.backtick]
            row[title] = value
            made += [piece, self.gap(), ("AS", None), self.gap(), (self.rng.choice(names)(title), None)]
        made += [(" */", None)] if executed else []
        return [*made, self.gap()], row
