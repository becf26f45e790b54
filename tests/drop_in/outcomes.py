"""What a step came to, as text that can be compared: a value with its types, or a failure with what callers can
see of it: class, bases, code, error() and attributes, and the message where it is the database's."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

ATTRIBUTES = ("field", "provider", "type", "typ_from", "typ_to")


def show(value: Any) -> str:
    """A value; columns in the order of their names, which are all that is promised."""
    if isinstance(value, BaseModel):
        return f"{type(value).__name__}({show_items(value.model_dump())})"
    if isinstance(value, dict):
        return "{" + show_items(value) + "}"
    if isinstance(value, (list, tuple)) and value.__class__ in (list, tuple):
        inner = ", ".join(map(show, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    return value if value.__class__ is Text else repr(value)


class Text(str):
    """Shown without quotes."""


def show_items(items: dict[Any, Any]) -> str:
    return ", ".join(f"{key}={show(items[key])}" for key in sorted(items))


def failure(error: Any) -> str:
    kind = type(error)
    named = [each.__name__ for each in kind.__mro__[1:] if each.__module__.startswith(("pysqlx_engine", "mppool"))]
    shown = f"{kind.__name__}({', '.join(named)})" if named else kind.__name__
    for name in ATTRIBUTES:
        if hasattr(error, name) and not callable(getattr(error, name)) and kind.__module__ != "pydantic_core":
            shown += f" {name}={getattr(error, name)!r}"
    if hasattr(error, "error"):
        shown += f" code={error.code!r} error()={error.error()!r} message={error.message!r}"
    return shown
