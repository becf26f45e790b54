"""The fork lock: what must not happen while another thread forks. Deferred imports take it, and forks take it.

Python locks a module while it imports it. A child that is forked at that moment inherits the lock, and nobody there
releases it: the first thread of the child that imports the module waits for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from mppool.fork_hooks import lock

__all__ = ["import_late", "no_fork"]


def import_late(name: str) -> ModuleType:
    """Return the module of this name; import it first if it is not imported yet."""
    with lock:
        return import_module(name)


@contextmanager
def no_fork() -> Iterator[None]:
    """Keep other threads from forking during the block: no child may inherit the descriptors it opens."""
    with lock:
        yield
