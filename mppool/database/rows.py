"""Rows: one pydantic class per column signature, made once and kept in a bounded cache.

A row holds the values exactly as the database driver gave them; nothing is validated or converted, because a
column's type is guessed from the first row and SQLite may put anything into the next. Columns are in
alphabetical order: the core hands a row over as a hash map, in another order each time.

Importing this module imports pydantic, so the rest of the package imports it on the first row.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, SkipValidation, create_model

__all__ = ["BaseRow", "all_rows", "first_row", "row_class"]

_TYPES: dict[str, Any] = {
    "bool": bool,
    "str": str,
    "int": int,
    "float": float,
    "bytes": bytes,
    "decimal": decimal.Decimal,
    "date": datetime.date,
    "time": datetime.time,
    "datetime": datetime.datetime,
    "uuid": uuid.UUID,
}

Signature = tuple[tuple[str, str], ...]


class BaseRow(BaseModel):
    """A row; also a base for your own models to pass as ``model=``.

    Columns are attributes. Where a column has the name of something a pydantic model has itself
    (``model_dump``), or begins with an underscore, it is in ``model_dump()``, and the attribute is the
    model's where both want it.
    """

    model_config = ConfigDict(protected_namespaces=(), arbitrary_types_allowed=True)

    def __str__(self) -> str:
        return repr(self)


class _Row(BaseRow):
    """What the classes made here have in common: they can be pickled although nobody can import them."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._signature(), self.model_dump())

    @classmethod
    def _signature(cls) -> Signature:
        raise NotImplementedError


def _rebuild(signature: Signature, values: dict[str, Any]) -> BaseRow:
    return _maker(signature)(values)  # type: ignore[no-any-return]


@lru_cache(maxsize=512)
def row_class(signature: Signature) -> type[BaseRow]:
    """The class for rows with these columns: names with the core's type names, sorted by name."""
    plain = {name: kind for name, kind in signature if not name.startswith("_") and not hasattr(BaseRow, name)}
    fields: dict[str, Any] = {
        name: (Annotated[_TYPES.get(kind, Any) | None, SkipValidation], None) for name, kind in plain.items()
    }
    base = _Row if len(plain) == len(signature) else _OddRow
    made: type[BaseRow] = create_model("BaseRow", __base__=base, __module__=__name__, **fields)
    made._signature = classmethod(lambda cls: signature)  # type: ignore[attr-defined]
    return made


class _OddRow(_Row):
    """For columns that cannot be fields: they become extras, and harmless ones hide the method."""

    model_config = ConfigDict(extra="allow")

    def model_post_init(self, context: Any, /) -> None:
        for name, value in (self.__pydantic_extra__ or {}).items():
            if not name.startswith(("_", "model_")):
                self.__dict__[name] = value


@lru_cache(maxsize=512)
def _maker(signature: Signature) -> Any:
    return row_class(signature).__pydantic_validator__.validate_python


def _make(types: dict[str, str], model: type[BaseModel] | None) -> Any:
    if model is not None:
        return model.model_validate
    return _maker(tuple(sorted(types.items())))


def all_rows(types: dict[str, str], rows: list[dict[str, Any]], model: type[BaseModel] | None) -> list[Any]:
    """``rows`` as ``model``, or as `BaseRow` with fields of these types."""
    make = _make(types, model)
    return [make(row) for row in rows]


def first_row(types: dict[str, str], row: dict[str, Any], model: type[BaseModel] | None) -> Any:
    """One row, as `all_rows`."""
    return _make(types, model)(row)
