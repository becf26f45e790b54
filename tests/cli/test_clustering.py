"""``mppool cluster``, and what the other commands say of a budget over several hosts."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest

from mppool.cli import checks, showing
from mppool.cli.checks import Server
from mppool.cluster import setup
from mppool.stats import HostStats
from tests.cli.commands import ask
from tests.cluster.conftest import in_redis as in_redis
from tests.cluster.engines import InRedis
from tests.view.snapshots import budget

SECRET = "geheim-4711"


def host(name: str, credit: int, *, ghost: bool = False, here: bool = False) -> HostStats:
    return HostStats(
        name=name, credit=credit, in_use=1, waiting=0, wanted=1, lease_age=1.5, ghost=ghost, here=here
    )  # fmt: skip


CLUSTERED = replace(
    budget(),
    cluster="redis://engine:6379/0",
    cap=3,
    hosts=(host("a", 3, here=True), host("b", 2), host("c", 1, ghost=True)),
)


def test_the_schema_is_printed_with_the_grants_of_a_role() -> None:
    plain, granted = (
        ask("cluster", "init", "--print").output,
        ask("cluster", "init", "--print", "--role", "shop").output,
    )
    assert "CREATE SCHEMA" in plain
    assert 'TO "shop"' in granted
    assert granted.startswith(plain.strip())


def test_the_schema_is_made(postgres_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS mppool CASCADE")
    monkeypatch.setenv("MPPOOL_CLUSTER", postgres_uri)
    assert "has the schema mppool" in ask("cluster", "init").output
    assert "has the schema mppool" in setup.look(postgres_uri)[0][0]


def test_what_cannot_be_is_told_without_the_password() -> None:
    for url in (f"postgresql://u:{SECRET}@127.0.0.1:1/x", f"redis://:{SECRET}@127.0.0.1:1", f"http://:{SECRET}@h"):
        assert SECRET not in ask("cluster", "init", "--url", url, code=1).output
    assert "MPPOOL_CLUSTER" in ask("cluster", "init", code=2).output


def test_show_has_a_table_of_hosts() -> None:
    text = showing._cluster(CLUSTERED)
    assert "redis://engine:6379/0: in agreement; this host may use 3" in text
    assert [line.split()[0] for line in text.splitlines()[2:]] == ["a", "b", "c"]
    assert "this host" in text
    assert "gone" in text
    assert "lost; this host may use 3; no answer" in showing._cluster(
        replace(CLUSTERED, cluster_lost=True, cluster_error="no answer")
    )


def test_doctor_thinks_of_hosts_and_of_a_fence() -> None:
    found = checks.of_cluster(CLUSTERED)
    assert "3 hosts" in found[0].what
    assert any("1 connections of hosts that are gone" in each.what and each.remedy for each in found)
    lost = checks.of_cluster(replace(CLUSTERED, cluster_error="no answer"))
    assert any("no answer" in each.what for each in lost)
    server = Server(most=100, reserved=3, role="shop", role_limit=None, database_limit=None, used=5)
    assert checks.of_fence("shop", 20, server)[0].remedy == "ALTER ROLE shop CONNECTION LIMIT 20"
    assert checks.of_fence("shop", 20, server._replace(role_limit=20)) == []


def test_doctor_looks_at_redis(in_redis: InRedis) -> None:
    (found,) = setup.look(in_redis.server.url)
    assert "appends each change" in found[0]
    in_redis.run("CONFIG", "SET", "maxmemory", "100mb")
    in_redis.run("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert any("noeviction" in remedy for _, remedy in setup.look(in_redis.server.url))
    with pytest.raises(setup.SetupError) as failed:
        setup.look(f"redis://:{SECRET}@127.0.0.1:1")
    assert SECRET not in str(failed.value)


def test_run_over_several_hosts_needs_a_name() -> None:
    said = ask("run", "--cluster", f"redis://:{SECRET}@h", "--", "true", code=2).output
    assert "needs a name" in said
    assert SECRET not in said
