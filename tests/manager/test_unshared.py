"""What the kernel lists, and when a permit is free: by a clock that the tests move, and a list that they write.

With real processes, servers and managers that are killed: `tests.crash.test_unshared` and `tests.crash.test_orphans`.
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from mppool.manager import unshared
from mppool.manager.unshared import ORPHANED, RESET, UnsharedConnections

CONFIG = {"port": 5432, "database": "postgresql://db/shop", "uri": "postgresql://db/shop"}
STEP = 0.1  # seconds between looks


class Host:
    """The kernel's list, the clock, and which permits came free."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.listed, self.watched = 100.0, set[int](), set[int]()
        self.free: Counter[int] = Counter()
        monkeypatch.setattr(unshared, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(unshared, "half_closed", lambda port: list(self.listed))
        self.connections = UnsharedConnections(CONFIG, lambda: self.watched, self._ended)

    def _ended(self, member: int, count: int) -> None:
        self.free[member] += count

    def passes(self, seconds: float) -> None:
        """Time, with a look now and at the end, and every `STEP` between."""
        until = self.now + seconds
        while self.now < until:
            self.connections.look(self.now)
            self.now = min(until, self.now + STEP)
        self.connections.look(self.now)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_as_many_permits_are_kept_as_the_server_has_connections(host: Host) -> None:
    host.listed = {1, 2}
    host.connections.add(7, 3, 3)
    host.passes(RESET - 0.01)
    assert host.free == {}
    host.passes(0.1)
    assert host.free == {7: 1}, "the third was none, or was reset"
    host.listed = {2}
    host.passes(RESET - 0.01)
    assert host.free == {7: 1}, "it may have been reset: the server gets a moment to see that"
    host.passes(0.1)
    assert host.free == {7: 2}
    host.listed = set()
    host.passes(RESET + 0.1)
    assert host.free == {7: 3}
    assert not host.connections


def test_connections_that_other_programs_close_later_keep_no_permit(host: Host) -> None:
    """A busy host has one on the list at any time, each another."""
    host.listed = {1}
    host.connections.add(7, 1, 1)
    for port in range(2, 2 + int(4 * RESET / STEP)):
        host.passes(STEP)
        host.listed = {port}
    assert host.free == {7: 1}


def test_those_that_the_manager_has_sockets_of_are_not_among_them(host: Host) -> None:
    host.listed = host.watched = {1}
    host.connections.add(7, 1, 1)
    host.passes(RESET)
    assert host.free == {7: 1}


def test_the_first_look_may_be_late(host: Host) -> None:
    """A manager may be stopped, or have no descriptor to ask with."""
    host.connections.add(7, 1, 1)
    host.listed = {1}
    host.now += 10 * RESET
    host.passes(RESET)
    assert host.free == {}
    host.listed = set()
    host.passes(RESET + 0.1)
    assert host.free == {7: 1}


def test_of_members_that_ended_together_all_that_ended_counts(host: Host) -> None:
    """Which connection was whose is not known: how many are left in all is."""
    host.listed = {1, 2, 3, 4}
    host.connections.add(7, 2, 2)
    host.connections.add(8, 2, 2)
    host.passes(RESET)
    assert host.free == {}
    host.listed = {3}
    host.passes(RESET + 0.1)
    assert sum(host.free.values()) == 3


def test_at_last_it_is_given_up(host: Host) -> None:
    host.listed = {1}
    host.connections.add(7, 1, 1)
    host.passes(ORPHANED - 0.1)
    assert host.free == {}
    host.passes(0.1)
    assert host.free == {7: 1}
