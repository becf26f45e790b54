"""Resized under load, with managers killed, and judged by the database: a role that may open what the greater of the
old size and the new one allows."""

from __future__ import annotations

import itertools
import os
import random
import time
from typing import Any

import pytest

from mppool import PoolManager
from mppool.shared import ledger as L
from tests.beats import Clock
from tests.crash.crew import Books, crew, kill_manager, say, succeeded
from tests.waiting import until

SIZES, PROCESSES = (10, 3, 25, 10), 6
SECONDS = float(os.environ.get("MPPOOL_TEST_SECONDS", "6"))
REACHED = 0.5  # seconds from the last give-back until no more is out than the new size


def test_resized_every_second_under_load(limited_role: Any) -> None:
    role, dice = limited_role(SIZES[0]), random.Random(1)
    kills, end, old = 0, time.monotonic() + SECONDS, SIZES[0]
    with PoolManager(role.uri, SIZES[0]) as manager, role.judge.watch() as seen:
        books = Books(manager.name)
        with crew(manager, PROCESSES) as puppets:
            for puppet in puppets:
                puppet.ask("run", 3, 3)
            for new in itertools.cycle(SIZES[1:]):
                role.judge.server.run(f"ALTER ROLE {role.name} CONNECTION LIMIT {max(old, new)}")
                manager.resize(new)
                changed, old = time.monotonic(), new
                until(lambda new=new: sum(books.column(L.CREDIT).values()) <= new, 5)  # type: ignore[misc]
                if dice.random() < 0.7:
                    before = books.manager()
                    kill_manager(books)
                    succeeded(books, before)
                    kills += 1
                time.sleep(max(0.0, changed + 1.0 - time.monotonic()))
                if time.monotonic() > end:
                    break
            told = [puppet.ask("rest") for puppet in puppets]
            until(lambda: manager.stats().free >= 0)
            refused = sum(puppet.ask("stats").connections_refused for puppet in puppets)
        books.close()
    borrows = sum(each["borrows"] for each in told)
    say(
        f"\nresized {' → '.join(map(str, SIZES))} every second for {SECONDS:g} s under load from {PROCESSES} "
        f"processes, {kills} managers killed: {borrows} borrows, no error; most backends {seen.peak}; opens that the "
        f"server refused, each made again: {refused}"
    )
    assert [each["failures"] for each in told] == [[]] * PROCESSES
    assert seen.peak <= max(SIZES)


@pytest.mark.parametrize("size", [1, 3])
def test_the_size_is_reached_soon_after_the_last_give_back(database_uri: str, size: int, clock: Clock) -> None:
    with PoolManager(database_uri, 8) as manager, crew(manager, 3) as puppets:
        for puppet, count in zip(puppets, (4, 2, 2), strict=True):
            puppet.ask("hold", count)
        manager.resize(size)
        until(lambda: manager.stats().free == size - 8)
        for puppet in puppets:
            puppet.ask("release")
        released = time.monotonic()
        until(lambda: manager.stats().free >= 0)
        took = clock.between(released, time.monotonic())
    say(f"\n{database_uri.partition(':')[0]}: from 8 to {size}, reached {took * 1e3:.1f} ms after the last give-back")
    assert took <= REACHED
