"""What children of the tests do. Importable, so that they can be spawned as well as forked."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from mppool import PySQLXEnginePool, PySQLXEnginePoolSync

WORKERS, ROUNDS = 4, 5


def use_threads(pool: PySQLXEnginePoolSync, rounds: int = ROUNDS) -> None:
    """Some threads that borrow and query; raises what any of them raised."""
    failures: list[BaseException] = []

    def caller(number: int) -> None:
        try:
            for turn in range(rounds):
                with pool.connection(20) as conn:
                    assert conn.query_first(f"SELECT {number * 100 + turn} AS a").a == number * 100 + turn
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def use_tasks(pool: PySQLXEnginePool, rounds: int = ROUNDS) -> None:
    """The same with tasks on an event loop of their own."""

    async def caller(number: int) -> None:
        for turn in range(rounds):
            async with pool.connection(20) as conn:
                row = await conn.query_first(f"SELECT {number * 100 + turn} AS a")
                assert row.a == number * 100 + turn

    async def main() -> None:
        await asyncio.gather(*(caller(number) for number in range(WORKERS)))

    asyncio.run(main())


def use(pool: Any) -> None:
    if isinstance(pool, PySQLXEnginePoolSync):
        use_threads(pool)
    else:
        use_tasks(pool)


def use_both(pools: tuple[PySQLXEnginePoolSync, PySQLXEnginePool]) -> None:
    for pool in pools:
        use(pool)


def hold(pool: PySQLXEnginePoolSync, count: int, ready: Any) -> None:
    """Borrow so many connections, say so, and keep them until killed."""
    leases = [pool.connection(20) for _ in range(count)]
    for lease in leases:
        lease.__enter__()
    ready.set()
    while True:
        time.sleep(3600)


def forked(work: Callable[[], Any]) -> int:
    """Run work in a plain `os.fork` child that ends as a script does, exit hooks and all; the child's pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        import atexit

        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        os._exit(code)


def exit_code(pid: int) -> int:
    """Wait for a child; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
