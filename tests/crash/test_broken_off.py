"""A call that its caller gives up at once, by an exception or by the process's end: the server goes on with it, so its
permit is nobody's until the server's connection is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from mppool import PoolManager
from tests.crash.crew import crew
from tests.servers import Judge
from tests.waiting import forked, until

SIZE = 1  # permits
SECONDS = 1.5
SLOW = {"postgresql": f"SELECT pg_sleep({SECONDS})::text AS a", "mysql": f"SELECT SLEEP({SECONDS}) AS a"}
# PostgreSQL would look for its client during the statement: as little as other databases do.
LATE = "options=-c%20client_connection_check_interval%3D0"

on_servers = pytest.mark.parametrize("database_uri", ["postgresql", "mysql"], indirect=True)


def late(uri: str) -> str:
    return f"{uri}?{LATE}" if uri.startswith("postgresql") else uri


def asleep(judge: Judge) -> bool:
    return any("sleep(" in text.lower() and "idle" not in text for text in judge.list().values())


PROGRAM = """
import signal, sys
from mppool import PoolManager

signal.signal(signal.SIGUSR1, lambda *_: sys.exit(3))
with PoolManager.attach(sys.argv[1]).pool().connection(5) as conn:
    conn.query(sys.argv[2])
"""


@on_servers
def test_a_program_that_exits_meanwhile(database_uri: str, judge: Judge) -> None:
    """gunicorn's workers do so when they are told to abort."""
    with (
        PoolManager(late(database_uri), SIZE, end_orphans=False) as manager,
        crew(manager, 1) as (other,),
        judge.watch() as seen,
    ):
        sql = SLOW[database_uri.partition(":")[0]]
        with subprocess.Popen([sys.executable, "-c", PROGRAM, manager.name, sql]) as program:
            until(lambda: asleep(judge), 20)
            program.send_signal(signal.SIGUSR1)
            other.ask("hold", 1)
            assert not asleep(judge)
            assert program.wait(20) == 3
        other.ask("release")
    assert seen.peak == SIZE


class Stop(BaseException):
    pass


@on_servers
@pytest.mark.parametrize("ends", ["raises", "stops"])
def test_its_permit_waits_for_the_server(database_uri: str, judge: Judge, ends: str) -> None:
    def victim(manager: PoolManager) -> None:
        def stop(*_: object) -> None:
            raise Stop

        signal.signal(signal.SIGUSR1, stop)
        pool = manager.pool()
        try:
            with pool.connection(5) as conn:
                conn.query(SLOW[database_uri.partition(":")[0]])
        except Stop:
            if ends == "raises":
                signal.pause()
            if ends == "stops":
                pool.stop()

    with (
        PoolManager(late(database_uri), SIZE, end_orphans=False) as manager,
        crew(manager, 1) as (other,),
        judge.watch() as seen,
        forked(victim, manager) as child,
    ):
        until(lambda: asleep(judge))
        os.kill(child.pid, signal.SIGUSR1)
        other.ask("hold", 1)
        assert not asleep(judge)
        other.ask("release")
        if ends == "raises":
            child.kill()
    assert seen.peak == SIZE
