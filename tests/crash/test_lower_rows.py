"""A member is killed together with its manager, and its row is lower than those of the living: the next manager takes
them over first, and the dead one's row, with the permits of what the server is still at, must not go to a newcomer.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from mppool.membership import launcher
from tests.crash import crew as kit
from tests.crash.crew import REPEAT, SLOWEST, crew, succeeded
from tests.crash.relay import relay
from tests.crash.test_ending import at_work
from tests.crash.test_kill_matrix import Stage, Table, back, staged
from tests.crash.test_unshared import asleep
from tests.servers import Judge
from tests.waiting import until

ROUNDS = REPEAT or 2
STATEMENT = 3.0  # seconds; long enough to be seen on a busy machine
LONG = 4.0  # seconds; newcomers come within it on a busy machine, too, which the planted bug needs


def killed_below_the_living(
    stage: Stage, judge: Judge, table: Table, first: str, connections: int, statement: float = STATEMENT
) -> None:
    """The victim has one connection in a statement, the others idle; two newcomers come while it is mourned."""
    began, point = time.monotonic(), (f"{first} first", "below:the living:0", 1)
    with crew(stage.manager, 1) as (victim,), crew(stage.manager, 2) as newcomers:
        victim.ask("hold", connections)
        victim.ask("release")
        victim.tell("execute", f"SELECT SLEEP({statement}) AS a")
        at_work(judge)
        assert stage.books.lowest() == victim.pid
        before = stage.books.manager()
        pids = [before, victim.pid]
        for pid in pids if first == "manager" else reversed(pids):
            os.kill(pid, signal.SIGKILL)
        victim.join()
        successor = 0
        try:
            for newcomer in newcomers:
                newcomer.tell("hold", 1)
            successor = succeeded(stage.books, before)
            for newcomer in newcomers:
                newcomer.answer()
            until(lambda: not asleep(judge))
            for newcomer in newcomers:
                newcomer.ask("release")
                newcomer.ask("leave")
            back(stage)
        except AssertionError as error:
            table.faults.append(f"{point}: {error}")
    line = table.of(point)
    line.points, line.hit = line.points + 1, line.hit + 1
    stage.settle(table, point, began)
    if stage.books.manager() != successor:
        table.faults.append(f"{point}: the successor has ended, too")


@pytest.mark.parametrize("first", ["manager", "member"])
def test_a_lower_row_dies_with_the_manager(mysql_uri: str, mysql_judge: Judge, first: str) -> None:
    table = Table()
    with relay(mysql_uri) as uri, staged(uri, mysql_judge, below=1) as stage:
        for number in range(ROUNDS):
            killed_below_the_living(stage, mysql_judge, table, first, 1 + number % 2)
    table.show("a row below the living, mysql")
    assert table.faults == []
    assert table.slowest <= STATEMENT + SLOWEST


PLANTED = """
from heapq import heappop
from mppool.manager.allocator import Allocator
Allocator._unused_row = lambda self: heappop(self._unused_rows) if self._unused_rows else self._reports.rows
"""


@pytest.mark.parametrize("connections", [1, 2])
def test_a_row_given_away_is_found(
    mysql_uri: str, mysql_judge: Judge, monkeypatch: pytest.MonkeyPatch, connections: int
) -> None:
    """A newcomer gets the dead one's row, as was once the case."""
    monkeypatch.setattr(launcher, "_BOOT", launcher._BOOT.replace("main(sys", f"exec({PLANTED!r}); main(sys"))
    monkeypatch.setattr(kit, "PATIENCE", SLOWEST)
    table = Table()
    with relay(mysql_uri) as uri, staged(uri, mysql_judge, below=1) as stage:
        killed_below_the_living(stage, mysql_judge, table, "manager", connections, LONG)
    assert table.faults
