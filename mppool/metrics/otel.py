"""Pools and budgets as OpenTelemetry observes them, by the names of its semantic conventions (status: development)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from mppool import errors
from mppool.fork_lock import import_late

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation

    from mppool import PoolManager, PySQLXEnginePool, PySQLXEnginePoolSync
    from mppool.stats import BudgetStats, PoolStats

__all__ = ["instrument"]

_POOL, _STATE = "db.client.connection.pool.name", "db.client.connection.state"

#: Instrument, its kind, unit, field of the snapshot and factor. Snapshots that lack the field are left out.
_INSTRUMENTS = (
    ("db.client.connection.max", "up_down_counter", "{connection}", ("pool_max", "max_size"), 1.0),
    ("db.client.connection.idle.max", "up_down_counter", "{connection}", ("pool_max", "max_size"), 1.0),
    ("db.client.connection.idle.min", "up_down_counter", "{connection}", ("pool_min",), 1.0),
    ("db.client.connection.pending_requests", "up_down_counter", "{request}", ("waiting",), 1.0),
    ("db.client.connection.timeouts", "counter", "{timeout}", ("requests_timeouts",), 1.0),
    ("mppool.requests", "counter", "{request}", ("requests_num",), 1.0),
    ("mppool.connections.opened", "counter", "{connection}", ("connections_num",), 1.0),
    ("mppool.create_time", "counter", "s", ("connections_ms",), 0.001),
    ("mppool.wait_time", "counter", "s", ("requests_wait_ms",), 0.001),
    ("mppool.use_time", "counter", "s", ("usage_ms",), 0.001),
)


def instrument(source: PoolManager | PySQLXEnginePool | PySQLXEnginePoolSync, meter: Meter | None = None) -> None:
    """Observe a pool or a budget through the OpenTelemetry SDK that the application has set up.

    Args:
        source: a handle: the pool of this process, as each worker that has an exporter of its own observes it. Or a
            `PoolManager`: the whole budget, over all processes; observe that in one process alone.
        meter: takes the instruments; None: the global meter provider's, called ``mppool``.

    It makes ``db.client.connection.count`` (state ``idle`` or ``used``), ``.max``, ``.idle.max``, ``.idle.min`` (of a
    handle), ``.pending_requests`` and ``.timeouts``, with ``db.client.connection.pool.name``. The conventions'
    ``.create_time``, ``.wait_time`` and ``.use_time`` are histograms, which OpenTelemetry cannot observe: each value
    would have to be recorded as it happens, at each borrow. In their place are the sums ``mppool.create_time``,
    ``mppool.wait_time`` and ``mppool.use_time`` (seconds), and ``mppool.connections.opened`` and ``mppool.requests``
    to divide them by. `BudgetCollector` has the histograms.

    Nothing is observed while the pool is closed, or the budget does not run.

    Raises: ImportError: opentelemetry-api is not installed (``mppool[otel]``).
    """
    api = import_late("opentelemetry.metrics")
    if meter is None:
        meter = api.get_meter("mppool")

    def observed(
        look: Callable[[BudgetStats | PoolStats], Iterable[tuple[float, dict[str, str]]]],
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def callback(_: CallbackOptions) -> list[Observation]:
            try:
                stats = source.stats()
            except errors.PoolError:
                return []
            return [api.Observation(value, {_POOL: stats.name, **more}) for value, more in look(stats)]

        return callback

    make: Any = meter
    make.create_observable_up_down_counter(
        "db.client.connection.count",
        [observed(lambda stats: [(stats.in_use, {_STATE: "used"}), (stats.idle, {_STATE: "idle"})])],
        "{connection}",
    )
    for name, kind, unit, fields, factor in _INSTRUMENTS:
        getattr(make, f"create_observable_{kind}")(name, [observed(_field(fields, factor))], unit)


def _field(names: tuple[str, ...], factor: float) -> Callable[[Any], list[tuple[float, dict[str, str]]]]:
    def look(stats: Any) -> list[tuple[float, dict[str, str]]]:
        return [(factor * getattr(stats, name), {}) for name in names if hasattr(stats, name)]

    return look
