"""The fork lock: what must not happen while another thread forks. Deferred imports take it, and forks take it.

Python locks a module while it imports it. A child that is forked at that moment inherits the lock, and nobody there
releases it: the first thread of the child that imports the module waits for ever.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

__all__ = ["import_late", "no_fork"]

_fork_lock = threading.RLock()  # the thread that forks holds it, in the parent and in the child


def import_late(name: str) -> ModuleType:
    """Return the module of this name; import it first if it is not imported yet."""
    with _fork_lock:
        return import_module(name)


@contextmanager
def no_fork() -> Iterator[None]:
    """Keep other threads from forking during the block: no child may inherit the descriptors it opens."""
    with _fork_lock:
        yield


os.register_at_fork(
    before=_fork_lock.acquire,
    after_in_parent=_fork_lock.release,
    after_in_child=_fork_lock.release,
)
