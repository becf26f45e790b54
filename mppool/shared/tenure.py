"""Whether this host may open connections just now: its lease of a budget that several hosts share.

The ledger's header says until when (`lease`). Members look there before a connection is opened, and after: a manager
that has died, or stands still, cannot prolong it. After the lease has ended another host may count on this one opening
nothing; what is open goes on being used (`mppool/cluster/README.md`).

The clock goes on while the machine sleeps.
"""

from __future__ import annotations

import time
from array import array

from mppool.shared.ledger import HOST, HOST_CELLS, Header

__all__ = [
    "AGREED", "ALONE", "LAPSED", "LEARNING", "LOST", "MISMATCH", "REFUSED", "STARTING", "host", "is_open", "left",
    "name_host", "now_ns", "why_not",
]  # fmt: skip

#: How this host stands with the engine, in the header's ``cluster``.
ALONE = 0  # there is no engine: the budget is this host's alone
STARTING = 1  # nothing was heard of the engine yet
AGREED = 2  # it has permits, or gets them
LEARNING = 3  # the engine's data are new: nobody gets more until it is known what is open
LOST = 4  # the engine has not answered for longer than a lease
REFUSED = 5  # the engine says no, for a reason that a person must mend
MISMATCH = 6  # the budget has another size there

LAPSED = 1  # a lease that has ended, or never began
SLACK = 2.0  # seconds that a connect under way may take after the lease has ended: see `cluster.ghosts`
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # macOS: its monotonic clock counts sleep, too
_NS = 1e9


def now_ns() -> int:
    """The time that leases are measured by."""
    return time.clock_gettime_ns(_CLOCK)


def host(header: Header) -> str:
    """This host's incarnation; empty: the budget is its alone."""
    cells = header._cells[header._at + HOST : header._at + HOST + HOST_CELLS]
    return array("q", cells).tobytes().rstrip(b"\0").decode()


def name_host(header: Header, name: str) -> None:
    """Write this host's incarnation: 64 letters at most, see `cluster.contract`."""
    for place, cell in enumerate(array("q", name.encode().ljust(8 * HOST_CELLS, b"\0"))):
        header._cells[header._at + HOST + place] = cell


def is_open(header: Header) -> bool:
    """Whether connections may be opened."""
    lease = header.lease
    return lease == 0 or now_ns() < lease


def left(header: Header) -> float | None:
    """The seconds for which connections may be opened; below zero: for so long they may not; None: there is no end."""
    lease = header.lease
    return None if lease == 0 else (lease - now_ns()) / _NS


def why_not(header: Header) -> str:
    """Why this host gets no permits, in words; empty: nothing is wrong with the engine."""
    state = header.cluster
    if state == LEARNING:
        wait = max(0.0, (header.learned_at - now_ns()) / _NS)
        return f"the budget is learning what is open after its engine began anew: {wait:.0f} s to go"
    if state == LOST:
        return "the cluster's engine cannot be reached: this host opens nothing until it answers"
    if state == REFUSED:
        return "the cluster's engine refuses this host: a person must act"
    if state == MISMATCH:
        return f"the budget has max_size={header.theirs} on other hosts, and {header.max_size} here"
    if state == STARTING:
        return "the cluster's engine has not answered yet"
    return ""
