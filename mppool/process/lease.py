"""One borrow, from the moment a ``with`` block is entered until it is left: what both handles' leases share.

The faces differ only in how they wait. Leaving a block waits for nothing, whatever was left behind: a transaction
still open is rolled back in the workshop before anybody else gets the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from mppool.core.pool import Slot

if TYPE_CHECKING:
    from mppool.process.handle import Handle
    from mppool.process.local import LocalPool


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


class Lease:
    __slots__ = ("_handle", "_local", "_slot", "_timeout")

    _WORD: ClassVar[str]
    _local: LocalPool
    _slot: Slot

    def __init__(self, handle: Handle, timeout: float | None) -> None:
        self._handle = handle
        self._timeout = timeout

    def __getattr__(self, name: str) -> Any:
        word = type(self)._WORD
        raise AttributeError(
            f"pool.connection() has no {name!r}: it is what a block borrows with, and not a connection. "
            f"Write `{word} pool.connection() as conn:`, and use conn in the block"
        )

    def _at_once(self) -> Slot | None:
        """An idle connection, if there is one."""
        local = self._local = self._handle._local or self._handle._resolve()
        return local.borrow()

    def _patience(self) -> float:
        """Seconds to wait for one. The pool may have been stopped and started since it was looked at."""
        self._local = self._handle._resolve()
        return self._handle._settings.conn_timeout if self._timeout is None else self._timeout

    def _lend(self, slot: Slot, face_class: Any) -> Any:
        self._slot = slot
        face = slot.face = face_class.lend(slot.link)
        return face

    def _give_back(self, failed: bool) -> None:
        slot, local = self._slot, self._local
        try:
            slot.face._take_back()
            slot.face = None
            local.give_back(slot, failed)
        except BaseException:  # Ctrl-C, most likely while another thread had the lock
            if slot in local.machine.borrowed:
                local.give_back(slot)
            raise
