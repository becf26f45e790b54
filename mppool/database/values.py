"""Parameter values: each is passed on so that it arrives exactly, or refused before anything is sent.

The core binds by Python type. Left alone it narrows floats to 32 bits, and panics (past ``except Exception``)
on an int outside 64 bits, a NaN decimal, most time zones, or JSON it does not like.
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

__all__ = ["convert"]

MAX_DEPTH = 120  # PostgreSQL's jsonb can be read back by the core to 127; 20,000 levels end the process
_MIN, _MAX = -(2**63), 2**63 - 1


class _Refused(Exception):
    """Why a value cannot be passed on: the type it should have become, and the reason."""


def convert(name: str, value: Any, provider: str) -> Any:
    """``value`` as the core must be given it so that it arrives unchanged.

    Raises:
        ParameterInvalidValueError: it would not; ``details`` says why.
        ParameterInvalidProviderError: a tuple, anywhere but on PostgreSQL.
    """
    converter = _CONVERTERS.get(value.__class__)
    if converter is None:
        if isinstance(value, enum.Enum):
            return convert(name, value.value, provider)
        if isinstance(value, tuple) and value.__class__ is tuple:
            if provider != "postgresql":
                raise errors.ParameterInvalidProviderError(name, provider, "tuple")
            converter = _array
        else:
            raise errors.ParameterInvalidValueError(
                name, provider, _type(value), "a parameter", "values of this type cannot be bound"
            )
    try:
        return converter(value)
    except _Refused as refusal:
        to, details = refusal.args
        raise errors.ParameterInvalidValueError(name, provider, _type(value), to, details) from None


def _type(value: Any) -> str:
    return type(value).__name__


def _same(value: Any) -> Any:
    return value


def _int(value: int) -> int:
    if not _MIN <= value <= _MAX:
        raise _Refused("int", "it does not fit into 64 bits")
    return value


def _float(value: float) -> decimal.Decimal:
    if not math.isfinite(value):
        raise _Refused("float", f"{value} is not finite")
    # the shortest decimal that reads back as this very double; passed as a float it would be cut to 32 bits
    return decimal.Decimal(repr(value))


def _str(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Refused("str", "it contains a lone surrogate, which UTF-8 cannot express") from None
    return value


def _decimal(value: decimal.Decimal) -> decimal.Decimal:
    if not value.is_finite():
        raise _Refused("decimal", f"{value} is not finite")
    return value


def _datetime(value: datetime.datetime) -> datetime.datetime:
    if value.tzinfo is None or value.tzinfo is datetime.timezone.utc:
        return value
    if value.utcoffset() is None:
        raise _Refused("datetime", "its time zone gives no offset")
    try:
        return value.astimezone(datetime.timezone.utc)
    except OverflowError:
        raise _Refused("datetime", "in UTC it is outside the years 1 to 9999") from None


def _time(value: datetime.time) -> datetime.time:
    if value.tzinfo is not None:
        raise _Refused("time", "a time of day with a time zone would lose it")
    return value


def _json(value: Any) -> Any:
    """Refuse what JSON cannot hold; walks with a list of its own, so depth is no danger."""
    todo = [(value, 1)]
    while todo:
        item, depth = todo.pop()
        kind = item.__class__
        if kind is dict or kind is list:
            if depth > MAX_DEPTH:
                raise _Refused("json", f"it is nested more than {MAX_DEPTH} levels deep")
            if kind is dict:
                for key in item:
                    if key.__class__ is not str:
                        raise _Refused("json", f"a key is of type '{_type(key)}', not str")
                    _str(key)
                item = item.values()
            todo += [(inner, depth + 1) for inner in item]
        elif kind in _LEAVES:
            _LEAVES[kind](item)
        else:
            raise _Refused("json", f"a value of type '{_type(item)}' has no place in JSON")
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
        raise _Refused("array", "its items are of different types")
    if not kinds <= _SCALARS.keys():
        raise _Refused("array", f"items of type '{kinds.pop().__name__}' cannot be bound")
    return tuple([_SCALARS[item.__class__](item) for item in items])
