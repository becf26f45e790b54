"""A web application, a worker and a cron job: three programs, started apart, with one budget by its name.

A fourth that means another size is refused. (A budget's name is known to all programs of a user on a host; this example
has a runtime folder of its own, so that a "shop" of yours is left alone.)

Needs: nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack

from mppool import PoolManager, PySQLXEnginePoolSync, errors

PROGRAMS = {"web application": 3, "worker": 2, "cron job": 1}  # and how many connections each uses


def program(role: str, max_size: int) -> None:
    """What each of them does; as far as it matters here, it has nothing to do with the others."""
    pool = PySQLXEnginePoolSync("sqlite:shop.db", 0, max_size, name="shop")
    try:
        with pool, ExitStack() as borrowed:
            for _ in range(PROGRAMS.get(role, 1)):
                borrowed.enter_context(pool.connection())
            print("at work", flush=True)
            sys.stdin.readline()  # until it is told to end
    except errors.BudgetMismatchError as error:
        print(f"refused: {error}")


def start(role: str, max_size: int) -> subprocess.Popen[str]:
    command = [sys.executable, os.path.abspath(__file__), role, str(max_size)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def main(folder: str) -> None:
    os.environ["MPPOOL_RUNTIME_DIR"] = os.path.join(folder, "run")
    os.chdir(folder)
    running = {role: start(role, 6) for role in PROGRAMS}
    told = {role: said(process) for role, process in running.items()}

    budget = PoolManager.attach("shop")  # `mppool show shop` prints the same
    stats = budget.stats()
    print(f"budget {stats.name!r}: {stats.open} of {stats.max_size} connections are open")
    members = {member.pid: member for member in stats.members}
    for role, process in running.items():
        print(f"{role:>16}, process {process.pid}: {told[role]} with {members[process.pid].in_use}")

    stranger = start("report", 8)
    print(f"{'report':>16}, process {stranger.pid}: {said(stranger)}")

    running["web application"].communicate()  # the first ends, and the others go on
    while not (stats := budget.stats()).free:
        time.sleep(0.01)  # the manager hears of it in a moment
    print(f"without the web application: {stats.open} of {stats.max_size}, {stats.free} are free for anybody")
    budget.stop()  # or the manager would stay for a moment, for whoever comes next
    for process in (*running.values(), stranger):
        process.communicate()
    print(f"exit codes {[process.returncode for process in (*running.values(), stranger)]}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        program(sys.argv[1], int(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(folder)
