"""Between any two of a caller's operations, something else: an exception, or another call on the same thread.

KeyboardInterrupt comes wherever the interpreter looks for signals; signal handlers and finalisers run there, and from
there may use the pool themselves. Here they come before the first bytecode of a borrow, before the second, and so on
until a borrow gets through, by a trace function. After each the pool must have lost nothing.
"""

from __future__ import annotations

import asyncio
import dis
import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Any

import pytest

from mppool import PoolManager, errors
from mppool.process import upkeep
from mppool.shared import ledger
from tests.live.crowd import ends
from tests.waiting import forked, until

PERMITS = 2
THOROUGH = "MPPOOL_TEST_REPEAT" in os.environ  # all calls before every bytecode; else before one of four
PACKAGE = (
    "/mppool/core/",
    "/mppool/process/",
    "/mppool/database/connection/sync_connection.py",
    "/mppool/database/connection/base_connection.py",
)


class Struck(KeyboardInterrupt):
    """Ctrl-C, from the test."""


class Strike:
    """Has something happen before the n-th bytecode that the package runs on this thread.

    Args:
        number: n, from 1 on.
        blow: what happens.
    """

    def __init__(self, number: int, blow: Callable[[], object]) -> None:
        self._left, self._blow = number, blow
        self.at = ""  # where it happened

    def __enter__(self) -> Strike:
        sys._getframe().f_trace_opcodes = True  # before, or Python 3.12 tells of no bytecodes
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if not any(folder in frame.f_code.co_filename for folder in PACKAGE):
            return None
        frame.f_trace = self._step  # first, or Python 3.13 tells of no bytecodes
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode" and not self.at and not _is_beyond_signals(frame):
            self._left -= 1
            if self._left == 0:
                self.at = f"{frame.f_code.co_qualname if sys.version_info >= (3, 11) else frame.f_code.co_name}:"
                self.at += f"{frame.f_lineno} at {frame.f_lasti}"
                self._blow()
        return self._step


def _is_beyond_signals(frame: FrameType) -> bool:
    """Whether the next instruction is one before which an exception leaves the interpreter itself in a state that no
    program can mend: those with which a ``with`` statement calls its ``__exit__`` at the end of its block (the lock
    would stay locked, whatever is in the block), and those that keep account of the exception being handled (it would
    never be let go). The interpreter looks for signals after calls, at jumps back and where a function begins: not
    there."""
    code = frame.f_code
    if code not in _BEYOND:
        steps = [each for each in dis.get_instructions(code) if each.opname not in ("CACHE", "EXTENDED_ARG")]
        calls = [each for index in range(len(steps)) for each in _exit_call(steps[index : index + 5])]
        account = [
            step
            for step, after in zip(steps, [*steps[1:], steps[-1]], strict=True)
            if step.opname in _ACCOUNT or (after.opname in _ACCOUNT and step.opname in ("COPY", "SWAP"))
        ]
        _BEYOND[code] = {each.offset for each in calls + account}
    return frame.f_lasti in _BEYOND[code]


_ACCOUNT = ("PUSH_EXC_INFO", "POP_EXCEPT", "RERAISE", "WITH_EXCEPT_START")
_BEYOND: dict[Any, set[int]] = {}


def _exit_call(steps: list[Any]) -> list[Any]:
    """These instructions, if they are three times None and a call."""
    names = [each.opname for each in steps]
    nones = names[:3] in (["LOAD_CONST"] * 3, ["LOAD_CONST", "DUP_TOP", "DUP_TOP"]) and all(
        each.argval is None for each in steps[:3] if each.opname == "LOAD_CONST"
    )
    if nones and names[3:4] in (["CALL"], ["CALL_FUNCTION"]):
        return steps[:4]
    return steps[:5] if nones and names[3:5] == ["PRECALL", "CALL"] else []


# -- what happens in between ---------------------------------------------------------------------------------


class Scene:
    """A pool with all connections open and idle, and who uses it."""

    def __init__(self, manager: PoolManager, uri: str) -> None:
        self.manager = manager
        self.renew()
        self.kept: list[Any] = []  # generators, each inside a ``with`` block of its own
        self.others: list[threading.Thread] = []
        self.stopped: Any = None  # the pool that was
        self.take_all()
        upkeep.FORGOTTEN = 0.01
        ledger.ROWS = 4  # this process reads no more of them, or a trace of that would take minutes

    def renew(self) -> None:
        self.pool, self.apool = self.manager.pool(), self.manager.async_pool()

    @property
    def local(self) -> Any:
        return self.pool._resolve()

    def take_all(self) -> None:
        """Every permit can be had, at the same time."""
        leases = [self.pool.connection(5) for _ in range(PERMITS)]
        for lease in leases:
            assert lease.__enter__().query_first("SELECT 1 AS a").a == 1
        assert len({id(lease.slot) for lease in leases}) == PERMITS, "a connection was lent to two"
        for lease in leases:
            lease.__exit__(None, None, None)

    def all_but_kept(self) -> ExitStack:
        with ExitStack() as stack:
            for _ in range(PERMITS - len(self.kept)):
                stack.enter_context(self.pool.connection(5))
            return stack.pop_all()

    def keep(self) -> None:
        def inside() -> Iterator[None]:
            with self.pool.connection(5):
                yield

        self.kept.append(inside())
        next(self.kept[-1])

    def __repr__(self) -> str:
        machine, names = self.local.machine, ("idle", "borrowed", "waiters", "called", "checking", "closing")
        return f"{[(name, getattr(machine, name)) for name in names]} over {self.local.over} amid {self.local.amid}"

    def is_whole(self) -> bool:
        local = self.local
        machine = local.machine
        return (
            len(machine.idle) == len(machine.slots) == len(set(machine.idle)) == PERMITS
            and not (machine.borrowed or machine.waiters or machine.called or local.over or local.amid)
            and local.row._named.in_use == local.row._named.waiting == 0
            and not local.lock._is_owned()
            and not machine.shortage.since
        )

    def judge(self) -> None:
        self.kept.clear()
        while self.others:
            self.others.pop().join(20)
        if self.stopped is not None:
            until(lambda: self.stopped.agent.done)
            assert not self.stopped.machine.slots
            assert not self.stopped.machine.waiters
            self.stopped = None
            self.renew()
        gc.collect()  # an exception that refers to itself, as `ExitStack` makes them, keeps what it came through
        self.take_all()
        until(self.is_whole)


def strike(scene: Scene) -> None:
    raise Struck


def drop(scene: Scene) -> None:
    """A generator is abandoned inside its block; it gives back."""
    scene.kept.clear()


def collect(scene: Scene) -> None:
    """So it is, and the garbage collector finds it."""
    ring: list[Any] = [scene.kept.pop()]
    ring.append(ring)
    del ring
    gc.collect()


def borrow(scene: Scene) -> None:
    """A signal handler borrows, and may be refused."""
    with suppress(errors.ReentrantBorrowError, errors.PoolTimeoutError), scene.pool.connection(0) as conn:
        assert conn.query_first("SELECT 2 AS a").a == 2


def stop(scene: Scene) -> None:
    """A signal handler stops the pool."""
    scene.stopped = scene.local
    for handle in (scene.pool, scene.apool):
        if not handle.closed:
            handle._end()


def look(scene: Scene) -> None:
    assert scene.pool.stats().pool_max == PERMITS


# -- what it comes in between of -----------------------------------------------------------------------------


def lends_an_idle_one(scene: Scene) -> None:
    with scene.pool.connection(0):
        pass


def gives_up(scene: Scene) -> None:
    """It waits in line, and for too long."""
    borrow = scene.pool.connection
    with suppress(errors.PoolTimeoutError), borrow(0), borrow(0), borrow(0):
        pass


def rolls_back(scene: Scene) -> None:
    with scene.pool.connection(0) as conn:
        conn.begin()


def closes(scene: Scene) -> None:
    with scene.pool.connection(0) as conn:
        conn.close()


def hands_over(scene: Scene) -> None:
    """Another thread waits for what this one gives back, and this one for what that one gives back."""

    def other() -> None:
        with suppress(errors.PoolClosedError), scene.pool.connection(20) as conn:
            assert conn.query_first("SELECT 3 AS a").a == 3
        served.append(True)

    served: list[bool] = []
    thread = threading.Thread(target=other)
    with scene.all_but_kept():
        thread.start()
        scene.others.append(thread)
        until(lambda: scene.pool.closed or scene.local.machine.waiters or served)
    with scene.all_but_kept():
        pass


async def lends_to_a_task(scene: Scene) -> None:
    async with scene.apool.connection(0):
        pass


async def hands_over_to_a_task(scene: Scene) -> None:
    async def other() -> None:
        with suppress(errors.PoolClosedError):
            async with scene.apool.connection(20):
                pass

    with scene.all_but_kept():
        task = asyncio.create_task(other())
        while not (task.done() or scene.pool.closed or scene.local.machine.waiters):
            await asyncio.sleep(0)
    await task


async def is_cancelled(scene: Scene) -> None:
    async def other() -> None:
        with suppress(errors.PoolClosedError):
            async with scene.apool.connection(20):
                pass

    with scene.all_but_kept():
        task = asyncio.create_task(other())
        while not (task.done() or scene.pool.closed or scene.local.machine.waiters):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])


ACTS: list[Any] = [
    lends_an_idle_one,
    gives_up,
    rolls_back,
    closes,
    hands_over,
    lends_to_a_task,
    hands_over_to_a_task,
    is_cancelled,
]


def everywhere(uri: str, act: Any, blow: Callable[[Scene], None]) -> None:
    """The blow before every bytecode of the act, one after the other."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it tells of struck tasks

    def play() -> None:
        if asyncio.iscoroutinefunction(act):
            loop.run_until_complete(act(scene))
        else:
            act(scene)

    gc.freeze()  # what pytest has is not looked through again and again
    with PoolManager(uri, PERMITS) as manager:
        scene = Scene(manager, uri)
        scene.judge()
        play()  # what is done once in a process is done
        number = 0
        while True:
            number += 1 if blow is strike or THOROUGH else 1 + number % 7
            if blow in (drop, collect):
                scene.keep()
            before = Strike(number, lambda: blow(scene))
            try:
                with before:
                    play()
            except (Struck, errors.PoolError):
                pass
            try:
                for _ in range(3):  # the loop knows tasks for a while, and with them their exceptions
                    with suppress(Struck):
                        loop.run_until_complete(asyncio.sleep(0))
                        if tasks := asyncio.all_tasks(loop):
                            loop.run_until_complete(asyncio.wait(tasks))
                scene.judge()
            except BaseException as error:
                raise AssertionError(f"blow {number}, {before.at}: {scene.pool.stats()}, {scene}") from error
            if not before.at:
                break
        assert number > 100, "the trace function does not trace"
        loop.close()


@pytest.mark.parametrize("blow", [strike, drop, collect, borrow, stop, look])
@pytest.mark.parametrize("act", ACTS)
def test_nothing_is_lost_whatever_comes_in_between(act: Any, blow: Callable[[Scene], None], sqlite_uri: str) -> None:
    with forked(everywhere, sqlite_uri, act, blow) as child:
        ends(child, 120)
