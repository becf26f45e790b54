"""`mppool ls`, `show` and `stats`."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path

import pytest

from mppool import PoolManager, PySQLXEnginePoolSync, scope
from mppool.cli.showing import plain, table
from mppool.stats import Counters
from tests.cli.commands import ask
from tests.view.snapshots import budget, histogram, member


def test_nothing_runs(runtime_folder: str) -> None:
    assert ask("ls").output == f"no budget runs for this user (looked in {runtime_folder})\n"
    assert json.loads(ask("ls", "--json").output) == []


def test_ls_finds_budgets_by_whatever_name(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with PoolManager(sqlite_uri, 3, "shop") as shop, shop.pool() as pool, pool.connection():
        with PySQLXEnginePoolSync(sqlite_uri, 0, 2), monkeypatch.context() as patch:
            patch.setenv(scope.SCOPE, "scope-1-abcdef01")
            with PySQLXEnginePoolSync(sqlite_uri, 0, 4):
                found = json.loads(ask("ls", "--json").output)
                lines = ask("ls").output.splitlines()
        names = [each["name"] for each in found]
        assert names[0].startswith(f"own-{os.getpid()}-")
        assert names[1].startswith("scope-1-abcdef01-")
        assert names[2] == "shop"
        assert [each["max_size"] for each in found] == [2, 4, 3]
        assert found[2]["open"] == found[2]["members"] == 1
        assert {each["database"] for each in found} == {sqlite_uri}
        assert lines[0].split() == ["name", "open", "of", "processes", "manager", "database", "program"]
        assert [line.split()[0] for line in lines[1:]] == names
        assert lines[3].split()[:5] == ["shop", "1", "3", "1", str(shop.pid)]
        assert "pytest" in lines[3] or "-c" in lines[3], "the program that made it"


def test_show_says_who_holds_them(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 3, "shop") as manager, manager.pool().connection():
        first, heading, mine = ask("show", "shop").output.splitlines()
        assert first == f"budget shop: 1 of 3 connections open, 2 permits free, 0 wanted; manager {manager.pid}"
        assert heading.split()[:8] == ["pid", "permits", "in", "use", "idle", "moving", "waiting", "wait"]
        assert mine.split()[:6] == [str(os.getpid()), "1", "1", "0", "0", "0"]


def test_an_unknown_name_is_told_with_those_that_run(sqlite_uri: str) -> None:
    for command in ("show", "stats", "report"):
        assert "no budget 'shop' is running" in ask(command, "shop", code=1).stderr
    assert "must be 1 to 64 letters" in ask("show", "a/b", code=1).stderr
    with PoolManager(sqlite_uri, 3, "shop"):
        assert "no budget 'shp' is running" in ask("show", "shp", code=1).stderr
        assert "; these are: shop" in ask("show", "shp", code=1).stderr


def test_stats_of_a_budget(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 3, "shop") as manager, manager.pool() as pool:
        for _ in range(7):
            with pool.connection() as connection:
                connection.query_first("SELECT 1 AS a")
        shown = json.loads(ask("stats", "shop", "--json").output)
        text = ask("stats", "shop").output
    assert {each.name for each in fields(Counters)} | {"open", "free", "max_size", "members"} <= shown.keys()
    assert shown["members"][0]["pid"] == os.getpid()
    assert shown["open"] == 1
    assert shown["name"] in text


def test_stats_as_json_have_quantiles() -> None:
    shown = plain(budget(member(1, in_use=2, wait=histogram(*[0.001] * 98, 1.0, 2.0))))
    assert shown["wait"]["count"] == 100
    assert 0.001 <= shown["wait"]["p50"] == shown["wait"]["p90"] < 0.002 < 1.0 <= shown["wait"]["p99"] < 2.0
    assert shown["in_use"] == shown["members"][0]["in_use"] == 2
    assert plain(histogram(1e9))["p50"] is None, "JSON has no infinity"
    json.loads(json.dumps(shown, allow_nan=False))


def test_a_table() -> None:
    assert table([("a", "bb"), (100, "c")], {1}) == "  a  bb\n100  c"


def test_no_password_is_shown(postgres_uri: str, tmp_path: Path) -> None:
    uri = postgres_uri.replace("postgres@", "postgres:s3cret@")
    with PoolManager(uri, 3, "shop") as manager, manager.pool().connection():
        for command in (["ls"], ["show", "shop"], ["stats", "shop", "--json"], ["doctor"], ["metrics", "shop"]):
            assert "s3cret" not in ask(*command).output
        ask("report", "shop", "--seconds", "0.1", "--output", str(tmp_path / "r.html"))
        assert "s3cret" not in (tmp_path / "r.html").read_text()
