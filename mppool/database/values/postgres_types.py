"""How a Python value becomes a PostgreSQL parameter of a known type: the value to bind, and its cast.

The driver writes a parameter in the binary form of its *Python* type, and the server reads those bytes as *its*
type: an int in a float8 column becomes 2.5e-323. So each placeholder is written with a cast that fixes the type of
the bytes. Where both sides have the same type, the value goes as it is (``:a::pg_catalog.int8``); elsewhere it goes
as text, and the server's own parser reads it (``:a::pg_catalog.text::pg_catalog.float8``); where that could give
another value, it is refused.

A rule is the cast and a function for the value; a cast of None says that the function returns both.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import struct
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from mppool.database.values.parameters import Refused, check

__all__ = ["NATURAL", "Rule", "Rules", "as_text", "rule_for", "rules"]

Rule = tuple["str | None", Callable[[Any], Any]]
Rules = Mapping[type, Rule]
NoneType = type(None)
Decimal = decimal.Decimal

TEXT = "pg_catalog.text"
_OWN = "{}"  # the value has the placeholder's type
_PARSED = TEXT + "::{}"  # the server's parser makes that type of its text


def _same(value: Any) -> Any:
    return value


def _str(value: str) -> str:
    check(value)
    if "\0" in value:
        raise Refused("text", "PostgreSQL's text cannot hold the character NUL")
    return value


def _within(low: int, high: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        check(value)
        if not low <= value <= high:
            raise Refused("int", f"it is not between {low} and {high}")
        number = int(value)
        if number != value:
            raise Refused("int", "it is not a whole number")
        return number

    return convert


def _float_text(value: float) -> str:
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text := repr(value), text)


def _int_as_double(value: int) -> str:
    if float(check(value)) != value:
        raise Refused("float8", "a double cannot hold it exactly")
    return str(value)


def _int_as_single(value: int) -> str:
    if struct.unpack("f", struct.pack("f", check(value)))[0] != value:
        raise Refused("float4", "a 32-bit float cannot hold it exactly")
    return str(value)


def _decimal_as_double(value: Decimal) -> str:
    check(value)
    if Decimal(repr(float(value))) != value:
        raise Refused("float8", "a double cannot hold it exactly; pass float(value) if that is near enough")
    return str(value)


def _decimal_text(value: Decimal) -> str:
    return str(check(value))


def _numeric(value: Any) -> Decimal:
    if value.__class__ is int:
        value = Decimal(value)  # of any size
    checked: Decimal = check(value)  # a float becomes the shortest decimal that reads back as it
    return checked


def _money(value: Any) -> Decimal:
    amount = _numeric(value)
    cents = amount.scaleb(2, _WIDE)
    if cents != cents.to_integral_value() or not -(2**63) <= cents < 2**63:
        raise Refused("money", "it is not a whole number of cents, or too large")
    return amount


_WIDE = decimal.Context(prec=200_000, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)


def _datetime_as_date(value: datetime.datetime) -> datetime.date:
    value = check(value)
    if value.time() != datetime.time():
        raise Refused("date", "its time of day would be lost; pass value.date()")
    return value.date()


def _short(limit: int) -> Callable[[str], str]:
    def convert(value: str) -> str:
        if len(_str(value).encode()) > limit:
            raise Refused("text", f"the server would cut it after {limit} bytes")
        return value

    return convert


def _json_text(value: Any) -> str:
    return json.dumps(check(value), ensure_ascii=False, separators=(",", ":"))  # as the driver writes it


def as_text(value: Any) -> str:
    """The text that the server's parser reads as this value, which has passed its rule."""
    kind = value.__class__
    if kind is str:
        return value  # type: ignore[no-any-return]
    if kind is bool:
        return "true" if value else "false"
    if kind is bytes:
        return "\\x" + value.hex()  # type: ignore[no-any-return]
    if kind is float:
        return _float_text(value)
    if kind is dict or kind is list:
        return _json_text(value)
    if kind is datetime.datetime and value.tzinfo is None:
        # else the server would use the session's time zone; a type without time zone ignores the offset
        return value.isoformat() + "+00:00"  # type: ignore[no-any-return]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _element(value: Any) -> str:
    """The value as an element in the text form of an array."""
    return '"' + as_text(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _array(elements: Rules) -> Callable[[Sequence[Any]], str]:
    def convert(value: Sequence[Any]) -> str:
        parts = []
        for item in value:
            if item is None:
                parts.append("NULL")
                continue
            cast, function = rule_for(item, elements, "array", "; the items of a tuple or list must fit the array")
            made = function(item)
            parts.append(_element(made[1] if cast is None else made))
        return "{" + ",".join(parts) + "}"

    return convert


# --- without a type to go to ------------------------------------------------------------------------------


def _int_natural(value: int) -> tuple[str, int]:
    """As a literal of this value would be typed."""
    check(value)
    return ("pg_catalog.int4" if -(2**31) <= value < 2**31 else "pg_catalog.int8"), value


def _datetime_natural(value: datetime.datetime) -> tuple[str, datetime.datetime]:
    made = check(value)
    return ("pg_catalog.timestamp" if made.tzinfo is None else "pg_catalog.timestamptz"), made


_PLAIN: dict[type, Rule] = {
    bool: ("pg_catalog.bool", _same),
    float: (TEXT + "::pg_catalog.float8", _float_text),
    Decimal: ("pg_catalog.numeric", _numeric),
    datetime.date: ("pg_catalog.date", _same),
    datetime.time: ("pg_catalog.time", check),
    datetime.datetime: (None, _datetime_natural),
    uuid.UUID: ("pg_catalog.uuid", _same),
}
_ARRAYS = {
    bool: "bool",
    int: "int8",
    float: "float8",
    Decimal: "numeric",
    str: "text",
    bytes: "bytea",
    datetime.date: "date",
    datetime.time: "time",
    datetime.datetime: "timestamptz",
    uuid.UUID: "uuid",
}


def _tuple_natural(value: tuple[Any, ...]) -> tuple[str, str]:
    kinds = {(item.value if isinstance(item, enum.Enum) else item).__class__ for item in value} - {NoneType}
    if len(kinds) != 1 or not kinds <= _ARRAYS.keys():
        raise Refused("array", "its items must be of one type; or cast the placeholder, as in :name::int[]")
    kind = _ARRAYS[kinds.pop()]
    return f"{TEXT}::pg_catalog._{kind}", _array(rules(kind, f"pg_catalog.{kind}"))(value)


# For statements whose types the server does not tell.
NATURAL: Rules = {
    **_PLAIN,
    NoneType: ("", _same),
    int: (None, _int_natural),
    str: (TEXT, _str),
    bytes: ("pg_catalog.bytea", _same),
    dict: ("pg_catalog.jsonb", check),
    list: ("pg_catalog.jsonb", check),
    tuple: (None, _tuple_natural),
}


# --- by the type to go to ---------------------------------------------------------------------------------


def _ints(low: int, high: int) -> dict[type, Rule]:
    return dict.fromkeys((int, float, Decimal), (_OWN, _within(low, high)))


# What a text column takes beside text: stored as the server writes it; and an untyped ``SELECT :a`` is text too.
_STRING: dict[type, Rule] = {
    str: (_OWN, _str),
    int: (_OWN, lambda value: str(check(value))),
    dict: (_OWN, check),
    list: (_OWN, check),
    **_PLAIN,
}
_TIMESTAMP: dict[type, Rule] = {
    datetime.datetime: (_OWN, check),
    datetime.date: (_PARSED, datetime.date.isoformat),  # its midnight
}
_JSON: dict[type, Rule] = {dict: (_OWN, check), list: (_OWN, check)}
_BY_TYPE: dict[str, dict[type, Rule]] = {
    "bool": {bool: (_OWN, _same)},
    "int2": _ints(-(2**15), 2**15 - 1),
    "int4": _ints(-(2**31), 2**31 - 1),
    "int8": _ints(-(2**63), 2**63 - 1),
    "oid": _ints(0, 2**32 - 1),
    "float4": {int: (_PARSED, _int_as_single), float: (_PARSED, _float_text), Decimal: (_PARSED, _decimal_text)},
    "float8": {int: (_PARSED, _int_as_double), float: (_PARSED, _float_text), Decimal: (_PARSED, _decimal_as_double)},
    "numeric": dict.fromkeys((int, float, Decimal), (_OWN, _numeric)),
    "money": dict.fromkeys((int, float, Decimal), (_OWN, _money)),
    "text": _STRING,
    "varchar": _STRING,
    "bpchar": _STRING,
    "name": {str: (_PARSED, _short(63))},
    "char": {str: (_PARSED, _short(1))},
    "bytea": {bytes: (_OWN, _same)},
    "date": {datetime.date: (_OWN, _same), datetime.datetime: (_OWN, _datetime_as_date)},
    "time": {datetime.time: (_OWN, check)},
    "timestamp": _TIMESTAMP,
    "timestamptz": _TIMESTAMP,
    "uuid": {uuid.UUID: (_OWN, _same)},
    "json": _JSON,
    "jsonb": _JSON,
    # a type of the user's or an extension's that the server counts among the strings, such as citext
    "string": {str: (_PARSED, _str), int: (_PARSED, lambda value: str(check(value)))},
}
_AS_TEXT = {"float4", "float8", "name", "char", "string"}  # where everything goes as text, None goes so too


@lru_cache(maxsize=1024)
def rules(kind: str, cast: str) -> Rules:
    """The rules for placeholders of one type.

    Args:
        kind: a built-in type by its name in the catalogue; "string" or anything else for others; with "_" before it
            for an array of it.
        cast: the SQL of the type.
    """
    if kind.startswith("_"):
        elements = dict(rules(kind[1:], ""))
        if kind not in ("_json", "_jsonb"):
            elements.pop(list, None)  # a list in a list is meant for a second dimension, not for JSON text
        array = _PARSED, _array(elements)
        made: dict[type, Rule] = {tuple: array, list: array}
    else:
        made = dict(_BY_TYPE.get(kind, {}))
    if kind != "bytea":  # whose text form makes other bytes of '\x41'
        made.setdefault(str, (_PARSED, _str))
    made[NoneType] = (_OWN if kind in _BY_TYPE and kind not in _AS_TEXT else _PARSED, _same)
    return {typ: (form and form.format(cast), function) for typ, (form, function) in made.items()}


def rule_for(value: Any, table: Rules, kind: str, hint: str) -> Rule:
    """The rule for one value; an enumeration's member goes by its value."""
    rule = table.get(value.__class__)
    if rule is not None:
        return rule
    if isinstance(value, enum.Enum):
        cast, function = rule_for(value.value, table, kind, hint)
        return cast, lambda member: function(member.value)
    raise Refused(kind, f"values of this type cannot go there{hint}")
