from __future__ import annotations

import pytest

from tests.process.flavours import Flavour


@pytest.fixture(params=["sync", "async"])
def flavour(request: pytest.FixtureRequest) -> Flavour:
    """The sync handle, then the async one."""
    return Flavour(request.param)
