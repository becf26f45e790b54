"""What this process has of every budget: its local pools, one a budget, and the handles that use them.

Two events end a pool from outside, and both are handled here: a fork (the child starts with nothing, and drops what it
inherited without touching the wire) and the interpreter's exit.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from functools import partial
from typing import Protocol

from mppool import errors, fork_hooks
from mppool.core.slots import Waiter
from mppool.database import contract
from mppool.exit_hooks import run_first_at_exit
from mppool.membership import asking
from mppool.process import greenlets
from mppool.process.local import LocalPool
from mppool.settings import BudgetSettings, PoolSettings
from mppool.shared import paths

EXIT_TIMEOUT = 5.0  # seconds that the interpreter's exit may wait for connections to close


class Forkable(Protocol):
    def forked_in_child(self) -> None: ...


_lock = threading.RLock()  # a signal handler that stops a pool may interrupt the thread that has it
_pools: dict[str, LocalPool] = {}
_users: dict[str, weakref.WeakSet[Forkable]] = {}  # the handles that use it, as long as they are referred to
_forkables: weakref.WeakSet[Forkable] = weakref.WeakSet()


def check_environment() -> None:
    """Raises: ValueError: what the environment says cannot be."""
    try:
        paths.chosen()
    except paths.UnsafeFolder as error:
        raise ValueError(str(error)) from None


def watch_forks(forkable: Forkable) -> None:
    """Have this object told when it finds itself in a forked child."""
    _forkables.add(forkable)


class Claim:
    """What all have that can reach a budget's pool here: a reference shared by the handles of one maker and itself."""

    __slots__ = ("__weakref__",)


def claim(name: str) -> Claim | None:
    """A new claim to a budget whose name was made up in this process; None: others may say that name, too.

    When nothing refers to it any more, though `stop` was never called, the pool ends: its connections are closed, those
    still borrowed when they come back, and its manager need not stay for it.
    """
    if not name.startswith(f"own-{os.getpid()}-"):
        return None
    made = Claim()
    weakref.finalize(made, _forgotten, name).atexit = False
    return made


def _forgotten(name: str) -> None:
    """Called by the garbage collector, in the middle of anything: the pool's own thread does the rest."""
    pool = _pools.get(name)
    if pool is not None:
        pool.forgotten = partial(end_unused, name)
        pool.agent.wake()


def join(
    user: Forkable, budget: BudgetSettings, name: str, settings: PoolSettings, starting: Waiter | None = None
) -> LocalPool:
    """This process's pool at a budget, made now if need be; `part` when done with it. Joining twice is joining once.

    Raises: BudgetMismatchError, ValueError when another handle of this process uses it with settings that clash.
        UnsupportedError: gevent or eventlet has patched this process. ReentrantBorrowError: this thread is inside here.
        PoolClosedError: the interpreter is exiting, and has stopped its pools.
        ManagerUnavailableError: the budget is another user's, or its place is not to be had.
    """
    greenlets.refuse()
    asking.check_place(name)
    if _lock._is_owned():  # type: ignore[attr-defined]
        raise errors.ReentrantBorrowError(
            f"pool {name!r}: a signal handler or a finaliser uses it for the first time while its thread attaches to a "
            "pool, which it interrupted there; let the handler set a flag"
        )
    with _lock:
        if not contract.is_exiting():  # else `_exit` would not see another one
            return _join(user, budget, name, settings, starting)
    contract.block_if_exiting()
    raise errors.PoolClosedError(f"pool {name!r} is stopped: the interpreter is exiting")


def _join(
    user: Forkable, budget: BudgetSettings, name: str, settings: PoolSettings, starting: Waiter | None
) -> LocalPool:
    """Under the lock."""
    pool, users = _pools.get(name), _users.get(name)
    if pool is None or users is None or pool.machine.stopped:
        _users[name] = users = weakref.WeakSet()
        pool = _pools[name] = LocalPool(budget, name, settings, starting)
    elif user not in users:
        pool.adapt(budget, settings)
        if starting is not None:
            pool.openings.tell_when_warm(starting)
    users.add(user)
    return pool


def part(user: Forkable, pool: LocalPool) -> bool:
    """A handle is done with a pool; True: it was the last, the pool is stopping."""
    with _lock:
        if _pools.get(pool.name) is not pool:
            return False
        _users[pool.name].discard(user)
    return end_unused(pool.name) is not None


def end_unused(name: str) -> LocalPool | None:
    """Stop the pool of that name if no handle uses it any more; the pool then."""
    with _lock:
        if name not in _pools or len(_users[name]):
            return None
        pool = _pools.pop(name)
        del _users[name]
    pool.stop()
    return pool


def _before_fork() -> None:
    if _forkables:  # it takes 5 ms once; each child that uses the pool saves as much
        contract.make_spare()


def _forked_in_child() -> None:
    global _lock
    paths.forked_in_child()
    _lock = threading.RLock()
    inherited = list(_pools.values())
    _pools.clear()
    _users.clear()
    for pool in inherited:
        pool.abandon()
    for forkable in list(_forkables):
        forkable.forked_in_child()


def _exit() -> None:
    """Stop lending, close what is idle, leave. What is still borrowed (by daemon threads) goes with the process."""
    contract.exit_begins()
    deadline = time.monotonic() + EXIT_TIMEOUT
    with _lock:
        pools = list(_pools.values())
        _pools.clear()
        _users.clear()
    for pool in pools:
        pool.stop()
    for pool in pools:
        if not pool.machine.lent:
            pool.agent.join(max(0.0, deadline - time.monotonic()))
    contract.settle()


fork_hooks.register(fork_hooks.POOLS, before=_before_fork, in_child=_forked_in_child)
run_first_at_exit(_exit)
