"""Modules imported late, by whichever thread first needs them, but never in the middle of a fork.

A module that is being imported is locked by its importer. In a child forked at that moment nobody will ever unlock it,
and the first who needs the module there waits for ever. So late imports and forks take turns.
"""

from __future__ import annotations

import os
import threading
from importlib import import_module
from types import ModuleType

__all__ = ["late"]

_turn = threading.RLock()  # the thread that forks has it, in the parent and in the child


def late(name: str) -> ModuleType:
    """The module of that name, imported now if it was not yet."""
    with _turn:
        return import_module(name)


os.register_at_fork(
    before=_turn.acquire,
    after_in_parent=_turn.release,
    after_in_child=_turn.release,
)
