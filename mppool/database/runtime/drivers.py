"""pysqlx-core, loaded so that one process never has two kinds of users on one copy of it.

The core is a shared library with one runtime (worker threads, an epoll instance) per *copy of the library*,
made at its first call. A `Driver` is one such copy: its functions and its classes, which differ between copies.
mppool never uses the library's file as installed but a private copy of it, which is a library of its own to the
operating system (6 ms and 7 MiB once a process). A new one is loaded when there is none that will do:

- the program, or another library, may use ``pysqlx_core`` itself, before us or after: its blocking calls beside
  our asynchronous ones on one runtime deadlock for ever, sooner or later;
- this process may be forked from one that had loaded its own: the worker threads did not survive the fork, and a
  call would wait for them for ever;
- our copy may have too few worker threads: SQLite runs *on* them, and as many busy-waiting writers as workers
  would starve the one that holds the lock. The number is fixed when a runtime starts. But as long as anything of
  SQLite's is open in this process, it stays with its copy: a file's locks are the process's, so two copies of SQLite
  would not see each other's, and both would write;
- certificates: the core reads the whole bundle of certificate authorities at every open, 4 of the 4.5 ms of
  processor time that opening to PostgreSQL takes, also where it then verifies nothing, which is its default. The
  bundle's path comes from an environment variable, and that is the process's, not ours to change. So our copy
  is made to ask for a variable of another name, which names an empty bundle. Who wants servers verified
  (``sslaccept=strict``) gets a copy that is left as it is.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from mppool.database.runtime import exit_guard, private_library, sockets
from mppool.database.runtime.loop_stand_in import Background, drive
from mppool.fork_lock import no_fork
from mppool.shared.descriptors import ask_for, never_close

if TYPE_CHECKING:
    from mppool.database.connection.link import Link

__all__ = ["Driver", "settle", "state"]

SQLITE_WORKERS = 32  # worker threads at least, once SQLite is used: idle ones cost 11 KiB each
SQLITE_WORKERS_LIMIT = 512
DESCRIPTORS = 8  # that loading a copy needs free: a runtime that cannot start panics, and its copy is lost
_ASYNCIO_TAIL = 0.1  # seconds after a call driven by asyncio in which a worker may still be on its way out
_TAIL_PAUSE = 0.02


class Driver:
    """One loaded copy of the library with its started runtime."""

    __slots__ = (
        "Error",
        "InvalidParameter",
        "Statement",
        "new",
        "verifies",
        "watch",
        "workers",
    )

    def __init__(self, module: Any, workers: int, verifies: bool) -> None:
        self.new = module.new
        self.Statement = module.PySQLxStatement
        self.Error: type[Exception] = module.PySQLxError
        self.InvalidParameter: type[Exception] = module.PySQLxInvalidParamError
        self.workers = workers
        self.verifies = verifies
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
        return f"<Driver {'verifying servers, ' if self.verifies else ''}{self.workers} workers>"


class _Environment:
    """Set an environment variable that the user has not set, or to nothing, for a moment."""

    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value
        self.before = os.environ.get(name)

    def __enter__(self) -> None:
        if not self.before:
            os.environ[self.name] = self.value

    def __exit__(self, *_: object) -> None:
        if self.before is None:
            os.environ.pop(self.name, None)
        else:
            os.environ[self.name] = self.before


class State:
    """What this process has of the core; a forked child begins with a new one."""

    __slots__ = (
        "asyncio_used",
        "driver",
        "files",
        "left",
        "links",
        "lock",
        "loose",
        "one_by_one",
        "opens",
        "stopped",
        "twins",
        "verifying",
    )

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.one_by_one = threading.Lock()  # for opens that could not be told apart
        self.driver: Driver | None = None
        self.files: dict[str, Driver] = {}  # the copy that each SQLite file is used with
        self.verifying: Driver | None = None  # the copy for those who want servers verified
        self.links: weakref.WeakSet[Link] = weakref.WeakSet()
        self.opens: set[object] = set()  # one token for each open in flight; a count could lose one
        self.loose: set[Driver] = set()  # copies on which an open was given up
        self.left: set[Background] = set()  # connections let go of while a call may have run on them
        self.twins: set[sockets.Twin] = set()  # of connections being buried
        self.asyncio_used = 0.0  # monotonic time of the last call that asyncio drove
        self.stopped = False  # the interpreter is about to exit: no more calls

    def leave(self, driver: Driver, provider: str, conn: Any) -> None:
        """Let go of a connection on which a call may still run.

        A trivial call is queued behind it, so that the exit hook can know when both have ended.
        """
        statement = driver.Statement(provider=provider, sql="SELECT 1", params=None)
        self.left.add(Background(conn.query_typed(statement)))
        self.sweep()

    def sweep(self) -> None:
        """Forget connections whose calls have ended meanwhile, which closes them."""
        for background in list(self.left):
            if background.ended():
                self.left.discard(background)

    def get(self, provider: str, connections: int = 0, verify: bool = False, file: str = "") -> Driver:
        """The copy to open a connection with; loads one if there is none that will do.

        Args:
            provider: of the database.
            connections: SQLite connections this process may come to have, if known.
            verify: whether the server's certificate is to be verified.
            file: SQLite's, by its real path.
        """
        self.bury_dead()
        if self.left:
            self.sweep()
        if provider == "sqlite":
            with self.lock:
                return self._for_file(file, connections)
        driver = self.verifying if verify else self.driver
        if driver is None:
            with self.lock:
                driver = self.verifying if verify else self.driver
                if driver is None:
                    driver = _load(0, verify, None)
                    if verify:
                        self.verifying = driver
                    else:
                        self.driver = driver
        return driver

    def bury_dead(self) -> None:
        """Forget the copies whose descriptors were closed from outside, as a program does that makes itself a daemon.
        Their connections are never used again, and never dropped either: see `Link.drop`."""
        known = {driver for driver in (self.driver, self.verifying, *self.files.values()) if driver is not None}
        dead = {driver for driver in known if driver.watch.gone(surely=True)}
        if not dead:
            return
        with self.lock:
            self.driver = None if self.driver in dead else self.driver
            self.verifying = None if self.verifying in dead else self.verifying
            self.files = {file: driver for file, driver in self.files.items() if driver not in dead}
            self.loose -= dead
            left, self.left = self.left, set()  # a few connections more than need be are never closed
        never_close((dead, left))

    def _for_file(self, file: str, connections: int) -> Driver:
        open_now = [link for link in self.linked() if link.provider == "sqlite" and link.conn is not None]
        wanted = min(max(len(open_now) + connections + 1, SQLITE_WORKERS), SQLITE_WORKERS_LIMIT)
        driver = self.files.get(file)
        if driver is None or (driver.workers < wanted and not self._in_use(driver)):
            if self.driver is None or self.driver.workers < wanted:
                self.driver = _load(wanted, False, self.driver)
            driver = self.files[file] = self.driver
        return driver

    def _in_use(self, driver: Driver) -> bool:
        """May anything of SQLite's be open with this copy, or about to be? Rather too often than once too seldom."""
        return (
            len(self.opens) > 1
            or bool(self.left)
            or bool(self.loose)
            or any(link.driver is driver and link.conn is not None for link in self.linked())
        )

    def linked(self) -> list[Link]:
        """Every link there is. Walking a weak set fails when another thread opens or drops a link meanwhile; copying
        the references is one step of the interpreter."""
        references: Any = self.links
        return [link for reference in list(references.data) if (link := reference()) is not None]

    def drivers(self) -> set[Driver]:
        """Every copy that may have connections."""
        current = {driver for driver in (self.driver, self.verifying, *self.files.values()) if driver is not None}
        return current | self.loose | {link.driver for link in self.linked()}


state = State()


def _load(wanted: int, verify: bool, present: Driver | None) -> Driver:
    chosen = os.environ.get("TOKIO_WORKER_THREADS", "")
    if chosen.isdigit() and int(chosen):
        workers = int(chosen)
        if present is not None:  # another copy would get no more: the user has decided
            return present
    else:
        workers = _processors()
        if wanted:
            # room to grow: the next connections should not need another copy
            workers = max(workers, min(max(SQLITE_WORKERS, wanted + wanted // 4), SQLITE_WORKERS_LIMIT))
    atexit.unregister(settle)
    atexit.register(settle)  # last registered runs first: before hooks of whoever was there earlier
    ask_for(DESCRIPTORS)
    with no_fork():  # in a child that was forked meanwhile the environment would stay as it is only for that moment
        with _Environment("RUST_LOG", "off"):  # it would print database errors on stderr; they are raised anyway
            module = private_library.load(verify)
        return Driver(module, workers, verify)


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _forked_in_child() -> None:
    """Begin anew in a forked child: the inherited runtime is dead here, its connections are the parent's.

    Inherited connections are kept and never used. Their sockets are closed in this process, so that a
    connection which the parent closes really ends; the parent's copies of these descriptors are not affected.
    """
    global state
    inherited, state = state, State()
    descriptors = _sockets_of(inherited)
    for link in inherited.linked():
        link.abandon()
    for descriptor in descriptors:
        if sockets.is_open(descriptor):
            os.close(descriptor[0])
    for twin in inherited.twins:
        twin.close()


os.register_at_fork(after_in_child=_forked_in_child)


def _sockets_of(own: State) -> set[sockets.Descriptor]:
    """All sockets of its runtimes; for want of a descriptor to look with, those that are known of its connections."""
    found = {link.socket for link in own.linked() if link.socket is not None}
    for driver in own.drivers():
        try:
            found |= driver.watch.sockets()
        except OSError:
            continue
    return found


def settle(timeout: float = 5.0) -> None:
    """Bring the core to rest before the interpreter exits; may be called again.

    A worker thread that comes back to Python while the interpreter is finalised aborts the whole process. So:
    no new calls begin, the sockets of those in flight are shut down, and we wait until they have ended.

    Args:
        timeout: seconds at most. A SQLite statement that takes longer cannot be ended.
    """
    own = state
    own.stopped = True
    exit_guard.exit_begins()
    if not own.drivers():
        return
    deadline = time.monotonic() + timeout
    unsettled = [link for link in own.linked() if link.conn is not None and (link.busy or link.doubtful)]
    own.sweep()
    if unsettled or own.opens or own.loose or own.left:
        for descriptor in _sockets_of(own):
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
