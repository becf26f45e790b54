"""One host of `scripts/demo --hosts`: a program with its own runtime folder, and so with a manager of its own.

It is told its task by the first line of the standard input, as JSON: uri, max_size, name, cluster, and for each worker
the seconds that its jobs take. It says "ready", waits for a line, and then says every 20 ms what its processes have.
When the jobs are done it says what came of them; it goes on until another line comes in.
"""

from __future__ import annotations

import json
import select
import sys
import time
from typing import Any

from mppool import PoolManager
from scripts.demonstration.crew import Crew
from scripts.demonstration.workload import Plan

SAY_EVERY = 0.02  # seconds
PATIENCE = 120.0  # seconds that a job waits: a new budget lets nobody connect for some 12 s


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def look(manager: PoolManager, crew: Crew) -> None:
    members = {member.pid: member for member in manager.stats().members}
    found = [members[pid] for pid in crew.pids if pid in members]
    counts = [sum(getattr(m, part) for m in found) for part in ("in_use", "idle", "opening", "waiting")]
    say(at=time.monotonic(), counts=counts, done=list(crew.done))


def wait_for_a_permit(manager: PoolManager) -> None:
    """Returns when this host may open connections."""
    pool = manager.pool(conn_timeout=PATIENCE)
    with pool.connection():
        pass
    pool.stop()


def main() -> None:
    task = json.loads(sys.stdin.readline())
    plan = Plan(task["max_size"], tuple(map(tuple, task["holds"])))
    with PoolManager(task["uri"], max_size=plan.max_size, name=task["name"], cluster=task["cluster"]) as manager:
        wait_for_a_permit(manager)
        handles = {"sync": manager.pool(conn_timeout=PATIENCE), "async": manager.async_pool(conn_timeout=PATIENCE)}
        crew = Crew(plan, handles)
        crew.ready()
        say(ready=True)
        sys.stdin.readline()
        crew.go()
        while crew.collect(SAY_EVERY):
            look(manager, crew)
        reports = crew.reports.values()
        say(
            waits=[wait for report in reports for wait in report.waits],
            errors=[error for report in reports for error in report.errors],
            finished=max(report.finished for report in reports),
        )
        while not select.select([sys.stdin], [], [], SAY_EVERY)[0]:
            look(manager, crew)  # others may still want what it has
        crew.dismiss()


if __name__ == "__main__":
    main()
