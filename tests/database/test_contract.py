"""The contract between pool and driver, on the fake and on each database: open, check, reset, close."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mppool import errors
from mppool.database.connection import calls
from mppool.database.contract import Trust, open_link
from mppool.database.fake import FakeDatabase, FakeLink, Step
from mppool.database.runtime.loop_stand_in import drive
from mppool.uri import Database
from tests.servers import connect, run
from tests.waiting import forked, until

FAKE = Database.parse("postgresql://fake/fake")
SHORT, SLEEP = 0.1, 20.0  # seconds
SLEEPS = {  # a call that waits, and how to ask the server whether it does
    "postgresql": (
        f"SELECT pg_sleep({SLEEP})",
        "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query = %s",
    ),
    "mysql": (f"DO SLEEP({SLEEP})", "SELECT 1 FROM information_schema.processlist WHERE info = %s"),
}


class Driver:
    """A driver with a database to open connections to."""

    def __init__(self, fake: FakeDatabase | None, database: Database) -> None:
        self.fake, self.database = fake, database
        self.open_link: Callable[..., Any] = open_link if fake is None else fake.open_link

    def open(self) -> Any:
        return self.open_link(self.database)

    def begin(self, link: Any) -> None:
        if self.fake is None:
            drive(calls.raw_cmd(link, "BEGIN"))
        else:
            link.transaction_begins()

    @contextlib.contextmanager
    def keep_busy(self, link: Any) -> Iterator[None]:
        """From now on the database does not answer; after the block the connection is broken off."""
        if self.fake is not None:
            link.answers = Step.NEVER
            yield
            return
        sleep, running = SLEEPS[link.provider]

        def call() -> None:
            with contextlib.suppress(errors.RawCmdError):  # the connection is broken off
                drive(calls.raw_cmd(link, sleep))

        thread = threading.Thread(target=call)
        thread.start()
        judge = connect(self.database.uri)
        try:
            until(lambda: run(judge, running, (sleep,)))
            yield
        finally:
            judge.close()
            link.break_off()
            thread.join()

    def refuse(self) -> Database:
        """A database to which no connection can be opened."""
        if self.fake is not None:
            self.fake.opens.append(Step.FAILS)
            return self.database
        scheme, where = self.database.provider, "localhost:1/x"
        return Database.parse("sqlite:/no/such/folder/x.db" if scheme == "sqlite" else f"{scheme}://u:p@{where}")


@pytest.fixture(params=["fake", "sqlite", "postgres", "mysql"])
def driver(request: pytest.FixtureRequest) -> Driver:
    if request.param == "fake":
        return Driver(FakeDatabase(), FAKE)
    return Driver(None, Database.parse(request.getfixturevalue(f"{request.param}_uri")))


@pytest.fixture
def link(driver: Driver) -> Iterator[Any]:
    one = driver.open()
    yield one
    one.break_off()
    one.close()
    one.forget_twin()


def test_an_open_connection_answers(driver: Driver, link: Any) -> None:
    assert (link.trust, link.in_transaction, link.provider) == (Trust.GOOD, False, driver.database.provider)
    assert link.since <= time.monotonic()
    assert link.check()
    assert link.reset()
    assert not link.taken()


def test_an_open_that_fails_says_where(driver: Driver) -> None:
    with pytest.raises(errors.ConnectError) as caught:
        driver.open_link(driver.refuse(), connect_timeout=2.0)
    assert caught.value.where


def test_a_suspect_connection_that_answers_is_good_again(link: Any) -> None:
    link.distrust(Trust.SUSPECT)
    assert link.check()
    assert link.trust is Trust.GOOD


def test_a_doubtful_connection_stays_doubtful(link: Any) -> None:
    link.distrust()
    link.distrust(Trust.SUSPECT)
    assert not link.check()
    assert not link.reset()
    assert link.trust is Trust.DOUBTFUL


def test_reset_rolls_back(driver: Driver, link: Any) -> None:
    driver.begin(link)
    assert link.in_transaction
    assert link.reset()
    assert not link.in_transaction
    assert link.trust is Trust.GOOD


def test_a_closed_connection_is_closed(link: Any) -> None:
    assert link.prepare_close()
    assert link.close()
    assert link.close(), "it may be called again"
    assert link.await_close(10.0)
    until(lambda: link.live_socket() is None)  # the driver closes its number on a thread of its own
    assert not link.check()


def test_a_dropped_connection_is_of_no_use(link: Any) -> None:
    link.drop(settled=True)
    assert not link.check()
    assert not link.reset()


def test_a_forked_child_abandons_the_connection(link: Any) -> None:
    def child() -> None:
        link.abandon()
        assert not link.check()
        assert link.close()

    with forked(child) as process:
        assert process.join() == 0
    assert link.check(), "the parent's is as it was"


def test_a_connection_that_was_cut_off_fails_its_check(driver: Driver, link: Any) -> None:
    if driver.database.provider == "sqlite":
        pytest.skip("SQLite has no socket")
    link.break_off()
    assert not link.check()
    assert link.trust >= Trust.DOUBTFUL


def test_a_check_waits_no_longer_than_it_may(driver: Driver, link: Any) -> None:
    if driver.database.provider == "sqlite":
        pytest.skip("SQLite has no call that waits")
    with driver.keep_busy(link):
        began = time.monotonic()
        assert not link.check(SHORT)
        assert SHORT <= time.monotonic() - began < SLEEP
        assert link.trust >= Trust.DOUBTFUL
        if driver.fake is None:
            assert not link.close(0.0), "a call still runs"
    assert link.close(10.0)


# --- the fake alone -----------------------------------------------------------------------------------------


def test_the_fake_has_room_for_so_many() -> None:
    fake = FakeDatabase(limit=1)
    first = fake.open_link(FAKE)
    with pytest.raises(errors.ConnectError) as caught:
        fake.open_link(FAKE)
    assert caught.value.code == "53300"
    assert first.close()
    assert fake.connections == {first}, "it has not noticed yet"
    assert first.await_close(0.0)
    assert fake.connections == set()


@pytest.mark.parametrize(("step", "opens"), [(Step.SUCCEEDS, True), (Step.SLOW, True), (Step.NEVER, False)])
def test_the_fake_opens_as_it_is_told(step: Step, opens: bool) -> None:
    fake = FakeDatabase()
    fake.opens.append(step)
    try:
        link: FakeLink | None = fake.open_link(FAKE, connect_timeout=0.05)
    except errors.ConnectError:
        link = None
    assert (link is not None) is opens
    assert fake.open_link(FAKE).check(), "the next one succeeds"


def test_the_fake_waits_for_a_call_that_runs() -> None:
    link = FakeDatabase().open_link(FAKE)
    link.ending = Step.NEVER
    assert not link.close(0.01)
    link.break_off()
    assert link.close(0.01)
    link.leaving = Step.NEVER
    assert not link.await_close(0.01)
