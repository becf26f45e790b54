"""`PoolManager`: a budget as its owner sees it."""

from __future__ import annotations

import os
import threading
import time
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from mppool import errors, scope
from mppool.cluster_url import ClusterSource
from mppool.database.contract import lexer
from mppool.fork_lock import import_late
from mppool.membership import asking
from mppool.process import budget_stats, registry
from mppool.process.async_pool import PySQLXEnginePool
from mppool.process.handle import Handle
from mppool.process.owner import Owner
from mppool.process.sync_pool import PySQLXEnginePoolSync
from mppool.settings import (
    BudgetSettings,
    PoolSettings,
    check_keywords,
    check_name,
    check_size,
    positive_seconds,
    wait_seconds,
)
from mppool.shared import ledger as L
from mppool.shared.neighbours import has_members
from mppool.shared.paths import RESERVE
from mppool.stats import BudgetStats
from mppool.uri import UriSource

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mppool.integrations.jobs import Jobs
    from mppool.process.options import PoolOptions


class PoolManager(Owner):
    """One budget of database connections for any number of processes.

    Args:
        uri: ``postgresql://…``, ``mysql://…``, ``sqlserver://…``, ``sqlite:path`` or ``file:path``. Or a function
            without parameters, plain or async, that returns it: it is asked now, and whenever a connection is opened,
            in the process that opens it, on a thread of the pool (an async one in an event loop of its own). User,
            password and options may change, the database may not. To travel to a spawned process it must pickle: a
            function of a module does, a lambda or an inner function does not.
        max_size: permits, 1 to 10,000: connections open or being opened at any moment, over all processes. None: those
            of the budget of this ``name`` that runs. `resize` changes the number while the budget runs: it is meant all
            the same by what was made before that; after that another number raises BudgetMismatchError.
        name: 1 to 64 letters, digits, ``.``, ``_`` or ``-``; every program of this user that gives it shares the
            budget. None: the budget is this program's, and its children's; or the scope's, see `mppool.scope`.
        end_orphans: whether a PostgreSQL or MySQL server is told to end the statements of processes that are gone,
            so that their permits come free at once; False: they are waited for, up to 60 seconds. The process that
            launches the budget's manager decides.
        reserve: permits, of ``max_size``, that only callers with priority may take: ``pool.connection(priority=True)``.
            They are a budget of their own, called NAME.reserve, with a manager process while they are used. It is
            paused, resumed, drained and stopped with this one, and is not resized. 0: none.
        cluster: the engine that keeps one budget for several hosts: ``redis://…``, ``rediss://…`` (also Valkey) or
            ``postgresql://…``, with user and password; the database's own server may be the engine. Or a function
            without parameters, plain or async, that returns the url: it is asked now, whenever a manager is launched,
            and while the engine refuses this host: user and password may change. ``name`` and ``max_size`` are then
            those of the budget on all hosts, the database must be PostgreSQL, and one permit is kept for the connection
            that counts at the database. None: the budget is this host's alone.

    Raises: TypeError, ValueError: a parameter is not what it should be.

    ``start()`` launches the manager's process, or joins it where one of this name runs. The manager stays as long
    as its owner (the process that called ``start()``) or a member lives. Handles from `pool` and `async_pool` may be
    used in this process, in children however they are started, and pickled.
    """

    def __init__(
        self,
        uri: UriSource,
        max_size: int | None = 10,
        name: str | None = None,
        *,
        end_orphans: bool = True,
        reserve: int = 0,
        cluster: ClusterSource | None = None,
    ) -> None:
        registry.check_environment()
        self._set(*scope.named(BudgetSettings(uri, max_size, name, end_orphans, reserve, cluster=cluster)))

    def _set(self, budget: BudgetSettings, name: str) -> None:
        super().__init__(budget, name)
        self._stopped = False
        self._handles: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._reserve = self._of_reserve()
        self._claim = registry.claim(name)
        registry.watch_forks(self)

    def _of_reserve(self) -> PoolManager | None:
        """The budget that the reserve is. It is not started: the processes that borrow from it launch its manager."""
        if not self._budget.reserve:
            return None
        manager = PoolManager.__new__(PoolManager)
        manager._set(self._budget.of_reserve(RESERVE), self._name + RESERVE)
        return manager

    @classmethod
    def attach(cls, name: str) -> PoolManager:
        """The running budget of that name, from any process of the same user.

        Raises: ManagerUnavailableError when there is none; TypeError, ValueError for what cannot be a name.
        """
        made, sock = time.monotonic_ns(), asking.connect(check_name(name))
        if sock is None:
            raise errors.ManagerUnavailableError(f"no budget {name!r} is running for user {os.geteuid()} on this host")
        try:
            answer, channel = asking.ask(sock, {"do": "describe"}, name)
        except ConnectionResetError as error:
            raise errors.ManagerUnavailableError(f"budget {name!r} has just ended") from error
        manager = cls.__new__(cls)
        size, reserve, cluster = answer["max_size"], answer["reserve"], answer["cluster"]
        said = BudgetSettings(answer["uri"], size, name, answer["end_orphans"], reserve, made, cluster=cluster)
        manager._set(said, name)
        manager._open_ledger(channel)
        channel.close()
        return manager

    # -- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Launch the manager's process, or join the one that runs under this name, and keep it running.

        Of a budget over several hosts: it waits a moment for the engine's first word. If the engine cannot be reached,
        a warning is logged, and callers wait until it can be.

        Raises: PoolAlreadyStartedError; BudgetMismatchError; ManagerUnavailableError.
        """
        with self._lock:
            if self._channel is not None:
                raise errors.PoolAlreadyStartedError(f"manager {self._name!r} is started already")
            self._own()
            self._stopped = False
            if self._budget.cluster is not None:
                self._await_engine()
        # What each child would do again for its first query: pydantic is imported, and has made a class.
        import_late("mppool.database.values.rows").row_class((("id", "int"),))
        lexer(self._budget.database.provider)

    def stop(self) -> None:
        """End the budget: stop this process's handles, admit no new member. The manager leaves with the last one.

        A process that has attached to a budget by its name may end it so. A scope's budget is not one process's to end:
        there it stops this process's handles only.

        Raises: PoolAlreadyClosedError.
        """
        with self._lock:
            others = scope.owns(self._name)
            if self._stopped or (self._channel is None if others else not self._tell_to_stop()):
                raise errors.PoolAlreadyClosedError(f"manager {self._name!r} is not running")
            self._stopped = True
            handles = list(self._handles)
        for handle in handles:
            handle._discard()
        Handle._wait_for(registry.end_unused(self._name))  # of handles that are gone
        if self._reserve is not None and not others:
            self._reserve._tell_to_stop()
            Handle._wait_for(registry.end_unused(self._reserve._name))
        with self._lock:
            self._disown()
            self._ledger = None

    def __enter__(self) -> PoolManager:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- handles ---------------------------------------------------------------------------------------------

    def pool(self, min_size: int = 0, **settings: Unpack[PoolOptions]) -> PySQLXEnginePoolSync:
        """A sync handle. It attaches on first use, in whichever process that is; ``start()`` attaches at once.

        Args:
            min_size: connections that each process keeps warm; 0 to ``max_size``.
            settings: keyword arguments of `PySQLXEnginePoolSync` that a handle may choose for itself, with the same
                units and defaults: ``conn_timeout``, ``keep_alive``, ``check_interval``, ``monitor_batch_size``,
                ``max_idle``, ``max_waiting``, ``connect_timeout``, ``connect_concurrency``, ``configure``, ``check``,
                ``reset``, ``leak_threshold``, ``slow_borrow``.

        Raises: TypeError, ValueError: a parameter is not what it should be. PoolClosedError: the manager is stopped.
        """
        handle: PySQLXEnginePoolSync = self._handle(PySQLXEnginePoolSync, "pool", min_size, settings)
        return handle

    def async_pool(self, min_size: int = 0, **settings: Unpack[PoolOptions]) -> PySQLXEnginePool:
        """An async handle. It attaches on first use, in whichever process that is; ``await start()`` attaches at once.

        Args:
            min_size: connections that each process keeps warm; 0 to ``max_size``.
            settings: the same keyword arguments as those of `pool`. The hooks ``configure``, ``check`` and ``reset``
                are plain functions here, too: they run on the pool's threads.

        Raises: TypeError, ValueError: a parameter is not what it should be. PoolClosedError: the manager is stopped.
        """
        handle: PySQLXEnginePool = self._handle(PySQLXEnginePool, "async_pool", min_size, settings)
        return handle

    def _handle(self, cls: type[Handle], method: str, min_size: int, settings: PoolOptions) -> Any:
        if self._stopped:
            raise errors.PoolClosedError(f"manager {self._name!r} is stopped")
        known = [name for name in PoolSettings.__annotations__ if name != "min_size"]
        check_keywords(f"PoolManager.{method}", settings, known)
        handle = cls._of(self._resized(), self._name, PoolSettings(min_size=min_size, **settings), self._claim)
        self._handles.add(handle)
        return handle

    def _resized(self) -> BudgetSettings:
        """The budget's settings, with its size as far as it is known here."""
        size = self._known_size()
        return self._budget if size == self._budget.max_size else replace(self._budget, max_size=size)

    def jobs(
        self,
        processes: int | None = None,
        *,
        start_method: Literal["fork", "spawn", "forkserver"] | None = None,
        min_size: int = 0,
        **settings: Unpack[PoolOptions],
    ) -> Jobs:
        """Worker processes that have a sync handle ready, for `map` and its kind over functions, lambdas and closures.

        Args:
            processes: the number of workers, 1 or more; None: one for each processor.
            start_method: how the workers are started; None: the platform's default.
            min_size, settings: of the workers' handle, as `pool` takes them.

        Returns: the workers, all of them attached; use it as a context manager. A job uses the handle that its closure
            brings along, or `mppool.integrations.jobs.current_pool()`; both have the same connections.

        Raises: TypeError, ValueError: a parameter is not what it should be. PoolClosedError: the manager is stopped.
            ConnectError and what else ``start()`` raises: a worker could not attach. WorkerDiedError: one was killed
            while it started.
        """
        made: Jobs = import_late("mppool.integrations.jobs").Jobs(
            self.pool(min_size, **settings), processes, start_method
        )
        return made

    # -- while it runs ---------------------------------------------------------------------------------------

    def resize(self, max_size: int) -> None:
        """Change the number of permits, from any process, for all processes.

        More permits are granted at once. Fewer: no borrower is disturbed. Unused permits go first, then idle
        connections, then borrowed ones when they come back: one at a time from the process that keeps most, so that
        what is left is shared fairly. Until then no new permit is granted; `BudgetStats.free` is below zero by what is
        still to come back.

        Args:
            max_size: permits, 1 to 10,000, and more than the reserve's, which stay as many as they are.

        Raises: TypeError, ValueError: ``max_size`` is not what it should be. ManagerUnavailableError: no budget of this
            name is running.

        A process whose handles were made before takes the new size. One that comes later says the new number, or
        ``max_size=None``. Raise the server's own limit (PostgreSQL: ``max_connections``, a role's CONNECTION LIMIT)
        before, or lower it after.
        """
        check_size(max_size)
        if max_size <= (reserve := self._read().header.reserve):
            raise ValueError(f"max_size must be more than the reserve of budget {self._name!r} ({reserve})")
        self._request({"do": "resize", "max_size": max_size})

    def drain(self) -> None:
        """Have every connection of all processes replaced by a new one: after a change of the schema, or of what a load
        balancer or a name points to.

        An idle one is closed at once, a borrowed one when it comes back; borrowers notice nothing. From any process; it
        does not wait. A connection that is being opened now is replaced, too.

        Raises: ManagerUnavailableError: no budget of this name is running.
        """
        self._request({"do": "drain"})
        self._tell_reserve({"do": "drain"})

    def pause(self, *, wait: bool = False, timeout: float = 30.0, limit: float = 60.0) -> None:
        """Lend nothing more in any process, until `resume`: for a failover, or a migration. From any process.

        Nothing is opened, checked or configured either: once all that was borrowed has come back, no statement reaches
        the server. Closing goes on. Callers keep their places in the line, and their clocks stand still: nobody times
        out. A connection whose borrower leaves a transaction open is closed. No permit moves: another size (`resize`)
        is granted or taken back afterwards. A budget that is paused again is paused for ``limit`` seconds from then on.

        Args:
            wait: return only when every process lends nothing any more and all that was borrowed has come back.
            timeout: seconds to wait for that at most.
            limit: seconds after which the budget goes on by itself, whatever happens to the process that paused it.

        Raises: ManagerUnavailableError: no budget of this name is running. PoolTimeoutError: processes still use
            connections after ``timeout`` seconds, and which; the budget stays paused.
        """
        nanoseconds = int(positive_seconds("limit", limit) * 1e9)
        deadline = time.monotonic() + wait_seconds("timeout", timeout)
        request = {"do": "pause", "limit": min(nanoseconds, L.NEVER // 2)}
        until = self._request(request)["until"]
        paused = self._tell_reserve(request)  # second: one that is just launched looks whether this budget is paused
        while wait and (busy := {**self._busy(until), **self._busy_in_reserve(paused)}):
            if time.monotonic() >= deadline:
                who = ", ".join(f"pid {pid} {count}" for pid, count in busy.items())
                raise errors.PoolTimeoutError(
                    f"budget {self._name!r} is paused, and after {timeout:g} s processes still use connections: {who} "
                    "(0: it has not answered); wait for longer, or resume()"
                )
            time.sleep(0.002)

    def resume(self) -> None:
        """Go on after `pause`. From any process; a budget that is not paused goes on as it does.

        Raises: ManagerUnavailableError: no budget of this name is running.
        """
        self._request({"do": "resume"})
        self._tell_reserve({"do": "resume"})

    def _busy_in_reserve(self, paused: dict[str, Any] | None) -> dict[int, int]:
        """Like `_busy`. ``paused``: what the reserve's manager answered; None: there was none."""
        try:
            return self._reserve._busy(paused["until"]) if self._reserve is not None and paused is not None else {}
        except errors.ManagerUnavailableError:
            return {}  # all have left

    def _tell_reserve(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Ask the manager of the reserve, too, if there is one. Where it has died, its members launch another."""
        deadline = time.monotonic() + asking.LAUNCH_TIMEOUT
        while self._reserve is not None:
            try:
                return self._reserve._request(request)
            except errors.ManagerUnavailableError:
                if not has_members(self._reserve._name) or time.monotonic() > deadline:
                    return None
            time.sleep(0.01)
        return None

    # -- what is told ----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The budget's name; made up when none was given."""
        return self._name

    @property
    def max_size(self) -> int:
        """Permits of the budget now, over all processes. Before it runs: as many as it is to have; 0: not known."""
        try:
            return int(self._read().cells[L.H_MAX_SIZE])
        except errors.PoolError:
            return self._known_size() or 0

    @property
    def reserve(self) -> int:
        """Permits of the budget that only callers with priority may take."""
        return self._budget.reserve

    @property
    def cluster(self) -> str | None:
        """The url of the engine that keeps the budget over several hosts, with its password; None: there is none."""
        return None if self._budget.cluster is None else str(self._budget.cluster)

    @property
    def pid(self) -> int:
        """The pid of the manager process running now. Raises: ManagerUnavailableError."""
        return self._read().header.manager

    def stats(self) -> BudgetStats:
        """What each process holds, and what all have counted, those that have ended included.

        It is read from the ledger: no process does anything for it, and no lock is taken that a borrower waits for.
        What a process counts is there a quarter of a second later, or, where it borrows seldom, up to ten seconds.

        Raises: ManagerUnavailableError.
        """
        return budget_stats.read(self._read(), self._name, self._budget.database.key)

    def __repr__(self) -> str:
        size = self._known_size()
        return f"<PoolManager {self._name!r} {self._budget.database.key} max_size={size}: {self._state()}>"

    def _state(self) -> str:
        if self._stopped:
            return "stopped"
        if self._ledger is not None and self._ledger.header.paused:
            return "paused"
        if self._channel is not None:
            return "started"
        return "attached" if self._ledger is not None else "new"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self._budget, self._name)

    def forked_in_child(self) -> None:
        """The child owns nothing: it looks the manager up again when it is asked something."""
        self._lock = threading.Lock()
        self._disown()
        self._ledger = None


def _unpickled(budget: BudgetSettings, name: str) -> PoolManager:
    manager = PoolManager.__new__(PoolManager)
    manager._set(budget, name)
    return manager
