"""A worker process as its thread sees it: launched, given jobs, watched and ended. The two exchange bytes over a pipe
that no other process uses. The worker's own side is in `inside`."""

from __future__ import annotations

import reprlib
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mppool import errors, fork_hooks
from mppool.fork_lock import import_late
from mppool.integrations.jobs.inside import CALLS, FUNCTION, LEAVE, Call, work
from mppool.integrations.jobs.pickling import pack, unpack

if TYPE_CHECKING:
    from mppool import PySQLXEnginePoolSync

__all__ = ["Gone", "Job", "Unsent", "Worker"]

GRACE = 5.0  # seconds that a worker has to leave before it is killed


_forking = threading.Lock()  # a worker forked while another is would hold the other's ends of its pipes


def _forked_in_child() -> None:
    global _forking  # a worker is forked while its parent has the lock, and may have jobs of its own
    _forking = threading.Lock()


fork_hooks.register(fork_hooks.JOBS, in_child=_forked_in_child)


class Gone(Exception):
    """The worker does not answer any more."""


class Unsent(Gone):
    """The job was never sent."""


class Job:
    """A chunk of calls of one function, on its way to a worker.

    Args:
        function: packed.
        calls: their arguments.
        first: the index of the first item; None: it is no item of several.
        name: what to call it then.
    """

    def __init__(self, function: bytes, calls: list[Call], first: int | None, name: str = "") -> None:
        self.function, self.calls, self.first, self.name = function, calls, first, name
        self.packed = pack(calls)
        self.future: Future[Any] = Future()

    def described(self, position: int | None = None) -> str:
        """One of its calls in words; without a position, all of it."""
        if position is None and len(self.calls) > 1:
            assert self.first is not None
            return f"items {self.first} to {self.first + len(self.calls) - 1}"
        args, kwargs = self.calls[position or 0]
        if self.first is None:
            values = [*map(reprlib.repr, args), *(f"{key}={reprlib.repr(value)}" for key, value in kwargs.items())]
            return f"{self.name}({', '.join(values)})"
        return f"item {self.first + (position or 0)}: {reprlib.repr(args[0] if len(args) == 1 else args)}"


class Worker:
    """A worker process, and those that replace it. Only one thread talks to it.

    Args:
        context: of multiprocess; how it is started.
        pool: the handle that each worker has ready; each process has its own copy.
    """

    def __init__(self, context: Any, pool: PySQLXEnginePoolSync) -> None:
        self._context, self._pool = context, pool
        self._process: Any = None
        self._line: Any = None
        self._knows = b""  # the function that was sent last
        self.pid = 0

    def start(self) -> None:
        """Launch one, in place of the one before."""
        self._let_go()
        with _forking:
            line, theirs = self._context.Pipe()
            process = self._context.Process(target=work, args=(theirs, self._pool), name="mppool-job", daemon=True)
            with _no_interrupts(self._context.get_start_method()):
                process.start()
            theirs.close()
        self._process, self._line, self._knows, self.pid = process, line, b"", process.pid

    def wait_ready(self) -> None:
        """Wait until it has the pool ready. Raises: the error that kept it from that; WorkerDiedError."""
        try:
            answer = self._hear()
        except Gone:
            fate = self.fate()
            raise errors.WorkerDiedError(f"worker {self.pid} {fate} before it was ready") from None
        if isinstance(answer, tuple):
            _, error, text = answer
            raise _blamed(error, f"worker {self.pid}, when it started", text)

    def run(self, job: Job) -> Any:
        """Run a job in it. Raises: the job's own exception with a note that names the call; Unsent, Gone."""
        if self._knows != job.function:
            self._say(FUNCTION + job.function)
            self._knows = job.function
        self._say(CALLS + job.packed)
        answer = self._hear()
        if isinstance(answer, tuple):
            position, error, text = answer
            raise _blamed(error, f"{job.described(position)}, in worker {self.pid}", text)
        return answer if job.first is not None else answer[0]

    def _say(self, message: bytes) -> None:
        try:
            self._line.send_bytes(message)
        except OSError:
            raise Unsent from None

    def _hear(self) -> Any:
        # Another process that was forked in the meantime may hold the worker's end of the line: EOF is not enough.
        if self._line not in import_late("multiprocess.connection").wait([self._line, self._process.sentinel]):
            raise Gone
        try:
            message = self._line.recv_bytes()
        except (EOFError, OSError):
            raise Gone from None
        return unpack(message)

    def alive(self) -> bool:
        with _forking:  # which looks after all children, and while it does the dead may seem alive
            return bool(self._process.is_alive())

    def fate(self) -> str:
        """Say how a worker ended; kill it if it does not."""
        self._process.join(GRACE)
        if self.alive():
            self._process.kill()
            return "closed its line"
        code = self._process.exitcode
        if code is None or code >= 0:
            return "vanished" if code is None else f"exited with code {code}"
        return f"was killed by {signal.Signals(-code).name if -code in list(signal.Signals) else f'signal {-code}'}"

    def terminate(self, number: int = signal.SIGTERM) -> None:
        """End it at once. May be called from any thread."""
        try:
            process = self._process
            if process is not None:
                process.terminate() if number == signal.SIGTERM else process.kill()
        except ValueError:
            pass  # closed by its thread: it is gone

    def end(self) -> None:
        """Tell it to leave, and wait until it has."""
        if self._process is None:
            return
        try:
            self._say(LEAVE)
        except Gone:
            pass
        self._process.join(GRACE)
        if self.alive():
            self._process.kill()
        self._let_go()

    def _let_go(self) -> None:
        if self._process is not None:
            self._process.join()
            self._line.close()
            self._process.close()
            self._process = None


@contextmanager
def _no_interrupts(start_method: str) -> Iterator[None]:
    """Block Ctrl-C (SIGINT) while a process is started; the worker ignores it from its first step on."""
    if start_method != "fork":  # helpers that stay, and are not ours alone
        import_late("multiprocess.resource_tracker").ensure_running()
    if start_method == "forkserver":
        import_late("multiprocess.forkserver").ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _InWorker(Exception):
    """The traceback of an exception, from where it was raised; its text is all there is."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def _blamed(error: BaseException, what: str, text: str) -> BaseException:
    """The exception with a note that names the call, and with its traceback from the worker as its cause."""
    error.__cause__ = _InWorker(f"{what}:\n{text}")
    if hasattr(error, "add_note"):  # Python 3.11
        error.add_note(what)
    return error
