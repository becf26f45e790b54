"""Somebody deletes the runtime folder under a running budget: members go on, and are one budget again soon."""

from __future__ import annotations

import multiprocessing
import os
import shutil

import pytest

from mppool import PoolManager, PySQLXEnginePoolSync
from tests.process import children
from tests.waiting import until


def test_members_find_together_again(sqlite_uri: str, runtime_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = os.path.join(runtime_folder, "root")
    monkeypatch.setenv("MPPOOL_RUNTIME_DIR", root)
    pool = PySQLXEnginePoolSync(sqlite_uri, 1, 4, name="shop")
    pool.start()
    ready, go = multiprocessing.Event(), multiprocessing.Event()

    def child() -> None:
        with pool.connection() as conn:
            ready.set()
            go.wait()
            assert conn.query_first("SELECT 1 AS a").a == 1
        children.use_threads(pool, 5)

    pid = children.forked(child)
    ready.wait(10)
    shutil.rmtree(root)
    other = children.forked(lambda: children.use_threads(newcomer_started(sqlite_uri), 5))
    go.set()
    assert children.exit_code(other) == 0
    assert children.exit_code(pid) == 0
    with pool.connection():  # something happens at the old manager at the latest now
        pass
    manager = PoolManager.attach("shop")
    until(lambda: [member.pid for member in manager.stats().members] == [os.getpid()])
    assert not pool.stats().manager_lost
    leases = [pool.connection(10) for _ in range(4)]
    for lease in leases:
        lease.__enter__()
    assert manager.stats().free == 0
    for lease in leases:
        lease.__exit__(None, None, None)
    pool.stop()


def newcomer_started(uri: str) -> PySQLXEnginePoolSync:
    pool = PySQLXEnginePoolSync(uri, 1, 4, name="shop")
    pool.start()
    return pool
