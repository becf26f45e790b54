"""The engine that a url names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mppool.cluster.contract import Engine

__all__ = ["engine_of"]

TIMEOUT = 1.0  # seconds that a call may take


def engine_of(url: str, name: str, timeout: float = TIMEOUT) -> Engine:
    """An engine object for one budget. Nothing is connected yet.

    Args:
        url: as `mppool.cluster_url` has checked it.
        name: of the budget.
        timeout: seconds that a call may take.

    Raises:
        ImportError: its client is not installed. ValueError: a bad url.
    """
    if url.startswith("postgres"):
        from mppool.cluster.postgres_engine import PostgresEngine

        return PostgresEngine(url, name, timeout=timeout)
    from mppool.cluster.redis_engine import RedisEngine

    return RedisEngine(url, name, timeout=timeout)
