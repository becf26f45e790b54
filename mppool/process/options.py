"""The keyword arguments of `PoolManager.pool`, `.async_pool` and `.jobs`, for type checkers.

They are the fields of `mppool.settings.PoolSettings`, all optional; a test keeps the two alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

from mppool.database.connection.sync_connection import PySQLXEngineSync

__all__ = ["PoolOptions"]


class PoolOptions(TypedDict, total=False):
    """What each parameter means, its unit and its default: see `mppool.PySQLXEnginePoolSync`."""

    conn_timeout: float
    keep_alive: float
    check_interval: float
    monitor_batch_size: int
    max_idle: float
    max_waiting: int | None
    connect_timeout: float
    connect_concurrency: int
    configure: Callable[[PySQLXEngineSync], object] | None
    check: Callable[[PySQLXEngineSync], object] | None
    reset: Callable[[PySQLXEngineSync], object] | None
    leak_threshold: float | None
    slow_borrow: float | None
