"""The driver's statement object, made of a statement we have read and its parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mppool import errors
from mppool.database.runtime.drivers import is_panic
from mppool.database.values.parameters import convert

if TYPE_CHECKING:
    from mppool.database.runtime.drivers import Driver
    from mppool.database.sql.statements import Parsed

__all__ = ["POSTGRESQL_LIMIT", "build", "check_names", "make"]

POSTGRESQL_LIMIT = 65_535  # the server numbers no more


def build(driver: Driver, provider: str, parsed: Parsed, sql: str, parameters: dict[str, Any] | None) -> Any:
    """The driver's statement object, with every parameter checked and bound by its Python type.

    Raises:
        TypeError: ``parameters`` is not a dict with names as keys.
        ValueError: the statement has more placeholders than the driver can number, or lone surrogates.
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
    """Check that these are exactly the statement's parameters. Raises: as `build`."""
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
    """The driver's statement object, of a text and values that have been checked."""
    try:
        return driver.Statement(provider=provider, sql=sql, params=values)
    except UnicodeEncodeError:
        raise ValueError("sql must not contain lone surrogates") from None
    except BaseException as error:
        if isinstance(error, driver.InvalidParameter) or is_panic(error):
            # our checks have missed something: the caller must get an error, not a panic
            raise errors.QueryError("PANIC", f"the driver cannot take this statement: {error}") from None
        raise
