"""Connections of a budget over several hosts: when one may be opened, and how it is marked as this host's.

The lease is looked at before a connection is opened and after: if it has ended meanwhile, the permit may have been
given to another host. An open that is under way when it ends must not take longer than `tenure.SLACK`: after that
another host may count what this one has.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from mppool import errors
from mppool.process import budget_stats
from mppool.shared import tenure
from mppool.shared.tags import tag

if TYPE_CHECKING:
    from mppool.process.state import PoolState
    from mppool.shared.ledger import Header
    from mppool.uri import Database

logger = logging.getLogger("mppool.pool")

__all__ = ["Standing", "check_lease", "cluster_error", "host_cap", "is_refused", "mismatch", "ready_to_open", "why_not"]


def _header(pool: PoolState) -> Header:
    """What the manager says. Any thread, without the lock: the seat may be left just now, and its ledger closed."""
    header = pool.row.header
    try:
        header.lease  # noqa: B018
    except ValueError:
        header = pool.row.header
    return header


def ready_to_open(pool: PoolState, database: Database, timeout: float) -> tuple[Database, float]:
    """How to open a connection now: where to, and the seconds that it may take; as given, if there is one host.

    Raises: ConnectError: this host may not open any.
    """
    header = _header(pool)
    left = tenure.left(header)
    if left is None:
        return database, timeout
    if left <= 0.0:
        raise _lapsed(header)
    limit = min(timeout, max(1.0, math.floor(left + tenure.SLACK)))
    return database.tagged(tag(pool.name, tenure.host(header)), limit), limit


def check_lease(pool: PoolState) -> None:
    """A connection has been opened. Raises: ConnectError: it must be closed again."""
    header = _header(pool)
    if not tenure.is_open(header):
        raise _lapsed(header)


def _lapsed(header: Header) -> errors.ConnectError:
    why = tenure.why_not(header) or "the lease of this host has ended"
    return errors.ConnectError("0", why, where=tenure.host(header), reason="no lease")


def cluster_error(name: str, header: Header) -> errors.PoolError:
    """What this host's standing with the engine is, as an error."""
    said = budget_stats.engine_error(name) if header.cluster in (tenure.LOST, tenure.REFUSED) else ""
    text = f"budget {name!r}: {tenure.why_not(header)}" + (f": {said}" if said else "")
    kind = errors.BudgetMismatchError if header.cluster == tenure.MISMATCH else errors.ManagerUnavailableError
    return kind(text)


def mismatch(pool: PoolState) -> errors.PoolError | None:
    """Why callers need not wait: the budget has another size on other hosts. None: it has not."""
    header = _header(pool)
    return cluster_error(pool.name, header) if header.cluster == tenure.MISMATCH else None


class Standing:
    """Logs when this host loses the engine, and when it has it again. On the agent's thread."""

    def __init__(self, pool: PoolState) -> None:
        self._pool, self._is_lost = pool, False

    def tell(self) -> None:
        """Look, and log what has changed."""
        header = _header(self._pool)
        state = header.cluster
        if state in (tenure.LOST, tenure.REFUSED) and not self._is_lost:
            self._is_lost = True
            logger.warning("pool %s: %s", self._pool.name, cluster_error(self._pool.name, header))
        elif state in (tenure.AGREED, tenure.LEARNING) and self._is_lost:
            self._is_lost = False
            logger.info("pool %s: the cluster's engine answers again", self._pool.name)


def is_refused(pool: PoolState) -> bool:
    """Whether the engine refuses this host."""
    return _header(pool).cluster == tenure.REFUSED


def host_cap(pool: PoolState) -> int | None:
    """Permits that this host may use just now; None: the budget is its alone."""
    header = _header(pool)
    return header.cap if header.lease else None


def why_not(pool: PoolState) -> str:
    """Why this host may get no more permits just now, in words; empty: nothing is wrong."""
    header = _header(pool)
    why = tenure.why_not(header)
    said = budget_stats.engine_error(pool.name) if header.cluster in (tenure.LOST, tenure.REFUSED) else ""
    return f"{why} ({said})" if said else why
