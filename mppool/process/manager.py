"""`PoolManager`: a budget as its owner sees it."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Literal

from mppool import errors, scope
from mppool.database.contract import lexer
from mppool.fork_lock import import_late
from mppool.membership import launcher
from mppool.membership.member import launch_config
from mppool.process import registry
from mppool.process.async_pool import PySQLXEnginePool
from mppool.process.handle import Handle
from mppool.process.sync_pool import PySQLXEnginePoolSync
from mppool.settings import BudgetSettings, PoolSettings, check_keywords, check_name
from mppool.shared import identity
from mppool.shared import ledger as L
from mppool.shared.descriptors import Lost
from mppool.shared.messages import Channel
from mppool.stats import BudgetStats, MemberStats

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mppool.integrations.jobs import Jobs
    from mppool.process.options import PoolOptions


class PoolManager:
    """One budget of database connections for any number of processes.

    Args:
        uri: ``postgresql://…``, ``mysql://…``, ``sqlserver://…``, ``sqlite:path`` or ``file:path``.
        max_size: permits, 1 to 10,000: connections open or being opened at any moment, over all processes.
        name: 1 to 64 letters, digits, ``.``, ``_`` or ``-``; every program of this user that gives it shares the
            budget. None: the budget is this program's, and its children's; or the scope's, see `mppool.scope`.
        end_orphans: whether a PostgreSQL or MySQL server is told to end the statements of processes that are gone,
            so that their permits come free at once; False: they are waited for, up to 60 seconds. The process that
            launches the budget's manager decides.

    Raises: TypeError, ValueError: a parameter is not what it should be.

    ``start()`` launches the manager's process, or joins it where one of this name runs. The manager stays as long
    as its owner (the process that called ``start()``) or a member lives. Handles from `pool` and `async_pool` may be
    used in this process, in children however they are started, and pickled.
    """

    def __init__(self, uri: str, max_size: int = 10, name: str | None = None, *, end_orphans: bool = True) -> None:
        registry.check_environment()
        self._set(*scope.named(BudgetSettings(uri, max_size, name, end_orphans)))

    def _set(self, budget: BudgetSettings, name: str) -> None:
        self._budget = budget
        self._name = name
        self._lock = threading.Lock()
        self._channel: Channel | None = None  # held by the owner: it keeps the manager there
        self._ledger: L.Ledger | None = None
        self._stopped = False
        self._handles: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._claim = registry.claim(name)
        registry.watch_forks(self)

    @classmethod
    def attach(cls, name: str) -> PoolManager:
        """The running budget of that name, from any process of the same user.

        Raises: ManagerUnavailableError when there is none; TypeError, ValueError for what cannot be a name.
        """
        sock = launcher.connect(check_name(name))
        if sock is None:
            raise errors.ManagerUnavailableError(f"no budget {name!r} is running for user {os.geteuid()} on this host")
        try:
            answer, channel = launcher.ask(sock, {"do": "describe"}, name)
        except ConnectionResetError as error:
            raise errors.ManagerUnavailableError(f"budget {name!r} has just ended") from error
        manager = cls.__new__(cls)
        manager._set(BudgetSettings(answer["uri"], answer["max_size"], name, answer["end_orphans"]), name)
        manager._open_ledger(channel)
        channel.close()
        return manager

    # -- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Launch the manager's process, or join the one that runs under this name, and keep it running.

        Raises: PoolAlreadyStartedError; BudgetMismatchError; ManagerUnavailableError.
        """
        with self._lock:
            if self._channel is not None:
                raise errors.PoolAlreadyStartedError(f"manager {self._name!r} is started already")
            self._own()
            self._stopped = False
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
        Handle._wait_for(registry.end_unused(self._name))  # of handles that nobody has any more
        with self._lock:
            self._disown()
            self._ledger = None

    def _disown(self) -> None:
        """Give up being its owner, if this process is. Under the lock."""
        if self._channel is not None:
            self._let_go()
            self._channel = None

    def _own(self) -> None:
        """Find or launch the manager and be its owner. Under the lock."""
        budget = self._budget
        request = {"do": "own", "database": budget.database.key, "max_size": budget.max_size}
        _, channel = launcher.enter(launch_config(budget, self._name), request)
        self._disown()
        self._channel = channel
        self._let_go = weakref.finalize(self, channel.close)  # also if nobody calls `stop`
        self._let_go.atexit = False
        self._open_ledger(channel)

    def _tell_to_stop(self) -> bool:
        """Tell the manager that runs now, which may be the successor of the one we knew. False: there is none. Under
        the lock."""
        while True:
            try:
                sock = launcher.connect(self._name) if self._channel is None else self._channel.sock
                if sock is None:
                    return False
                _, channel = launcher.ask(sock, {"do": "stop"}, self._name)
            except (ConnectionResetError, Lost):  # it was killed; or our end was closed by other code
                if self._channel is None:
                    continue
                try:
                    self._own()
                except errors.PoolError:
                    return True  # stopped already; or there is none to be had, and so nothing to stop
                continue
            if self._channel is None:
                channel.close()
            return True

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
                ``reset``.

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
        handle = cls._of(self._budget, self._name, PoolSettings(min_size=min_size, **settings), self._claim)
        self._handles.add(handle)
        return handle

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

    # -- what is told ----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The budget's name; made up when none was given."""
        return self._name

    @property
    def max_size(self) -> int:
        """Permits of the budget, over all processes."""
        return self._budget.max_size

    @property
    def pid(self) -> int:
        """The pid of the manager process running now. Raises: ManagerUnavailableError."""
        return int(self._read().cells[L.H_MANAGER])

    def stats(self) -> BudgetStats:
        """Read from the ledger what each member holds; the manager does nothing. Raises: ManagerUnavailableError."""
        ledger = self._read()
        cells, members = ledger.cells, []
        for at in (ledger.offset(index) for index in range(L.ROWS)):
            if cells[at + L.PID]:
                held, in_use, moving = cells[at + L.HELD], cells[at + L.IN_USE], cells[at + L.MOVING]
                members.append(
                    MemberStats(
                        pid=cells[at + L.PID],
                        credit=cells[at + L.CREDIT],
                        in_use=in_use,
                        idle=max(0, held - in_use - moving),
                        opening=moving,
                        waiting=cells[at + L.WAITING],
                    )
                )
        return BudgetStats(
            name=self._name,
            max_size=cells[L.H_MAX_SIZE],
            manager_pid=cells[L.H_MANAGER],
            short=cells[L.H_SHORT],
            members=tuple(members),
        )

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else "started" if self._channel else "attached" if self._ledger else "new"
        return f"<PoolManager {self._name!r} {self._budget.database.key} max_size={self.max_size}: {state}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self._budget, self._name)

    # -- the connection to the manager -----------------------------------------------------------------------

    def _read(self) -> L.Ledger:
        with self._lock:
            ledger = self._ledger
            if self._channel is not None and not self._channel.is_ours():
                self._own()  # other code has closed our end
                ledger = self._ledger
            if ledger is None or not identity.alive(ledger.cells[L.H_MANAGER], ledger.cells[L.H_STARTED]):
                try:
                    self._look_up()
                except errors.ManagerUnavailableError:
                    if ledger is None or not ledger.living(lambda token: True):
                        raise  # else its members go on, and what they publish there is still true
            assert self._ledger is not None
            return self._ledger

    def _look_up(self) -> None:
        """Read the ledger of the manager that runs now; an owner launches one if there is none. Under the lock."""
        if self._channel is not None:
            self._own()
            return
        sock = launcher.connect(self._name)
        if sock is None:
            raise errors.ManagerUnavailableError(f"budget {self._name!r} is not running: call start()")
        try:
            _, channel = launcher.ask(sock, {"do": "describe"}, self._name)
        except ConnectionResetError as error:
            raise errors.ManagerUnavailableError(f"budget {self._name!r} has just ended") from error
        self._open_ledger(channel)
        channel.close()

    def _open_ledger(self, channel: Channel) -> None:
        (fd,) = channel.claim_fds(1)
        self._ledger = L.Ledger(fd)
        os.close(fd)

    def forked_in_child(self) -> None:
        """The child owns nothing: it looks the manager up again when it is asked something."""
        self._lock = threading.Lock()
        self._disown()
        self._ledger = None


def _unpickled(budget: BudgetSettings, name: str) -> PoolManager:
    manager = PoolManager.__new__(PoolManager)
    manager._set(budget, name)
    return manager
