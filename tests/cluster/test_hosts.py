"""Several hosts, each a runtime folder, with one budget: on Redis and on PostgreSQL, judged by the database.

The judge is a role that may have as many connections as the budget has permits, and the server's own list.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mppool import PoolManager, PySQLXEnginePoolSync, errors
from mppool.membership import member
from mppool.shared import tenure
from tests.beats import Clock
from tests.cluster.engines import Budget, InPostgres, InRedis
from tests.cluster.machines import LEASE, PATIENCE, SLACK, Machine, machines, took
from tests.crash.crew import say
from tests.servers import LimitedRole
from tests.waiting import until

SIZE = 5  # permits, of which one is the judge's
ALL = SIZE - 1


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "LEASE", LEASE)
    monkeypatch.setattr(member, "SLACK", SLACK)


@pytest.fixture(params=["redis", "postgresql"])
def engine(request: pytest.FixtureRequest) -> Budget:
    made: Budget = request.getfixturevalue({"redis": "in_redis", "postgresql": "in_postgres"}[request.param])
    return made


@pytest.fixture
def role(limited_role: Callable[[int], LimitedRole]) -> Iterator[LimitedRole]:
    """Whose connections are counted all the time: never more than the budget has permits, and none is refused."""
    made = limited_role(SIZE)
    with made.judge.watch() as seen:
        yield made
    assert seen.peak <= SIZE
    assert made.refusals() in (0, None)


@pytest.fixture
def make(engine: Budget, role: LimitedRole) -> Callable[[], PoolManager]:
    assert isinstance(engine, (InRedis, InPostgres))
    url = engine.server.url if isinstance(engine, InRedis) else engine.uri
    return lambda: PoolManager(role.uri, SIZE, engine.name, cluster=url)


@pytest.fixture
def two(runtime_folder: str, make: Callable[[], PoolManager]) -> Iterator[list[Machine]]:
    with machines(runtime_folder, 2, make) as made:
        for machine in made:
            machine.agreed()
        yield made


def test_a_permit_moves_from_host_to_host(two: list[Machine], role: LimitedRole) -> None:
    one, other = two
    one.ask("hold", ALL)
    assert other.ask("refused", 0.3), "all permits are in use on the other host"
    other.tell("hold", 2)
    one.ask("release")
    began = time.monotonic()
    other.answer()
    say(f"\ntwo permits in use moved in {took(began)}")
    one.ask("hold", ALL - 2)
    assert role.judge.count() == ALL
    assert one.ask("refused", 0.3)


def test_what_is_told_of_hosts(two: list[Machine]) -> None:
    one, other = two
    one.ask("hold", 2)
    other.ask("hold", 1)
    until(lambda: sum(host.in_use for host in other.ask("budget").hosts) == 3, PATIENCE)
    stats = one.ask("budget")
    assert {host.name for host in stats.hosts} == {one.name, other.name}
    assert [host.here for host in stats.hosts].count(True) == 1
    assert not stats.learning
    assert not stats.cluster_lost
    assert stats.cluster_error == ""
    assert stats.cap >= 2
    assert stats.max_size == SIZE
    one.ask("hold", ALL - 3)
    assert f"the {ALL - 1} permits of {SIZE} that this host may use" in one.ask("says", 0.3)


def test_hosts_share_fairly(two: list[Machine], role: LimitedRole) -> None:
    for machine in two:
        machine.ask("run", ALL, 0)
    time.sleep(2.0)  # they use all that they get: what is asked is who has how much
    held = [machine.header("cap")[0] for machine in two]
    seen = [machine.ask("rest") for machine in two]
    assert all(not each["failures"] for each in seen)
    assert sum(held) <= ALL
    borrows = [each["borrows"] for each in seen]
    say(f"\n{borrows} borrows; caps {held}")
    assert min(borrows) > 0.2 * max(borrows)


def test_a_killed_agent_is_replaced_by_one_that_goes_on(two: list[Machine]) -> None:
    one, other = two
    one.ask("hold", 2)
    name, before = one.name, one.agent
    os.kill(before, signal.SIGKILL)
    until(lambda: one.agents() not in ([], [before]), 20)
    other.ask("hold", ALL - 2)
    one.ask("release")
    one.ask("hold", 2)
    assert one.name == name
    assert one.ask("refused", 0.3)


def test_a_killed_manager_is_succeeded_as_the_same_host(two: list[Machine]) -> None:
    one, other = two
    one.ask("hold", 2)
    name, before = one.name, one.manager
    os.kill(before, signal.SIGKILL)
    other.ask("hold", ALL - 2)
    assert other.ask("refused", 0.3)
    until(lambda: one.manager != before, 20)
    one.agreed()
    one.ask("release")
    other.ask("hold", 1)
    assert one.name == name


def test_a_killed_host_gives_all_back(two: list[Machine], role: LimitedRole) -> None:
    one, other = two
    one.ask("hold", ALL)
    one.kill_all()
    began = time.monotonic()
    other.tell("hold", ALL)
    other.answer(PATIENCE)
    say(f"\na killed host's permits came after {took(began)}, with a lease of {LEASE:g} s")


def test_a_host_that_leaves_gives_back_at_once(two: list[Machine], clock: Clock) -> None:
    one, other = two
    one.ask("hold", ALL)
    other.tell("hold", ALL)
    began = time.monotonic()
    one.ask("end")
    one.close()
    other.answer()
    say(f"\na host that left: {took(began)}")
    assert clock.since(began) < LEASE + SLACK, "nobody had to judge"


def test_a_resize_is_everybodys(two: list[Machine], role: LimitedRole) -> None:
    one, other = two
    one.ask("hold", ALL)
    other.ask("resize", ALL - 1)
    until(lambda: one.header("max_size") == (ALL - 1,), PATIENCE)
    one.ask("release")
    other.ask("hold", 1)
    one.ask("hold", ALL - 3)
    assert one.ask("refused", 0.3)
    one.ask("resize", SIZE)
    other.ask("hold", 2)


def test_another_size_is_refused(
    two: list[Machine], engine: Budget, role: LimitedRole, runtime_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = engine.server.url if isinstance(engine, InRedis) else engine.uri  # type: ignore[attr-defined]
    monkeypatch.setenv("MPPOOL_RUNTIME_DIR", f"{runtime_folder}/h9")
    with pytest.raises(errors.BudgetMismatchError, match=f"{SIZE}.*{SIZE + 3}"):
        PoolManager(role.uri, SIZE + 3, engine.name, cluster=url).start()
    with pytest.raises(errors.BudgetMismatchError, match=f"{SIZE}.*{SIZE + 3}"):
        PySQLXEnginePoolSync(role.uri, 0, SIZE + 3, name=engine.name, cluster=url, conn_timeout=20).start()


def test_an_engine_that_stands_still(runtime_folder: str, in_redis: InRedis, role: LimitedRole) -> None:
    """For longer than a lease: what is open goes on, nothing is opened; afterwards all is as before."""
    with machines(
        runtime_folder, 2, lambda: PoolManager(role.uri, SIZE, in_redis.name, cluster=in_redis.server.url)
    ) as two:
        one, other = (machine.agreed() for machine in two)
        one.ask("hold", 2)
        in_redis.server.pause()
        until(lambda: one.header("cluster") == (tenure.LOST,), PATIENCE)
        assert "no connection within" in (said := one.ask("says", 0.3))
        assert "engine cannot be reached" in said
        assert one.ask("release") == 2
        one.ask("hold", 1)
        in_redis.server.resume()
        one.agreed()
        other.ask("hold", 2)
        one.ask("hold", 1)


def test_a_password_that_changes(runtime_folder: str, in_redis: InRedis, role: LimitedRole, tmp_path: Path) -> None:
    """The function that says the url is asked again once the engine refuses this host."""
    (password := tmp_path / "password").write_text("first")
    in_redis.run("CONFIG", "SET", "requirepass", "first")
    port = in_redis.server.port

    def url() -> str:
        return f"redis://:{password.read_text()}@127.0.0.1:{port}/0"

    with machines(runtime_folder, 1, lambda: PoolManager(role.uri, SIZE, in_redis.name, cluster=url)) as (one,):
        one.agreed().ask("hold", 1)
        in_redis.server.stop()
        in_redis.server.start()  # without a password, which is set before a client comes, or soon after
        in_redis.run("CONFIG", "SET", "requirepass", "second")
        until(lambda: one.header("cluster") == (tenure.REFUSED,), PATIENCE)
        password.write_text("second")
        one.agreed().ask("hold", 1)
        shown = b"".join(path.read_bytes() for path in Path(one.folder).rglob("*") if path.is_file())
        shown += " ".join([*psutil.Process(one.agent).cmdline(), *psutil.Process(one.manager).cmdline()]).encode()
        assert b"second" not in shown
        assert b"secret" not in shown  # the role's


def test_an_engine_that_lost_its_data(runtime_folder: str, in_redis: InRedis, role: LimitedRole) -> None:
    with machines(
        runtime_folder, 2, lambda: PoolManager(role.uri, SIZE, in_redis.name, cluster=in_redis.server.url)
    ) as two:
        one, other = (machine.agreed() for machine in two)
        one.ask("hold", 2)
        in_redis.server.stop(signal.SIGKILL)
        in_redis.lose_files()
        in_redis.server.start()
        began = time.monotonic()
        until(lambda: one.header("cluster") == (tenure.LEARNING,), PATIENCE)
        other.tell("hold", 2)
        other.answer(PATIENCE)
        say(f"\nlearned after {took(began)}")
        until(lambda: len(in_redis.run("PUBSUB", "CHANNELS", "*:ring:*")) == 2, PATIENCE)  # both hear rings again
        one.ask("hold", 0)
        assert other.ask("refused", 0.3)
