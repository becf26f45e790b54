"""Max-min fair plans, from rows alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mppool.cluster.contract import Report, Row, State
from mppool.cluster.fairness import STEP, Plan, plan, shares


def state(max_size: int, **hosts: tuple[int, int]) -> State:
    """Rows by (credit, wanted)."""
    rows = {host: Row(1, 1, credit, False, Report(wanted=wanted)) for host, (credit, wanted) in hosts.items()}
    return State("e", False, max_size, 10.0, 1, rows)


def nobody(host: str) -> bool:
    return False


@pytest.mark.parametrize(
    ("rows", "wanted", "expected"),
    [
        ({"me": (0, 0)}, 4, Plan(4, {})),  # all is free
        ({"me": (0, 0), "b": (10, 10)}, 4, Plan(4, {"b": 6})),  # what is used comes from the one with most
        ({"me": (0, 0), "b": (10, 10)}, 9, Plan(5, {"b": 5})),  # half for each
        ({"me": (0, 0), "b": (10, 3)}, 9, Plan(7, {"b": 3})),  # what is not needed goes whole
        ({"me": (2, 0), "b": (5, 1), "c": (3, 3)}, 4, Plan(4, {"b": 3})),  # no more than is missing
        ({"me": (0, 0), "b": (3, 3), "c": (4, 4)}, 9, Plan(3, {})),  # what is free is enough for a fair share
        ({"me": (5, 0), "b": (5, 5)}, 9, Plan(5, {})),  # it has its share
        ({"me": (4, 0), "b": (5, 5), "c": (1, 1)}, 9, Plan(4, {})),  # two would only swap
        ({"me": (7, 0), "b": (3, 9)}, 9, Plan(7, {})),  # it asks for no less than it has
    ],
)
def test_plans(rows: dict[str, tuple[int, int]], wanted: int, expected: Plan) -> None:
    assert plan(state(10, **rows), "me", wanted, nobody) == expected


def test_what_a_gone_host_has_is_not_to_be_had() -> None:
    found = plan(state(10, me=(0, 0), b=(6, 6), c=(4, 4)), "me", 9, lambda host: host == "b")
    assert found == Plan(2, {"c": 2})


def test_a_host_without_a_row_plans_too() -> None:
    assert plan(state(4, b=(4, 4)), "me", 4, nobody) == Plan(2, {"b": 2})


def test_more_hungry_hosts_than_permits_take_turns_by_chance() -> None:
    rows = state(2, me=(0, 1), b=(1, 5), c=(1, 5), d=(0, 5))
    assert plan(rows, "me", 1, nobody) == Plan(0, {})
    assert [plan(rows, "me", 1, nobody, turn) for turn in (0.0, 0.99, 1.0)] == [
        Plan(1, {"b": 0}),
        Plan(1, {"c": 0}),
        Plan(1, {"c": 0}),
    ]
    assert plan(state(2, me=(0, 1), b=(2, 5)), "me", 1, nobody, 0.5) == Plan(1, {"b": 1})


hosts = st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1)


@given(hosts, st.integers(0, 40))
def test_shares_are_max_min_fair(rows: dict[str, tuple[int, int]], spare: int) -> None:
    demands = {host: demand for host, (_, demand) in rows.items()}
    found = shares(demands, {host: credit for host, (credit, _) in rows.items()}, spare)
    assert sum(found.values()) == min(spare, sum(demands.values()))
    assert all(0 <= found[host] <= demands[host] for host in demands)
    unmet = [found[host] for host in demands if found[host] < demands[host]]
    assert all(share <= low + 1 for low in unmet for share in found.values())  # nobody has much more than one who lacks


@given(hosts, st.integers(1, 20), st.integers(1, 40))
def test_a_plan_takes_no_more_than_is_missing_and_leaves_givers_no_poorer(
    rows: dict[str, tuple[int, int]], wanted: int, more: int
) -> None:
    max_size = sum(credit for credit, _ in rows.values()) + more - 1
    rows = {**rows, "me": (0, wanted)}
    found = plan(state(max_size, **rows), "me", wanted, nobody)
    taken = sum(rows[host][0] - target for host, target in found.targets.items())
    assert found.share <= wanted
    assert 0 <= taken <= max(0, found.share - (more - 1))
    for host, target in found.targets.items():
        credit, demand = rows[host]
        assert 0 <= target < credit
        assert target >= min(demand, taken - STEP + 1)
