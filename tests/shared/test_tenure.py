"""The lease in the ledger's header, and what is said of it."""

from __future__ import annotations

from mppool.shared import ledger as L
from mppool.shared import tenure


def header(**cells: int) -> L.Header:
    made = L.Header([0] * L.HEADER, 0)  # type: ignore[arg-type]
    for name, value in cells.items():
        setattr(made, name, value)
    return made


def test_one_host_alone_may_always_open() -> None:
    assert tenure.is_open(header())
    assert tenure.left(header()) is None
    assert tenure.why_not(header()) == ""


def test_a_lease_ends() -> None:
    now = tenure.now_ns()
    assert tenure.is_open(header(lease=now + 10**10))
    assert not tenure.is_open(header(lease=tenure.LAPSED))
    left = tenure.left(header(lease=now + 10**10))
    assert left is not None
    assert 9 < left <= 10


def test_a_hosts_name_is_kept_as_text() -> None:
    made = header()
    assert tenure.host(made) == ""
    tenure.name_host(made, "web-1-0123456789ab")
    assert tenure.host(made) == "web-1-0123456789ab"
    tenure.name_host(made, "x" * 64)
    assert tenure.host(made) == "x" * 64


def test_each_state_is_told_in_words() -> None:
    states = [tenure.STARTING, tenure.LEARNING, tenure.LOST, tenure.REFUSED, tenure.MISMATCH]
    said = {tenure.why_not(header(lease=1, cluster=state, theirs=5, max_size=8)) for state in states}
    assert len(said) == 5
    assert "" not in said
    learning = header(lease=1, cluster=tenure.LEARNING, learned_at=tenure.now_ns() + 5 * 10**9)
    assert "5 s to go" in tenure.why_not(learning)
    assert tenure.why_not(header(lease=1, cluster=tenure.AGREED)) == ""
