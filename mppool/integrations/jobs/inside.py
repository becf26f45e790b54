"""A worker process from inside: it attaches, says so, and answers one message after another, until it is told to leave
or its master is gone."""

from __future__ import annotations

import os
import reprlib
import signal
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mppool import errors
from mppool.fork_lock import import_late
from mppool.integrations.jobs.pickling import pack, unpack

if TYPE_CHECKING:
    from mppool import PySQLXEnginePoolSync

__all__ = ["CALLS", "FUNCTION", "LEAVE", "Call", "current_pool", "work"]

Call = tuple[tuple[Any, ...], dict[str, Any]]

LEAVE, FUNCTION, CALLS = b"", b"f", b"c"  # the first byte of a message

_pool: PySQLXEnginePoolSync | None = None


def current_pool() -> PySQLXEnginePoolSync:
    """In a job: its worker's handle, attached and warm.

    Raises: PoolClosedError outside of a worker.
    """
    if _pool is None:
        raise errors.PoolClosedError("current_pool() is for jobs: this process is no worker of PoolManager.jobs()")
    return _pool


def work(line: Any, pool: PySQLXEnginePoolSync) -> None:
    """A worker's life: start the handle, then answer messages from the line until it is told to leave."""
    global _pool
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started us receives it too, and ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        pool.start()
    except BaseException as error:
        line.send_bytes(_failure(0, error))
        return
    _pool = pool
    line.send_bytes(pack(None))
    try:
        _serve(line)
    except (EOFError, OSError):
        pass  # the master is gone
    if not pool.closed:
        pool.stop()


def _serve(line: Any) -> None:
    wait, master = import_late("multiprocess.connection").wait, _master()
    packed, function = b"", None
    while line in wait([line, master]) and (message := line.recv_bytes()) != LEAVE:
        kind, content = message[:1], message[1:]
        if kind == FUNCTION:
            packed, function = content, None
            continue
        try:
            if function is None:
                function = unpack(packed)
            calls = unpack(content)
        except BaseException as error:
            answer = _failure(0, error)
        else:
            answer = _answer(function, calls)
        line.send_bytes(answer)


def _master() -> int:
    """A descriptor that becomes readable when our parent is gone. Siblings may hold the pipe's other end."""
    parent = import_late("multiprocess").parent_process()
    try:
        return os.pidfd_open(parent.pid)
    except (AttributeError, OSError):  # not Linux; or it is gone, and so is what it wrote to
        return int(parent.sentinel)


def _answer(function: Callable[..., Any], calls: list[Call]) -> bytes:
    results: list[Any] = []
    for args, kwargs in calls:
        try:
            results.append(function(*args, **kwargs))
        except BaseException as error:
            return _failure(len(results), error)
    try:
        return pack(results)
    except Exception:
        return next(filter(None, (_unfit(*each) for each in enumerate(results))))


def _unfit(position: int, result: Any) -> bytes | None:
    """The failure to send a result back, if it cannot be."""
    try:
        pack(result)
    except Exception as error:
        unfit = TypeError(f"the result cannot be sent back: {reprlib.repr(result)}: {error}")
        return _failure(position, unfit)
    return None


def _failure(position: int, error: BaseException) -> bytes:
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        unpack(pack(error))
    except Exception as why:
        error = RuntimeError(f"{type(error).__name__}: {error} (the exception itself cannot be sent: {why})")
    return pack((position, error, text))
