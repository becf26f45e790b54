"""Many callers at once, watched: whoever has not ended in time is a deadlock, and is shown with every thread's stack.

A thread can be watched from another one only while somebody gets the interpreter's lock; what may hold it for ever
runs in a child, which is watched from outside.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import pytest

from tests.waiting import Child, until

__all__ = ["Blunt", "ends", "stacks", "step_through", "together"]

T = TypeVar("T")


def together(callers: Sequence[Callable[[], object]], seconds: float) -> None:
    """Run each on a thread of its own, all at once. Raises the first failure; fails when one goes on for longer."""
    failures: list[BaseException] = []

    def run(caller: Callable[[], object]) -> None:
        try:
            caller()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(caller,), daemon=True) for caller in callers]
    end = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    if failures:
        raise failures[0]
    if any(thread.is_alive() for thread in threads):
        pytest.fail(f"a deadlock: callers have not ended within {seconds:g} s\n{stacks()}", pytrace=False)


def stacks() -> str:
    """Every thread's stack."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode()


def ends(child: Child, seconds: float) -> None:
    """The child ends well in time; a deadlock in it is shown, on its standard error, and it is killed."""
    try:
        assert child.join(seconds) == 0, "see what it printed"
    except AssertionError:
        if child.status is None:
            os.kill(
                child.pid, signal.SIGABRT
            )  # pytest's faulthandler, inherited, prints without the interpreter's lock
            until(child._ended)
            pytest.fail(f"a deadlock: not ended within {seconds:g} s; its stacks are on standard error", pytrace=False)
        raise


class Blunt:
    """Something sync dressed as async, so that a scenario is written once: its awaits block and never suspend."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._thing, name)
        if name in ("connection", "transaction"):
            return lambda *args, **kwargs: Blunt(method(*args, **kwargs))

        async def call(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return call

    async def __aenter__(self) -> Blunt:
        return Blunt(self._thing.__enter__())

    async def __aexit__(self, *error: Any) -> Any:
        return self._thing.__exit__(*error)


def step_through(scenario: Coroutine[Any, Any, T]) -> T:
    """Run a scenario whose awaits never suspend, on this thread."""
    try:
        scenario.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("it waits for something")
