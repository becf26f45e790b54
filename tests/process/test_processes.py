"""What a budget promises over processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from mppool import PoolManager, PySQLXEnginePool, PySQLXEnginePoolSync, errors
from tests.process import children
from tests.waiting import until


@pytest.mark.parametrize("used_before", [False, True], ids=["unused", "used"])
def test_inherited_handles_work_in_children_and_parent(database_uri: str, used_before: bool) -> None:
    with PoolManager(database_uri, 6) as manager:
        pools = manager.pool(min_size=1), manager.async_pool()
        if used_before:
            children.use_both(pools)
        pids = [children.forked(lambda: children.use_both(pools)) for _ in range(4)]
        assert [children.exit_code(pid) for pid in pids] == [0] * 4
        children.use_both(pools)
        assert manager.stats().open <= 6


def test_a_fork_inside_a_borrow_leaves_the_parents_connection_alone(database_uri: str) -> None:
    with PoolManager(database_uri, 3) as manager:
        pool = manager.pool()
        with pool.connection() as conn:
            assert conn.query_first("SELECT 1 AS a").a == 1

            def child() -> None:
                with pytest.raises(errors.NotConnectedError):
                    conn.query_first("SELECT 1 AS a")
                children.use_threads(pool)

            for _ in range(3):
                assert children.exit_code(children.forked(child)) == 0
                assert conn.query_first("SELECT 2 AS a").a == 2


def test_a_child_of_a_child(database_uri: str) -> None:
    with PoolManager(database_uri, 3) as manager:
        pool = manager.pool()
        children.use_threads(pool)

        def child() -> None:
            children.use_threads(pool)
            assert children.exit_code(children.forked(lambda: children.use_threads(pool))) == 0
            children.use_threads(pool)

        assert children.exit_code(children.forked(child)) == 0
        children.use_threads(pool)


def test_a_started_handle_is_started_in_a_forked_child(sqlite_uri: str) -> None:
    with PySQLXEnginePoolSync(sqlite_uri, 1, 2) as pool:

        def child() -> None:
            assert not pool.closed
            children.use_threads(pool)
            pool.stop()

        assert children.exit_code(children.forked(child)) == 0
        children.use_threads(pool)


def test_children_outlive_the_parents_handle(sqlite_uri: str) -> None:
    """The parent stops first: the budget goes on for those who are left."""
    pool = PySQLXEnginePoolSync(sqlite_uri, 1, 2)
    pool.start()
    reader, writer = os.pipe()

    def child() -> None:
        children.use_threads(pool)
        os.read(reader, 1)
        children.use_threads(pool)

    pid = children.forked(child)
    until(lambda: len(PoolManager.attach(pool.name).stats().members) == 2)
    pool.stop()
    os.write(writer, b"!")
    assert children.exit_code(pid) == 0
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("kind", [PySQLXEnginePoolSync, PySQLXEnginePool], ids=["sync", "async"])
def test_handles_travel_by_every_start_method(database_uri: str, method: str, kind: type[Any]) -> None:
    context = multiprocessing.get_context(method)
    with PoolManager(database_uri, 3) as manager:
        pool = manager.pool() if kind is PySQLXEnginePoolSync else manager.async_pool()
        processes = [context.Process(target=children.use, args=(pool,)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]


def test_pickled_handles_mean_the_same_budget_and_keep_their_settings(sqlite_uri: str) -> None:
    pool = PySQLXEnginePoolSync(sqlite_uri, 1, 4, conn_timeout=7, max_idle=8)
    copy = pickle.loads(pickle.dumps(pool))
    assert (copy.name, copy._settings, copy.closed) == (pool.name, pool._settings, True)
    with pool:
        copy = pickle.loads(pickle.dumps(pool))
        assert not copy.closed
        with copy.connection() as conn:
            assert conn.query_first("SELECT 1 AS a").a == 1
        copy.stop()
    manager = pickle.loads(pickle.dumps(PoolManager(sqlite_uri, 4, "shop")))
    assert (manager.name, manager.max_size) == ("shop", 4)


def borrow_all(pool: PySQLXEnginePoolSync, count: int) -> None:
    """Have so many connections borrowed at once, and use each."""
    leases = [pool.connection(10) for _ in range(count)]
    for lease in leases:
        assert lease.__enter__().query_first("SELECT 1 AS a").a == 1
    assert pool.stats().in_use == count
    for lease in leases:
        lease.__exit__(None, None, None)


SCRIPT = """
import sys
from mppool import PoolManager, PySQLXEnginePoolSync
pool = PySQLXEnginePoolSync(sys.argv[1], 1, 3, name="shop")
pool.start()
with pool.connection() as conn:
    assert conn.query_first("SELECT 1 AS a").a == 1
    print(PoolManager.attach("shop").pid, flush=True)
    sys.stdin.read()
pool.stop()
"""


def test_independent_programs_share_a_budget_by_its_name(sqlite_uri: str) -> None:
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, sqlite_uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    managers = {program.stdout.readline() for program in programs if program.stdout}
    assert len(managers) == 1
    manager = PoolManager.attach("shop")
    assert {member.pid for member in manager.stats().members} == {program.pid for program in programs}
    with pytest.raises(errors.BudgetMismatchError, match="max_size is 3 there and 5 here"):
        PySQLXEnginePoolSync(sqlite_uri, 1, 5, name="shop").start()
    with pytest.raises(errors.BudgetMismatchError, match="database is"):
        PySQLXEnginePoolSync(sqlite_uri + "x", 1, 3, name="shop").start()
    pool = manager.pool()  # full: everybody holds one
    with pytest.raises(errors.PoolTimeoutError, match=str(programs[0].pid)), pool.connection(0.05):
        raise AssertionError
    for program in programs:
        program.communicate()
        assert program.returncode == 0
    with pool.connection(5) as conn:
        assert conn.query_first("SELECT 1 AS a").a == 1
    pool.stop()
    manager.stop()


def test_no_such_budget(sqlite_uri: str) -> None:
    with pytest.raises(errors.ManagerUnavailableError, match="no budget 'nowhere'"):
        PoolManager.attach("nowhere")


def test_one_busy_process_gets_the_whole_budget(sqlite_uri: str) -> None:
    """Four are attached and keep connections warm; the fifth gets them all."""
    with PoolManager(sqlite_uri, 12) as manager:
        pool = manager.pool(min_size=2)
        go, ready = multiprocessing.Event(), multiprocessing.Semaphore(0)

        def idler() -> None:
            children.use_threads(pool)
            ready.release()
            go.wait()

        pids = [children.forked(idler) for _ in range(4)]
        assert all(ready.acquire(timeout=20) for _ in pids)
        assert manager.stats().open >= 4
        leases = [pool.connection(10) for _ in range(12)]
        for lease in leases:
            lease.__enter__()
        assert pool.stats().in_use == 12
        with pytest.raises(errors.PoolTimeoutError), pool.connection(0.05):
            raise AssertionError
        for lease in leases:
            lease.__exit__(None, None, None)
        go.set()
        assert [children.exit_code(pid) for pid in pids] == [0] * 4


def test_whoever_comes_late_gets_its_share(sqlite_uri: str) -> None:
    """One process has everything in use and callers in line; another still gets half, at the next give-backs."""
    with PoolManager(sqlite_uri, 4) as manager:
        pool = manager.pool()
        stop = threading.Event()

        def greedy() -> None:
            while not stop.is_set():
                with pool.connection(20) as conn:
                    conn.query_first("SELECT 1 AS a")
                    stop.wait(0.005)

        def late() -> None:
            leases = [pool.connection(10), pool.connection(10)]
            for lease in leases:
                lease.__enter__()
            for lease in leases:
                lease.__exit__(None, None, None)

        threads = [threading.Thread(target=greedy) for _ in range(12)]
        for thread in threads:
            thread.start()
        until(lambda: pool.stats().in_use == 4)
        code = children.exit_code(children.forked(late))
        stop.set()
        for thread in threads:
            thread.join()
        assert code == 0


@pytest.mark.parametrize("permits", [1, 4])
def test_a_killed_process_leaves_its_permits_to_others(database_uri: str, permits: int) -> None:
    with PoolManager(database_uri, permits) as manager:
        pool = manager.pool()
        ready = multiprocessing.Event()
        pid = children.forked(lambda: children.hold(pool, permits, ready))
        assert ready.wait(20)
        assert manager.stats().free == 0
        os.kill(pid, signal.SIGKILL)
        borrow_all(pool, permits)
        assert children.exit_code(pid) == -signal.SIGKILL


def test_an_idle_connection_elsewhere_is_handed_over(database_uri: str) -> None:
    with PoolManager(database_uri, 1) as manager:
        pool = manager.pool()
        go = multiprocessing.Event()

        def child() -> None:
            children.use_threads(pool)
            go.wait()

        children.use_threads(pool)
        pids = [children.forked(child) for _ in range(3)]
        children.use_threads(pool)
        go.set()
        assert [children.exit_code(pid) for pid in pids] == [0] * 3
        assert manager.stats().open <= 1


def test_more_processes_than_permits_take_turns(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 2) as manager:
        pool = manager.pool()
        pids = [children.forked(lambda: children.use_threads(pool, 20)) for _ in range(6)]
        assert [children.exit_code(pid) for pid in pids] == [0] * 6


def test_processes_go_on_when_the_manager_is_killed(database_uri: str) -> None:
    with PoolManager(database_uri, 3) as manager:
        pool = manager.pool()
        borrow_all(pool, 3)
        before = manager.pid
        os.kill(before, signal.SIGKILL)
        children.use_threads(pool, 20)
        with pool.connection() as conn:
            conn.close()
        borrow_all(pool, 3)  # the permit of the connection that was closed is still there for us
        assert (pool.stats().connections_num, pool.stats().requests_timeouts) == (4, 0)
        until(lambda: manager.pid != before and not pool.stats().manager_lost)
        borrow_all(pool, 3)


def test_the_manager_outlives_a_signal_to_its_members_group(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 1) as manager:
        assert os.getpgid(manager.pid) != os.getpgid(0)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_jobs_of_a_multiprocessing_pool(sqlite_uri: str, method: str) -> None:
    with PoolManager(sqlite_uri, 3) as manager:
        pool = manager.pool()
        with multiprocessing.get_context(method).Pool(3) as workers:
            workers.map(children.use_threads, [pool] * 6)
            workers.close()
            workers.join()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_jobs_with_closures_by_multiprocess(sqlite_uri: str, method: str) -> None:
    """dill carries what pickle cannot; the handle travels inside the closure."""
    multiprocess = pytest.importorskip("multiprocess")
    with PoolManager(sqlite_uri, 2) as manager:
        pool = manager.pool()

        def job(number: int) -> int:
            with pool.connection(20) as conn:
                return int(conn.query_first(f"SELECT {number} * 2 AS a").a)

        with multiprocess.get_context(method).Pool(2) as workers:
            assert workers.map(job, range(6)) == [0, 2, 4, 6, 8, 10]
            workers.close()
            workers.join()
