"""Idle connections come to who waits, whatever their processes do in the instant in which they are asked for them."""

from __future__ import annotations

import random

import pytest

from mppool import PoolManager
from mppool.process.agent import LONGEST_SLEEP
from mppool.shared import ledger as L
from tests.crash.crew import REPEAT, Books, crew, kill_manager
from tests.waiting import until

RECONNECT = 0.3  # seconds: as long an idle connection stays after its use
STEPS = REPEAT or 40


def test_asked_for_one_that_it_takes_into_use_just_then(sqlite_uri: str) -> None:
    """The manager asks whoever has most idle connections. When those are all borrowed before they have been idle long
    enough to be let go, it must hear of it, and ask the next."""
    with PoolManager(sqlite_uri, 4) as manager, crew(manager, 3) as (most, less, needy):
        books = Books(manager.name)
        less.ask("hold", 1)
        most.ask("hold", 3)
        for puppet in (most, less):
            puppet.ask("reconnects_in", RECONNECT)
        most.ask("release")
        less.ask("release")
        needy.tell("hold", 1)
        until(lambda: books.column(L.TARGET)[most.pid] == 2)
        most.ask("hold", 3)
        needy.answer(5.0)
        assert books.column(L.CREDIT) == {most.pid: 3, less.pid: 0, needy.pid: 1}
        books.close()


def test_whoever_has_none_gets_one_of_those_that_are_idle_for_moments(sqlite_uri: str) -> None:
    """There is an idle one whenever the manager looks, and none that stays idle for as long as a reconnect takes."""
    with PoolManager(sqlite_uri, 2) as manager, crew(manager, 2) as (restless, needy):
        restless.ask("hold", 2)
        restless.ask("reconnects_in", RECONNECT)
        restless.ask("release")
        restless.tell("alternate", 2000)  # 4 s at least
        needy.ask("probe")
        assert not restless._pipe.poll(), "it gets it while the other goes on"
        restless.answer()


@pytest.mark.parametrize("killed", [False, True], ids=["undisturbed", "manager killed"])
@pytest.mark.parametrize("reconnect", [0.0, 0.02])
def test_nobody_waits_while_there_is_one_that_nobody_uses(database_uri: str, reconnect: float, killed: bool) -> None:
    """Callers come and go at random, in all processes at once. Then nothing happens any more, so nothing that was
    forgotten is found by chance: as many connections must come into use as are wanted, or as there are."""
    chance, wanted = random.Random(1), 0
    with PoolManager(database_uri, 5) as manager, crew(manager, 4) as puppets:
        books = Books(manager.name)
        for puppet in puppets:
            puppet.ask("probe")
            puppet.ask("reconnects_in", reconnect)

        def settled() -> bool:
            in_use, waiting = (sum(books.column(cell).values()) for cell in (L.IN_USE, L.WAITING))
            return (in_use, waiting) == (min(5, wanted), max(0, wanted - 5))

        for step in range(STEPS):
            at_once = chance.sample(puppets, chance.randint(1, 4))
            for puppet in at_once:
                come = chance.randint(0, 3) if wanted < 5 else 0  # around the budget it matters who has what
                puppet.tell(*(("want", come) if come else ("release",)))
                wanted += come
            if killed and step % 2 == 0 and books.managed():
                kill_manager(books)
            wanted -= sum(puppet.answer() or 0 for puppet in at_once)
            try:
                until(settled, LONGEST_SLEEP - 2.0, stretches=False)
            except AssertionError:
                pytest.fail(f"step {step}, {wanted} wanted\n{books}\n{[puppet.ask('stats') for puppet in puppets]}")
        while wanted:
            wanted -= sum(puppet.ask("release") for puppet in puppets)
        books.close()
