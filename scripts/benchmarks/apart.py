"""Processes that are hosts: each has a runtime folder of its own, so that they share a budget by its engine alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature

from scripts.benchmarks.contract import Skip
from scripts.benchmarks.engines import PrivateEngine
from scripts.benchmarks.peers import Face, mppool_of

KEPT = 1  # permits of a budget over several hosts that no host gets


def need_clusters() -> None:
    """Raises: Skip."""
    from mppool import PoolManager

    if "cluster" not in signature(PoolManager).parameters:
        raise Skip("this mppool has no budgets over hosts")


@contextmanager
def as_host(uri: str, permits: int, folder: str, engine: PrivateEngine | None) -> Iterator[Face]:
    """Make this process a host, and open a pool in it.

    Args:
        uri: of the database.
        permits: for all hosts.
        folder: where the runtime folder is made.
        engine: of the budget; None: it is this host's alone.
    """
    from mppool import PoolManager

    os.environ["MPPOOL_RUNTIME_DIR"] = os.path.join(folder, f"{os.getpid()}")
    os.mkdir(os.environ["MPPOOL_RUNTIME_DIR"], 0o700)
    if engine is None:
        with PoolManager(uri, permits) as manager, mppool_of(manager) as face:
            yield face
        return
    with (
        PoolManager(uri, permits + KEPT, engine.name, cluster=engine.uri) as manager,
        mppool_of(manager) as face,
    ):
        yield face
