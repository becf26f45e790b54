"""What `PoolManager.jobs` promises: order, errors that name the job, deaths that cost one job, nothing left over."""

from __future__ import annotations

import io
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mppool import PoolManager, errors
from mppool.integrations.jobs import Jobs, current_pool
from mppool.integrations.jobs.jobs import AHEAD
from tests.integrations import work
from tests.waiting import Whistle, forked, until

METHODS = ["fork", "spawn", "forkserver"]


def told(error: BaseException) -> str:
    """What an exception says besides its own text: its notes, where Python has them, and its cause."""
    notes = getattr(error, "__notes__", [])
    assert notes or sys.version_info < (3, 11)
    return "\n".join([*notes, str(error.__cause__)])


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# -- jobs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("provider", ["sqlite", "postgresql"])
def test_closures_and_lambdas_with_results_in_order(provider: str, method: str, request: pytest.FixtureRequest) -> None:
    uri: Any = request.getfixturevalue("sqlite_uri" if provider == "sqlite" else "postgres_uri")
    with PoolManager(uri, 2) as manager:
        pool, factor = manager.pool(), 2

        def times(number: int) -> int:
            with pool.connection(20) as conn:
                return int(conn.query_first(f"SELECT {number} * {factor} AS a").a)

        with manager.jobs(3, start_method=method) as jobs:
            assert {member.pid for member in manager.stats().members} >= set(jobs.pids), "they are attached"
            assert jobs.map(times, range(20)) == [*range(0, 40, 2)]
            assert jobs.map(lambda number: times(number) + 1, range(7), chunksize=3) == [*range(1, 15, 2)]
            assert list(jobs.imap(times, iter(range(9)), chunksize=2)) == [*range(0, 18, 2)]
            assert sorted(jobs.imap_unordered(times, range(9))) == [*range(0, 18, 2)]
            assert jobs.starmap(lambda a, b: times(a) - b, [(1, 2), (3, 4)]) == [0, 2]
            assert jobs.apply(lambda a, *, b: times(a) - b, 1, b=5) == -3
            assert jobs.map(times, []) == []
            assert manager.stats().open <= 2
        assert all(map(gone, jobs.pids))


def test_a_job_in_a_module_finds_its_workers_handle(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 2) as manager, manager.jobs(2, start_method="spawn") as jobs:
        assert jobs.map(work.ask_mine, range(5)) == [1, 2, 3, 4, 5]
        assert jobs.apply(lambda: (current_pool().name, current_pool().stats().requests_num > 0))[0] == manager.name
        with pytest.raises(errors.PoolClosedError, match="no worker"):
            current_pool()


def test_the_workers_handle_has_the_settings_given(sqlite_uri: str) -> None:
    def configure(conn: Any) -> None:
        conn.query("PRAGMA busy_timeout = 4321")

    def ask() -> tuple[int, int]:
        with current_pool().connection() as conn:
            return conn.query_first("PRAGMA busy_timeout").timeout, current_pool().min_size

    with PoolManager(sqlite_uri, 2) as manager, manager.jobs(1, min_size=2, configure=configure) as jobs:
        assert jobs.apply(ask) == (4321, 2)


def test_results_are_in_order_though_jobs_end_in_another(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 1) as manager, Whistle() as second:

        def job(number: int) -> int:
            if number == 0:
                second.wait()
            if number == 3:
                second.blow()
            return number

        with manager.jobs(2, start_method="fork") as jobs:
            assert jobs.map(job, range(4)) == [0, 1, 2, 3]
            assert list(jobs.imap(job, range(4))) == [0, 1, 2, 3]
            assert list(jobs.imap_unordered(job, range(4)))[:2] == [1, 2]


def test_no_more_items_are_read_than_the_workers_need(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 1) as manager, manager.jobs(2) as jobs:
        numbers = itertools.count()
        results = jobs.imap_unordered(abs, numbers)
        seen = [*itertools.islice(results, 100)]
        read = next(numbers)
        assert len(seen) <= read <= len(seen) + AHEAD * 2
        assert set(seen) <= set(range(read))
        results.close()  # type: ignore[attr-defined]
        in_order = jobs.imap(abs, itertools.count())  # while one job takes long, the other worker gets others to do
        assert list(itertools.islice(in_order, 100)) == [*range(100)]
        in_order.close()  # type: ignore[attr-defined]
        assert jobs.map(abs, [-1]) == [1]


def test_many_threads_may_ask(sqlite_uri: str) -> None:
    answers: dict[int, list[int]] = {}

    def ask(number: int) -> None:
        answers[number] = jobs.map(lambda item: item * number, range(50))

    with PoolManager(sqlite_uri, 1) as manager, manager.jobs(2) as jobs:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == {number: [item * number for item in range(50)] for number in range(4)}


SCRIPT = """
import sys
from mppool import PoolManager

class Answer:
    def __init__(self, a):
        self.a = a

never = (each for each in ())  # not even dill takes a generator

def ask(number):
    with pool.connection() as conn:
        return Answer(conn.query_first(f"SELECT {number} AS a").a)

if __name__ == "__main__":
    with PoolManager(sys.argv[1], 2) as manager, manager.jobs(2, start_method=sys.argv[2]) as jobs:
        pool = manager.pool()  # after the workers were started, and where none of them comes by
        answers = jobs.map(ask, range(5))
        assert [answer.a for answer in answers] == [0, 1, 2, 3, 4]
        assert all(type(answer) is Answer for answer in answers)
        assert jobs.map(lambda number: [number, *never], range(3)) == [[0], [1], [2]]
    print("well")
"""


@pytest.mark.parametrize("method", METHODS)
def test_globals_of_the_program_go_along(sqlite_uri: str, method: str, tmp_path: Any) -> None:
    assert ran(SCRIPT, sqlite_uri, method, tmp_path) == ("well\n", "", 0)


def ran(script: str, uri: str, method: str, folder: Any) -> tuple[str, str, int]:
    """Run a program to its end; what it wrote, and its exit code."""
    program = folder / "program.py"
    program.write_text(script)
    run = subprocess.run(
        [sys.executable, "-W", "error", str(program), uri, method],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    return run.stdout, run.stderr, run.returncode


# -- errors ----------------------------------------------------------------------------------------------------


class Awkward(Exception):
    """Can be pickled, but not be loaded."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("awkward")


def test_an_error_is_the_jobs_own_and_names_the_item(sqlite_uri: str) -> None:
    def job(number: int) -> float:
        return 1 / (number - 3)

    with PoolManager(sqlite_uri, 1) as manager, manager.jobs(2) as jobs:
        for ask in (jobs.map, jobs.imap, jobs.imap_unordered):
            for chunksize in (1, 3):
                with pytest.raises(ZeroDivisionError) as caught:
                    list(ask(job, range(10), chunksize=chunksize))
                assert "item 3: 3, in worker" in told(caught.value)
                assert "return 1 / (number - 3)" in str(caught.value.__cause__), "where it was raised"
        with pytest.raises(ZeroDivisionError) as caught:
            jobs.starmap(lambda text, number: job(number), [("a" * 1000, 2), ("b" * 1000, 3)])
        assert "item 1: ('bbb" in told(caught.value)
        assert len(told(caught.value)) < 900
        with pytest.raises(ZeroDivisionError) as caught:
            jobs.submit(lambda a, b: a / b, 1, b=0).result()
        assert "<lambda>(1, b=0), in worker" in told(caught.value)


@pytest.mark.parametrize("kind", [OSError, EOFError, KeyboardInterrupt, SystemExit])
def test_no_error_is_taken_for_another_thing(sqlite_uri: str, kind: type[BaseException]) -> None:
    def job() -> None:
        raise kind("mine")

    with PoolManager(sqlite_uri, 1) as manager, manager.jobs(1) as jobs:
        before = jobs.pids
        error = jobs.submit(job).exception()
        assert type(error) is kind
        assert error.args == ("mine",)
        assert jobs.apply(os.getpid) == before[0] == jobs.pids[0]


def test_errors_of_the_database_and_the_pool_arrive_whole(sqlite_uri: str) -> None:
    def fail(number: int) -> None:
        with current_pool().connection() as conn:
            conn.query("SELECT a FROM nowhere")

    def wait(number: int) -> None:
        with current_pool().connection(), current_pool().connection(0.01):
            raise AssertionError

    with PoolManager(sqlite_uri, 1) as manager, manager.jobs(1) as jobs:
        with pytest.raises(errors.QueryError, match="nowhere") as caught:
            jobs.map(fail, [7])
        assert caught.value.code == "1"
        assert "item 0: 7" in told(caught.value)
        with pytest.raises(errors.PoolTimeoutError, match="of 1 permits"):
            jobs.map(wait, [7])


def iter_never() -> Iterator[int]:
    """A generator: not even dill takes one."""
    yield from ()


def test_what_cannot_be_sent_back_is_an_error_and_no_hang(sqlite_uri: str) -> None:
    def raise_awkward(number: int) -> None:
        raise Awkward(1, 2)

    with PoolManager(sqlite_uri, 1) as manager, manager.jobs(1) as jobs:
        with pytest.raises(RuntimeError, match=r"Awkward: awkward .the exception itself cannot be sent") as caught:
            jobs.map(raise_awkward, [7])
        assert "item 0: 7" in told(caught.value)
        with pytest.raises(TypeError, match="cannot be sent back") as caught:  # type: ignore[assignment]
            jobs.map(lambda number: number if number < 4 else iter_never(), range(6), chunksize=6)
        assert "item 4: 4" in told(caught.value)
        with pytest.raises(TypeError):
            jobs.map(abs, [iter_never()])
        assert jobs.map(abs, [-1]) == [1]


def test_after_a_failure_no_further_job_is_begun(sqlite_uri: str, tmp_path: Any) -> None:
    """Its worker may have begun with one before the failure was seen here."""
    with PoolManager(sqlite_uri, 1) as manager, Whistle() as whistle:

        def job(number: int) -> None:
            (tmp_path / str(number)).touch()
            assert number != 5
            if number > 5:
                whistle.wait()

        with manager.jobs(1, start_method="fork") as jobs:
            with pytest.raises(AssertionError):
                jobs.map(job, range(1000))
            for _ in range(20):
                whistle.blow()
    begun = {path.name for path in tmp_path.glob("[0-9]*")}
    assert begun - {"6"} == {"0", "1", "2", "3", "4", "5"}


def test_a_worker_that_cannot_attach_says_why() -> None:
    with PoolManager("postgresql://nobody:wrong@127.0.0.1:1/nowhere", 1) as manager:
        with pytest.raises(errors.ConnectError) as caught:
            manager.jobs(2)
        assert "when it started" in told(caught.value)


def test_parameters_that_make_no_sense(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 1) as manager:
        with pytest.raises(ValueError, match="at least 1"):
            manager.jobs(0)
        with pytest.raises(TypeError, match="must be an int"):
            manager.jobs("2")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="chunksize"), manager.jobs(1) as jobs:
            jobs.map(abs, [1], chunksize=0)


# -- deaths ----------------------------------------------------------------------------------------------------


def die(how: str) -> None:
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("how", "fate"), [("kill", "was killed by SIGKILL"), ("exit", "exited with code 3")])
def test_a_worker_that_dies_costs_its_job_and_says_so(sqlite_uri: str, method: str, how: str, fate: str) -> None:
    def job(number: int) -> int:
        with pool.connection(20):  # what it had borrowed is free again
            if number == 5:
                die(how)
            return number

    with PoolManager(sqlite_uri, 1) as manager:
        pool = manager.pool()
        with manager.jobs(2, start_method=method) as jobs:
            for ask in (jobs.map, jobs.imap, jobs.imap_unordered):
                with pytest.raises(errors.WorkerDiedError, match=rf"worker \d+ {fate} while it ran item 5: 5$"):
                    list(ask(job, range(10)))
                assert jobs.map(job, range(5)) == [0, 1, 2, 3, 4]
                jobs.map(job, range(5), chunksize=2)
            with pytest.raises(errors.WorkerDiedError, match="items 4 to 7"):
                jobs.map(job, range(10), chunksize=4)
            assert pickle.loads(pickle.dumps(errors.WorkerDiedError("x"))).args == ("x",)


def test_a_death_leaves_other_jobs_alone(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 1) as manager, Whistle() as whistle:

        def wait() -> str:
            whistle.wait()
            return "done"

        with manager.jobs(2, start_method="fork") as jobs:
            waits, dies = jobs.submit(wait), jobs.submit(die, "kill")
            with pytest.raises(errors.WorkerDiedError, match=r"while it ran die.'kill'.$"):
                dies.result(20)
            assert not waits.done()
            whistle.blow()
            assert waits.result(20) == "done"


def test_a_worker_killed_while_it_waits_costs_nothing(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 1) as manager, manager.jobs(2) as jobs:
        for _ in range(3):
            for pid in jobs.pids:
                os.kill(pid, signal.SIGKILL)
            until(lambda: all(map(ended, jobs.pids)))
            before = jobs.pids
            assert jobs.map(abs, range(20)) == [*range(20)]
            assert jobs.pids != before, "others took their place"


def ended(pid: int) -> bool:
    """Whether it has died with all its threads, reaped or not."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def test_deaths_all_the_time_never_hang(sqlite_uri: str) -> None:
    def job(number: int) -> int:
        with pool.connection(20) as conn:
            if number % 3 == 0:
                die("kill")
            return int(conn.query_first(f"SELECT {number} AS a").a)

    with PoolManager(sqlite_uri, 2) as manager:
        pool = manager.pool()
        with manager.jobs(3) as jobs:
            futures = [jobs.submit(job, number) for number in range(30)]
            for number, future in enumerate(futures):
                if number % 3:
                    assert future.result(20) == number
                else:
                    assert isinstance(future.exception(20), errors.WorkerDiedError)


# -- the end ---------------------------------------------------------------------------------------------------


def test_the_block_waits_for_its_jobs(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 1) as manager:
        with manager.jobs(2) as jobs:
            futures = [jobs.submit(work.ask_mine, number) for number in range(20)]
        assert [future.result(0) for future in futures] == [*range(1, 21)]
        for ask in (jobs.submit, jobs.map, jobs.apply):
            with pytest.raises(errors.PoolClosedError, match="are closed"):
                ask(abs, [1])
        jobs.close()
        jobs.join()
        assert "closed" in repr(jobs)


def test_an_exception_ends_them_in_the_middle_of_their_jobs(sqlite_uri: str) -> None:
    def hold() -> None:
        with current_pool().connection(20):
            whistle.blow()
            threading.Event().wait()

    with PoolManager(sqlite_uri, 2) as manager, Whistle() as whistle:
        futures = []

        def block() -> None:
            with jobs:
                futures.extend(jobs.submit(hold) for _ in range(4))
                whistle.wait()
                whistle.wait()
                raise ZeroDivisionError

        jobs = manager.jobs(2, start_method="fork")
        with pytest.raises(ZeroDivisionError):
            block()
        for future in futures:
            assert isinstance(future.exception(0), errors.PoolClosedError)
        assert "terminated" in repr(jobs)
        until(lambda: manager.stats().open == 0)


def test_a_job_that_will_not_go_is_killed(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def hold() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        whistle.blow()
        threading.Event().wait()

    monkeypatch.setattr("mppool.integrations.jobs.jobs.GRACE", 0.05)
    with PoolManager(sqlite_uri, 2) as manager, Whistle() as whistle:
        jobs = manager.jobs(1, start_method="fork")
        future = jobs.submit(hold)
        whistle.wait()
        jobs.terminate()
        assert isinstance(future.exception(0), errors.PoolClosedError)
        assert all(map(gone, jobs.pids))


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_has_no_workers_and_says_so(sqlite_uri: str, method: str) -> None:
    """multiprocess's own rule for daemons, in its words; a worker that was forked must come as far as that."""
    with PoolManager(sqlite_uri, 2) as manager, manager.jobs(2, start_method=method) as jobs:

        def nested(number: int) -> Any:
            with manager.jobs(1, start_method=method) as inner:
                return inner.apply(lambda: number)

        with pytest.raises(AssertionError, match="daemonic processes are not allowed to have children"):
            jobs.map(nested, [1])
        assert jobs.map(lambda number: number, [2]) == [2]


def test_join_without_close_is_a_mistake(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 1) as manager, manager.jobs(1) as jobs, pytest.raises(ValueError, match="close"):
        jobs.join()


def test_a_forked_child_cannot_use_its_parents_workers(sqlite_uri: str) -> None:
    def child(jobs: Jobs) -> None:
        with pytest.raises(errors.PoolClosedError, match="forked"):
            jobs.apply(abs, 1)

    with PoolManager(sqlite_uri, 1) as manager, manager.jobs(2) as jobs:
        with forked(child, jobs) as process:
            assert process.join() == 0
        assert jobs.apply(abs, -1) == 1


PROGRAM = """
import os, sys, time
from mppool import PoolManager

def job(number):
    with pool.connection() as conn:
        conn.query_first("SELECT 1 AS a")
        os.write(1, b"busy\\n")  # print would write the line's end by itself
        time.sleep(60)

if __name__ == "__main__":
    with PoolManager(sys.argv[1], 2) as manager:
        pool = manager.pool()
        with manager.jobs(3, start_method=sys.argv[2]) as jobs:
            jobs.map(job, range(2))  # one has nothing to do
"""


@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_ends_it_with_one_traceback(sqlite_uri: str, method: str, tmp_path: Any) -> None:
    """The signal goes to the whole group, as a terminal sends it. The balance sheet looks for what is left."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    run = subprocess.Popen(
        [sys.executable, str(program), sqlite_uri, method],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert run.stdout is not None
        assert [run.stdout.readline() for _ in range(2)] == ["busy\n"] * 2
        os.killpg(run.pid, signal.SIGINT)
        out, err = run.communicate(timeout=20)
    finally:
        run.kill()
        run.communicate()
    assert err.count("Traceback") == err.count("KeyboardInterrupt") == 1, err
    assert out == ""
    assert run.returncode == -signal.SIGINT


FORGETFUL = """
import sys, time
from mppool import PoolManager

if __name__ == "__main__":
    with PoolManager(sys.argv[1], 2) as manager:
        jobs = manager.jobs(2, start_method=sys.argv[2])
        assert next(jobs.imap(abs, range(1000))) == 0
        futures = [jobs.submit(time.sleep, 60) for _ in range(3)]
"""


@pytest.mark.parametrize("method", METHODS)
def test_whoever_forgets_to_close_them_hears_nothing_of_it(sqlite_uri: str, method: str, tmp_path: Any) -> None:
    assert ran(FORGETFUL, sqlite_uri, method, tmp_path) == ("", "", 0)


@pytest.mark.parametrize("method", METHODS)
def test_workers_leave_ctrl_c_to_their_parent(sqlite_uri: str, method: str) -> None:
    def interrupt() -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return os.getpid()

    with PoolManager(sqlite_uri, 1) as manager, manager.jobs(1, start_method=method) as jobs:
        os.kill(jobs.pids[0], signal.SIGINT)
        assert jobs.apply(interrupt) == jobs.apply(os.getpid) == jobs.pids[0]


def test_workers_leave_when_their_parent_is_killed(sqlite_uri: str) -> None:
    """Those that wait for a job; whoever has one, when it is done."""

    def parent(line: Any) -> None:
        with PoolManager(sqlite_uri, 2) as manager:
            jobs = manager.jobs(3)
            os.write(line, f"{' '.join(map(str, jobs.pids))}\n".encode())
            threading.Event().wait()

    hears, tells = os.pipe()
    with forked(parent, tells) as process:
        pids = [int(pid) for pid in os.read(hears, 100).split()]
        assert len(pids) == 3
        process.kill()
        until(lambda: all(map(gone, pids)))
    os.close(hears)
    os.close(tells)


# -- progress --------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """From now on stderr."""
    screen = Terminal()
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "100")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


def test_a_bar_on_a_terminal(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with PoolManager(sqlite_uri, 1) as manager, manager.jobs(2) as jobs:
        jobs.map(abs, range(37), progress="counting")
        text = screen.getvalue()
        for part in ("counting", "37/37", "/s", "0:00:00"):
            assert part in text
        screen.truncate(0)
        assert sum(jobs.imap(abs, range(37), chunksize=5)) == 666
        assert "37/37" in screen.getvalue()
        assert "jobs" in screen.getvalue()
        screen.truncate(0)
        jobs.map(abs, range(37), progress=False)
        jobs.submit(abs, 1).result()
        assert screen.getvalue().strip("\0") == ""


def test_the_bar_is_over_when_a_job_fails(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with PoolManager(sqlite_uri, 1) as manager, manager.jobs(1) as jobs:
        with pytest.raises(ZeroDivisionError):
            jobs.map(lambda number: 1 / number, [1, 0], progress=True)
        assert screen.getvalue().endswith("\x1b[?25h"), "the cursor is shown again"


def test_no_terminal_no_bar(sqlite_uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    with PoolManager(sqlite_uri, 1) as manager, manager.jobs(1) as jobs:
        jobs.map(abs, range(5))
    assert capfd.readouterr() == ("", "")


def test_without_rich(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with PoolManager(sqlite_uri, 1) as manager, manager.jobs(1) as jobs:
        assert jobs.map(abs, [-1]) == [1]
        assert screen.getvalue() == ""
        assert jobs.map(abs, range(-37, 0), progress="counting") == [*range(37, 0, -1)]
        *_, last, end = screen.getvalue().replace("\n", "\r").split("\r")
        assert last.startswith("counting 37/37 ")
        assert last.rstrip().endswith("/s")
        assert end == ""


def test_without_rich_and_without_a_terminal(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with PoolManager(sqlite_uri, 1) as manager, manager.jobs(1) as jobs:
        assert list(jobs.imap(abs, iter([-1, -2]), progress=True)) == [1, 2]
        with pytest.raises(ZeroDivisionError):
            jobs.map(lambda number: 1 / number, [1, 0], progress=True)
    out, err = capfd.readouterr()
    lines = [line.rpartition(" ")[0] for line in err.splitlines()]
    assert (out, lines) == ("", ["jobs 2", "jobs 1/2"])
