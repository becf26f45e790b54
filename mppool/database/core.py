"""pysqlx-core, loaded so that one process never has two kinds of users on one copy of it.

The core is a shared library with one runtime (worker threads, an epoll instance) per *copy of the library*,
made at its first call. A `Core` is one such copy: its functions and its classes, which differ between copies.
A process has one current copy. The library's file as installed is used if nobody has loaded it in this
process before; a private copy of the file, which is a library of its own to the operating system, is loaded
when somebody has:

- this process was forked from one that had loaded it: the worker threads did not survive the fork, and a call
  would wait for them for ever;
- the program, or another library, imported ``pysqlx_core`` before: its blocking calls beside our asynchronous
  ones on one runtime deadlock for ever, sooner or later;
- our own copy has too few worker threads: SQLite runs *on* them, and as many busy-waiting writers as workers
  would starve the one that holds the lock. The number is fixed when a runtime starts.

A private copy takes about 6 ms and 7 MiB, which is why it is not the rule. What this cannot see: a program
that imports ``pysqlx_core`` only after our first connection shares our copy, and must keep to its
asynchronous calls.
"""

from __future__ import annotations

import atexit
import importlib.machinery
import importlib.util
import os
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from mppool.database import parking, sockets
from mppool.database.driver import Background, drive

if TYPE_CHECKING:
    from mppool.database.link import Link

__all__ = ["Core", "forked_in_child", "process", "settle"]

SQLITE_WORKERS = 16  # worker threads at least, once SQLite is used: idle ones cost 11 KiB each
SQLITE_WORKERS_LIMIT = 512
_ASYNCIO_TAIL = 0.1  # seconds after a call driven by asyncio in which a worker may still be on its way out
_TAIL_PAUSE = 0.02
_copies = 0  # over all forks: a path must never come twice, both Python and the linker remember libraries by path


class Core:
    """One loaded copy of the library with its started runtime."""

    __slots__ = (
        "Error",
        "InvalidParameter",
        "Statement",
        "new",
        "private",
        "watch",
        "workers",
    )

    def __init__(self, module: Any, workers: int, private: bool) -> None:
        self.new = module.new
        self.Statement = module.PySQLxStatement
        self.Error: type[Exception] = module.PySQLxError
        self.InvalidParameter: type[Exception] = module.PySQLxInvalidParamError
        self.workers = workers
        self.private = private
        self.watch = sockets.Watch()
        self._start()
        self.watch.started()

    def _start(self) -> None:
        """Start the runtime with as many workers: by a call that fails before it touches any database."""
        with _Environment("TOKIO_WORKER_THREADS", str(self.workers)):
            try:
                drive(self.new("file:/dev/null/mppool"))
            except self.Error:
                pass

    def __repr__(self) -> str:
        return f"<Core {'private copy' if self.private else 'as installed'}, {self.workers} workers>"


class _Environment:
    """Set an environment variable that the user has not set, for a moment."""

    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value
        self.ours = name not in os.environ

    def __enter__(self) -> None:
        if self.ours:
            os.environ[self.name] = self.value

    def __exit__(self, *_: object) -> None:
        if self.ours:
            os.environ.pop(self.name, None)


class Process:
    """What this process has of the core; a forked child begins with a new one."""

    __slots__ = ("asyncio_used", "core", "left", "links", "lock", "loose", "opens", "stopped")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.core: Core | None = None
        self.links: weakref.WeakSet[Link] = weakref.WeakSet()
        self.opens: set[object] = set()  # one token for each open in flight; a count could lose one
        self.loose: set[Core] = set()  # copies on which an open was given up
        self.left: set[Background] = set()  # connections let go of while a call may have run on them
        self.asyncio_used = 0.0  # monotonic time of the last call that asyncio drove
        self.stopped = False  # the interpreter is about to exit: no more calls

    def leave(self, core: Core, provider: str, conn: Any) -> None:
        """Let go of a connection on which a call may still run.

        A trivial call is queued behind it, so that the exit hook can know when both have ended.
        """
        statement = core.Statement(provider=provider, sql="SELECT 1", params=None)
        self.left.add(Background(conn.query_typed(statement)))
        self.sweep()

    def sweep(self) -> None:
        """Forget connections whose calls have ended meanwhile, which closes them."""
        for background in list(self.left):
            if background.ended():
                self.left.discard(background)

    def get(self, provider: str, connections: int = 0) -> Core:
        """The copy to open a connection with; loads one if there is none that will do.

        Args:
            provider: of the database.
            connections: SQLite connections this process may come to have, if known.
        """
        if self.left:
            self.sweep()
        wanted = 0
        if provider == "sqlite":
            open_now = sum(1 for link in list(self.links) if link.provider == "sqlite" and link.conn is not None)
            wanted = min(max(connections, open_now + 1) + 1, SQLITE_WORKERS_LIMIT)
        core = self.core
        if core is None or core.workers < wanted:
            with self.lock:
                core = self.core
                if core is None or core.workers < wanted:
                    core = self.core = _load(wanted)
        return core


process = Process()


def _load(wanted: int) -> Core:
    chosen = os.environ.get("TOKIO_WORKER_THREADS", "")
    if chosen.isdigit() and int(chosen):
        workers = int(chosen)
        if process.core is not None:  # another copy would get no more: the user has decided
            return process.core
    else:
        workers = _processors()
        if wanted:
            # room to grow: the next connections should not need another copy
            workers = max(workers, min(max(SQLITE_WORKERS, wanted + wanted // 4), SQLITE_WORKERS_LIMIT))
    private = "pysqlx_core.pysqlx_core" in sys.modules
    atexit.unregister(settle)
    atexit.register(settle)  # last registered runs first: before hooks of whoever was there earlier
    with _Environment("RUST_LOG", "off"):  # it would print database errors on stderr; they are raised anyway
        module = _private_copy() if private else importlib.import_module("pysqlx_core.pysqlx_core")
    return Core(module, workers, private)


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _private_copy() -> Any:
    """The extension once more, from a copy of its file, so that it shares nothing with the first."""
    global _copies
    _copies += 1
    original = importlib.util.find_spec("pysqlx_core.pysqlx_core")
    assert original is not None
    assert original.origin is not None
    try:
        return _copy_in_memory(original.origin)
    except (OSError, AttributeError, ImportError):
        return _copy_on_disk(original.origin)  # not Linux, or files in memory may not be executed here


def _copy_in_memory(path: str) -> Any:
    copy = os.memfd_create("mppool-core")
    try:
        with open(path, "rb") as file:
            size, done = os.fstat(file.fileno()).st_size, 0
            while done < size:
                done += os.sendfile(copy, file.fileno(), done, size - done)
        # The steps in place ("./") make the path unique although descriptor numbers and even pids come again.
        return _load_file(f"/proc/{os.getpid()}/fd/{'./' * _copies}{copy}")
    finally:
        os.close(copy)  # the mapping stays


def _copy_on_disk(path: str) -> Any:
    import tempfile  # slow to import, and seldom needed

    handle, copy = tempfile.mkstemp(prefix="mppool-core-", suffix=os.path.splitext(path)[1])
    try:
        with open(path, "rb") as file, os.fdopen(handle, "wb") as target:
            while chunk := file.read(1 << 20):
                target.write(chunk)
        return _load_file(copy)
    finally:
        os.unlink(copy)  # the mapping stays


def _load_file(path: str) -> Any:
    loader = importlib.machinery.ExtensionFileLoader("pysqlx_core.pysqlx_core", path)
    spec = importlib.util.spec_from_loader("pysqlx_core.pysqlx_core", loader, origin=path)
    assert spec is not None
    known = sys.modules.get(spec.name)
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    finally:
        # Loading puts the copy in the place of the installed one, which is for everybody else.
        if known is not None:
            sys.modules[spec.name] = known
    return module


def forked_in_child() -> None:
    """Begin anew in a forked child: the inherited runtime is dead here, its connections are the parent's.

    Inherited connections are kept and never used. Their sockets are closed in this process, so that a
    connection which the parent closes really ends; the parent's copies of these descriptors are not affected.
    """
    global process
    inherited, process = process, Process()
    for link in list(inherited.links):
        link.abandon()
    if inherited.core is not None:
        cores = {inherited.core, *(link.core for link in list(inherited.links)), *inherited.loose}
        for core in cores:
            for descriptor in core.watch.sockets():
                if sockets.is_open(descriptor):
                    os.close(descriptor[0])


def settle(timeout: float = 5.0) -> None:
    """Bring the core to rest before the interpreter exits; may be called again.

    A worker thread that comes back to Python while the interpreter is finalised aborts the whole process. So:
    no new calls begin, the sockets of those in flight are shut down, and we wait until they have ended.

    Args:
        timeout: seconds at most. A SQLite statement that takes longer cannot be ended.
    """
    own = process
    own.stopped = True
    parking.exit_begins()
    if own.core is None:
        return
    deadline = time.monotonic() + timeout
    unsettled = [link for link in list(own.links) if link.conn is not None and (link.busy or link.doubtful)]
    own.sweep()
    if unsettled or own.opens or own.loose or own.left:
        for core in {own.core, *own.loose, *(link.core for link in unsettled)}:
            for descriptor in core.watch.sockets():
                sockets.shut_down(descriptor)
        for link in unsettled:
            link.wait_for_end(max(0.0, deadline - time.monotonic()))
        for background in list(own.left):
            background.ended(max(0.0, deadline - time.monotonic()))
        while own.opens and time.monotonic() < deadline:
            time.sleep(0.001)
    if own.loose or unsettled or own.left or time.monotonic() - own.asyncio_used < _ASYNCIO_TAIL:
        time.sleep(_TAIL_PAUSE)
    own.loose.clear()
    own.left.clear()
