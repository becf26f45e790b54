"""What the OpenTelemetry SDK exports of a pool and of a budget."""

from __future__ import annotations

from typing import Any

import pytest

from mppool import PoolManager
from mppool.metrics import instrument
from tests.waiting import until

sdk = pytest.importorskip("opentelemetry.sdk.metrics")
export = pytest.importorskip("opentelemetry.sdk.metrics.export")


def exported(source: Any) -> Any:
    """A function that collects: values by instrument and state, and the instruments' kinds."""
    reader = export.InMemoryMetricReader()
    provider = sdk.MeterProvider([reader])
    instrument(source, provider.get_meter("test"))

    def collect() -> tuple[dict[str, float], dict[str, Any]]:
        data = reader.get_metrics_data()
        values, kinds = {}, {}
        for scope in [] if data is None else data.resource_metrics[0].scope_metrics:
            for metric in scope.metrics:
                kinds[metric.name] = (metric.data.is_monotonic, metric.unit)
                for point in metric.data.data_points:
                    attributes = dict(point.attributes)
                    assert attributes.pop("db.client.connection.pool.name") == "shop"
                    values[" ".join([metric.name, *attributes.values()])] = point.value
        return values, kinds

    return collect


COMMON = {
    "db.client.connection.count": (False, "{connection}"),
    "db.client.connection.max": (False, "{connection}"),
    "db.client.connection.idle.max": (False, "{connection}"),
    "db.client.connection.pending_requests": (False, "{request}"),
    "db.client.connection.timeouts": (True, "{timeout}"),
    "mppool.requests": (True, "{request}"),
    "mppool.connections.opened": (True, "{connection}"),
    "mppool.create_time": (True, "s"),
    "mppool.wait_time": (True, "s"),
    "mppool.use_time": (True, "s"),
}


def test_a_budget_and_a_process_by_the_names_of_the_conventions(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 3, "shop") as manager, manager.pool(1) as pool:
        budget, process = exported(manager), exported(pool)
        with pool.connection():
            until(lambda: budget()[0]["mppool.requests"])  # each process publishes its sums four times a second
            (of_budget, kinds), (of_process, more) = budget(), process()
    assert kinds == COMMON
    assert more == {**COMMON, "db.client.connection.idle.min": (False, "{connection}")}
    for values in (of_budget, of_process):
        assert values["db.client.connection.count used"] == 1
        assert values["db.client.connection.count idle"] == 0
        assert values["db.client.connection.max"] == values["db.client.connection.idle.max"] == 3
        assert values["mppool.requests"] == 1
    assert of_process["db.client.connection.idle.min"] == 1
    assert process()[0] == {}, "a closed pool is not observed"
