"""Each transition of an account, by hand. `test_policy` walks them in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mppool.core.accounts import MOST
from mppool.core.books import Books

if TYPE_CHECKING:
    from mppool.core.accounts import Facts

NOW = 100.0


class Reports:
    """What members published: nothing, unless it is set."""

    def __init__(self) -> None:
        self.facts: dict[int, Facts] = {}

    def read(self, member: int) -> Facts:
        return self.facts.get(member, (0, 0, 0, 0, 0, 0.0, 0.0, 0.0, 0, 0.0))

    def idle(self) -> list[tuple[float, int]]:
        return []

    def unused(self) -> list[int]:
        return []

    def least_cost(self) -> float:
        return 0.0


@pytest.fixture
def books() -> Books:
    return Books(5, Reports())


def holder(books: Books, permits: int) -> int:
    """A member that has so many permits, all in use."""
    member = len(books.accounts)
    books.attach(member, NOW)
    books.grant(member, permits, NOW)
    books.reports.facts[member] = (permits, permits, 0, 0, 0, 0.0, 0.0, 0.0, 0, 0.0)  # type: ignore[attr-defined]
    books.hear(member)
    return member


def test_a_grant_comes_from_what_is_free(books: Books) -> None:
    member = holder(books, 3)
    assert (books.accounts[member].credit, books.accounts.free) == (3, 2)


def test_a_member_that_leaves_frees_its_credit(books: Books) -> None:
    books.leave(holder(books, 3))
    assert (books.accounts.free, len(books.accounts)) == (5, 0)


def test_an_inherited_member_may_use_all_its_credit_until_it_declares(books: Books) -> None:
    books.inherit(0, 4, NOW)
    assert (books.accounts.free, books.spare, books.accounts[0].frozen) == (1, 1, True)
    books.declare(0, 2, NOW)
    assert (books.accounts.free, books.spare) == (3, 5)
    assert not books.accounts[0].frozen


def test_no_more_is_inherited_than_any_budget_has(books: Books) -> None:
    books.inherit(0, 1 << 40, NOW)
    books.inherit(1, -3, NOW)
    assert (books.accounts[0].credit, books.accounts[1].credit) == (MOST, 0)
    assert books.accounts.free == 5 - MOST, "it may be a budget that has become smaller"


def test_a_budget_that_becomes_smaller_is_overdrawn_until_permits_come_back(books: Books) -> None:
    member = holder(books, 4)
    books.resize(2)
    assert (books.max_size, books.accounts.free) == (2, -2)
    books.recalled(member, 2, NOW)
    assert books.accounts.free == 0


def test_what_a_member_may_want_goes_by_the_size(books: Books) -> None:
    member = holder(books, 4)
    books.reports.facts[member] = (4, 4, 0, 0, 9, 0.0, 0.0, 0.0, 0, 0.0)  # type: ignore[attr-defined]
    books.hear(member)
    assert books.wants.shortage == 1
    books.resize(8)
    assert (books.wants.shortage, books.accounts.free) == (4, 4)
    books.resize(3)
    assert books.wants.shortage == 0


def test_a_retired_member_keeps_what_its_server_has(books: Books) -> None:
    member = holder(books, 3)
    assert books.retire(member, 2, NOW) == 2
    assert (books.accounts.free, books.spare) == (3, 3)
    assert [books.ended(member, NOW), books.ended(member, NOW)] == [1, 0]
    assert books.accounts.free == 5


def test_a_retired_member_never_keeps_more_than_it_had(books: Books) -> None:
    assert books.retire(holder(books, 3), 9, NOW) == 3


def test_a_frozen_member_wants_nothing_and_is_under_no_orders(books: Books) -> None:
    member = holder(books, 1)
    books.reports.facts[member] = (1, 1, 0, 0, 4, 0.0, 0.0, 0.0, 0, 0.0)  # type: ignore[attr-defined]
    books.hear(member)
    books.recall_in_use(member)
    assert (books.wants.shortage, books.ordered) == (4, {member})
    books.freeze(member)
    assert (books.wants.shortage, books.ordered) == (0, set())
    assert books.accounts[member].limit == 1


def test_idle_connections_are_recalled_as_far_as_there_are_permits(books: Books) -> None:
    member = holder(books, 2)
    assert [books.recall_idle(member, 1), books.recall_idle(member, 9), books.recall_idle(member, 1)] == [1, 1, 0]
    assert (books.accounts[member].target, books.accounts[member].limit) == (0, 2)
    assert books.withdraw_orders() == {member}
    assert books.accounts[member].target == 2


def test_orders_stay_when_unused_permits_were_taken(books: Books) -> None:
    member = holder(books, 4)
    books.recall_idle(member, 2)
    books.recall_in_use(member)
    books.recalled(member, 1, NOW)
    account = books.accounts[member]
    assert (account.credit, account.target, account.limit, books.accounts.free) == (3, 1, 1, 2)
