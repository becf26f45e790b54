"""Leaks: connections that are borrowed for longer than ``leak_threshold``, and those that no caller can give back.

The agent looks for them several times while the threshold passes; a borrow does nothing for it. Each is logged once,
and again when it has come back.
"""

from __future__ import annotations

import logging
import os
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from mppool.process.lease import forgotten
from mppool.process.places import borrowed_at

if TYPE_CHECKING:
    from mppool.core.slots import Slot, Waiter
    from mppool.process.lending import Lending

logger = logging.getLogger("mppool.pool")

LOOKS = 4  # in the time of the threshold
LONGEST = 3  # borrows that are named in a timeout's message


class Late(NamedTuple):
    """A borrow that was logged: since when it lasts, and where it was made, as text."""

    since: float
    place: str


class Leaks:
    """Those of one local pool. On the agent's thread."""

    def __init__(self, pool: Lending) -> None:
        self._pool = pool
        self._late: dict[Slot, Late] = {}  # without its lease, which would not be found forgotten then

    def look(self, now: float) -> None:
        """Log the borrows that have lasted too long, and those of them that have ended; publish the longest borrow."""
        pool, threshold = self._pool, self._pool.settings.leak_threshold
        if threshold is None:
            return
        with pool.step:
            lent = _lent(pool)
            late = {
                slot: Late(slot.lent_at, borrowed_at(lease)) for slot, lease in lent if now - slot.lent_at > threshold
            }
            before = self._late.items()
            ended = [(self._ended(slot, now), each) for slot, each in before if late.get(slot) != each]
            begun = [each for slot, each in late.items() if self._late.get(slot) != each]
            pool.leaks += len(begun)
            oldest = lent[0] if lent else None
            since, place = (oldest[0].lent_at, getattr(oldest[1], "place", None)) if oldest else (0.0, None)
        self._late = late
        pool.recorder.publish_oldest(since, place.short if place else "")
        for each in begun:
            text = "pool %s: process %d: a connection has been borrowed for %.1f s (leak_threshold=%g s)%s"
            logger.warning(text, pool.name, os.getpid(), now - each.since, threshold, each.place)
        for ended_at, each in ended:
            text = "pool %s: process %d: a connection has come back after %.1f s (leak_threshold=%g s)%s"
            logger.warning(text, pool.name, os.getpid(), ended_at - each.since, threshold, each.place)

    def _ended(self, slot: Slot, now: float) -> float:
        """When a borrow of this connection ended, nearly so if the connection is not idle."""
        return slot.idle_since if slot in self._pool.machine.idle else now

    def due(self, now: float) -> float | None:
        """When to look again; None: there is no threshold."""
        threshold = self._pool.settings.leak_threshold
        return None if threshold is None else now + min(1.0, threshold / LOOKS)

    def end_forgotten(self) -> None:
        """Give back what was borrowed by a lease that nothing refers to any more."""
        pool = self._pool
        with pool.step:
            leases = forgotten(pool.machine.borrowed)
            pool.leaks += sum(lease.slot not in self._late for lease in leases)
        for lease in leases:
            text = "pool %s: process %d: a borrower was forgotten without an end of its block%s"
            logger.warning(text, pool.name, os.getpid(), borrowed_at(lease))
            pool.end(lease)


def longest(pool: Lending) -> str:
    """The longest borrows of this process, for a message; empty: there are none."""
    with pool.lock:
        lent = _lent(pool)[:LONGEST]
    now = monotonic()
    told = [f"{now - slot.lent_at:.1f} s{borrowed_at(lease)}" for slot, lease in lent]
    return f"; longest borrows here: {'; '.join(told)}" if told else ""


def _lent(pool: Lending) -> list[tuple[Slot, Waiter]]:
    """What callers have borrowed, the longest first. Under the lock."""
    borrowed, lost = pool.machine.borrowed, pool.machine.lost
    pairs = ((slot, borrowed.get(slot)) for slot in list(borrowed) if slot not in lost)
    lent = [(slot, lease) for slot, lease in pairs if lease is not None]
    return sorted(lent, key=lambda each: each[0].lent_at)
