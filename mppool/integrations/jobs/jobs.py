"""`Jobs`: all workers together, and the calls that users make."""

from __future__ import annotations

import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future
from itertools import islice
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from mppool import errors
from mppool.exit_hooks import run_first_at_exit
from mppool.fork_lock import import_late
from mppool.integrations.jobs.inside import Call
from mppool.integrations.jobs.pickling import pack_function
from mppool.integrations.jobs.progress import progress_bar
from mppool.integrations.jobs.worker import Gone, Job, Unsent, Worker

if TYPE_CHECKING:
    from mppool import PySQLXEnginePoolSync

__all__ = ["Jobs"]

Result = TypeVar("Result")

GRACE = 5.0  # seconds that a job has to end when it is terminated, before it is killed
AHEAD = 4  # chunks for each worker that are sent or in line before more items are read

_open: weakref.WeakSet[Jobs] = weakref.WeakSet()


def _exit() -> None:
    """Terminate workers that were never closed, before multiprocess itself ends its daemons."""
    for jobs in list(_open):
        if jobs._owner == os.getpid():
            jobs.terminate()


class Jobs:
    """Workers and their jobs; made by `PoolManager.jobs`, see there. For any thread of the process that made it.

    As a context manager it waits for its jobs when the block ends, and ends them when an exception leaves it: Ctrl-C
    reaches this process alone, the workers end with its block.
    """

    def __init__(self, pool: PySQLXEnginePoolSync, processes: int | None, start_method: str | None) -> None:
        count = (os.cpu_count() or 1) if processes is None else processes
        if not isinstance(count, int) or isinstance(count, bool):
            raise TypeError(f"processes must be an int, not {count!r}")
        if count < 1:
            raise ValueError(f"processes must be at least 1, not {count}")
        context = import_late("multiprocess").get_context(start_method)
        self._owner = os.getpid()
        self._name = pool.name
        self._lock = threading.Lock()
        self._line: SimpleQueue[Job | None] = SimpleQueue()
        self._closed = self._terminated = False
        self._workers = [Worker(context, pool) for _ in range(count)]
        try:
            for worker in self._workers:
                worker.start()
            for worker in self._workers:
                worker.wait_ready()
        except BaseException:
            for worker in self._workers:
                worker.terminate()
            for worker in self._workers:
                worker.end()
            raise
        self._threads = [
            threading.Thread(target=self._serve, args=(worker,), name=f"mppool-jobs-{number}", daemon=True)
            for number, worker in enumerate(self._workers, 1)
        ]
        for thread in self._threads:
            thread.start()
        _open.add(self)
        run_first_at_exit(_exit)

    @property
    def pids(self) -> list[int]:
        """The workers' pids, with those that have died and were not replaced yet."""
        return [worker.pid for worker in self._workers]

    # -- jobs --------------------------------------------------------------------------------------------------

    def map(
        self,
        function: Callable[[Any], Result],
        items: Iterable[Any],
        *,
        chunksize: int = 1,
        progress: bool | str | None = None,
    ) -> list[Result]:
        """Run ``function(item)`` for each item, on whichever worker is free.

        Args:
            function: a function, lambda or closure; what it refers to goes along.
            items: any iterable of arguments that can be pickled.
            chunksize: items that a worker is sent at a time; more than 1 is for many jobs of less than a millisecond.
            progress: True: show progress on stderr: a bar, or a line of text where rich is not installed. A str: the
                same, with this text beside it. False: do not. None: show a bar if stderr is a terminal and rich is
                installed.

        Returns: the results, in the order of the items.

        Raises: what the first job that failed raised, of its own type, with a note that names the item; no further
            job is begun then. WorkerDiedError: a worker was killed, or exited, in the middle of a job.
            PoolClosedError: the workers are closed.
        """
        return self._listed(function, [((item,), {}) for item in items], chunksize, progress)

    def starmap(
        self,
        function: Callable[..., Result],
        items: Iterable[Iterable[Any]],
        *,
        chunksize: int = 1,
        progress: bool | str | None = None,
    ) -> list[Result]:
        """As `map`, for functions of several arguments: ``function(*item)``.

        Args:
            items: an iterable of arguments for each call.
            function, chunksize, progress: as `map` takes them.

        Returns: the results, in the order of the items.

        Raises: what `map` raises.
        """
        return self._listed(function, [(tuple(item), {}) for item in items], chunksize, progress)

    def imap(
        self,
        function: Callable[[Any], Result],
        items: Iterable[Any],
        *,
        chunksize: int = 1,
        progress: bool | str | None = None,
    ) -> Iterator[Result]:
        """As `map`, but results are there, in order, as soon as they can be. It begins with the first ``next()``, and
        no more items are read than the workers are about to need.

        Args:
            function, items, chunksize, progress: as `map` takes them.

        Returns: an iterator over the results, in the order of the items. It raises what `map` raises.
        """
        results: dict[int, list[Result]] = {}
        following = 0
        for first, chunk in self._each(function, _calls(items), chunksize, progress, _length(items)):
            results[first] = chunk
            while following in results:
                ready = results.pop(following)
                following += len(ready)
                yield from ready

    def imap_unordered(
        self,
        function: Callable[[Any], Result],
        items: Iterable[Any],
        *,
        chunksize: int = 1,
        progress: bool | str | None = None,
    ) -> Iterator[Result]:
        """As `imap`, in the order in which jobs end.

        Args:
            function, items, chunksize, progress: as `map` takes them.

        Returns: an iterator over the results. It raises what `map` raises.
        """
        for _, chunk in self._each(function, _calls(items), chunksize, progress, _length(items)):
            yield from chunk

    def submit(self, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Future[Result]:
        """Run ``function(*args, **kwargs)`` once.

        Args:
            function: a function, lambda or closure; what it refers to goes along.
            args, kwargs: its arguments; they must be picklable.

        Returns: a `concurrent.futures.Future`: ``result(timeout)``, ``cancel()`` while it is in line,
            ``asyncio.wrap_future``.

        Raises: PoolClosedError; whatever keeps the function or its arguments from being pickled.
        """
        return self._put(Job(pack_function(function), [(args, kwargs)], None, getattr(function, "__qualname__", "job")))

    def apply(self, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """Run ``function(*args, **kwargs)`` once and wait for its result.

        Args:
            function, args, kwargs: as `submit` takes them.

        Raises: what the job raised; WorkerDiedError; PoolClosedError.
        """
        return self.submit(function, *args, **kwargs).result()

    def _listed(
        self, function: Callable[..., Any], calls: list[Call], chunksize: int, progress: bool | str | None
    ) -> list[Any]:
        results: list[Any] = [None] * len(calls)
        for first, chunk in self._each(function, iter(calls), chunksize, progress, len(calls)):
            results[first : first + len(chunk)] = chunk
        return results

    def _each(
        self,
        function: Callable[..., Any],
        calls: Iterator[Call],
        chunksize: int,
        progress: bool | str | None,
        total: int | None,
    ) -> Iterator[tuple[int, list[Any]]]:
        """Run a call each; the index of the first and the results of each chunk, as chunks end."""
        if chunksize < 1:
            raise ValueError(f"chunksize must be at least 1, not {chunksize}")
        packed, first = pack_function(function), 0
        ended: SimpleQueue[Future[Any]] = SimpleQueue()
        pending: dict[Future[Any], int] = {}
        try:
            with progress_bar(progress, total) as advance:
                while True:
                    while len(pending) < AHEAD * len(self._threads) and (chunk := list(islice(calls, chunksize))):
                        future = self._put(Job(packed, chunk, first))
                        pending[future] = first
                        future.add_done_callback(ended.put)
                        first += len(chunk)
                    if not pending:
                        return
                    future = ended.get()
                    results = future.result()
                    advance(len(results))
                    yield pending.pop(future), results
        finally:
            for future in pending:
                future.cancel()

    def _put(self, job: Job) -> Future[Any]:
        if self._owner != os.getpid():
            raise errors.PoolClosedError("these workers belong to the process that this one was forked from")
        with self._lock:
            if self._closed:
                raise errors.PoolClosedError(f"the workers of {self._name!r} are closed")
            self._line.put(job)
        return job.future

    def _serve(self, worker: Worker) -> None:
        """One worker's thread: its jobs, one after another."""
        while (job := self._line.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                answer = self._have_done(worker, job)
            except Gone:
                job.future.set_exception(self._why(worker, job))
            except BaseException as error:
                job.future.set_exception(error)
            else:
                job.future.set_result(answer)
            del job
        worker.end()

    def _have_done(self, worker: Worker, job: Job) -> Any:
        while True:
            if not worker.alive():
                worker.start()
                worker.wait_ready()
            if self._terminated:  # while another was started
                raise Gone
            try:
                return worker.run(job)
            except Unsent:  # killed just now, while it had nothing to do
                worker.fate()

    def _why(self, worker: Worker, job: Job) -> errors.PoolError:
        """The error for a job that got no answer."""
        fate = worker.fate()
        if self._terminated:
            return errors.PoolClosedError(f"the workers of {self._name!r} were terminated")
        return errors.WorkerDiedError(f"worker {worker.pid} {fate} while it ran {job.described()}")

    # -- the end -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more jobs; the workers leave when those in line are done. See `join`."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in self._threads:
                    self._line.put(None)

    def terminate(self) -> None:
        """End the workers now, whatever they do, and wait until they are gone. Their jobs, and those in line, fail
        with PoolClosedError; what they had of the budget is free."""
        self._terminated = True
        self.close()
        waiting = 0
        try:
            while True:
                job = self._line.get_nowait()
                waiting += job is None
                if job is not None and job.future.set_running_or_notify_cancel():
                    job.future.set_exception(errors.PoolClosedError(f"the workers of {self._name!r} were terminated"))
        except Empty:
            for _ in range(waiting):
                self._line.put(None)
        for worker in self._workers:
            worker.terminate()
        deadline = monotonic() + GRACE
        for thread in self._threads:
            thread.join(max(0.0, deadline - monotonic()))
        for worker in self._workers:
            worker.terminate(signal.SIGKILL)
        self.join()

    def join(self) -> None:
        """Wait until all jobs are done and the workers are gone.

        Raises: ValueError before `close` or `terminate`.
        """
        if not self._closed:
            raise ValueError("close() first: the workers wait for more jobs")
        for thread in self._threads:
            thread.join()
        _open.discard(self)

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.terminate()
        self.close()
        self.join()

    def __repr__(self) -> str:
        state = "terminated" if self._terminated else "closed" if self._closed else f"{self._line.qsize()} jobs in line"
        return f"<Jobs of {self._name!r}, {len(self._workers)} workers: {state}>"


def _calls(items: Iterable[Any]) -> Iterator[Call]:
    return (((item,), {}) for item in items)


def _length(items: Iterable[Any]) -> int | None:
    return len(items) if isinstance(items, Sized) else None
