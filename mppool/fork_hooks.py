"""Forks: every hook of this package is registered here, and their order is said here.

Before a fork, in this order:

    POOLS   a spare copy of the driver's library is made for the child
    lock    the fork lock is taken (`mppool.fork_lock`): no other thread is importing or opening descriptors now

After it the lock is released, in the parent and in the child; then, in the child only:

    DRIVER  what the child inherited of the driver is dead: its connections are abandoned, their sockets closed
    POOLS   the parent's pools are abandoned, and every handle begins anew
    JOBS    the locks of the parent's workers are new ones

The lock is taken and released by methods of C: no signal handler can come between one of them and its fork.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack

__all__ = ["DRIVER", "JOBS", "POOLS", "lock", "register"]

DRIVER, POOLS, JOBS = range(3)

lock = threading.RLock()  # the thread that forks holds it, in the parent and in the child

_before: dict[int, Callable[[], object]] = {}
_in_child: dict[int, Callable[[], object]] = {}


def register(order: int, *, in_child: Callable[[], object], before: Callable[[], object] | None = None) -> None:
    """Have something done at each fork of this process, and of its children.

    Args:
        order: `DRIVER`, `POOLS` or `JOBS`; each has one hook.
        in_child: called in the child, in ascending order.
        before: called in the parent, in descending order.
    """
    _in_child[order] = in_child
    if before is not None:
        _before[order] = before


def _run(hooks: dict[int, Callable[[], object]], orders: list[int]) -> None:
    """Call the hooks in this order. One that raises keeps no other from running; Python reports the error."""
    with ExitStack() as stack:
        for order in reversed(orders):
            stack.callback(hooks[order])


# Python runs what is registered last first before a fork, and last after it.
os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
os.register_at_fork(
    before=lambda: _run(_before, sorted(_before, reverse=True)),
    after_in_child=lambda: _run(_in_child, sorted(_in_child)),
)
