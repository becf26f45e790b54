"""The stand-in loop, against coroutines that wake it early, late, twice and never; then against the real thing."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

from mppool.database.connection.sync_connection import PySQLXEngineSync
from mppool.database.runtime import drivers
from mppool.database.runtime.loop_stand_in import Background, drive


class Steps:
    """A coroutine like the core's: each step gets the loop and says what is yielded; the last returns the result."""

    def __init__(self, *steps: Callable[[Any], Any], result: object = "done") -> None:
        self.steps = list(steps)
        self.result = result
        self.closed = False
        self.sends = 0

    def send(self, value: None) -> Any:
        self.sends += 1
        if not self.steps:
            raise StopIteration(self.result)
        return self.steps.pop(0)(asyncio.get_running_loop())

    def throw(self, *error: Any) -> Any:
        raise error[0]

    def close(self) -> None:
        self.closed = True

    def __await__(self) -> Generator[Any, None, Any]:  # so that our own coroutines can await it
        while True:
            try:
                step = self.send(None)
            except StopIteration as end:
                return end.value
            yield step


def future_of(loop: Any) -> Any:
    """What the core does: make a future and yield what iterating it gives."""
    return next(iter(loop.create_future()))


def wake(loop: Any, times: int = 1) -> None:
    for _ in range(times):
        loop.call_soon_threadsafe(print, object())


def test_result_without_a_wait() -> None:
    assert drive(Steps(result=42)) == 42


def test_none_is_sent_to_again_at_once() -> None:
    """Nobody wakes us for a None: whoever waits on it hangs."""
    steps = Steps(lambda loop: None, lambda loop: None, lambda loop: None)
    assert drive(steps, timeout=5) == "done"
    assert steps.sends == 4


def test_wake_before_the_wait() -> None:
    def step(loop: Any) -> Any:
        future = future_of(loop)
        wake(loop)
        return future

    assert drive(Steps(step, step, step), timeout=5) == "done"


def test_wake_from_another_thread_and_twice() -> None:
    def step(loop: Any) -> Any:
        threading.Thread(target=wake, args=(loop, 2)).start()
        return future_of(loop)

    assert drive(Steps(step, step), timeout=5) == "done"


def test_a_needless_wake_is_one_needless_send() -> None:
    """A wake-up left over from an earlier step must not end the wait for good."""

    def noisy(loop: Any) -> Any:
        wake(loop, 3)
        return future_of(loop)

    def quiet(loop: Any) -> Any:  # polled again needlessly: still pending
        return future_of(loop)

    def last(loop: Any) -> Any:
        threading.Timer(0.01, wake, args=(loop,)).start()
        return future_of(loop)

    steps = Steps(noisy, quiet, quiet, last)
    assert drive(steps, timeout=5) == "done"
    assert steps.sends == 5


def test_a_wake_that_never_comes_meets_the_deadline() -> None:
    steps = Steps(future_of)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"within 0\.05 seconds"):
        drive(steps, timeout=0.05)
    assert 0.04 < time.monotonic() - began < 2
    assert steps.closed


def test_deadline_counts_over_all_steps() -> None:
    """A coroutine that is woken again and again does not get a new deadline each time."""

    def step(loop: Any) -> Any:
        threading.Timer(0.03, wake, args=(loop,)).start()
        return future_of(loop)

    with pytest.raises(TimeoutError):
        drive(Steps(*[step] * 50), timeout=0.1)


def test_late_wake_for_an_abandoned_call_reaches_nobody() -> None:
    loops = []

    def step(loop: Any) -> Any:
        loops.append(loop)
        return future_of(loop)

    with pytest.raises(TimeoutError):
        drive(Steps(step), timeout=0.01)

    def late(loop: Any) -> Any:
        wake(loops[0])  # of the abandoned call
        return future_of(loop)

    with pytest.raises(TimeoutError):
        drive(Steps(late), timeout=0.01)


def test_errors_pass_and_the_coroutine_is_closed() -> None:
    def fail(loop: Any) -> Any:
        raise KeyError("x")

    steps = Steps(fail)
    with pytest.raises(KeyError):
        drive(steps)
    assert steps.closed


def test_our_coroutines_see_the_end_of_a_given_up_wait() -> None:
    seen: list[type[BaseException]] = []

    async def ours() -> None:
        try:
            await Steps(future_of)
        except BaseException as error:
            seen.append(type(error))
            raise

    with pytest.raises(TimeoutError):
        drive(ours(), timeout=0.01)
    assert seen == [GeneratorExit]


def test_keyboard_interrupt_ends_the_wait() -> None:

    def step(loop: Any) -> Any:
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()
        return future_of(loop)

    steps = Steps(step)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        drive(steps, timeout=10)
    assert time.monotonic() - began < 5
    assert steps.closed


def test_no_running_loop_before_and_after() -> None:
    drive(Steps(lambda loop: None))
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_inside_a_running_loop() -> None:
    """A blocking call in a coroutine blocks that loop, and leaves it running."""

    async def main() -> str:
        loop = asyncio.get_running_loop()

        def step(inner: Any) -> Any:
            assert inner is not loop
            wake(inner)
            return future_of(inner)

        result = drive(Steps(step), timeout=5)
        assert asyncio.get_running_loop() is loop
        await asyncio.sleep(0)
        return result

    assert asyncio.run(main()) == "done"


def test_the_wake_up_is_c() -> None:
    """A Python function here could lose the interpreter's lock in the middle, and abort the process at exit."""
    types = []
    drive(Steps(lambda loop: types.append((type(loop.call_soon_threadsafe), type(loop.create_future)))))
    assert types[0][0].__name__ == "builtin_function_or_method"
    assert types[0][1].__name__ in ("method-wrapper", "builtin_function_or_method")


def test_sync_connection_inside_a_running_loop(database_uri: str) -> None:
    async def main() -> Any:
        with PySQLXEngineSync(database_uri) as conn:
            return conn.query_first("SELECT 1 AS a")

    assert asyncio.run(main()).a == 1


def test_real_core_at_a_tiny_switch_interval(database_uri: str) -> None:
    """The core yields None here within seconds, which it does not in a month of ordinary tests."""
    threads, seconds = 4, 2.0
    failures: list[str] = []
    calls = [0] * threads
    stop = time.monotonic() + seconds
    before = sys.getswitchinterval()

    def work(number: int) -> None:
        dice = random.Random(number)
        try:
            with PySQLXEngineSync(database_uri) as conn:
                while time.monotonic() < stop:
                    want = dice.randrange(1 << 30)
                    row = conn.query_first_as_dict(f"SELECT {want} AS a")
                    if row != {"a": want}:
                        failures.append(f"{row} instead of {want}")
                    calls[number] += 1
        except BaseException as error:
            failures.append(repr(error))

    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(seconds + 20)
    finally:
        sys.setswitchinterval(before)
    assert not failures
    assert not any(worker.is_alive() for worker in workers), f"hangs after {calls} calls"
    assert min(calls) > 20


def test_other_threads_run_while_one_waits(postgres_uri: str) -> None:
    """Ten calls of 0.2 s at once take 0.2 s, not 2: none holds the interpreter's lock."""
    connections = [PySQLXEngineSync(postgres_uri) for _ in range(10)]
    for conn in connections:
        conn.connect()
    threads = [
        threading.Thread(target=conn.query_first, args=("SELECT pg_sleep(0.2)::text AS a",)) for conn in connections
    ]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    took = time.monotonic() - began
    for conn in connections:
        conn.close()
    assert 0.2 <= took < 2


def test_only_the_core_was_asked_for_nothing_else() -> None:
    """The core needs two things of a loop; a third would be an AttributeError on the stand-in."""
    own = drivers.state.get("sqlite")
    asked = []

    class Curious:
        def __getattribute__(self, name: str) -> Any:
            asked.append(name)
            raise AttributeError(name)

    from asyncio.events import _set_running_loop

    coroutine = own.new("file:/dev/null/nothing")
    _set_running_loop(Curious())  # type: ignore[arg-type]
    try:
        coroutine.send(None)
    except BaseException:
        pass  # whatever it makes of a loop that has nothing
    finally:
        _set_running_loop(None)
    assert set(asked) <= {"create_future", "call_soon_threadsafe"}


def test_background() -> None:
    woken: list[Any] = []

    def step(loop: Any) -> Any:
        woken.append(loop)
        return future_of(loop)

    steps = Steps(step)
    left = Background(steps)  # type: ignore[arg-type]
    assert steps.sends == 1
    steps.steps.append(step)
    assert not left.ended()
    wake(woken[0])
    assert left.ended(5)
    assert left.ended()
    assert not steps.closed


def test_background_counts_an_error_as_an_end() -> None:
    def fail(loop: Any) -> Any:
        raise KeyError("x")

    assert Background(Steps(fail)).ended()  # type: ignore[arg-type]
