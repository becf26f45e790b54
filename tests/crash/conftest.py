from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.beats import Clock, beating
from tests.servers import Judge


@pytest.fixture
def judge(request: pytest.FixtureRequest, database_uri: str) -> Judge | None:
    """The judge of this test's database; None for SQLite, which has no server to ask."""
    for scheme, name in (("postgresql:", "postgres_judge"), ("mysql:", "mysql_judge")):
        if database_uri.startswith(scheme):
            found: Judge = request.getfixturevalue(name)
            return found
    return None


@pytest.fixture
def clock() -> Iterator[Clock]:
    """For bounds: its seconds are longer on a machine that is busy with other things."""
    with beating() as found:
        yield found
