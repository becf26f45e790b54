"""Rows: one class a signature, values untouched, names that pydantic would refuse, pickling."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from decimal import Decimal
from functools import lru_cache
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from mppool.database.connection.sync_connection import PySQLXEngineSync
from mppool.database.values import rows as rows_module
from mppool.database.values.rows import BaseRow, all_rows, first_row, row_class


def test_a_class_is_made_once_per_signature() -> None:
    one = first_row({"a": "int", "b": "str"}, {"b": "x", "a": 1}, None)
    two = first_row({"b": "str", "a": "int"}, {"a": 2, "b": None}, None)
    other = first_row({"a": "str"}, {"a": "x"}, None)
    assert type(one) is type(two) is row_class((("a", "int"), ("b", "str")))
    assert type(other) is not type(one)
    assert isinstance(one, BaseRow)
    assert isinstance(one, BaseModel)


def test_fields_have_the_types_of_the_columns() -> None:
    fields = row_class((("a", "int"), ("s", "no such type"))).model_fields
    assert fields["a"].annotation == int | None
    assert not fields["a"].is_required()
    told = row_class((("a", "int"), ("b", "str"))).model_json_schema()["properties"]
    assert told["a"]["anyOf"] == [{"type": "integer"}, {"type": "null"}]
    assert told["b"]["anyOf"] == [{"type": "string"}, {"type": "null"}]


def test_order_and_looks() -> None:
    row = first_row({"b": "int", "a": "int"}, {"b": 2, "a": 1}, None)
    assert str(row) == repr(row) == "BaseRow(a=1, b=2)"
    assert list(row.model_dump()) == ["a", "b"]
    assert row.model_dump_json() == '{"a":1,"b":2}'
    row = first_row({"b": "int", "a": "int"}, {"a": 1, "b": 2}, None, ("b", "a"))
    assert repr(row) == "BaseRow(b=2, a=1)"
    assert list(row.model_dump()) == list(type(row).model_fields) == list(dict(row)) == ["b", "a"]
    assert row.model_dump_json() == '{"b":2,"a":1}'


KINDS = {
    "plain": ({"a": 1, "b": None, "c": "x"}, {"a": "int", "b": "str", "c": "str"}),
    "rich": ({"d": Decimal("1.10"), "j": {"k": [1]}, "t": (1, 2)}, {"d": "decimal", "j": "json", "t": "array_int"}),
    "other types than said": ({"a": "x", "b": 1.5}, {"a": "int", "b": "bool"}),
    "odd names": ({"_id": 1, "copy": 2, "x y": 3}, dict.fromkeys(["_id", "copy", "x y"], "int")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_as_a_validated_one(kind: str) -> None:
    """Rows are put together without pydantic's validation; nobody may be able to tell."""
    values, types = KINDS[kind]

    def pair() -> tuple[Any, Any]:
        row = first_row(types, dict(values), None)
        return row, type(row).model_validate(values)

    ours, theirs = pair()
    assert ours == theirs
    assert theirs == ours
    assert ours.__getstate__() == theirs.__getstate__()
    for view in (
        repr,
        str,
        list,
        vars,
        copy.copy,
        copy.deepcopy,
        lambda row: row.model_dump(),
        lambda row: row.model_dump(exclude_unset=True),
        lambda row: row.model_dump(exclude_none=True),
        lambda row: row.model_dump_json(),
        lambda row: row.model_fields_set,
        lambda row: row.model_extra,
        lambda row: row.model_copy(update={"a": 5}),
        lambda row: row.model_copy(deep=True).__getstate__(),
        lambda row: pickle.loads(pickle.dumps(row)).__getstate__(),
        lambda row: type(row).model_validate(row).__getstate__(),
        lambda row: type(row).model_validate_json(row.model_dump_json()).__getstate__(),
    ):
        assert view(ours) == view(theirs)
    for row in (ours, theirs):
        with pytest.raises(TypeError, match="unhashable"):
            hash(row)
        with pytest.raises(AttributeError):
            _ = row.nothing
    for name in values:
        for change in (lambda row, name=name: setattr(row, name, 7), lambda row, name=name: delattr(row, name)):
            ours, theirs = pair()
            change(ours)
            change(theirs)
            assert ours.model_dump() == theirs.model_dump()
            assert ours.__getstate__() == theirs.__getstate__()


def test_rows_share_nothing_that_changes() -> None:
    one, two = all_rows({"a": "int", "b": "int"}, [{"a": 1, "b": 2}, {"a": 1, "b": 2}], None)
    one.a = 5
    one.model_fields_set.clear()
    del one.b
    assert two.model_dump() == {"a": 1, "b": 2}
    assert two.model_fields_set == {"a", "b"}
    three = two.model_copy(update={"b": 3})
    three.__pydantic_fields_set__.clear()
    assert two.model_dump(exclude_unset=True) == {"a": 1, "b": 2}


class _Elsewhere:
    def __set__(self, instance: object, value: object) -> None:
        pass


@pytest.mark.parametrize("slot", ["__pydantic_extra__", "no such slot"])
def test_a_pydantic_that_keeps_its_state_elsewhere(monkeypatch: pytest.MonkeyPatch, slot: str) -> None:
    """Then rows are validated: slower, and right."""
    if slot in rows_module._SLOTS:
        changed = {name: _Elsewhere() if name == slot else BaseModel.__dict__[name] for name in rows_module._SLOTS}
        monkeypatch.setattr(rows_module, "_slots", lambda: [each.__set__ for each in changed.values()])
    else:
        monkeypatch.setattr(rows_module, "_SLOTS", (slot,))
    rows_module._maker.cache_clear()
    try:
        row = first_row({"b": "int", "a": "int"}, {"a": 1, "b": 2}, None, ("b", "a"))
    finally:
        rows_module._maker.cache_clear()
    assert repr(row) == "BaseRow(b=2, a=1)"
    assert row.model_extra is None


def test_values_are_not_touched() -> None:
    """SQLite's columns hold what they like; the type of the first row must not change the others."""
    value = object()
    rows = all_rows({"a": "int"}, [{"a": 1}, {"a": "x"}, {"a": 1.5}, {"a": value}], None)
    assert [row.a for row in rows] == [1, "x", 1.5, value]
    assert [row.model_dump() for row in rows[1:3]] == [{"a": "x"}, {"a": 1.5}]  # and warns of nothing
    assert rows[1].model_dump_json() == '{"a":"x"}'


def test_difficult_names() -> None:
    values = {"_id": 1, "copy": 2, "class": 3, "a b": 4, "model_dump": 5, "model_x": 6, "__init__": 7}
    row = first_row(dict.fromkeys(values, "int"), dict(values), None)
    assert row._id == 1
    assert row.copy == 2
    assert getattr(row, "class") == 3
    assert getattr(row, "a b") == 4
    assert row.model_x == 6
    assert row.model_dump() == values
    assert first_row(dict.fromkeys(values, "int"), dict(values), None) == row


def test_a_row_can_be_pickled_and_copied() -> None:
    for values in ({"a": 1, "b": None}, {"_id": 1, "copy": 2, "x": 3}):
        row = first_row(dict.fromkeys(values, "int"), dict(values), None)
        again = pickle.loads(pickle.dumps(row))
        assert again == row
        assert type(again) is type(row)
        assert copy.deepcopy(row) == row


def test_the_cache_is_bounded() -> None:
    limit = row_class.cache_info().maxsize
    assert limit is not None
    for number in range(limit + 5):
        row_class(((f"c{number}", "int"),))
    assert row_class.cache_info().currsize == limit


@pytest.fixture
def small_caches(monkeypatch: pytest.MonkeyPatch) -> int:
    for name in ("row_class", "_maker"):
        cached = getattr(rows_module, name)
        assert cached.cache_info().maxsize is not None
        monkeypatch.setattr(rows_module, name, lru_cache(maxsize=4)(cached.__wrapped__))
    return 4


def test_classes_that_fell_out_of_the_cache_are_gone(small_caches: int) -> None:
    """A program that makes ever new statements does not grow."""
    seen: weakref.WeakSet[Any] = weakref.WeakSet()
    for number in range(20):
        seen.add(type(first_row({f"c{number}": "int", "_odd": "int"}, {f"c{number}": 1, "_odd": 2}, None)))
        seen.add(type(first_row({f"c{number}": "int", "x": "int"}, {f"c{number}": 1, "x": 2}, None)))
    gc.collect()
    assert len(seen) <= small_caches


class Person(BaseModel):
    name: str
    age: int = 0


class PersonRow(BaseRow):
    name: str


def test_model(database_uri: str) -> None:
    with PySQLXEngineSync(database_uri) as conn:
        assert conn.query("SELECT 'ann' AS name, 3 AS age", model=Person) == [Person(name="ann", age=3)]
        assert conn.query_first("SELECT 'ann' AS name", model=PersonRow) == PersonRow(name="ann")
        assert conn.query_first("SELECT 'ann' AS name WHERE 1 = 0", model=Person) is None
        with pytest.raises(ValidationError):
            conn.query_first("SELECT 'x' AS age", model=Person)
        assert not conn._link.doubtful  # the model refused, not the database


@pytest.mark.parametrize("model", [dict, Person(name="x"), "Person", int])
def test_model_must_be_a_pydantic_class(sqlite_uri: str, model: Any) -> None:
    with PySQLXEngineSync(sqlite_uri) as conn:
        for method in (conn.query, conn.query_first):
            with pytest.raises(TypeError, match="model must be a pydantic model class"):
                method("SELECT 1 AS a", model=model)


class Strict(BaseModel):
    a: int


def test_every_row_is_validated_as_the_model() -> None:
    with pytest.raises(ValidationError):
        all_rows({"a": "int"}, [{"a": 1}, {"a": "x"}], Strict)
    assert all_rows({"a": "int"}, [{"a": 1}, {"a": "2"}], Strict) == [Strict(a=1), Strict(a=2)]
