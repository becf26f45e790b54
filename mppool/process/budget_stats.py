"""A budget's snapshot, read from its ledger. It takes no lock, and neither the manager nor a member does anything."""

from __future__ import annotations

import os
from time import monotonic
from typing import Any

from mppool.core.fair_shares import fair_shares
from mppool.process.recorder import named
from mppool.shared import hosts_file, paths, tenure
from mppool.shared import ledger as L
from mppool.shared import statistics as S
from mppool.stats import BudgetStats, HostStats, MemberStats

_NS = 1e9


def read(ledger: L.Ledger, name: str, database: str) -> BudgetStats:
    """``name``, ``database``: the budget's, as the snapshot is to say."""
    header, statistics, now = ledger.header, ledger.statistics, monotonic()
    rows = ledger.copied_rows()
    ended, blocks = statistics.read(list(rows))
    orphans = sum(row.held for row in rows.values() if row.started == L.NOBODY)
    living = {number: row for number, row in rows.items() if row.started != L.NOBODY}
    demands = [max(0, row.in_use) + max(0, row.waiting) for row in living.values()]
    size = header.cap if header.lease else header.shared
    shares = fair_shares(demands, max(0, size - orphans))
    members = [
        _member(row, share, statistics.oldest(number), blocks.get(number) or [0] * S.SUMS, now)
        for (number, row), share in zip(living.items(), shares, strict=True)
    ]
    sums = list(map(sum, zip(ended, *blocks.values(), strict=True)))
    return BudgetStats(
        name=name,
        database=database,
        max_size=header.max_size,
        reserve=header.reserve,
        manager_pid=header.manager,
        short=header.short,
        members=tuple(members),
        orphans=orphans,
        grants=statistics.get(S.GRANTS),
        recalls=statistics.get(S.RECALLS),
        moves=sums[S.COUNTERS.index("moves")],
        move_ms=header.cost / 1e6,
        successions=statistics.get(S.SUCCESSIONS),
        paused=header.paused > now * _NS,
        resized=bool(header.resized),
        generation=header.generation,
        **named(sums),
        **(_cluster(header, hosts_file.read(os.path.join(paths.folder(name), paths.HOSTS))) if header.lease else {}),
    )


def _cluster(header: L.Header, known: dict[str, Any]) -> dict[str, Any]:
    """What is said of a budget over several hosts. ``known``: by this host's agent."""
    passed = max(0.0, tenure.now_ns() / _NS - known["at"]) if known else 0.0
    hosts = [
        HostStats(
            name=name,
            credit=credit,
            in_use=in_use,
            waiting=waiting,
            wanted=wanted,
            lease_age=age + passed,
            ghost=bool(ghost),
            here=name == tenure.host(header),
        )
        for name, credit, in_use, waiting, wanted, ghost, age in known.get("rows", ())
    ]
    return {
        "cluster": known.get("engine", "?"),
        "cap": header.cap,
        "hosts": tuple(sorted(hosts, key=lambda host: host.name)),
        "learning": header.cluster == tenure.LEARNING,
        "cluster_lost": header.cluster in (tenure.LOST, tenure.REFUSED, tenure.MISMATCH),
        "cluster_error": known.get("error", ""),
    }


def engine_error(name: str) -> str:
    """What the cluster's engine failed with last; empty: nothing."""
    return str(hosts_file.read(os.path.join(paths.folder(name), paths.HOSTS)).get("error", ""))


def _member(row: L.MemberRow, share: float, oldest: tuple[int, str], sums: list[int], now: float) -> MemberStats:
    held, in_use, moving = row.held, row.in_use, row.moving
    since, (use_since, place) = row.since, oldest
    counted: dict[str, Any] = named(sums)
    return MemberStats(
        pid=row.pid,
        credit=row.credit,
        in_use=in_use,
        idle=max(0, held - in_use - moving),
        opening=moving,
        waiting=row.waiting,
        share=share,
        waiting_for=max(0.0, now - since / _NS) if since else 0.0,
        oldest_use=max(0.0, now - use_since / _NS) if use_since else 0.0,
        oldest_place=place,
        **counted,
    )
