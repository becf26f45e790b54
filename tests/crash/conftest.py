from __future__ import annotations

import pytest

from tests.servers import Judge


@pytest.fixture
def judge(request: pytest.FixtureRequest, database_uri: str) -> Judge | None:
    """The judge of this test's database; None for SQLite, which has no server to ask."""
    for scheme, name in (("postgresql:", "postgres_judge"), ("mysql:", "mysql_judge")):
        if database_uri.startswith(scheme):
            found: Judge = request.getfixturevalue(name)
            return found
    return None
