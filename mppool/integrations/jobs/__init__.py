"""Worker processes that have the budget ready, and the jobs that they run: `PoolManager.jobs`.

Each worker is a `multiprocess` process with a line of its own to this one, and with a thread here that sends it one
job after another and then waits for the answer or for the worker's death, whichever comes first. So it is always
known who runs what: a worker that dies costs the job that it ran, which says so, and another takes its place when its
thread has the next job. Workers share nothing with each other, no lock that one of them could take along.

What a job refers to goes along (dill): closures, and the globals of ``__main__`` that it uses, by value; what is in
modules, by name. A job is run once or not at all; what a dead worker had begun is not run again.
"""

from __future__ import annotations

from mppool.integrations.jobs.inside import current_pool
from mppool.integrations.jobs.jobs import Jobs

__all__ = ["Jobs", "current_pool"]
