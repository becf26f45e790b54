"""Programs end as they should: exit code 0, no abort, no hang, nothing left; with Ctrl-C at any moment, too."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

REPEAT = int(os.environ.get("MPPOOL_TEST_REPEAT", "6"))

SYNC = """
import sys, threading
from mppool import PySQLXEnginePoolSync
pool = PySQLXEnginePoolSync(sys.argv[1], 2, 5)
pool.start()
print("started", flush=True)
def caller():
    for _ in range(20):
        with pool.connection() as conn:
            assert conn.query_first("SELECT 1 AS a").a == 1
threads = [threading.Thread(target=caller, daemon=sys.argv[2] == "in flight") for _ in range(8)]
for thread in threads: thread.start()
if sys.argv[2] != "in flight":
    for thread in threads: thread.join()
if sys.argv[2] == "stop":
    pool.stop()
print("done", flush=True)
"""

ASYNC = """
import asyncio, sys
from mppool import PySQLXEnginePool
pool = PySQLXEnginePool(sys.argv[1], 2, 5)
async def caller():
    for _ in range(20):
        async with pool.connection() as conn:
            assert (await conn.query_first("SELECT 1 AS a")).a == 1
async def main():
    await pool.start()
    print("started", flush=True)
    tasks = [asyncio.create_task(caller()) for _ in range(8)]
    if sys.argv[2] != "in flight":
        await asyncio.gather(*tasks)
    else:
        await asyncio.sleep(0.01)
    if sys.argv[2] == "stop":
        await pool.stop()
asyncio.run(main())
print("done", flush=True)
"""

LATE = """
import atexit, os, sys, threading
about_to_wait, stopped = threading.Event(), threading.Event()
def is_blocked():
    frame = sys._current_frames()[thread.ident]
    while frame is not None and frame.f_code.co_name != "block_if_exiting":
        frame = frame.f_back
    return frame is not None
def borrow():
    with pool.connection() as conn:
        return conn.query_first("SELECT 1 AS a").a
@atexit.register  # before the package's hooks, so it runs after them
def last_hook():
    stopped.set()
    while thread.is_alive() and not is_blocked():
        thread.join(0.01)
    print("blocked" if thread.is_alive() else "ended", flush=True)
    try:
        borrow()
    except PoolClosedError as error:
        print(str(error).replace(pool.name, 'x'), flush=True)
    if sys.version_info < (3, 12):  # later ones refuse to fork now
        pid = os.fork()
        if not pid:
            os._exit(borrow())
        print("child:", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
from mppool import PySQLXEnginePoolSync
from mppool.errors import PoolClosedError
from mppool.process.local import LocalPool
place = getattr(LocalPool, sys.argv[2])
def held_up(*args):
    result = place(*args)
    if threading.current_thread().name == "late":
        about_to_wait.set()
        stopped.wait()
    return result
setattr(LocalPool, sys.argv[2], held_up)
pool = PySQLXEnginePoolSync(sys.argv[1], 1, 1)
pool.start()
thread = threading.Thread(target=borrow, name="late", daemon=True)
with pool.connection():
    thread.start()
    about_to_wait.wait()
"""

NOISE = ("FATAL", "terminate called", "panicked", "Exception ignored", "Fatal Python error", "core dumped")


def script(flavour: str, folder: Path) -> Path:
    path = folder / f"{flavour}_program.py"
    path.write_text({"sync": SYNC, "async": ASYNC}[flavour])
    return path


@pytest.mark.parametrize("ending", ["stop", "no stop", "in flight"])
@pytest.mark.parametrize("flavour", ["sync", "async"])
def test_a_program_ends_well(flavour: str, ending: str, database_uri: str, tmp_path: Path) -> None:
    program = script(flavour, tmp_path)

    def once(_: int) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, program, database_uri, ending], capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stdout, done.stderr

    with ThreadPoolExecutor(2) as two:
        runs = list(two.map(once, range(REPEAT)))
    for code, out, log in runs:
        assert (code, out) == (0, "started\ndone\n"), log
        assert not any(word in log for word in NOISE), log
        assert "Traceback" not in log, log


@pytest.mark.parametrize("place", ["borrow", "refuse_amid"])
def test_a_borrow_while_the_program_exits(place: str, tmp_path: Path) -> None:
    """A daemon thread that found no exit begun, and then a stopped pool, is blocked: it makes no new pool, and prints
    no error after the program's end. The main thread is told at once; a child begins anew."""
    program = tmp_path / "late.py"
    program.write_text(LATE)
    args = [sys.executable, program, f"sqlite:{tmp_path / 'late.db'}", place]
    done = subprocess.run(args, capture_output=True, text=True, timeout=60)
    said = "blocked\npool 'x' is stopped: the interpreter is exiting\n"
    said += "child: 1\n" * (sys.version_info < (3, 12))
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


@pytest.mark.parametrize("flavour", ["sync", "async"])
def test_ctrl_c_at_any_moment(flavour: str, database_uri: str, tmp_path: Path) -> None:
    """Ended by KeyboardInterrupt or done already: nothing else, and nothing left (the balance sheet sees to it)."""
    program = script(flavour, tmp_path)
    moments = random.Random(os.environ.get("MPPOOL_TEST_SEED", "1"))

    def once(delay: float) -> tuple[int, str]:
        process = subprocess.Popen(
            [sys.executable, program, database_uri, "stop"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        process.stdout.readline()  # before it has started, Python itself may still be starting
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=60)
        return process.returncode, log

    with ThreadPoolExecutor(2) as two:
        runs = list(two.map(once, [moments.uniform(0, 0.15) for _ in range(REPEAT)]))
    for code, log in runs:
        assert code in (0, 1, -signal.SIGINT), f"exit code {code}: {log}"
        assert not any(word in log for word in NOISE if word != "Exception ignored"), log
