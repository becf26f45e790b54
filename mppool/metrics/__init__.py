"""A budget's numbers for monitoring: Prometheus (``mppool[metrics]``) and OpenTelemetry (``mppool[otel]``).

Both read snapshots of the ledger when they are asked: one process sees all processes of a budget, and no borrower is
slowed. For Prometheus it is enough that one process serves them, such as ``mppool metrics --listen 127.0.0.1:9187``.
"""

from __future__ import annotations

from mppool.metrics.otel import instrument
from mppool.metrics.prometheus import BudgetCollector

__all__ = ["BudgetCollector", "instrument"]
