"""Fair shares: what each process would have if permits could be divided."""

from __future__ import annotations


def fair_shares(demands: list[int], permits: int) -> list[float]:
    """The max-min fair division of ``permits`` among processes that use or wait for ``demands`` connections: each gets
    what it demands, up to a level that is the same for all."""
    shares, left, sharers = [0.0] * len(demands), float(permits), len(demands)
    for process in sorted(range(len(demands)), key=demands.__getitem__):
        shares[process] = min(float(demands[process]), left / sharers)
        left -= shares[process]
        sharers -= 1
    return shares
