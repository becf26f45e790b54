"""A connection's tag fits into an application_name, and says which budget's and which host's it is."""

from __future__ import annotations

import pytest

from mppool.cluster.contract import check_host
from mppool.shared.tags import MOST, host_name, prefix, tag


@pytest.mark.parametrize("machine", ["web-1", "web-1.example.org", "", "ü" * 40, "x" * 200, "a:b c"])
def test_a_hosts_name_is_one_and_leaves_room(machine: str) -> None:
    name = host_name(machine, 2**48 - 1)
    assert check_host(name) == name
    assert len(tag("b" * 64, name)) <= MOST - 10


def test_budgets_have_tags_of_their_own() -> None:
    assert prefix("shop") != prefix("shoe")
    assert tag("shop", "web-1") == prefix("shop") + "web-1"
