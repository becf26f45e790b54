"""One borrow, from the moment a ``with`` block is entered until it is left: what both handles' leases share.

The leases of the two handles differ only in how they wait. Leaving a block never waits: a transaction that is still
open is rolled back by the connector before the connection is lent again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from mppool import errors
from mppool.core.slots import Slot, Waiter

if TYPE_CHECKING:
    from mppool.settings import PoolSettings

new: Any = object.__new__
L = TypeVar("L", bound="Lease")


def misused(advice: str) -> Any:
    """A method that Python calls when a lease or a handle is used in a way that it is not for."""

    def refuse(*_: object) -> None:
        raise TypeError(advice)

    return refuse


THREADS_ONLY = (
    "PySQLXEnginePoolSync is for threads: `with pool.connection() as conn`, without async and await. "
    "In coroutines use PySQLXEnginePool, from PoolManager.async_pool()"
)
TASKS_ONLY = (
    "PySQLXEnginePool is for coroutines: `async with pool.connection() as conn`. "
    "In threads use PySQLXEnginePoolSync, from PoolManager.pool()"
)


class _Misplaced:
    """An attribute of a connection, looked for on a lease. ``__getattr__`` would slow every borrow down."""

    def __init__(self, name: str, word: str) -> None:
        self._name, self._word = name, word

    def __get__(self, lease: object, owner: type) -> NoReturn:
        raise AttributeError(
            f"pool.connection() has no {self._name!r}: it is what a block borrows with, and not a connection. "
            f"Write `{self._word} pool.connection() as conn:`, and use conn in the block"
        )


def lends(face: type, word: str) -> Callable[[type[L]], type[L]]:
    """A class decorator: leases of this class lend such connections to ``word`` blocks, and say so when they are used
    as if they were connections themselves."""

    def decorate(cls: type[L]) -> type[L]:
        for name in dir(face):
            if not name.startswith("_") and not hasattr(cls, name):
                setattr(cls, name, _Misplaced(name, word))
        return cls

    return decorate


class Bound(float):
    """A timeout, in seconds, that goes on in a pause."""


class Lender(Protocol):
    """The parts of a local pool that a lease uses."""

    def borrow(self, caller: Waiter) -> Slot | None: ...
    def line_up(self, caller: Waiter) -> Slot | None: ...
    def patience_left(self, caller: Waiter, timeout: float) -> float: ...
    def outcome(self, caller: Waiter, waited: float | None) -> Slot: ...
    def give_back(self, caller: Waiter) -> None: ...
    def leave_over(self, caller: Waiter) -> None: ...
    def end(self, caller: Waiter) -> None: ...


class LeaseMaker(Protocol):
    """The parts of a handle that a lease uses."""

    @property
    def name(self) -> str: ...
    @property
    def _local(self) -> Lender | None: ...
    @property
    def _settings(self) -> PoolSettings: ...
    @property
    def _reserve(self) -> LeaseMaker | None: ...
    def _resolve(self) -> Lender: ...


class Lease(Waiter):
    """Its pool knows it from the moment a connection is lent to it. It can be entered once.

    Handles make it without ``__init__``, lend and give back in one method each: one more call is noticed.
    """

    __slots__ = ("_face", "_handle", "_local", "_timeout", "_waiter")

    _handle: LeaseMaker
    _timeout: float | None
    _local: Lender | None  # where; None: it has not been entered
    _face: Any  # what was lent
    _waiter: Waiter  # of a caller that waits

    def _refuse(self) -> NoReturn:
        raise errors.LeaseReusedError(
            f"pool {self._handle.name!r}: this borrow has been entered before; call connection() for each block"
        )

    def _patience(self) -> tuple[Lender, float]:
        """Where to wait for a connection, and for how many seconds. The pool may have been stopped and started since it
        was looked at."""
        local = self._local = self._handle._resolve()
        self.error = None
        return local, self._handle._settings.conn_timeout if self._timeout is None else self._timeout

    def _go_to_reserve(self) -> Lender:
        """Borrow from the reserve instead of the pool."""
        self._handle = self._handle._reserve or self._handle
        return self._patience()[0]

    def wake(self) -> bool:
        return self._waiter.wake()

    def let_go(self) -> None:
        if self._face is not None:
            self._face._take_back()

    def leave_to_parent(self) -> None:
        if self._face is not None:
            self._face._leave_to_parent()

    def _not_entered(self) -> None:
        """The borrow failed, or was cancelled or interrupted: no ``__exit__`` will follow."""
        if self._local is not None:
            self._local.end(self)


def faces(borrowed: dict[Slot, Waiter]) -> list[Any]:
    """The connections that blocks have."""
    return [lease._face for lease in list(borrowed.values()) if isinstance(lease, Lease) and lease._face]


def forgotten(borrowed: dict[Slot, Waiter]) -> list[Lease]:
    """Leases that only the pool refers to: no code can use their connections, or give them back.

    Python can raise KeyboardInterrupt after the last statement of a ``with`` block and before the first of its
    ``__exit__``, where a program cannot catch it. Counting references costs a borrow nothing; a finaliser would.
    """
    found: list[Lease] = []
    for slot in list(borrowed):
        lease = borrowed[slot]
        # The machine, ``lease`` and the argument here refer to it; to its face it does itself, and the argument.
        if sys.getrefcount(lease) > 3 or not isinstance(lease, Lease):
            continue
        if lease._face is None or sys.getrefcount(lease._face) <= 2:
            found.append(lease)
    return found
