"""What a member does for a budget over several hosts: when it opens, for how long, and what it says."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from mppool import errors
from mppool.process import hosted
from mppool.shared import ledger as L
from mppool.shared import tenure
from mppool.shared.tags import tag
from mppool.uri import Database

SECOND = 1_000_000_000
DATABASE = Database.parse("postgresql://u:p@db/shop?application_name=my%20till&connect_timeout=30")


def pool(seconds: float | None = None, state: int = tenure.AGREED) -> Any:
    """A pool whose host has a lease for so long; None: the budget is its alone."""
    header = L.Header([0] * L.HEADER, 0)  # type: ignore[arg-type]
    if seconds is not None:
        header.lease = tenure.now_ns() + int(seconds * SECOND)
        header.cluster = state
        tenure.name_host(header, "web-1-0123456789ab")
    return SimpleNamespace(name="shop", row=SimpleNamespace(header=header))


def test_one_host_alone_opens_as_it_is_told() -> None:
    assert hosted.ready_to_open(pool(), DATABASE, 5.0) == (DATABASE, 5.0)
    hosted.check_lease(pool())
    assert hosted.host_cap(pool()) is None


@pytest.mark.parametrize(("left", "timeout", "expected"), [(9.5, 5.0, 5.0), (1.5, 5.0, 3.0), (0.5, 60.0, 2.0)])
def test_an_open_takes_no_longer_than_the_lease_and_its_slack(left: float, timeout: float, expected: float) -> None:
    database, limit = hosted.ready_to_open(pool(left), DATABASE, timeout)
    assert limit == expected
    assert limit <= left + tenure.SLACK
    assert f"connect_timeout={int(limit)}" in database.uri


def test_a_connection_is_tagged_before_what_the_user_calls_it() -> None:
    database, _ = hosted.ready_to_open(pool(9.0), DATABASE, 5.0)
    assert database.key == DATABASE.key
    name = tag("shop", "web-1-0123456789ab").replace(":", "%3A")
    assert f"application_name={name}%20my%20till" in database.uri
    assert "tcp_keepalives_idle" in database.uri
    assert "tcp_user_timeout" in database.uri


def test_nothing_is_opened_without_a_lease() -> None:
    for look in (lambda each: hosted.ready_to_open(each, DATABASE, 5.0), hosted.check_lease):
        with pytest.raises(errors.ConnectError) as failed:
            look(pool(-1.0, tenure.LOST))
        assert failed.value.reason == "no lease"
        assert "engine cannot be reached" in str(failed.value)


def test_another_size_is_an_error_of_its_own() -> None:
    assert hosted.mismatch(pool(9.0)) is None
    assert isinstance(hosted.mismatch(pool(9.0, tenure.MISMATCH)), errors.BudgetMismatchError)
    assert hosted.is_refused(pool(9.0, tenure.REFUSED))


def test_a_lost_engine_is_logged_once(caplog: pytest.LogCaptureFixture, runtime_folder: str) -> None:
    caplog.set_level(logging.INFO, "mppool.pool")
    where = pool(9.0)
    standing = hosted.Standing(where)
    for state in (tenure.AGREED, tenure.LOST, tenure.LOST, tenure.REFUSED, tenure.AGREED, tenure.AGREED):
        where.row.header.cluster = state
        standing.tell()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
