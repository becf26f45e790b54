"""A stand-in for an event loop: `drive` runs one coroutine on the calling thread, and lets other threads run meanwhile.

The driver's own blocking calls hold the interpreter's lock until the database answers, so every thread stops. Its
coroutines do not: they run on the driver's worker threads. Of "the running loop" they need only two things:
``create_future()`` (something to yield while there is nothing to do) and ``call_soon_threadsafe()`` (to say "send to
me again"). The stand-in provides both without a loop: a wake-up is an item in a queue, and the caller sleeps on that
queue. After any wake-up, `drive` sends to the coroutine once more. A needless send costs a microsecond and changes
nothing, so wake-ups may come early, late, twice, or from a call that was given up long ago.

Three details matter:

- **A coroutine may yield None.** The driver was then woken between its poll and the making of the future, and no
  wake-up will come for that step. `drive` must send again at once; waiting here would hang for ever.
- **The wake-up is pure C.** It comes from a worker thread that holds the interpreter's lock for this one call. In a
  Python function the interpreter could switch threads, and at exit a worker without the lock aborts the process.
  `SimpleQueue.put` is C from end to end, never blocks, and takes the two arguments ``(callback, future)`` as ``(item,
  block)``. `create_future` is C for speed.
- **The stand-in is made for each call**, so a late wake-up for an abandoned call lands in a queue that nothing reads.

A coroutine that awaits anything else (a timer, a socket, another task) would be sent to in vain for ever. So `drive`
is only for the driver's coroutines, and for ours that await nothing else.
"""

from __future__ import annotations

from asyncio.events import _get_running_loop, _set_running_loop
from collections.abc import Coroutine
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, TypeVar

from mppool.database.runtime.exit_guard import block_if_exiting

__all__ = ["Background", "drive"]

T = TypeVar("T")

# Stands for "a future": the driver iterates it once and yields what comes out. Anything but None means "wait".
_WAIT = ("wait",)


class _StandIn:
    """The running loop, as the driver sees it."""

    __slots__ = ("call_soon_threadsafe", "create_future")

    def __init__(self, wake: Any) -> None:
        self.create_future = _WAIT.__iter__
        self.call_soon_threadsafe = wake


def drive(coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
    """Run ``coroutine`` to its end on this thread and return its result.

    Works on any thread, also inside a running event loop, which stands still meanwhile, as with any blocking call.

    Args:
        coroutine: one of the driver's, or one of ours that awaits only the driver's.
        timeout: seconds until the coroutine is closed and given up; None: no limit. The database continues a call
            that was given up.

    Raises:
        TimeoutError: it did not end in time.
        BaseException: what the coroutine raised; or what interrupted the wait (KeyboardInterrupt), in which
            case the coroutine has been closed, so that it has seen GeneratorExit.
    """
    wake_ups: SimpleQueue[Any] = SimpleQueue()
    deadline = None if timeout is None else monotonic() + timeout
    try:
        return _advance(coroutine, _StandIn(wake_ups.put), wake_ups, deadline)  # type: ignore[no-any-return]
    except Empty:
        coroutine.close()
        raise TimeoutError(f"no answer from the database within {timeout:g} seconds") from None
    except BaseException:
        coroutine.close()  # what it holds must be released; does nothing when the error was its own
        block_if_exiting()
        raise


def _advance(coroutine: Any, loop: Any, wake_ups: SimpleQueue[Any], deadline: float | None) -> Any:
    """Send until the coroutine returns or raises; Empty when the deadline comes first."""
    outer = _get_running_loop()
    while True:
        _set_running_loop(loop)
        try:
            step = coroutine.send(None)
        except StopIteration as end:
            return end.value
        finally:
            _set_running_loop(outer)
        if step is None:
            continue
        if deadline is None:
            wake_ups.get()
        else:
            wake_ups.get(True, max(0.0, deadline - monotonic()))


class Background:
    """A coroutine of the driver's that was begun and left alone; `ended` tells whether it has ended.

    The driver's call ends by itself. What it holds is released when `ended` is called after that.
    """

    __slots__ = ("_coroutine", "_loop", "_wake_ups")

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine: Any = coroutine
        self._wake_ups: SimpleQueue[Any] = SimpleQueue()
        self._loop = _StandIn(self._wake_ups.put)
        self.ended()  # the first send begins it

    def ended(self, timeout: float = 0.0) -> bool:
        """Has it ended, with a result or an error? Waits up to ``timeout`` seconds for that."""
        if self._coroutine is None:
            return True
        try:
            _advance(self._coroutine, self._loop, self._wake_ups, monotonic() + timeout)
        except Empty:
            return False
        except Exception:
            pass  # the database's error: only the end matters here
        self._coroutine = None
        return True
