"""Binding parameters. On PostgreSQL the server is asked once which types a statement's placeholders have, and each
value is bound as exactly that type.

The answer (a `_Plan`) is kept while the process lives, for the last 1024 statements. A change of the schema can make
it wrong. Every placeholder is sent with an explicit cast, so a wrong plan leads to the server's ordinary conversion or
to its clear error, and never to other bytes. The server is asked again before we refuse a value, after an error that
may come from the types, and after an ALTER or DROP in this process.

The other databases convert by themselves; their parameters are bound by Python type alone (`driver_statement.build`).
"""

from __future__ import annotations

import re
import uuid
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mppool import errors
from mppool.database.sql import driver_statement
from mppool.database.values.parameters import Refused, refusal
from mppool.database.values.postgres_types import NATURAL, Rules, as_text, rule_for, rules

if TYPE_CHECKING:
    from mppool.database.connection.link import Link
    from mppool.database.runtime.drivers import Driver
    from mppool.database.sql.statements import Parsed

__all__ = ["bind", "failed"]

_REMEMBERED = 1024  # statements
_VARIANTS = 64  # texts of one statement that differ in casts

# The driver numbers no more placeholders than these. Where a statement has more, all of its values go as texts in
# arrays of so many, and each placeholder takes an element: a parameter of the driver's is then an array. The server
# finds an element by counting from the first, so arrays are kept short.
_NUMBERED = 127
_PACKED = 256
_BIG_REMEMBERED, _BIG_VARIANTS = 16, 4  # such statements, and their texts

# What PREPARE takes. Comments before it that nest are not recognised: such a statement goes by Python type.
_PREPARABLE = re.compile(r"(?:\s|\(|--[^\n\r]*|/\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/)*"
                         r"(?:SELECT|INSERT|UPDATE|DELETE|MERGE|VALUES|WITH)\b", re.IGNORECASE)  # fmt: skip
# A domain is what it is made of, and an array of the user's is its elements; "way" is what it is cast to first.
_DESCRIBE = """
WITH RECURSIVE d (number, own, way, leaf, prefix) AS (
    SELECT u.number, u.own::oid, u.own::oid, u.own::oid, ''
    FROM pg_catalog.pg_prepared_statements s, pg_catalog.unnest(s.parameter_types) WITH ORDINALITY u (own, number)
    WHERE s.name = :name::pg_catalog.text
    UNION ALL
    SELECT d.number, d.own, CASE WHEN t.typtype = 'd' AND d.prefix = '' THEN t.typbasetype ELSE d.way END,
        CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.typelem END,
        CASE WHEN t.typtype = 'd' THEN d.prefix ELSE '_' END
    FROM d JOIN pg_catalog.pg_type t ON t.oid = d.leaf
    WHERE t.typtype = 'd' OR (t.typcategory = 'A' AND t.typnamespace <> 'pg_catalog'::regnamespace)
)
SELECT d.number::int8 AS number,
    d.prefix || CASE WHEN l.typnamespace = 'pg_catalog'::regnamespace THEN l.typname::text
         WHEN l.typcategory = 'S' THEN 'string' ELSE 'other' END AS kind,
    pg_catalog.quote_ident(bn.nspname) || '.' || pg_catalog.quote_ident(b.typname)
    || CASE WHEN d.own = d.way THEN ''
       ELSE '::' || pg_catalog.quote_ident(tn.nspname) || '.' || pg_catalog.quote_ident(t.typname) END AS type
FROM d
JOIN pg_catalog.pg_type l ON l.oid = d.leaf AND l.typtype <> 'd'
    AND (l.typcategory <> 'A' OR l.typnamespace = 'pg_catalog'::regnamespace)
JOIN pg_catalog.pg_type b ON b.oid = d.way JOIN pg_catalog.pg_namespace bn ON bn.oid = b.typnamespace
JOIN pg_catalog.pg_type t ON t.oid = d.own JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace
ORDER BY d.number"""
_CHANGES = re.compile(r"\b(?:ALTER|DROP)\b", re.IGNORECASE)
_CHANGE_WORDS = {"alter", "drop", "table", "column", "view", "type", "if", "exists", "only", "cascade", "restrict"}


class _Plan:
    """How the values of one statement are bound.

    Attributes:
        slots: for each placeholder, repeated ones each time: its name, its type, the rules for it.
        keys: the names that the driver replaces.
        texts: the statement's text for each combination of casts.
    """

    __slots__ = ("keys", "parsed", "slots", "texts")

    def __init__(self, parsed: Parsed, types: list[tuple[str, str]] | None) -> None:
        self.parsed = parsed
        names = parsed.pieces[1::2]
        kinds: list[tuple[str, Rules]] = (
            [("value", NATURAL)] * len(names) if types is None else [(kind, rules(kind, cast)) for kind, cast in types]
        )
        self.keys = parsed.keys(self._parameters(), "".join({cast for _, cast in types or ()}))
        self.slots = [(name, *kind) for name, kind in zip(names, kinds, strict=True)]
        self.texts: dict[tuple[str, ...], str] = {}

    def statement(self, driver: Driver, parameters: dict[str, Any]) -> Any:
        casts: list[str] = []
        values: list[Any] = []
        for name, kind, table in self.slots:
            value = parameters[name]
            try:
                cast, function = table.get(value.__class__) or rule_for(value, table, kind, _hint(name, value))
                made = function(value)
            except Refused as refused:
                raise refusal(name, "postgresql", value, refused) from None
            if cast is None:
                cast, made = made
            casts.append(cast)
            values.append(made)
        form = tuple(casts)
        text = self.texts.get(form)
        if text is None:
            if len(self.texts) >= (_BIG_VARIANTS if self.parsed.count > _NUMBERED else _VARIANTS):
                self.texts.clear()
            text = self.texts[form] = self._written(form)
        return driver_statement.make(driver, "postgresql", text, dict(zip(self.keys, self._bound(values), strict=True)))

    def _parameters(self) -> int:
        """The number of parameters that the driver gets."""
        return self.parsed.count

    def _bound(self, values: list[Any]) -> list[Any]:
        """These parameters."""
        return values

    def _written(self, casts: tuple[str, ...]) -> str:
        # a cast gives an unnamed column its type's name; a bare list of parameters keeps the names it had
        bare = {"SELECT", ",", "", ";"}.issuperset(piece.strip().upper() for piece in self.parsed.pieces[::2])
        tail = ' AS "?column?"' if bare else ""
        return self.parsed.with_marks(
            [f"{self._marked(index, cast)}{tail if cast else ''}" for index, cast in enumerate(casts)]
        )

    def _marked(self, index: int, cast: str) -> str:
        """A placeholder as it is written in the text."""
        return f"(:{self.keys[index]}::{cast})" if cast else f":{self.keys[index]}"


class _BigPlan(_Plan):
    """A statement with more placeholders than the driver can number. An empty element stands for NULL, which the
    driver has no array of; any other begins with a letter that is taken off."""

    __slots__ = ()

    @property
    def _length(self) -> int:
        return max(_PACKED, -(-self.parsed.count // _NUMBERED))

    def _parameters(self) -> int:
        return -(-self.parsed.count // self._length)

    def _bound(self, values: list[Any]) -> list[Any]:
        texts = ["" if value is None else "v" + as_text(value) for value in values]
        return [tuple(texts[at : at + self._length]) for at in range(0, len(texts), self._length)]

    def _marked(self, index: int, cast: str) -> str:
        array, element = divmod(index, self._length)
        # where it comes for the first time the driver sets a number; the others have it already
        mark = f"${array + 1}" if element else f":{self.keys[array]}"
        text = f"pg_catalog.substr(nullif(({mark}::pg_catalog._text)[{element + 1}],''),2)"
        if cast.startswith("pg_catalog.money"):
            cast = f"pg_catalog.numeric::{cast}"  # the text of money is spelled as the server's place does
        return f"({text}::{cast})" if cast else "NULL"


def _hint(name: str, value: Any) -> str:
    if value.__class__ is tuple or value.__class__ is list:
        return f"; a {value.__class__.__name__} goes to an array, as in = ANY(:{name}) for IN"
    return f"; convert the value, or say its type in the statement, as in :{name}::text"


_plans: OrderedDict[tuple[str, str], _Plan] = OrderedDict()


async def bind(link: Link, method: str, parsed: Parsed, sql: str, parameters: dict[str, Any] | None) -> Any:
    """The driver's statement object, with every parameter bound as the database needs it.

    Awaits only the database, and only for the first use of a PostgreSQL statement with parameters.

    Args:
        method: the driver's method that the statement is meant for.

    Raises:
        QueryError, ExecuteError: the server refuses the statement.
        TypeError, ValueError, ParameterInvalidValueError, ParameterInvalidProviderError: as `driver_statement.build`.
    """
    if link.provider != "postgresql":
        if parsed.shield is None and method != "raw_cmd":
            raise ValueError("the driver would change this text: give strings as parameters, and leave comments out")
        return driver_statement.build(link.driver, link.provider, parsed, sql, parameters)
    if parameters is None or not parsed.names:
        if names := _changed_by(sql):
            _forget(names)
        return driver_statement.build(link.driver, link.provider, parsed, sql, parameters)
    driver_statement.check_names("postgresql", parsed, parameters)
    key = link.database.uri, sql
    plan = _plans.get(key)
    if plan is not None:
        try:
            _plans.move_to_end(key)
            return plan.statement(link.driver, parameters)
        except KeyError:
            pass  # another thread has just removed it
        except errors.ParameterInvalidValueError:
            pass  # the schema may have changed
    kind, most = (_BigPlan, _BIG_REMEMBERED) if parsed.count > _NUMBERED else (_Plan, _REMEMBERED)
    plan = kind(parsed, await _describe(link, method, parsed, sql))
    _remember(key, plan, most)
    return plan.statement(link.driver, parameters)


def _remember(key: tuple[str, str], plan: _Plan, most: int) -> None:
    alike = [other for other, its in list(_plans.items()) if type(its) is type(plan)]
    for other in alike[: max(0, len(alike) - most + 1)]:  # the longest unused
        _plans.pop(other, None)
    _plans[key] = plan


def failed(link: Link, sql: str, code: str) -> None:
    """A statement failed with this code: forget its plan if the parameters' types may be the reason."""
    if link.provider == "postgresql" and code[:2] in ("0", "08", "0A", "22", "42"):
        _plans.pop((link.database.uri, sql), None)


@lru_cache(maxsize=256)
def _changed_by(sql: str) -> frozenset[str]:
    """The names in an ALTER or DROP, which may change a column's type."""
    if not _CHANGES.search(sql):
        return frozenset()
    return frozenset(re.findall(r"\w+", sql.lower())) - _CHANGE_WORDS


def _forget(names: frozenset[str]) -> None:
    for key in list(_plans):
        text = key[1].lower()
        if any(name in text for name in names):
            _plans.pop(key, None)


async def _describe(link: Link, method: str, parsed: Parsed, sql: str) -> list[tuple[str, str]] | None:
    """Name and SQL of each placeholder's type as the server infers them; None: it cannot be asked for this one."""
    if not _PREPARABLE.match(sql):
        return None
    name = f"mppool_{uuid.uuid4().hex}"
    marks = [f"${number}" for number in range(1, parsed.count + 1)]
    text = f"PREPARE {name} AS\n{parsed.with_marks(marks)}"
    try:
        # Text that may hold two statements is sent by the method with which the server takes one only. The driver
        # keeps such a statement in its cache.
        prepare = driver_statement.make(link.driver, "postgresql", text, None)
        await link.call(method if ";" in sql else "raw_cmd", prepare)
    except errors.RawCmdError as error:
        kind = errors.ExecuteError if method == "execute" else errors.QueryError
        raise kind(error.code, error.message) from None
    query = driver_statement.make(link.driver, "postgresql", _DESCRIBE, {"name": name})
    rows = link.read((await link.call("query_typed", query)).get_all)
    if len(rows) != parsed.count:
        return None  # a proxy has sent this query to another session than the PREPARE
    statement = driver_statement.make(link.driver, "postgresql", f"DEALLOCATE {name}", None)
    try:
        # "26000": a proxy has sent it to another session than the PREPARE, and the driver never knew this name
        await link.call_tolerating("26000", "raw_cmd", statement)
    except errors.RawCmdError as error:
        raise errors.QueryError(error.code, error.message) from None
    return [(row["kind"], row["type"]) for row in rows]
