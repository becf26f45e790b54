"""Budgets as Prometheus' client library collects them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mppool import PoolManager, errors, host
from mppool.fork_lock import import_late
from mppool.stats import BudgetStats, Histogram

if TYPE_CHECKING:
    from prometheus_client.core import HistogramMetricFamily, Metric

__all__ = ["BudgetCollector"]

#: One bucket an octave, from 15 µs to 64 s, of those that are counted; and the one above all.
_BUCKETS = [at for at, bound in enumerate(Histogram.bounds) if 2.0**-16 <= bound <= 64 and at % 2 == 0]

#: Metric, field of `BudgetStats`, factor, what it tells.
_GAUGES = (
    ("max_connections", "max_size", 1, "Permits of the budget: connections that may be open."),
    ("permits_reserved", "reserve", 1, "Permits for callers with priority: those of the budget NAME.reserve."),
    ("permits_free", "free", 1, "Permits that no process has."),
    ("permits_short", "short", 1, "Permits that processes want and that could not be granted."),
    ("requests_waiting", "waiting", 1, "Callers that wait for a connection."),
    ("paused", "paused", 1, "1: the budget is paused, and nothing is lent."),
    ("move_seconds", "move_ms", 0.001, "What moving a permit to another process costs, as measured."),
)
_COUNTERS = (
    ("requests", "requests_num", 1, "Connections that callers asked for."),
    ("requests_queued", "requests_queued", 1, "Requests that had to wait."),
    ("requests_errors", "requests_errors", 1, "Requests that failed, timeouts among them."),
    ("requests_timeouts", "requests_timeouts", 1, "Requests that waited in vain."),
    ("returns_bad", "returns_bad", 1, "Connections that came back broken or in doubt."),
    ("connection_attempts", "connections_num", 1, "Attempts to open a connection."),
    ("connection_opening_seconds", "connections_ms", 0.001, "Time spent opening connections."),
    ("connection_errors", "connections_errors", 1, "Attempts to open a connection that failed."),
    ("connections_refused", "connections_refused", 1, "Attempts that the server refused because it was full."),
    ("connections_lost", "connections_lost", 1, "Connections found dead, or ended by the server."),
    ("connections_closed", "connections_closed", 1, "Connections closed."),
    ("rollbacks", "rollbacks", 1, "Transactions that borrowers left open."),
    ("leaks", "leaks", 1, "Borrows held for longer than leak_threshold, or never given back."),
    ("grants", "grants", 1, "Permits granted to processes."),
    ("recalls", "recalls", 1, "Permits taken back from processes that did not use them."),
    ("moves", "moves", 1, "Permits that went from one process to another."),
    ("successions", "successions", 1, "Managers that took over from one that had died."),
)
_HISTOGRAMS = (
    ("wait_seconds", "wait", "requests_wait_ms", "How long requests waited, also those served at once."),
    ("use_seconds", "usage", "usage_ms", "How long connections were borrowed."),
)
_STATES = ("in_use", "idle", "opening")


class BudgetCollector:
    """Collects running budgets for a registry of prometheus-client: ``REGISTRY.register(BudgetCollector("shop"))``.

    Register it in one process alone, or in one for each budget: it tells of all processes of a budget. It needs no
    multiprocess mode.

    Args:
        names: of the budgets; none: all that run for this user at the time of each scrape.
        processes: how many processes are told of one by one (the gauges with a label ``pid``), those with the most
            connections and waiting callers first; 0: none. Each process that comes and goes leaves a series behind in
            Prometheus, so this limits how many there are at a time.

    A budget that does not run has ``mppool_up`` 0 and nothing else.
    """

    def __init__(self, *names: str, processes: int = 100) -> None:
        self._names, self._processes = names, processes
        self._managers: dict[str, PoolManager] = {}

    def describe(self) -> list[Any]:
        """Nothing: a registry that asked would have to collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics of all budgets, read now; prometheus-client calls it at each scrape.

        Raises: ImportError: prometheus-client is not installed (``mppool[metrics]``).
        """
        core = import_late("prometheus_client.core")
        names = self._names or [budget.name for budget in host.budgets() if budget.managed]
        found = {name: self._stats(name) for name in names}
        self._managers = {name: manager for name, manager in self._managers.items() if found.get(name) is not None}
        up = core.GaugeMetricFamily("mppool_up", "1: the budget runs.", labels=["budget"])
        for name, stats in found.items():
            up.add_metric([name], stats is not None)
        yield up
        yield from _families(core, [stats for stats in found.values() if stats is not None], self._processes)

    def _stats(self, name: str) -> BudgetStats | None:
        try:
            if name not in self._managers:
                self._managers[name] = PoolManager.attach(name)
            return self._managers[name].stats()
        except errors.PoolError:
            return None


def _families(core: Any, budgets: list[BudgetStats], processes: int) -> Iterator[Metric]:
    for name, field, factor, text in _GAUGES:
        gauge = core.GaugeMetricFamily(f"mppool_{name}", text, labels=["budget"])
        for stats in budgets:
            gauge.add_metric([stats.name], factor * getattr(stats, field))
        yield gauge
    members = core.GaugeMetricFamily("mppool_processes", "Processes at the budget.", labels=["budget"])
    text = "Connections by state; orphaned: of ended processes, and not ended by the server."
    states = core.GaugeMetricFamily("mppool_connections", text, labels=["budget", "state"])
    for stats in budgets:
        members.add_metric([stats.name], len(stats.members))
        for state in _STATES:
            states.add_metric([stats.name, state], getattr(stats, state))
        states.add_metric([stats.name, "orphaned"], stats.orphans)
    yield from (members, states)
    for name, field, factor, text in _COUNTERS:
        counter = core.CounterMetricFamily(f"mppool_{name}", text, labels=["budget"])
        for stats in budgets:
            counter.add_metric([stats.name], factor * getattr(stats, field))
        yield counter
    for name, field, total, text in _HISTOGRAMS:
        family: HistogramMetricFamily = core.HistogramMetricFamily(f"mppool_{name}", text, labels=["budget"])
        for stats in budgets:
            family.add_metric([stats.name], _buckets(getattr(stats, field)), getattr(stats, total) / 1000)
        yield family
    yield from _of_clusters(core, [stats for stats in budgets if stats.cluster])
    if processes:
        yield from _by_process(core, budgets, processes)


def _of_clusters(core: Any, budgets: list[BudgetStats]) -> Iterator[Metric]:
    """Of budgets over several hosts: how this one stands."""
    for name, text, look in (
        ("cap", "Permits that this host may use.", lambda stats: stats.cap),
        ("hosts", "Hosts of the budget.", lambda stats: sum(not each.ghost for each in stats.hosts)),
        (
            "ghosts",
            "Connections of hosts that are gone.",
            lambda stats: sum(each.credit * each.ghost for each in stats.hosts),
        ),
        ("learning", "1: the engine's data are new, and no host gets more yet.", lambda stats: stats.learning),
        ("lost", "1: the engine does not answer or refuses this host: it opens nothing.", lambda s: s.cluster_lost),
    ):
        gauge = core.GaugeMetricFamily(f"mppool_cluster_{name}", text, labels=["budget"])
        for stats in budgets:
            gauge.add_metric([stats.name], look(stats))
        if budgets:
            yield gauge


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Prometheus' buckets, of which each holds those below it, too."""
    found, below, at = [], 0, 0
    for last in _BUCKETS:
        below, at = below + sum(histogram.counts[at : last + 1]), last + 1
        found.append((f"{Histogram.bounds[last]:.9g}", below))
    return [*found, ("+Inf", histogram.count)]


def _by_process(core: Any, budgets: list[BudgetStats], processes: int) -> Iterator[Metric]:
    labels = ["budget", "pid"]
    text = "Connections of a process by state."
    states = core.GaugeMetricFamily("mppool_process_connections", text, labels=[*labels, "state"])
    waiting = core.GaugeMetricFamily(
        "mppool_process_requests_waiting", "Callers that wait in a process.", labels=labels
    )
    text = "How long the longest borrow of a process has lasted, where it has one and tells."
    oldest = core.GaugeMetricFamily("mppool_process_oldest_use_seconds", text, labels=labels)
    for stats in budgets:
        first = sorted(stats.members, key=lambda member: member.held + member.waiting, reverse=True)[:processes]
        for member in first:
            pid = str(member.pid)
            states.add_metric([stats.name, pid, "in_use"], member.in_use)
            states.add_metric([stats.name, pid, "idle"], member.idle)
            waiting.add_metric([stats.name, pid], member.waiting)
            if member.oldest_use:
                oldest.add_metric([stats.name, pid], member.oldest_use)
    yield from (states, waiting, oldest)
