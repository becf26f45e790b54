"""Fixtures of the engines."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cluster.engines import Budget, InMemory, InPostgres, InRedis
from tests.private_servers import NoServer


def need(error: NoServer) -> None:
    """Skip with a word, or fail where servers are demanded."""
    if os.environ.get("MPPOOL_REQUIRE_SERVERS", "0") != "0":
        pytest.fail(f"no redis server: {error}", pytrace=False)
    pytest.skip(f"no redis server: {error}")


@pytest.fixture
def in_redis(runtime_folder: str, tmp_path: os.PathLike[str]) -> Iterator[InRedis]:
    """A budget in a Redis server of this test's own."""
    try:
        budget = InRedis(os.fspath(tmp_path))
    except NoServer as error:
        need(error)
        raise
    yield budget
    budget.end()


@pytest.fixture
def in_postgres(postgres_uri: str) -> Iterator[InPostgres]:
    """A budget in this worker's PostgreSQL database."""
    budget = InPostgres(postgres_uri)
    yield budget
    budget.end()


@pytest.fixture
def in_memory() -> Iterator[InMemory]:
    """A budget in memory."""
    budget = InMemory()
    yield budget
    budget.end()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.slow), "postgresql"])
def budget(request: pytest.FixtureRequest) -> Budget:
    """A budget on each of the engines in turn."""
    fixture = {"memory": "in_memory", "redis": "in_redis", "postgresql": "in_postgres"}[request.param]
    made: Budget = request.getfixturevalue(fixture)
    return made
