"""The url of a cluster's engine: refused at the door if it is none, and never shown with its secrets."""

from __future__ import annotations

from typing import Any

import pytest

from mppool import PoolManager, PySQLXEnginePoolSync, cluster_url, errors
from mppool.membership import launcher, member
from mppool.settings import BudgetSettings

SECRET = "geheim-4711"
GOOD = [
    f"redis://:{SECRET}@engine:6379/0",
    f"rediss://user:{SECRET}@engine",
    "unix:///run/redis.sock",
    f"redis+sentinel://:{SECRET}@a:26379,b:26379/shop/0",
    f"postgresql://user:{SECRET}@a:5432,b:5432/coordination?sslmode=verify-full",
    "postgres://engine/coordination",
]
URI = "postgresql://db/shop"


@pytest.mark.parametrize("url", GOOD)
def test_engines_are_known_and_shown_without_secrets(url: str) -> None:
    assert cluster_url.check(url) == url
    assert SECRET not in cluster_url.shown(url)
    assert "engine" in cluster_url.shown(url) or "redis" in cluster_url.shown(url) or "a:" in cluster_url.shown(url)


@pytest.mark.parametrize("url", ["", "shop", "http://engine", "redis://", f"redis://u:{SECRET}/x@h", "redis://[x", 7])
def test_what_names_no_engine_is_refused(url: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="cluster") as failed:
        BudgetSettings(URI, 10, "shop", cluster=url)
    assert SECRET not in str(failed.value)


@pytest.mark.parametrize(
    ("uri", "size", "name", "expected"),
    [
        ("sqlite:./x.db", 10, "shop", "SQLite"),
        ("mysql://db/shop", 10, "shop", "not yet"),
        ("sqlserver://db;database=x", 10, "shop", "not yet"),
        (URI, 10, None, "name"),
        (URI, 1, "shop", "at least 2"),
    ],
)
def test_a_budget_that_cannot_be_shared_is_refused(uri: str, size: int, name: str | None, expected: str) -> None:
    for make in (PoolManager, PySQLXEnginePoolSync):
        arguments: dict[str, Any] = {"min_size": 0} if make is PySQLXEnginePoolSync else {}
        with pytest.raises(ValueError, match=expected):
            make(uri, max_size=size, name=name, cluster=GOOD[0], **arguments)


def test_a_function_says_the_url_anew_for_each_launch() -> None:
    said = iter(["redis://one", "redis://two", "nonsense"])
    budget = BudgetSettings(URI, 10, "shop", cluster=lambda: next(said))
    assert str(budget.cluster) == "redis://one"
    assert member.launch_config(budget, "shop")["cluster"] == "redis://two"
    with pytest.raises(ValueError, match="cluster"):
        member.launch_config(budget, "shop")


def test_no_repr_shows_it() -> None:
    manager = PoolManager(URI, 10, "shop", cluster=GOOD[0])
    assert SECRET not in repr(manager) + repr(manager._budget) + repr(vars(manager._budget))


def test_a_missing_client_is_named_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "missing", lambda url: "mppool[redis]")
    with pytest.raises(errors.ManagerUnavailableError, match=r"pip install 'mppool\[redis\]'"):
        PoolManager(URI, 10, "shop", cluster=GOOD[0]).start()


def test_which_client_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_url, "find_spec", lambda name: None)
    assert [cluster_url.missing(url) for url in (GOOD[0], GOOD[4])] == ["mppool[redis]", "mppool[postgres]"]


def test_a_budget_of_one_host_and_of_several_do_not_mix() -> None:
    expected = r"cluster is None there and redis://engine:6379/0 here"
    with PoolManager(URI, 10, "shop"), pytest.raises(errors.BudgetMismatchError, match=expected):
        PoolManager(URI, 10, "shop", cluster=GOOD[0]).start()
