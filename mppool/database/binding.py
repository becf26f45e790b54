"""Parameters on their way to PostgreSQL: the server is asked once what it expects where a statement has a
placeholder, and each value is bound as exactly that.

The answer (a `_Plan`) is kept for as long as the process lives, for the last thousand statements. It may come to be
wrong when the schema changes; as every placeholder is sent with an explicit cast, that gives the server's ordinary
conversion or its clear error, never other bytes. Before a refusal of ours, after an error of that kind, and after an
ALTER or DROP that went through this process, the server is asked anew.

The other databases convert by themselves; their parameters go by Python type alone (`statements.build`).
"""

from __future__ import annotations

import re
import uuid
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mppool import errors
from mppool.database import statements
from mppool.database.postgres_types import NATURAL, Rules, rule_for, rules
from mppool.database.values import Refused, refusal

if TYPE_CHECKING:
    from mppool.database.core import Core
    from mppool.database.link import Link
    from mppool.database.statements import Parsed

__all__ = ["bind", "failed"]

_REMEMBERED = 1024  # statements
_VARIANTS = 64  # texts of one statement that differ in casts

# What PREPARE takes. Comments before it that nest are not recognised: such a statement goes by Python type.
_PREPARABLE = re.compile(r"(?:\s|\(|--[^\n\r]*|/\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/)*"
                         r"(?:SELECT|INSERT|UPDATE|DELETE|MERGE|VALUES|WITH)\b", re.IGNORECASE)  # fmt: skip
_DESCRIBE = """
WITH RECURSIVE d (number, own, base) AS (
    SELECT u.number, u.own::oid, u.own::oid
    FROM pg_catalog.pg_prepared_statements s, pg_catalog.unnest(s.parameter_types) WITH ORDINALITY u (own, number)
    WHERE s.name = :name::pg_catalog.text
    UNION ALL
    SELECT d.number, d.own, t.typbasetype FROM d JOIN pg_catalog.pg_type t ON t.oid = d.base WHERE t.typtype = 'd'
)
SELECT d.number::int8 AS number,
    CASE WHEN b.typnamespace = 'pg_catalog'::regnamespace THEN b.typname::text
         WHEN b.typcategory = 'S' THEN 'string' ELSE 'other' END AS kind,
    pg_catalog.quote_ident(bn.nspname) || '.' || pg_catalog.quote_ident(b.typname)
    || CASE WHEN d.own = d.base THEN ''
       ELSE '::' || pg_catalog.quote_ident(tn.nspname) || '.' || pg_catalog.quote_ident(t.typname) END AS type
FROM d
JOIN pg_catalog.pg_type b ON b.oid = d.base AND b.typtype <> 'd' JOIN pg_catalog.pg_namespace bn
    ON bn.oid = b.typnamespace
JOIN pg_catalog.pg_type t ON t.oid = d.own JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace
ORDER BY d.number"""
_CHANGES = re.compile(r"\b(?:ALTER|DROP)\b", re.IGNORECASE)
_CHANGE_WORDS = {"alter", "drop", "table", "column", "view", "type", "if", "exists", "only", "cascade", "restrict"}


class _Plan:
    """Where the values of one statement go.

    Attributes:
        slots: for each placeholder, repeated ones each time: its key, its name, its type, the rules for it.
        texts: the statement with its casts, by these.
    """

    __slots__ = ("parsed", "slots", "texts")

    def __init__(self, parsed: Parsed, types: list[tuple[str, str]] | None) -> None:
        self.parsed = parsed
        names = parsed.pieces[1::2]
        kinds: list[tuple[str, Rules]] = (
            [("value", NATURAL)] * len(names) if types is None else [(kind, rules(kind, cast)) for kind, cast in types]
        )
        keys = parsed.keys(len(names), "".join(cast for _, cast in types or ()))
        self.slots = [(key, name, *kind) for key, name, kind in zip(keys, names, kinds, strict=True)]
        self.texts: dict[tuple[str, ...], str] = {}

    def statement(self, core: Core, parameters: dict[str, Any]) -> Any:
        casts: list[str] = []
        values: dict[str, Any] = {}
        for key, name, kind, table in self.slots:
            value = parameters[name]
            try:
                cast, function = table.get(value.__class__) or rule_for(value, table, kind, _hint(name, value))
                made = function(value)
            except Refused as refused:
                raise refusal(name, "postgresql", value, refused) from None
            if cast is None:
                cast, made = made
            casts.append(cast)
            values[key] = made
        form = tuple(casts)
        text = self.texts.get(form)
        if text is None:
            if len(self.texts) >= _VARIANTS:
                self.texts.clear()
            text = self.texts[form] = self._written(form)
        return statements.make(core, "postgresql", text, values)

    def _written(self, casts: tuple[str, ...]) -> str:
        # a cast gives an unnamed column its type's name; a bare list of parameters keeps the names it had
        bare = {"SELECT", ",", "", ";"}.issuperset(piece.strip().upper() for piece in self.parsed.pieces[::2])
        tail = ' AS "?column?"' if bare else ""
        marks = [
            f"(:{slot[0]}::{cast}){tail}" if cast else f":{slot[0]}"
            for slot, cast in zip(self.slots, casts, strict=True)
        ]
        return self.parsed.with_marks(marks)


def _hint(name: str, value: Any) -> str:
    if value.__class__ is tuple:
        return f"; a tuple goes to an array, as in = ANY(:{name}) for IN"
    return f"; convert the value, or say its type in the statement, as in :{name}::text"


_plans: OrderedDict[tuple[str, str], _Plan] = OrderedDict()


async def bind(link: Link, method: str, parsed: Parsed, sql: str, parameters: dict[str, Any] | None) -> Any:
    """The core's statement object, with every parameter as the database wants it. Awaits nothing but the database,
    and that only for the first use of a PostgreSQL statement with parameters.

    Args:
        method: the core's method that the statement is meant for.

    Raises:
        QueryError, ExecuteError: the server refuses the statement.
        TypeError, ValueError, ParameterInvalidValueError, ParameterInvalidProviderError: as `statements.build`.
    """
    if link.provider != "postgresql":
        if parsed.shield is None and method != "raw_cmd":
            raise ValueError("the driver would change this text: give strings as parameters, and leave comments out")
        return statements.build(link.core, link.provider, parsed, sql, parameters)
    if parameters is None or not parsed.names:
        if names := _changed_by(sql):
            _forget(names)
        return statements.build(link.core, link.provider, parsed, sql, parameters)
    statements.check_names("postgresql", parsed, parameters)
    key = link.database.uri, sql
    plan = _plans.get(key)
    if plan is not None:
        try:
            _plans.move_to_end(key)
            return plan.statement(link.core, parameters)
        except KeyError:
            pass  # another thread has just forgotten it
        except errors.ParameterInvalidValueError:
            pass  # the schema may have changed
    plan = _plans[key] = _Plan(parsed, await _describe(link, method, parsed, sql))
    if len(_plans) > _REMEMBERED:
        _plans.popitem(last=False)
    return plan.statement(link.core, parameters)


def failed(link: Link, sql: str, code: str) -> None:
    """A statement failed with this code: if its parameters' types may be the reason, they are asked for again."""
    if link.provider == "postgresql" and code[:2] in ("0", "08", "0A", "22", "42"):
        _plans.pop((link.database.uri, sql), None)


@lru_cache(maxsize=256)
def _changed_by(sql: str) -> frozenset[str]:
    """Names in a statement that may give another type to a column."""
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
        # What might be two statements goes the way on which the server takes one only; but there it stays in the
        # core's cache of statements.
        await link.call(method if ";" in sql else "raw_cmd", statements.make(link.core, "postgresql", text, None))
    except errors.RawCmdError as error:
        kind = errors.ExecuteError if method == "execute" else errors.QueryError
        raise kind(error.code, error.message) from None
    query = statements.make(link.core, "postgresql", _DESCRIBE, {"name": name})
    rows = link.read((await link.call("query_typed", query)).get_all)
    if len(rows) != parsed.count:
        return None  # a proxy has sent the question to another session than the statement
    doubtful = link.doubtful
    try:
        await link.call("raw_cmd", statements.make(link.core, "postgresql", f"DEALLOCATE {name}", None))
    except errors.RawCmdError as error:
        if error.code != "26000":
            raise errors.QueryError(error.code, error.message) from None
        link.doubtful = doubtful  # by a proxy in another session; the core never had this name
    return [(row["kind"], row["type"]) for row in rows]
