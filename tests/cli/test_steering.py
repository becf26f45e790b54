"""`mppool resize`, `pause`, `resume` and `drain`: each calls the manager's method of its name."""

from __future__ import annotations

from typing import Any

import pytest

from mppool import PoolManager, errors
from mppool.cli import steering
from tests.cli.commands import ask


@pytest.mark.parametrize(
    ("verb", "more", "arguments", "keywords"),
    [
        ("resize", ["7"], (7,), {}),
        ("pause", [], (), {"wait": False, "timeout": 30.0, "limit": 60.0}),
        ("pause", ["--wait", "--timeout", "5", "--limit", "9"], (), {"wait": True, "timeout": 5.0, "limit": 9.0}),
        ("resume", [], (), {}),
        ("drain", [], (), {}),
    ],
)
def test_a_verb_is_the_managers_method(
    verb: str, more: list[str], arguments: Any, keywords: Any, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    method = lambda manager, *args, **more: told.append((manager.name, args, more))  # noqa: E731
    monkeypatch.setattr(PoolManager, verb, method, raising=False)
    command = getattr(steering, verb)
    with PoolManager(sqlite_uri, 3, "shop"):
        assert ask("shop", *more, command=command).output == ""
    assert told == [("shop", arguments, keywords)]


def test_what_the_manager_refuses_is_told_in_one_line(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: PoolManager, size: int) -> None:
        raise errors.PoolError(f"no room for {size}")

    monkeypatch.setattr(PoolManager, "resize", refuse, raising=False)
    with PoolManager(sqlite_uri, 3, "shop"):
        assert ask("shop", "7", command=steering.resize, code=1).stderr == "Error: no room for 7\n"
    ask("shop", "0", command=steering.resize, code=2)
    ask("shop", "--limit", "0", command=steering.pause, code=2)
