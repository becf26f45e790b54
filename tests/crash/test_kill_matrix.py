"""A process is killed at every line of the package that it comes to, and nothing is lost: no permit, no connection
too many, nothing left over, nobody hangs.

The victim takes, lends, gives back, is called upon, discards, forks and leaves, between two survivors that have
connections and want more. After each kill the survivors together get the whole budget at once. By default a sample
of the points, spread evenly; as many as MPPOOL_TEST_REPEAT says (all: 10000). `python -m pytest -s` shows the table.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mppool import PoolManager
from mppool.manager import clients
from mppool.membership import launcher
from mppool.shared import ledger as L
from mppool.shared import paths
from tests.crash import crew as kit
from tests.crash import faults
from tests.crash.crew import REPEAT, SLOWEST, Books, Puppet, Watch, crew, kill_manager, say, succeeded
from tests.servers import Judge
from tests.servers import Watch as Seen
from tests.waiting import until

MAX_SIZE = 4
SAMPLE = REPEAT or 24  # points of each test


COLUMNS = ("points", "hit", "sure", "sure_hit", "lost", "exceeded", "left_over")


class Dead(Exception):
    """The victim is no more."""


@dataclass
class Line:
    """One line of the table."""

    points: int = 0
    hit: int = 0
    sure: int = 0  # points that came in every run in which nobody was killed; the agent's thread may come to others
    sure_hit: int = 0
    lost: int = 0  # the survivors did not get the whole budget
    exceeded: int = 0
    left_over: int = 0
    slowest: float = 0.0  # seconds until the survivors had it all


def _row(line: Line) -> str:
    first, *rest = (getattr(line, name) for name in COLUMNS)
    return " ".join((f"{first:6}", *(f"{number:4}" for number in rest)))


@dataclass
class Table:
    lines: dict[tuple[str, str], Line] = field(default_factory=lambda: defaultdict(Line))
    faults: list[str] = field(default_factory=list)

    def of(self, point: faults.Point) -> Line:
        return self.lines[point[0], point[1].rpartition(":")[0]]

    def show(self, title: str) -> None:
        say(f"\n{title}\n{'step':<14} {'function':<44} points  hit sure  hit lost over left slowest")
        for (step, function), line in sorted(self.lines.items()):
            say(f"{step:<14} {function:<44} {_row(line)} {line.slowest:6.3f}")
        every = Line(**{name: sum(getattr(line, name) for line in self.lines.values()) for name in COLUMNS})
        say(f"{'all':<59} {_row(every)} {self.slowest:6.3f}")

    @property
    def slowest(self) -> float:
        return max((line.slowest for line in self.lines.values()), default=0.0)


class Stage:
    """A budget with two survivors, watched."""

    def __init__(
        self, manager: PoolManager, books: Books, survivors: list[Puppet], watch: Watch, seen: Seen | None
    ) -> None:
        self.manager, self.books, self.survivors = manager, books, survivors
        self._watch, self._seen = watch, seen
        self.full_budget()
        self.usual = self.fds()

    def fds(self) -> list[int]:
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in (self.books.manager(), *(p.pid for p in self.survivors))]

    def _tidy(self) -> bool:
        manager, *survivors = (now - usual for now, usual in zip(self.fds(), self.usual, strict=True))
        kept = clients.KEPT * len(survivors) if self._seen is not None else 0  # sockets that it may still look at
        return manager <= kept and max(survivors) <= 0

    def full_budget(self) -> float:
        """The survivors get everything there is; the seconds it took. Afterwards both have idle connections."""
        began = time.monotonic()
        for survivor in self.survivors:
            survivor.tell("hold", MAX_SIZE // 2)
        for survivor in self.survivors:
            survivor.answer()
        took = time.monotonic() - began
        assert sum(self.books.column(L.CREDIT).values()) == sum(self.books.column(L.HELD).values()) == MAX_SIZE
        for survivor in self.survivors:
            survivor.ask("release")
        return took

    def settle(self, table: Table, point: faults.Point, began: float) -> None:
        """The balance sheet after a kill."""
        line = table.of(point)
        pids = {survivor.pid for survivor in self.survivors}
        try:
            line.slowest = max(line.slowest, self.full_budget())
            until(lambda: self.books.column(L.CREDIT).keys() == pids, 5)
        except AssertionError as error:
            line.lost += 1
            table.faults.append(f"{point}: lost: {error}")
        peaks = [self._watch.peaked()]
        if self._seen is not None:
            peaks += [count for at, count in self._seen.series if at >= began]
        if max(peaks) > MAX_SIZE:
            line.exceeded += 1
            table.faults.append(f"{point}: {max(peaks)} of {MAX_SIZE}; in the ledger {peaks[0]}")
        try:
            until(self._tidy, 3)
        except AssertionError:
            line.left_over += 1
            table.faults.append(f"{point}: descriptors {self.fds()}, before {self.usual}")
            self.usual = self.fds()


@contextmanager
def staged(uri: str, judge: Judge | None, below: int = 0) -> Iterator[Stage]:
    """``below``: so many rows below the survivors' are free, for newcomers."""
    with PoolManager(uri, MAX_SIZE) as manager, ExitStack() as stack:
        books = Books(manager.name)
        stack.callback(books.close)
        with crew(manager, below) as first:
            survivors = stack.enter_context(crew(manager, 2))
            for each in (*first, *survivors):
                each.ask("probe")  # so it takes a row
            for each in first:
                each.ask("leave")
        watch = stack.enter_context(Watch(books))
        seen = stack.enter_context(judge.watch(0.002)) if judge is not None else None
        yield Stage(manager, books, survivors, watch, seen)


def sample(points: list[faults.Point], count: int = SAMPLE) -> list[faults.Point]:
    """So many of them, spread evenly; always the same."""
    points = sorted(points)
    if len(points) <= count:
        return points
    return [points[number * len(points) // count] for number in range(count)]


# -- members ---------------------------------------------------------------------------------------------------


def heard(victim: Puppet) -> Any:
    """The victim's answer. It may have been stopped meanwhile: then it is continued, after a moment."""
    deadline = time.monotonic() + 25
    while not victim._pipe.poll(0.01):
        assert time.monotonic() < deadline, "it hangs"
        with open(f"/proc/{victim.pid}/stat") as stat:
            state = stat.read().rpartition(")")[2].split()[0]
        if state == "T":
            os.kill(victim.pid, signal.SIGCONT)
    try:
        return victim.answer(0)
    except (EOFError, ConnectionResetError):
        raise Dead from None


def through_all(stage: Stage, victim: Puppet, point: faults.Point | None, how: str) -> list[faults.Point]:
    """All that a member does, in steps."""
    other = stage.survivors[0]

    def step(name: str, *action: Any) -> Any:
        try:
            victim.tell("phase", name, *action)
        except OSError:
            raise Dead from None
        return heard(victim)

    victim.ask("trace", point, how)
    step("attach+take", "hold", 2)
    step("give back", "release")
    step("lend", "hold", 1)
    step("user's error", "fail")
    step("give back 2", "release")
    other.tell("hold", MAX_SIZE)  # idle connections are called back
    try:
        step("idle, recalled", "stats")
    finally:
        other.answer()
        other.ask("release")
    steer(stage, step)
    step("take", "hold", 2)
    other.tell("hold", MAX_SIZE - 1)  # one in use is called back
    try:
        until(lambda: stage.books.column(L.WAITING)[other.pid] or stage.books.column(L.IN_USE)[other.pid] >= 3)
        step("used, recalled", "release")
    finally:
        other.answer()
        other.ask("release")
    step("discard", "probe")
    step("fork", "fork")
    if how == "fork":
        victim.tell("forked")
        assert heard(victim) in (None, 0), "the child forked there could not borrow"
    step("leave", "leave")
    victim.tell("points")
    points: list[faults.Point] = heard(victim)
    return [each for each in points if each[0] not in ("boot", "in between")]


def steer(stage: Stage, step: Callable[..., Any]) -> None:
    """The budget is made smaller and larger, paused and drained while the victim has connections."""
    step("take 2", "hold", 2)
    step("give back 3", "release")
    try:
        stage.manager.resize(2)
        step("made smaller", "stats")
    finally:
        stage.manager.resize(MAX_SIZE)
    step("made larger", "stats")
    try:
        stage.manager.pause()
        step("paused", "stats")
    finally:
        stage.manager.resume()
    stage.manager.drain()
    step("drained", "probe")


def one_victim(
    stage: Stage, table: Table, point: faults.Point | None, how: str, sure: bool = False
) -> list[faults.Point]:
    """A member that does all there is. Every point it came to, if it survived.

    Args:
        point: where it happens to it.
        sure: that point came in every run before.
    """
    began = time.monotonic()
    victim = Puppet(stage.manager)
    points: list[faults.Point] = []
    hit = False
    try:
        points = through_all(stage, victim, point, how)
        hit = how in ("stop", "fork")
    except Dead:
        hit = True
    except AssertionError as error:
        table.faults.append(f"{point}: {error}")
    finally:
        victim.close()
    if point is not None:
        line = table.of(point)
        line.points += 1
        line.sure += sure
        line.hit += hit
        line.sure_hit += hit and sure
        stage.settle(table, point, began)
    return points


def matrix(uri: str, judge: Judge | None, how: str, count: int, title: str) -> Table:
    table = Table()
    with staged(uri, judge) as stage:
        runs = [set(one_victim(stage, table, None, "kill")) for _ in range(3)]
    known, sure = set.union(*runs), set.intersection(*runs)
    assert len(sure) > 500, "the tracer sees nothing"
    points = sample(list(known), count)
    while points:
        with staged(uri, judge) as stage:
            found = len(table.faults)
            while points and len(table.faults) == found:  # after a fault, another stage
                point = points.pop(0)
                one_victim(stage, table, point, how, point in sure)
        for text in table.faults[found:]:
            say(f"  {text}")
    table.show(f"{title}: {how}, {len(known)} points known, {len(sure)} of them sure")
    return table


def test_a_member_is_killed_anywhere(database_uri: str, judge: Judge | None) -> None:
    table = matrix(database_uri, judge, "kill", SAMPLE, database_uri.partition(":")[0])
    assert table.faults == []
    lines = table.lines.values()
    assert sum(line.sure_hit for line in lines) >= 0.8 * sum(line.sure for line in lines) > 0


@pytest.mark.parametrize("how", ["leave", "terminate", "stop", "fork"])
def test_something_else_happens_to_it_anywhere(sqlite_uri: str, how: str) -> None:
    """It ends with os._exit, is sent SIGTERM, is stopped and goes on, is forked by another thread."""
    table = matrix(sqlite_uri, None, how, max(8, SAMPLE // 3), "sqlite")
    assert table.faults == []


PLANTED = {
    "a permit goes with the dead": """
from mppool.core.books import Books
real = Books.leave
def leave(self, member):
    credit = self.accounts[member].credit
    real(self, member)
    self.accounts.free -= credit
Books.leave = leave
""",
    "the dead leave more than they had": """
from mppool.core.books import Books
real = Books.leave
def leave(self, member):
    credit = self.accounts[member].credit
    real(self, member)
    self.accounts.free += credit
Books.leave = leave
""",
    "a descriptor stays": """
from mppool.manager.clients import Clients
real = Clients.disconnect
def disconnect(self, client):
    import os
    os.dup(client.notice)
    real(self, client)
Clients.disconnect = disconnect
""",
}


WORDS = {
    "a permit goes with the dead": ["PoolTimeoutError"],
    "the dead leave more than they had": ["== 4", "of 4"],
    "a descriptor stays": ["descriptors"],
}


@pytest.mark.parametrize("bug", PLANTED)
def test_the_matrix_finds_planted_bugs(sqlite_uri: str, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A balance sheet that is always right proves nothing."""
    monkeypatch.setattr(kit, "PATIENCE", SLOWEST)  # that of a borrow for which there is no permit any more
    monkeypatch.setattr(launcher, "_BOOT", launcher._BOOT.replace("main(sys", f"exec({PLANTED[bug]!r}); main(sys"))
    table = Table()
    point = ("take", "process/local.py:outcome:0", 1)  # one that does not come: it leaves in the end, as it should
    with staged(sqlite_uri, None) as stage:
        for _ in range(3):
            if not table.faults:
                one_victim(stage, table, point, "kill")
    assert any(word in table.faults[0] for word in WORDS[bug]), table.faults


# -- the first of all --------------------------------------------------------------------------------------------


def test_the_first_is_killed_while_it_launches(sqlite_uri: str) -> None:
    """There is no budget yet, and whoever was making it is gone: the next one has it at once, whole."""
    table = Table()
    manager = PoolManager(sqlite_uri, MAX_SIZE)  # never started: its handles launch what they need
    folder = paths.folder(manager.name)

    def launch(point: faults.Point | None) -> list[faults.Point]:
        with crew(manager, 1) as (first,):
            first.ask("trace", point, "kill")
            try:
                first.tell("phase", "launch", "hold", 1)
                heard(first)
                first.tell("points")
                points: list[faults.Point] = heard(first)
            except Dead:
                return []
            first.ask("leave")
        return [each for each in points if each[0] == "launch" and each[1].startswith(("manager/", "shared/"))]

    known = launch(None)
    assert len(known) > 100, "the tracer sees nothing"
    for point in sample(known):
        until(lambda: not os.path.exists(folder))
        line = table.of(point)
        line.points += 1
        line.hit += not launch(point)
        with crew(manager, 1) as (newcomer,):
            began = time.monotonic()
            newcomer.ask("hold", MAX_SIZE)
            line.slowest = max(line.slowest, time.monotonic() - began)
            assert newcomer.ask("refused", 0.02)
            newcomer.ask("release")
            newcomer.ask("leave")
        try:
            until(lambda: not os.path.exists(folder))
        except AssertionError:
            line.left_over += 1
            table.faults.append(f"{point}: the folder is still there")
    table.show(f"the first, launching: {len(known)} points known")
    assert table.faults == []
    assert table.slowest <= SLOWEST


# -- hooks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["configure", "check", "reset"])
@pytest.mark.parametrize("what", ["raises", "exits", "is killed"])
def test_a_hook_of_the_users(sqlite_uri: str, hook: str, what: str) -> None:
    """It fails, or ends its process: what the connection's permit was is there for others."""
    with staged(sqlite_uri, None) as stage:
        ends = {"exits": faults.leave, "is killed": faults.kill}
        calls = os.pipe()

        def fails(connection: object) -> None:
            os.write(calls[1], b"!")
            if what == "raises":
                raise KeyError("theirs")
            ends[what]()

        pid = os.fork()
        if not pid:
            try:
                pool = stage.manager.pool(conn_timeout=0.3, **{hook: fails})
                for _ in range(2):
                    with pool.connection():
                        pass
            finally:
                os._exit(0)
        assert os.read(calls[0], 1) == b"!"
        stage.full_budget()
        os.waitpid(pid, 0)
        stage.full_budget()
        until(lambda: len(stage.books.column(L.CREDIT)) == 2)
        for fd in calls:
            os.close(fd)


# -- the manager -----------------------------------------------------------------------------------------------


def through_the_managers_day(stage: Stage) -> None:
    """All that a manager has to deal with."""
    one, other = stage.survivors
    with crew(stage.manager, 2) as (guest, victim):
        guest.ask("hold", 2)
        guest.ask("release")
        one.ask("hold", MAX_SIZE)
        one.tell("release")
        guest.ask("probe")
        one.answer()
        guest.ask("leave")
        victim.ask("hold", 2)
        victim.kill()
        stage.manager.resize(2)
        stage.manager.pause()
        stage.manager.resize(MAX_SIZE)
        stage.manager.drain()
        stage.manager.resume()
        other.ask("hold", MAX_SIZE)
        other.ask("release")


def back(stage: Stage) -> None:
    until(lambda: stage.books.managed() and not any(s.ask("stats").manager_lost for s in stage.survivors), 15)


def test_the_manager_is_killed_anywhere(
    database_uri: str, judge: Judge | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A successor is killed at a point of its boot, of its succession or of its day; the one after it goes on."""
    order, record = tmp_path / "order", tmp_path / "record"
    monkeypatch.setattr(launcher, "_BOOT", faults.boot(launcher._BOOT, str(order)))
    table = Table()
    with staged(database_uri, judge) as stage:
        order.write_text(json.dumps({"record": str(record)}))  # to whoever comes next
        before = stage.books.manager()
        kill_manager(stage.books)
        succeeded(stage.books, before)
        back(stage)
        order.unlink()
        through_the_managers_day(stage)
        for survivor in stage.survivors:
            survivor.ask("leave")
    known: list[faults.Point] = [(each[0], each[1], each[2]) for each in until(lambda: read(record))]
    assert len(known) > 300
    with staged(database_uri, judge) as stage:
        for point in sample(known):
            began = time.monotonic()
            order.write_text(json.dumps({"point": point}))
            before = stage.books.manager()
            kill_manager(stage.books)
            line = table.of(point)
            line.points += 1
            try:
                succeeded(stage.books, before, 15)
                back(stage)
                through_the_managers_day(stage)
                back(stage)
            except (AssertionError, Dead) as error:
                table.faults.append(f"{point}: {error}")
            stage.settle(table, point, began)
            line.hit += not order.exists()
        order.unlink(missing_ok=True)  # the last may not have come to its point yet, and would when it leaves
        before = stage.books.manager()
        kill_manager(stage.books)
        succeeded(stage.books, before)
    table.show(f"the manager, {database_uri.partition(':')[0]}: {len(known)} points known")
    for text in table.faults[:40]:
        say(f"  {text}")
    assert table.faults == []
    assert sum(line.hit for line in table.lines.values()) >= 0.6 * len(sample(known))


def read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


# -- any moment ------------------------------------------------------------------------------------------------


def test_killed_at_random_moments(database_uri: str, judge: Judge | None) -> None:
    """Processes that borrow without pause are killed after so many microseconds, now and then the manager, too."""
    moments, kills = random.Random(7), REPEAT or 12
    table, point = Table(), ("any moment", "any:where:0", 1)
    with staged(database_uri, judge) as stage:
        for number in range(kills):
            began = time.monotonic()
            with crew(stage.manager, 2) as victims:
                for victim in victims:
                    victim.tell("run", 2, 2)
                time.sleep(moments.uniform(0.0, 0.15))
                before = stage.books.manager()
                if number % 3 == 2:
                    kill_manager(stage.books)
                for victim in victims:
                    os.kill(victim.pid, signal.SIGKILL)
            if number % 3 == 2:
                succeeded(stage.books, before)
                back(stage)
            table.of(point).points += 1
            table.of(point).hit += 1
            stage.settle(table, point, began)
    table.show(f"{database_uri.partition(':')[0]}: random moments")
    assert table.faults == []
