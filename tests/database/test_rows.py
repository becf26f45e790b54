"""Rows: one class a signature, values untouched, names that pydantic would refuse, pickling."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from mppool.database.connection import PySQLXEngineSync
from mppool.database.rows import BaseRow, all_rows, first_row, row_class


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


def test_order_and_looks() -> None:
    row = first_row({"b": "int", "a": "int"}, {"b": 2, "a": 1}, None)
    assert str(row) == repr(row) == "BaseRow(a=1, b=2)"
    assert list(row.model_dump()) == ["a", "b"]
    assert row.model_dump_json() == '{"a":1,"b":2}'


def test_values_are_not_touched() -> None:
    """SQLite's columns hold what they like; the type of the first row must not change the others."""
    value = object()
    rows = all_rows({"a": "int"}, [{"a": 1}, {"a": "x"}, {"a": 1.5}, {"a": value}], None)
    assert [row.a for row in rows] == [1, "x", 1.5, value]


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
