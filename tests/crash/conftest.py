from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.row import Row, locked_row
from tests.servers import Judge, Server


@pytest.fixture
def judge(request: pytest.FixtureRequest, database_uri: str) -> Judge | None:
    """The judge of this test's database; None for SQLite, which has no server to ask."""
    for scheme, name in (("postgresql:", "postgres_judge"), ("mysql:", "mysql_judge")):
        if database_uri.startswith(scheme):
            found: Judge = request.getfixturevalue(name)
            return found
    return None


@pytest.fixture
def row(mysql_server: Server, mysql_uri: str) -> Iterator[Row]:
    with locked_row(mysql_server, mysql_uri) as held:
        yield held
