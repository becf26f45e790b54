"""`mppool doctor` with real budgets and servers."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from mppool import PoolManager
from tests import servers
from tests.cli.commands import ask


def test_a_healthy_budget(database_uri: str) -> None:
    with PoolManager(database_uri, 3, "shop") as manager, manager.pool().connection():
        said = ask("doctor").output
    assert "nothing found" in said
    assert "budget shop: 1 of 3 connections open, 1 processes" in said
    assert ("the server takes" in said) == (not database_uri.startswith("sqlite"))


def test_a_role_limit_below_the_budget(limited_role: Callable[[int], servers.LimitedRole]) -> None:
    role = limited_role(2)
    with PoolManager(role.uri, 5, "shop"):
        said = ask("doctor", "shop", code=1).output
    assert f"role {role.name} may have 2 connections" in said
    assert "or lower max_size to 2" in said
    assert said.endswith("1 finding\n")


def test_a_database_that_is_only_meant(postgres_uri: str, mysql_uri: str, sqlite_uri: str) -> None:
    assert "the server takes" in ask("doctor", "--uri", postgres_uri).output
    for uri in (postgres_uri, mysql_uri):
        assert "lower max_size" in ask("doctor", "--uri", uri, "--max-size", "9999", code=1).output
    assert "it has no limit of connections" in ask("doctor", "--uri", sqlite_uri).output
    said = ask("doctor", "--uri", "postgresql://joe:s3cret@127.0.0.1:1/x", code=1).output
    assert "connection refused" in said
    assert "s3cret" not in said
    ask("doctor", "--max-size", "0", code=2)


def test_a_budget_without_a_free_connection_is_not_asked(postgres_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mppool.cli.doctor._WAIT", 0.05)
    with PoolManager(postgres_uri, 1, "shop") as manager, manager.pool().connection():
        assert "no connection came free in 0.05 s, so its server was not asked" in ask("doctor").output


def test_what_is_wrong_with_the_folder(runtime_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chmod(runtime_folder, 0o777)
    assert f"chmod 700 {runtime_folder}" in ask("doctor", code=1).output
    os.chmod(runtime_folder, 0o700)
    monkeypatch.setenv("MPPOOL_RUNTIME_DIR", "relative")
    assert "must be an absolute path" in ask("doctor", code=1).output


def test_an_unknown_name() -> None:
    assert "no budget 'shop' is running" in ask("doctor", "shop", code=1).stderr


def test_two_budgets_that_are_too_much_together(postgres_server: servers.Server, postgres_uri: str) -> None:
    most = int(postgres_server.run("SHOW max_connections")[0][0])
    with PoolManager(postgres_uri, most // 2 + 1, "shop"), PoolManager(postgres_uri, most // 2 + 1, "web"):
        said = ask("doctor", code=1).output
    assert f"add up to {2 * (most // 2 + 1)} connections" in said
