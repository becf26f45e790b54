"""Where people run it: each way to start a process, each package that does it, each handle, used before or not."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import multiprocess
import pytest

from mppool import PoolManager
from tests.integrations import work

METHODS = ["fork", "spawn", "forkserver"]
Pools = list[Any]
Way = Callable[[str, Pools], list[int]]


def by_processes(package: Any) -> Way:
    def run(method: str, pools: Pools) -> list[int]:
        context = package.get_context(method)
        answers, processes = [], []
        for number, pool in enumerate(pools):
            ours, theirs = context.Pipe()
            processes.append(context.Process(target=work.use_and_tell, args=(pool, number, theirs)))
            processes[-1].start()
            theirs.close()
            answers.append(ours)
        try:
            return [line.recv() for line in answers]
        finally:
            for process, line in zip(processes, answers, strict=True):
                process.join()
                line.close()
            assert [process.exitcode for process in processes] == [0] * len(pools)

    return run


def by_pool(package: Any) -> Way:
    def run(method: str, pools: Pools) -> list[int]:
        with package.get_context(method).Pool(2) as workers:
            answers: list[int] = workers.starmap(work.use, zip(pools, range(len(pools)), strict=True), 1)
            workers.close()
            workers.join()
        return answers

    return run


def by_executor(method: str, pools: Pools) -> list[int]:
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as workers:
        return list(workers.map(work.use, pools, range(len(pools))))


WAYS = {
    "multiprocessing-Process": by_processes(multiprocessing),
    "multiprocessing-Pool": by_pool(multiprocessing),
    "multiprocess-Process": by_processes(multiprocess),
    "multiprocess-Pool": by_pool(multiprocess),
    "ProcessPoolExecutor": by_executor,
}


@pytest.mark.parametrize("provider", ["sqlite", "postgresql"])
@pytest.mark.parametrize("used_before", [False, True], ids=["unused", "used"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", WAYS)
def test_the_matrix(way: str, method: str, used_before: bool, provider: str, request: pytest.FixtureRequest) -> None:
    """Both handles go as arguments to two processes, twice each, and still work here afterwards."""
    uri: Any = request.getfixturevalue("sqlite_uri" if provider == "sqlite" else "postgres_uri")
    with PoolManager(uri, 3) as manager:
        pools = [manager.pool(), manager.async_pool()]
        if used_before:
            assert [work.use(pool) for pool in pools] == [21, 21]
        assert WAYS[way](method, [*pools, *pools]) == [1, 2, 3, 4]
        assert [work.use(pool) for pool in pools] == [21, 21]
        assert manager.stats().open <= 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("package", [multiprocessing, multiprocess], ids=lambda package: package.__name__)
def test_a_manager_as_an_argument(package: Any, method: str, sqlite_uri: str) -> None:
    context = package.get_context(method)
    with PoolManager(sqlite_uri, 3) as manager:
        ours, theirs = context.Pipe()
        process = context.Process(target=work.use_manager, args=(manager, theirs))
        process.start()
        assert ours.recv() == (2, 3, manager.pid, True)
        process.join()
        assert process.exitcode == 0
        for line in (ours, theirs):
            line.close()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("package", [multiprocessing, multiprocess], ids=lambda package: package.__name__)
def test_a_manager_as_a_global(package: Any, method: str, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that imports the module again finds the budget that its parent started, by its name."""
    monkeypatch.setenv("WORK_URI", sqlite_uri)
    context = package.get_context(method)
    with PoolManager(sqlite_uri, 3, work.GLOBAL_NAME) as manager:
        monkeypatch.setattr(work, "GLOBAL", manager)
        ours, theirs = context.Pipe()
        process = context.Process(target=work.use_global, args=(theirs,))
        process.start()
        assert ours.recv() == (2, 3, manager.pid, True)
        process.join()
        assert process.exitcode == 0
        for line in (ours, theirs):
            line.close()


@pytest.mark.parametrize("used_before", [False, True], ids=["unused", "used"])
@pytest.mark.parametrize("method", METHODS)
def test_a_manager_and_its_handles_in_a_closure(method: str, used_before: bool, sqlite_uri: str) -> None:
    """dill carries them in what pickle could not carry."""
    context = multiprocess.get_context(method)
    with PoolManager(sqlite_uri, 3) as manager:
        pool = manager.pool()
        ours, theirs = context.Pipe()
        if used_before:
            work.use(pool)

        def child() -> None:
            theirs.send((work.use(pool), work.use(manager.async_pool()), manager.pid))

        process = context.Process(target=child)
        process.start()
        assert ours.recv() == (21, 21, manager.pid)
        process.join()
        assert process.exitcode == 0
        for line in (ours, theirs):
            line.close()
