"""Parameter values: each is passed on so that it arrives exactly, or refused before anything is sent.

The driver binds by Python type. Without this module it narrows floats to 32 bits, drops what its encoding of a type
has no room for (microseconds on SQLite, and of times on MySQL; digits of decimals), and panics (past ``except
Exception``) on an int outside 64 bits, a NaN decimal, most time zones, and some JSON. This module holds the rules of
each Python type for any target, and those of SQLite and MySQL. `postgres_types` has the rules of PostgreSQL's types.

The column is not known here. SQLite and MySQL convert stored values by their own rules, so they round a number that a
column has no room for, as they would round a literal. SQLite's datetimes and times are the driver's: whole
milliseconds; finer values are cut here.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import uuid
from collections.abc import Callable
from typing import Any

from mppool import errors

__all__ = ["Refused", "check", "convert", "refusal"]

MAX_DEPTH = 120  # PostgreSQL's jsonb can be read back by the driver to 127; 20,000 levels end the process
_MIN, _MAX = -(2**63), 2**63 - 1
_HIGHEST, _LOWEST = 131_071, -16_383  # a decimal's first and last digit, as powers of ten: PostgreSQL's limits


class Refused(Exception):
    """A value cannot be passed on. The arguments: the type that it should have become, and the reason."""


def check(value: Any) -> Any:
    """A value of a known type as the driver must be given it.

    Raises:
        Refused: it would panic, or arrive as something else, in any database.
    """
    return _CONVERTERS[value.__class__](value)


def convert(name: str, value: Any, provider: str) -> Any:
    """``value`` as the driver must be given it so that it arrives unchanged.

    Raises:
        ParameterInvalidValueError: it would not; ``details`` says why.
        ParameterInvalidProviderError: a tuple, anywhere but on PostgreSQL.
    """
    converter = _BY_PROVIDER.get(provider, _CONVERTERS).get(value.__class__)
    if converter is None:
        if isinstance(value, enum.Enum):
            return convert(name, value.value, provider)
        if value.__class__ is not tuple:
            refused = Refused("a parameter", "values of this type cannot be bound")
            raise refusal(name, provider, value, refused)
        if provider != "postgresql":
            raise errors.ParameterInvalidProviderError(name, provider, "tuple")
        converter = _array
    try:
        return converter(value)
    except Refused as refused:
        raise refusal(name, provider, value, refused) from None


def refusal(name: str, provider: str, value: Any, refused: Refused) -> errors.ParameterInvalidValueError:
    """The error for the caller."""
    to, details = refused.args
    return errors.ParameterInvalidValueError(name, provider, type(value).__name__, to, details)


# --- any database -----------------------------------------------------------------------------------------


def _same(value: Any) -> Any:
    return value


def _int(value: int) -> int:
    if not _MIN <= value <= _MAX:
        raise Refused("int", "it does not fit into 64 bits")
    return value


def _float(value: float) -> decimal.Decimal:
    if not math.isfinite(value):
        raise Refused("float", f"{value} is not finite")
    # the shortest decimal that reads back as this very double; passed as a float it would be cut to 32 bits
    return decimal.Decimal(repr(value))


def _str(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Refused("str", "it contains a lone surrogate, which UTF-8 cannot express") from None
    return value


def _decimal(value: decimal.Decimal) -> decimal.Decimal:
    if not value.is_finite():
        raise Refused("decimal", f"{value} is not finite")
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    if value.adjusted() > _HIGHEST or exponent < _LOWEST:
        raise Refused("decimal", f"it has digits above 1E+{_HIGHEST} or below 1E{_LOWEST}")
    return value


def _datetime(value: datetime.datetime) -> datetime.datetime:
    if value.tzinfo is None or value.tzinfo is datetime.timezone.utc:
        return value
    if value.utcoffset() is None:
        raise Refused("datetime", "its time zone gives no offset")
    try:
        return value.astimezone(datetime.timezone.utc)
    except OverflowError:
        raise Refused("datetime", "in UTC it is outside the years 1 to 9999") from None


def _time(value: datetime.time) -> datetime.time:
    if value.tzinfo is not None:
        raise Refused("time", "a time of day with a time zone would lose it")
    return value


def _json(value: Any) -> Any:
    """Refuse what JSON cannot hold. It walks with a list and does not recurse, so depth is no danger."""
    todo = [(value, 1)]
    while todo:
        item, depth = todo.pop()
        kind = item.__class__
        if kind is dict or kind is list:
            if depth > MAX_DEPTH:
                raise Refused("json", f"it is nested more than {MAX_DEPTH} levels deep")
            if kind is dict:
                for key in item:
                    if key.__class__ is not str:
                        raise Refused("json", f"a key is of type '{type(key).__name__}', not str")
                    _str(key)
                item = item.values()
            todo += [(inner, depth + 1) for inner in item]
        elif kind in _LEAVES:
            _LEAVES[kind](item)
        else:
            raise Refused("json", f"a value of type '{type(item).__name__}' has no place in JSON")
    return value


_SCALARS: dict[type, Callable[[Any], Any]] = {
    type(None): _same,
    bool: _same,
    int: _int,
    float: _float,
    str: _str,
    bytes: _same,
    decimal.Decimal: _decimal,
    datetime.date: _same,
    datetime.time: _time,
    datetime.datetime: _datetime,
    uuid.UUID: _same,
}
_LEAVES: dict[type, Callable[[Any], Any]] = {kind: _SCALARS[kind] for kind in (type(None), bool, int, float, str)}
_CONVERTERS: dict[type, Callable[[Any], Any]] = {**_SCALARS, dict: _json, list: _json}


def _array(value: tuple[Any, ...]) -> tuple[Any, ...]:
    items = [item.value if isinstance(item, enum.Enum) else item for item in value]
    kinds = {item.__class__ for item in items}
    if len(kinds) > 1:
        raise Refused("array", "its items are of different types")
    if not kinds <= _SCALARS.keys():
        raise Refused("array", f"items of type '{kinds.pop().__name__}' cannot be bound")
    return tuple([_SCALARS[item.__class__](item) for item in items])


# --- SQLite and MySQL -------------------------------------------------------------------------------------


def _sqlite_datetime(value: datetime.datetime) -> datetime.datetime:
    """The driver stores milliseconds since 1970; microseconds are cut, as a column with fewer digits would do."""
    moment = _datetime(value)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _sqlite_time(value: datetime.time) -> int:
    """Milliseconds since midnight, as the driver stores times; the driver itself would drop the milliseconds."""
    _time(value)
    return ((value.hour * 60 + value.minute) * 60 + value.second) * 1000 + value.microsecond // 1000


def _sqlite_decimal(value: decimal.Decimal) -> decimal.Decimal:
    """SQLite has doubles only. They come back from a REAL column as doubles, from a DECIMAL column with 16 digits and
    from a TEXT column with 15: what is passed on is the same number in each."""
    double = float(_decimal(value))
    if not (value == decimal.Decimal(f"{double:.14e}") == decimal.Decimal(f"{double:.15e}")):
        raise Refused(
            "decimal", "SQLite keeps decimals as doubles, which cannot hold this one exactly; pass str(value)"
        )
    return value


_BY_PROVIDER: dict[str, dict[type, Callable[[Any], Any]]] = {
    "sqlite": {
        **_CONVERTERS,
        datetime.datetime: _sqlite_datetime,
        datetime.time: _sqlite_time,
        decimal.Decimal: _sqlite_decimal,
    },
    # the driver would drop a time's microseconds; its text is read exactly
    "mysql": {**_CONVERTERS, datetime.time: lambda value: _time(value).isoformat()},
}
