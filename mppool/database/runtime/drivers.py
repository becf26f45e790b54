"""The driver (pysqlx-core): which copies of its library this process has loaded, and how they come to rest at exit.

The driver is a shared library. Each *copy of the library* has one runtime (worker threads, an epoll instance), which
starts at the first call. A `Driver` is one such copy: its functions and its classes, which differ between copies.
mppool never uses the installed file but a private copy of it, which the operating system takes for another library
(6 ms and 7 MiB, once a process). We load another copy when no loaded one will do:

- The program, or another library, may use ``pysqlx_core`` itself, before us or later. Its blocking calls and our
  asynchronous ones on one runtime deadlock sooner or later.
- This process may be forked from one that had loaded a copy. The worker threads did not survive the fork, and a call
  would wait for them for ever.
- Our copy may have too few worker threads. SQLite runs *on* them: as many busy-waiting writers as there are workers
  starve the writer that holds the lock. A runtime's number of workers is fixed when it starts. But while a SQLite file
  is open in this process, it stays with its copy: file locks belong to the process, so two copies of SQLite would not
  see each other's locks, and both would write.
- The driver reads the whole bundle of certificate authorities at every open, even where it verifies nothing, which is
  the default. That is 4 of the 4.5 ms of processor time that an open to PostgreSQL takes. The bundle's path comes from
  an environment variable, which belongs to the program. So our copy asks for a variable of another name, which names
  an empty bundle. For connections that verify the server (``sslaccept=strict``) we load an unchanged copy.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Any, Protocol

from mppool import fork_hooks
from mppool.database.runtime import exit_guard, private_library, sockets
from mppool.database.runtime.loop_stand_in import Background, drive
from mppool.exit_hooks import run_first_at_exit
from mppool.fork_lock import no_fork
from mppool.shared.descriptors import ask_for, never_close

__all__ = ["Driver", "is_panic", "settle", "state"]

SQLITE_WORKERS = 32  # the least number of worker threads, once SQLite is used; an idle one costs 11 KiB
SQLITE_WORKERS_LIMIT = 512
DESCRIPTORS = 8  # free descriptors that loading a copy needs: a runtime that cannot start panics, and its copy is lost
_ASYNCIO_TAIL = 0.1  # seconds after a call driven by asyncio in which a worker may still be on its way out
_TAIL_PAUSE = 0.02


def is_panic(error: BaseException) -> bool:
    """Is it the driver's panic? No module exports the class, and each copy of the driver has its own."""
    return type(error).__name__ == "PanicException"


class OpenConnection(Protocol):
    """What is needed here of an open connection (`Link`): to find its socket, and to await or abandon it."""

    driver: Driver
    provider: str
    conn: Any  # the driver's connection; None once closed
    busy: int
    socket: sockets.Descriptor | None

    @property
    def doubtful(self) -> bool: ...

    def wait_for_end(self, timeout: float) -> bool: ...

    def abandon(self) -> None: ...


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
        """Start the runtime, by a call that fails before it touches any database."""
        with _Environment("TOKIO_WORKER_THREADS", str(self.workers)):
            try:
                drive(self.new("file:/dev/null/mppool"))
            except self.Error:
                pass

    def __repr__(self) -> str:
        return f"<Driver {'verifying servers, ' if self.verifies else ''}{self.workers} workers>"


class _Environment:
    """For a ``with`` block, set an environment variable that the user has not set, or has set to nothing."""

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
    """The driver's copies and connections in this process. A forked child begins with a new, empty one."""

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
        self.verifying: Driver | None = None  # the copy for connections that verify the server
        self.links: weakref.WeakSet[OpenConnection] = weakref.WeakSet()
        self.opens: set[object] = set()  # a token for each open in flight; a count could go wrong
        self.loose: set[Driver] = set()  # copies on which an open was given up and may still run
        self.left: set[Background] = set()  # connections dropped while a call may have run on them
        self.twins: set[sockets.Twin] = set()  # of connections whose end on the server is awaited
        self.asyncio_used = 0.0  # monotonic time of the last call that asyncio drove
        self.stopped = False  # the interpreter is about to exit: no more calls

    def leave(self, driver: Driver, provider: str, conn: Any) -> None:
        """Drop a connection on which a call may still run.

        A trivial call is queued behind that call; the exit hook waits until the trivial one has ended.
        """
        statement = driver.Statement(provider=provider, sql="SELECT 1", params=None)
        self.left.add(Background(conn.query_typed(statement)))
        self.sweep()

    def sweep(self) -> None:
        """Forget dropped connections whose calls have ended, which closes them."""
        for background in list(self.left):
            if background.ended():
                self.left.discard(background)

    def get(self, provider: str, connections: int = 0, verify: bool = False, file: str = "") -> Driver:
        """The copy to open a connection with; loads another one if no loaded one will do.

        Args:
            provider: the database's.
            connections: the number of SQLite connections that this process may come to have; 0: unknown.
            verify: whether the server's certificate is to be verified.
            file: the SQLite file's real path.
        """
        self.forget_dead()
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

    def forget_dead(self) -> None:
        """Forget the copies whose descriptors other code has closed, as a program does that becomes a daemon.

        Their connections are never used again, and never dropped either: see `Link.drop`.
        """
        known = {driver for driver in (self.driver, self.verifying, *self.files.values()) if driver is not None}
        dead = {driver for driver in known if driver.watch.gone(surely=True)}
        if not dead:
            return
        with self.lock:
            self.driver = None if self.driver in dead else self.driver
            self.verifying = None if self.verifying in dead else self.verifying
            self.files = {file: driver for file, driver in self.files.items() if driver not in dead}
            self.loose -= dead
            left, self.left = self.left, set()  # this keeps a few more connections open than necessary
        never_close((dead, left))

    def _for_file(self, file: str, connections: int) -> Driver:
        """The copy for a SQLite file. A file in use stays with its copy: see the module's docstring."""
        open_now = [link for link in self.linked() if link.provider == "sqlite" and link.conn is not None]
        workers = min(max(len(open_now) + connections + 1, SQLITE_WORKERS), SQLITE_WORKERS_LIMIT)
        driver = self.files.get(file)
        if driver is not None and (driver.workers >= workers or self._in_use(driver)):
            return driver
        if self.driver is None or self.driver.workers < workers:
            self.driver = _load(workers, False, self.driver)
        self.files[file] = self.driver
        return self.driver

    def _in_use(self, driver: Driver) -> bool:
        """May this copy have a SQLite file open, or be about to open one? False positives are safe; a miss is not."""
        return (
            len(self.opens) > 1
            or bool(self.left)
            or bool(self.loose)
            or any(link.driver is driver and link.conn is not None for link in self.linked())
        )

    def linked(self) -> list[OpenConnection]:
        """Every open connection. Iterating a weak set fails when another thread opens or drops one meanwhile, so the
        references are copied first, which is one step of the interpreter."""
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
        if present is not None:  # the user has set the number: another copy would get no more
            return present
    else:
        workers = _processors()
        if wanted:
            # some more, so that the next connections need no other copy
            workers = max(workers, min(max(SQLITE_WORKERS, wanted + wanted // 4), SQLITE_WORKERS_LIMIT))
    run_first_at_exit(settle)
    ask_for(DESCRIPTORS)
    with no_fork():  # a child forked meanwhile would keep the environment that is meant for this moment
        with _Environment("RUST_LOG", "off"):  # else it prints database errors on stderr
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
    exit_guard.forked_in_child()
    inherited, state = state, State()
    descriptors = _sockets_of(inherited)
    for link in inherited.linked():
        link.abandon()
    for descriptor in descriptors:
        if sockets.is_open(descriptor):
            os.close(descriptor[0])
    for twin in inherited.twins:
        twin.close()


fork_hooks.register(fork_hooks.DRIVER, in_child=_forked_in_child)


def _sockets_of(own: State) -> set[sockets.Descriptor]:
    """All sockets of its runtimes. Where no descriptor is free to look with: those that its connections know of."""
    found = {link.socket for link in own.linked() if link.socket is not None}
    for driver in own.drivers():
        try:
            found |= driver.watch.sockets()
        except OSError:
            continue
    return found


def settle(timeout: float = 5.0) -> None:
    """Bring the driver to rest before the interpreter exits. May be called again.

    A worker thread that comes back to Python while the interpreter is finalised aborts the whole process. So no new
    calls begin, the sockets of the calls in flight are shut down, and we wait until those calls have ended.

    Args:
        timeout: seconds at most. A SQLite statement that takes longer cannot be ended.
    """
    own = state
    own.stopped = True
    exit_guard.exit_begins()
    if not own.drivers():
        return
    own.sweep()
    running = [link for link in own.linked() if link.conn is not None and (link.busy or link.doubtful)]
    if running or own.opens or own.loose or own.left:
        _end_calls(own, running, time.monotonic() + timeout)
    if running or own.loose or own.left or time.monotonic() - own.asyncio_used < _ASYNCIO_TAIL:
        time.sleep(_TAIL_PAUSE)
    own.loose.clear()
    own.left.clear()


def _end_calls(own: State, running: list[OpenConnection], deadline: float) -> None:
    """Shut all sockets down, then wait for the calls on connections, on dropped connections, and the opens."""
    for descriptor in _sockets_of(own):
        sockets.shut_down(descriptor)
    for link in running:
        link.wait_for_end(max(0.0, deadline - time.monotonic()))
    for background in list(own.left):
        background.ended(max(0.0, deadline - time.monotonic()))
    while own.opens and time.monotonic() < deadline:
        time.sleep(0.001)
