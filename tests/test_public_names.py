"""Every public name says what it is: a docstring, with each parameter, field and error by its name."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

import mppool
from mppool.process.options import PoolOptions
from mppool.settings import PoolSettings

#: Where public names lie; what else a module has is internal.
MODULES = (
    "mppool",
    "mppool.errors",
    "mppool.host",
    "mppool.integrations.asgi",
    "mppool.integrations.gunicorn",
    "mppool.integrations.jobs",
    "mppool.metrics",
    "mppool.scope",
    "mppool.stats",
)


def public() -> Iterator[tuple[str, Any]]:
    for module in MODULES:
        for name in import_module(module).__all__:
            value = getattr(import_module(module), name)
            if callable(value):
                yield f"{module}.{name}", value


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that this package defines, with those of its base classes."""
    for name in dir(cls):
        value = inspect.getattr_static(cls, name)
        value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        function = value.fget if isinstance(value, property) else value
        if not name.startswith("_") and inspect.isfunction(function) and function.__module__.startswith("mppool"):
            yield name, value


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def unnamed(doc: str | None, names: list[str]) -> list[str]:
    return [name for name in names if not re.search(rf"\b{name}\b", doc or "")]


def findings(name: str, value: Any) -> list[str]:
    """What is missing in the documentation of one public name."""
    doc = inspect.getdoc(value) if inspect.isfunction(value) else value.__doc__
    found = [] if doc else [f"{name} has no docstring"]
    if not inspect.isclass(value):
        return found + [f"{name}: {each} is not explained" for each in unnamed(doc, parameters(value))]
    if dataclasses.is_dataclass(value):
        told = " ".join(base.__doc__ or "" for base in value.__mro__ if dataclasses.is_dataclass(base))
        found += [f"{name}: field {each.name}" for each in dataclasses.fields(value) if unnamed(told, [each.name])]
    elif "__init__" in vars(value) and not issubclass(value, Exception) and _made_by_users(value):
        found += [f"{name}: parameter {each} is not explained" for each in unnamed(doc, parameters(value))]
    for member, each in members(value):
        function = each.fget if isinstance(each, property) else each
        text = inspect.getdoc(each)
        if not text:
            found.append(f"{name}.{member} has no docstring")
        else:
            found += [f"{name}.{member}: {one} is not explained" for one in unnamed(text, parameters(function))]
    return found


def _made_by_users(cls: type) -> bool:
    return cls.__module__ != "mppool.integrations.jobs.jobs"  # `PoolManager.jobs` makes them


NAMES = dict(public())


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_says_what_it_is(name: str) -> None:
    assert findings(name, NAMES[name]) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name.rpartition(".")[2].startswith("PySQLXEnginePool")])
def test_both_handles_explain_every_parameter_for_themselves(name: str) -> None:
    assert unnamed(NAMES[name].__doc__, parameters(NAMES[name])) == []


def test_what_can_fail_says_how() -> None:
    for method in ("start", "stop", "connection"):
        for handle in (mppool.PySQLXEnginePool, mppool.PySQLXEnginePoolSync):
            assert "Raises:" in (getattr(handle, method).__doc__ or "")
    for method in ("start", "stop", "attach", "pool", "async_pool", "jobs", "stats"):
        assert "Raises:" in (getattr(mppool.PoolManager, method).__doc__ or ""), method


def test_a_manager_takes_the_settings_of_a_handle() -> None:
    fields = {each.name for each in dataclasses.fields(PoolSettings)}
    assert PoolOptions.__annotations__.keys() | {"min_size"} == fields
    handle = inspect.signature(mppool.PySQLXEnginePoolSync.__init__).parameters
    assert fields <= handle.keys()
    for each in dataclasses.fields(PoolSettings):
        if each.name != "min_size":
            assert handle[each.name].default == each.default


def test_a_planted_gap_is_found() -> None:
    def undocumented(one: int) -> None: ...

    def silent(one: int, two: int) -> None:
        """Takes ``one``."""

    class Thing:
        """A thing."""

        def method(self, much: int) -> None:
            """Does something."""

    Thing.method.__module__ = "mppool.thing"
    assert findings("f", undocumented) == ["f has no docstring", "f: one is not explained"]
    assert findings("f", silent) == ["f: two is not explained"]
    assert findings("T", Thing) == ["T.method: much is not explained"]
