"""Rows: one pydantic class per column signature, made once and kept in a bounded cache.

A row holds the values exactly as the driver returned them. Nothing is validated or converted, because the driver
guesses a column's type from the first row, and SQLite may store any type in the next. So pydantic makes the class,
and we fill its instances with the state that validation would give them. That costs a third of validation, and is
compared with pydantic's own result once for each class. Columns are in the order of the SELECT where it is known; see
`mppool.database.sql.columns`.

Importing this module imports pydantic, so the rest of the package imports it when the first row arrives.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, create_model
from pydantic_core import core_schema

from mppool.database.sql.columns import Names, arranged

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


class _AsItIs:
    """Marks a field whose type is documented but not enforced, neither when a row is made nor when it is dumped.

    (`pydantic.SkipValidation` enforces the type when the row is dumped: a warning, and a Python call for each value.)
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        self._told = handler(source)
        return core_schema.any_schema()

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: Any) -> dict[str, Any]:
        return handler(self._told)  # type: ignore[no-any-return]


class BaseRow(BaseModel):
    """A row; also a base class for your own models, to be passed as ``model=``.

    Columns are attributes. A column whose name begins with an underscore, or is the name of a pydantic model's own
    attribute (``model_dump``), is in ``model_dump()``; the attribute of that name is the model's own.
    """

    model_config = ConfigDict(protected_namespaces=(), arbitrary_types_allowed=True)

    if TYPE_CHECKING:  # columns are attributes that no type checker can know

        def __getattr__(self, name: str) -> Any: ...

    def __str__(self) -> str:
        return repr(self)


class _Row(BaseRow):
    """Base of the classes made here: their rows can be pickled although the classes cannot be imported."""

    @property
    def model_fields_set(self) -> set[str]:
        return set(self.__pydantic_fields_set__)  # the rows of a class share one

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._signature(), self.model_dump())

    @classmethod
    def _signature(cls) -> Signature:
        raise NotImplementedError


def _rebuild(signature: Signature, values: dict[str, Any]) -> BaseRow:
    return _maker(signature)(values)  # type: ignore[no-any-return]


@lru_cache(maxsize=512)
def row_class(signature: Signature) -> type[BaseRow]:
    """The class for rows with these columns.

    Args:
        signature: each column's name and the driver's name for its type, in order.
    """
    plain = {name: kind for name, kind in signature if not name.startswith("_") and not hasattr(BaseRow, name)}
    fields: dict[str, Any] = {
        name: (Annotated[_TYPES.get(kind, Any) | None, _AsItIs()], None) for name, kind in plain.items()
    }
    base = _Row if len(plain) == len(signature) else _OddRow
    made: type[BaseRow] = create_model("BaseRow", __base__=base, __module__=__name__, **fields)
    made._signature = classmethod(lambda cls: signature)  # type: ignore[attr-defined]
    return made


class _OddRow(_Row):
    """For columns that cannot be fields: they become extras. A harmless name hides the model's method."""

    model_config = ConfigDict(extra="allow")

    def model_post_init(self, context: Any, /) -> None:
        for name, value in (self.__pydantic_extra__ or {}).items():
            if not name.startswith(("_", "model_")):
                vars(self)[name] = value


@lru_cache(maxsize=512)
def _maker(signature: Signature) -> Callable[[dict[str, Any]], Any]:
    """A function that makes a row of a dict, whose keys may have any order."""
    cls = row_class(signature)
    validate = cls.__pydantic_validator__.validate_python
    sample = {name: None for name, _ in signature}
    try:
        make = _assembler(cls, sample)
        if _state(make(sample)) == _state(validate(sample)):
            return make
    except Exception:
        pass  # this version of pydantic keeps a model's state elsewhere
    # pydantic handles columns that are no fields; we give it the order
    return lambda row: validate(sample | row)


_SLOTS = ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")


def _slots() -> list[Callable[[BaseModel, Any], None]]:
    return [BaseModel.__dict__[name].__set__ for name in _SLOTS]


def _assembler(cls: type[BaseRow], order: dict[str, None]) -> Callable[[dict[str, Any]], Any]:
    set_dict, set_fields, set_extra, set_private = _slots()
    new = object.__new__
    fields = set(order)

    def make(row: dict[str, Any]) -> Any:
        made = new(cls)
        set_dict(made, order | row)
        set_fields(made, fields)
        set_extra(made, None)
        set_private(made, None)
        return made

    return make


def _state(row: BaseModel) -> list[Any]:
    return [row.__getstate__(), list(row.__dict__), row.model_dump()]


def _make(types: dict[str, str], model: type[BaseModel] | None, names: Names | None) -> Callable[[dict[str, Any]], Any]:
    if model is not None:
        return model.__pydantic_validator__.validate_python
    return _maker(tuple([(name, types[name]) for name in arranged(names, types)]))


def all_rows(
    types: dict[str, str], rows: list[dict[str, Any]], model: type[BaseModel] | None, names: Names | None = None
) -> list[Any]:
    """``rows`` as ``model``, or as `BaseRow` with fields of these types in the order of ``names``.

    The list is reused, so that each dict is freed as soon as its row has been made.
    """
    make = _make(types, model, names)
    for index, row in enumerate(rows):
        rows[index] = make(row)
    return rows


def first_row(
    types: dict[str, str], row: dict[str, Any], model: type[BaseModel] | None, names: Names | None = None
) -> Any:
    """One row, as `all_rows`."""
    return _make(types, model, names)(row)
