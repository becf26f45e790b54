"""What the two handles have in common: settings, the way to their local pool, and how they travel.

A handle made by the user is started and stopped by the user; one made by a `PoolManager` comes to life at its
first use. In a forked child, and after pickling, a handle is as it was: started if it was started.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import update_wrapper
from types import FunctionType
from typing import TYPE_CHECKING, Any

from mppool import errors, scope
from mppool.cluster_url import ClusterSource
from mppool.core.slots import Waiter
from mppool.process import registry
from mppool.process.local import LocalPool
from mppool.settings import BudgetSettings, PoolSettings, check_keywords
from mppool.shared.paths import RESERVE
from mppool.stats import PoolStats
from mppool.uri import UriSource

if TYPE_CHECKING:
    from typing_extensions import Self

    from mppool.database.connection.sync_connection import PySQLXEngineSync

ANSWER = "SELECT 1 AS answer"  # that `check` has the database answer
LEAST = 0.001  # seconds that the answer may take, however long the wait for a connection was
STOP_TIMEOUT = 5.0  # seconds stop() waits for connections to close


class Handle:
    """The common part; not public. States: "new", "lazy" (attaches on first use), "started", "stopped"."""

    _leases: tuple[type[Any], type[Any], type[Any]]  # without and with their place, and those with priority

    def __init_subclass__(cls) -> None:
        """Each handle has an ``__init__`` that Python calls by the handle's name when arguments are missing."""
        base: Any = Handle.__init__
        own: Any = update_wrapper(FunctionType(base.__code__, base.__globals__, argdefs=base.__defaults__), base)
        own.__kwdefaults__, own.__qualname__ = base.__kwdefaults__, f"{cls.__name__}.__init__"
        cls.__init__ = own  # type: ignore[method-assign]

    def __new__(cls, *_: Any, **given: Any) -> Self:
        check_keywords(cls.__name__, given, _PARAMETERS)
        return super().__new__(cls)

    def __init__(
        self,
        uri: UriSource,
        min_size: int,
        max_size: int | None = 10,
        conn_timeout: float = 30.0,
        keep_alive: float = 900.0,
        check_interval: float = 5.0,
        monitor_batch_size: int = 10,
        *,
        name: str | None = None,
        end_orphans: bool = True,
        reserve: int = 0,
        cluster: ClusterSource | None = None,
        max_idle: float = 600.0,
        max_waiting: int | None = None,
        connect_timeout: float = 5.0,
        connect_concurrency: int = 16,
        configure: Callable[[PySQLXEngineSync], object] | None = None,
        check: Callable[[PySQLXEngineSync], object] | None = None,
        reset: Callable[[PySQLXEngineSync], object] | None = None,
        leak_threshold: float | None = None,
        slow_borrow: float | None = None,
    ) -> None:
        settings = PoolSettings(
            min_size=min_size,
            conn_timeout=conn_timeout,
            keep_alive=keep_alive,
            check_interval=check_interval,
            monitor_batch_size=monitor_batch_size,
            max_idle=max_idle,
            max_waiting=max_waiting,
            connect_timeout=connect_timeout,
            connect_concurrency=connect_concurrency,
            configure=configure,
            check=check,
            reset=reset,
            leak_threshold=leak_threshold,
            slow_borrow=slow_borrow,
        )
        budget = BudgetSettings(uri, max_size, name, end_orphans, reserve, cluster=cluster)
        settings.fits(budget)
        registry.check_environment()
        self._set(*scope.named(budget), settings, "new")

    def _set(
        self,
        budget: BudgetSettings,
        name: str,
        settings: PoolSettings,
        state: str,
        claim: registry.Claim | None = None,
    ) -> None:
        if scope.owns(name):
            settings = settings.within(budget.shared)
        settings.fits(budget)
        self._budget = budget
        self._name = name
        self._settings = settings
        self._lease = self._leases[settings.leak_threshold is not None]
        self._state = state
        self._local: LocalPool | None = None
        self._claim = claim or registry.claim(name)
        self._reserve = self._of_reserve()
        registry.watch_forks(self)

    @classmethod
    def _of(cls, budget: BudgetSettings, name: str, settings: PoolSettings, claim: registry.Claim | None = None) -> Any:
        """A handle that attaches on first use; of one who has a ``claim`` to the budget."""
        handle = cls.__new__(cls)
        handle._set(budget, name, settings, "lazy", claim)
        return handle

    def _of_reserve(self) -> Self | None:
        """For callers with priority. This process is no member there before one of them finds no idle connection."""
        if not self._budget.reserve:
            return None
        settings = replace(self._settings, min_size=0)
        handle: Self = self._of(self._budget.of_reserve(RESERVE), self._name + RESERVE, settings)
        return handle

    # -- information -----------------------------------------------------------------------------------------

    @property
    def uri(self) -> str:
        """The database, with the password; a SQLite file with its absolute path."""
        return str(self._budget.uri)

    @property
    def name(self) -> str:
        """The budget's name; made up when none was given."""
        return self._name

    @property
    def reserve(self) -> int:
        """Permits of the budget that only callers with priority may take."""
        return self._budget.reserve

    @property
    def max_size(self) -> int:
        """Permits of the budget now, over all processes; 0: not known before this process has attached."""
        local = self._local
        return local.max_size if local is not None else self._budget.max_size or 0

    @property
    def min_size(self) -> int:
        """Connections that this process keeps warm."""
        return self._settings.min_size

    @property
    def closed(self) -> bool:
        """Whether `connection()` would refuse."""
        return self._state in ("new", "stopped")

    def stats(self) -> PoolStats:
        """A snapshot of this process's pool. Raises: PoolClosedError."""
        return (self._local or self._resolve()).stats()

    def __repr__(self) -> str:
        local = self._local
        what = self._state
        if local is not None:
            now = local.stats()
            what += f", {now.in_use} in use, {now.idle} idle, {now.waiting} waiting" + ", paused" * now.paused
        database = self._budget.database.key
        return f"<{type(self).__name__} {self._name!r} {database} max_size={self.max_size}: {what}>"

    def __reduce__(self) -> tuple[Any, ...]:
        state = "lazy" if self._state == "started" else self._state
        return _unpickled, (type(self), self._budget, self._name, self._settings, state)

    # -- for the two handles ---------------------------------------------------------------------------------

    def _lease_class(self, priority: bool) -> Any:
        """Raises: ValueError: priority in a budget without a reserve."""
        if not priority:
            return self._lease
        if self._reserve is None:
            raise ValueError(
                f"pool {self._name!r} has no reserve for priority=True: give reserve=n where the budget is made"
            )
        return self._leases[2]

    def _resolve(self) -> LocalPool:
        """This process's pool, attached now if this is its first use. Raises: PoolClosedError."""
        local = self._local
        if local is not None and not local.machine.stopped:
            return local
        self._refuse_closed()
        self._local = local = registry.join(self, self._budget, self._name, self._settings)
        if self.closed:  # a signal handler has stopped it in the meantime
            self._local = None
            registry.part(self, local)
            self._refuse_closed()
        return local

    def _refuse_closed(self) -> None:
        if self.closed:
            raise errors.PoolClosedError(
                f"pool {self._name!r} is {'not started' if self._state == 'new' else 'stopped'}: call start() first"
            )

    def _begin(self, starting: Waiter) -> LocalPool:
        """The first half of start(): attach; the waiter is woken when the first connections stand."""
        if self._state == "started":
            raise errors.PoolAlreadyStartedError(f"pool {self._name!r} is started already")
        if self._local is None:
            self._local = registry.join(self, self._budget, self._name, self._settings, starting)
        else:  # a lazy one that has been used: it stands
            starting.wake()
        self._state = "started"
        return self._local

    def _begun(self, waiter: Waiter) -> None:
        """The second half: keep it if it stands, undo it if not. Raises: why it does not."""
        if waiter.error is None:
            return
        self._end()
        self._state = "new"
        error = waiter.error
        raise type(error)(*error.args) from error.__cause__

    def _end(self) -> list[LocalPool]:
        """The first half of stop(); the pools to wait for, if it was this handle that ended them.

        Raises: PoolAlreadyClosedError.
        """
        if self.closed:
            what = "was never started" if self._state == "new" else "is stopped already"
            raise errors.PoolAlreadyClosedError(f"pool {self._name!r} {what}")
        self._state = "stopped"
        reserve, self._reserve = self._reserve, self._of_reserve()  # it may be started again
        local, self._local = self._local, None
        ended = [local] if local is not None and registry.part(self, local) else []
        return ended if reserve is None or reserve.closed else [*ended, *reserve._end()]

    def _discard(self) -> None:
        """The budget's owner ends it: stop, if running at all, and wait for what can be waited for."""
        if not self.closed:
            self._wait_for(*self._end())

    @staticmethod
    def _wait_for(*pools: LocalPool | None) -> None:
        for pool in pools:
            if pool is not None and not pool.machine.lent:
                pool.agent.join(STOP_TIMEOUT)

    def forked_in_child(self) -> None:
        """Called in a forked child, where this process's pool is another; not for users."""
        self._local = None


_PARAMETERS = tuple(name for name in Handle.__init__.__annotations__ if name != "return")


def _unpickled(cls: type[Handle], budget: BudgetSettings, name: str, settings: PoolSettings, state: str) -> Handle:
    handle = cls.__new__(cls)
    handle._set(budget, name, settings, state)
    return handle
