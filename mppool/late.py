"""What must not happen in the middle of a fork: modules imported late, by whichever thread first needs them, and more.

A module that is being imported is locked by its importer. In a child forked at that moment nobody will ever unlock it,
and the first who needs the module there waits for ever. So late imports and forks take turns.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

__all__ = ["late", "no_fork"]

_turn = threading.RLock()  # the thread that forks has it, in the parent and in the child


def late(name: str) -> ModuleType:
    """The module of that name, imported now if it was not yet."""
    with _turn:
        return import_module(name)


@contextmanager
def no_fork() -> Iterator[None]:
    """No other thread forks during the block: for descriptors that no child may have a copy of."""
    with _turn:
        yield


os.register_at_fork(
    before=_turn.acquire,
    after_in_parent=_turn.release,
    after_in_child=_turn.release,
)
