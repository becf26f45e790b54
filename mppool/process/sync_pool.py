"""The sync handle: for threads."""

from __future__ import annotations

from _thread import allocate_lock
from time import monotonic
from typing import TYPE_CHECKING, Any

from mppool.core.pool import Slot, Waiter
from mppool.database.connection.sync_connection import PySQLXEngineSync
from mppool.database.contract import RETURNED
from mppool.process.handle import Handle
from mppool.process.lease import THREADS_ONLY, Lease, lends, misused, new
from mppool.settings import wait_seconds


class ThreadWaiter(Waiter):
    """A thread in line; it sleeps on a lock."""

    __slots__ = ("_lock",)

    def __init__(self, since: float) -> None:
        super().__init__(since)
        self._lock = allocate_lock()
        self._lock.acquire()

    def wait(self, timeout: float) -> bool:
        return self._lock.acquire(timeout=min(timeout, 1e8))

    def wake(self) -> bool:
        try:
            self._lock.release()
        except RuntimeError:
            pass  # it has been woken
        return True


@lends(PySQLXEngineSync, "with")
class ThreadLease(Lease):
    """``with pool.connection() as conn``."""

    __slots__ = ()
    if not TYPE_CHECKING:  # type checkers shall refuse these, too
        __aenter__ = __aexit__ = __await__ = misused(THREADS_ONLY)

    def __enter__(self) -> PySQLXEngineSync:
        if self._local is not None:
            self._refuse()
        try:
            local = self._local = self._handle._local or self._handle._resolve()
            slot = local.borrow(self) or self._wait()
            face: PySQLXEngineSync
            self._face = face = new(PySQLXEngineSync)  # what `lend` does, without the call
            face._link, face._lent = slot.link, True
            return face
        except BaseException:
            self._not_entered()
            raise

    def _wait(self) -> Slot:
        local, timeout = self._patience()
        self.since = monotonic()
        bell = self._bell = ThreadWaiter(self.since)
        slot = local.line_up(self)
        if slot is None:
            woken = bell.wait(timeout)
            slot = local.outcome(self, None if woken else timeout)
        return slot

    def __exit__(self, kind: object = None, error: object = None, trace: object = None) -> None:
        local: Any = self._local
        try:
            self._face._link = RETURNED  # what `_take_back` does, without the call
            self.broken = kind
            local.give_back(self)
        except BaseException:
            local.leave_over(self)
            raise


class PySQLXEnginePoolSync(Handle):
    """A pool of connections for threads, within a budget that all processes share.

    Constructed, it makes a budget of its own, shared with every process forked from here, or with every process of
    this user that gives the same ``name``; it must be started. From `PoolManager.pool` it attaches on first use.
    It may be used by any number of threads, before and after forks, and pickled.

    Args:
        uri: ``postgresql://…``, ``mysql://…``, ``sqlserver://…``, ``sqlite:path`` or ``file:path``.
        min_size: connections this process keeps warm, as far as its fair share allows; 0 to ``max_size``.
        max_size: permits of the budget, 1 to 10,000: connections open or being opened, over all processes.
        conn_timeout: seconds a borrower waits at most.
        keep_alive: seconds a connection lives at most (-5 % jitter); it is never cut while borrowed.
        check_interval: seconds between upkeep rounds.
        monitor_batch_size: connections closed for their age in one upkeep round.
        name: of the budget, to share it with programs that are not forked from this one: 1 to 64 letters, digits,
            ``.``, ``_`` or ``-``. None: the budget is this program's; or the scope's, see `mppool.scope`.
        end_orphans: whether a PostgreSQL or MySQL server is told to end the statements of processes that are gone,
            so that their permits come free at once; False: they are waited for, up to 60 seconds. The process that
            launches the budget's manager decides.
        max_idle: seconds after which an unused connection above ``min_size`` is closed.
        max_waiting: callers of this process that may wait at once; None: any number.
        connect_timeout: seconds that opening one connection may take.
        connect_concurrency: connections to a server that all processes of the budget together open at a time.
        configure: called with each new connection (a `PySQLXEngineSync`), on a thread of the pool.
        check: called with a connection before it is lent; False or an exception discards it.
        reset: called with a connection that came back; False or an exception discards it.

    Raises: TypeError, ValueError: a parameter is not what it should be.

    The parameters up to ``monitor_batch_size`` are PySQLXEngine's; the rest follows psycopg_pool where it has them.
    """

    def start(self) -> None:
        """Attach to the budget (launching its manager if need be) and open the first connections.

        Raises: PoolAlreadyStartedError; BudgetMismatchError; ManagerUnavailableError; ConnectError: the
            database refused, so nothing was left running.
        """
        waiter = ThreadWaiter(monotonic())
        self._begin(waiter)
        waiter.wait(1e8)
        self._begun(waiter)

    def stop(self) -> None:
        """Close the connections of this process and leave the budget; those still borrowed follow when they come
        back. Callers in line get PoolClosedError.

        Raises: PoolAlreadyClosedError.
        """
        self._wait_for(self._end())

    def connection(self, timeout: float | None = None) -> ThreadLease:
        """Borrow a connection: ``with pool.connection() as conn``.

        Args:
            timeout: seconds to wait at most, instead of ``conn_timeout``; 0: take an idle one or fail at once.

        Returns: a context manager; entering it gives a `PySQLXEngineSync`, leaving it gives the connection back.
            A transaction left open is rolled back.

        Raises: on entering, PoolTimeoutError, PoolClosedError, TooManyWaitingError; ConnectError when the database
            refuses for good (a wrong password, say); BudgetMismatchError, ManagerUnavailableError at the first use.
        """
        lease: ThreadLease = new(ThreadLease)
        lease._handle, lease._timeout = self, timeout if timeout is None else wait_seconds("timeout", timeout)
        lease._local = lease._face = lease.slot = lease.broken = None
        return lease

    def __enter__(self) -> PySQLXEnginePoolSync:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    if not TYPE_CHECKING:  # type checkers shall refuse these, too
        __aenter__ = __aexit__ = misused(THREADS_ONLY)
