"""The sync handle: for threads."""

from __future__ import annotations

from _thread import allocate_lock
from time import monotonic
from typing import TYPE_CHECKING, Any

from mppool.core.slots import Slot, Waiter
from mppool.database.connection.sync_connection import PySQLXEngineSync
from mppool.database.contract import RETURNED
from mppool.process.handle import ANSWER, LEAST, Handle
from mppool.process.lease import THREADS_ONLY, Bound, Lease, lends, misused, new
from mppool.process.places import here
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
        waiter = self._waiter = ThreadWaiter(self.since)
        slot = local.line_up(self)
        if slot is None:
            woken = waiter.wait(timeout)
            while not woken and (left := local.patience_left(self, timeout)):
                woken = waiter.wait(left)
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


class PlacedThreadLease(ThreadLease):
    """One that knows where it was entered."""

    __slots__ = ("place",)

    def __enter__(self) -> PySQLXEngineSync:
        self.place = here()
        return super().__enter__()


class PriorityThreadLease(PlacedThreadLease):
    """One of a caller with priority: what is not at hand in the pool comes from the reserve."""

    __slots__ = ()

    def _wait(self) -> Slot:
        return self._go_to_reserve().borrow(self) or super()._wait()


class PySQLXEnginePoolSync(Handle):
    """A pool of connections for threads, within a budget that all processes share.

    Constructed, it makes a budget of its own, shared with every process forked from here, or with every process of
    this user that gives the same ``name``; it must be started. From `PoolManager.pool` it attaches on first use.
    It may be used by any number of threads, before and after forks, and pickled.

    Args:
        uri: ``postgresql://…``, ``mysql://…``, ``sqlserver://…``, ``sqlite:path`` or ``file:path``. Or a function
            without parameters, plain or async, that returns it: it is asked now, and whenever a connection is opened,
            in the process that opens it, on a thread of the pool (an async one in an event loop of its own). User,
            password and options may change, the database may not. To travel to a spawned process it must pickle: a
            function of a module does, a lambda or an inner function does not.
        min_size: connections this process keeps warm, as far as its fair share allows; 0 to ``max_size``.
        max_size: permits of the budget, 1 to 10,000: connections open or being opened, over all processes. None: those
            of the budget of this ``name`` that runs. A budget that is resized (`PoolManager.resize`) later is meant all
            the same; after that another number raises BudgetMismatchError.
        conn_timeout: seconds a borrower waits at most.
        keep_alive: seconds a connection lives at most (-5 % jitter); it is never cut while borrowed.
        check_interval: seconds between upkeep rounds.
        monitor_batch_size: connections closed for their age in one upkeep round.
        name: of the budget, to share it with programs that are not forked from this one: 1 to 64 letters, digits,
            ``.``, ``_`` or ``-``. None: the budget is this program's; or the scope's, see `mppool.scope`.
        end_orphans: whether a PostgreSQL or MySQL server is told to end the statements of processes that are gone,
            so that their permits come free at once; False: they are waited for, up to 60 seconds. The process that
            launches the budget's manager decides.
        reserve: permits, of ``max_size``, that only callers with priority may take (``connection(priority=True)``).
            They are a budget of their own, called NAME.reserve, with a manager process while they are used. 0: none.
        cluster: the url of the Redis or PostgreSQL that keeps one budget for several hosts, or a function that returns
            it: see `PoolManager`. None: the budget is this host's alone.
        max_idle: seconds after which an unused connection above ``min_size`` is closed.
        max_waiting: callers of this process that may wait at once; None: any number.
        connect_timeout: seconds that opening one connection may take.
        connect_concurrency: connections to a server that all processes of the budget together open at a time.
        configure: called with each new connection (a `PySQLXEngineSync`), on a thread of the pool.
        check: called with a connection before it is lent; False or an exception discards it.
        reset: called with a connection that came back; False or an exception discards it.
        leak_threshold: seconds; a borrow that lasts longer is logged (WARNING), with the line that made it and its
            thread or task, and again when it comes back. None: none is, and no borrow looks where it is made.
        slow_borrow: seconds; a caller that has waited longer for a connection is logged (WARNING). None: none is.

    Raises: TypeError, ValueError: a parameter is not what it should be.

    The parameters up to ``monitor_batch_size`` are PySQLXEngine's; the rest follows psycopg_pool where it has them.
    """

    _leases = (ThreadLease, PlacedThreadLease, PriorityThreadLease)

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
        self._wait_for(*self._end())

    def connection(self, timeout: float | None = None, *, priority: bool = False) -> ThreadLease:
        """Borrow a connection: ``with pool.connection() as conn``.

        Args:
            timeout: seconds to wait at most, instead of ``conn_timeout``; 0: take an idle one or fail at once.
            priority: for health checks and administration: if no connection is idle in this process, do not wait in
                line but take a permit of the budget's reserve; if those are all in use, wait for one of them.

        Returns: a context manager; entering it gives a `PySQLXEngineSync`, leaving it gives the connection back.
            A transaction left open is rolled back.

        Raises: on entering, PoolTimeoutError, PoolClosedError, TooManyWaitingError; ConnectError when the database
            refuses for good (a wrong password, say); BudgetMismatchError, ManagerUnavailableError at the first use.
            At once, ValueError: priority in a budget without a reserve; TypeError, ValueError for a bad timeout.
        """
        lease: ThreadLease = new(self._lease_class(True) if priority else self._lease)
        lease._handle, lease._timeout = self, timeout if timeout is None else wait_seconds("timeout", timeout)
        lease._local = lease._face = lease.slot = lease.broken = None
        return lease

    def check(self, timeout: float = 5.0, *, priority: bool = False) -> float:
        """Borrow a connection and have the database answer: whether this process can serve, for a load balancer.

        Args:
            timeout: seconds for all of it: the wait for a connection, as any borrower has, and the round trip.
            priority: see `connection`. Whether the database can be reached, however busy the pool is.

        Returns: the seconds that it took.

        Raises: PoolTimeoutError: no connection came in time; CallTimeoutError: the database did not answer in time; and
            what else `connection` and a query raise.

        A recipe. Answer a load balancer's question with 200 if this returns, and with 503 if it raises (catch
        `errors.PoolError` and `errors.PySQLXError`); let ``timeout`` be less than the balancer's own. A process whose
        connections are all busy for longer than that is taken out of rotation too, which is mostly meant: if it is not,
        answer "is it alive" without the database, and ask this only for "is it ready". In a pause (`PoolManager.pause`)
        it raises PoolTimeoutError in time: its clock does not stand still.

        def healthz(request):
            return Response(f"{pool.check(timeout=2):.3f} s")  # 200; an exception becomes 503
        """
        began = monotonic()
        lease = self.connection(timeout, priority=priority)
        lease._timeout = Bound(timeout)
        with lease as conn:
            conn.query_first(ANSWER, timeout=max(LEAST, began + timeout - monotonic()))
        return monotonic() - began

    def __enter__(self) -> PySQLXEnginePoolSync:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    if not TYPE_CHECKING:  # type checkers shall refuse these, too
        __aenter__ = __aexit__ = misused(THREADS_ONLY)
