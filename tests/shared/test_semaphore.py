"""Both makes of the semaphore, one set of tests: what one promises the other keeps."""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mppool.shared import semaphore as module
from mppool.shared.semaphore import EventSemaphore, PipeSemaphore, adopt, make
from tests.waiting import Whistle, forked, until

MAKES = [
    pytest.param(EventSemaphore, marks=pytest.mark.skipif(not hasattr(os, "eventfd"), reason="no eventfd here")),
    PipeSemaphore,
]


@pytest.fixture(params=MAKES)
def semaphore(request: pytest.FixtureRequest) -> Iterator[EventSemaphore]:
    made = request.param()
    yield made
    made.close()


def readable(semaphore: EventSemaphore) -> bool:
    return bool(select.select([semaphore], [], [], 0)[0])


def drain(semaphore: EventSemaphore) -> int:
    taken = 0
    while semaphore.take():
        taken += 1
    return taken


def test_new_one_is_empty_and_take_does_not_wait(semaphore: EventSemaphore) -> None:
    assert not readable(semaphore)
    begun = time.monotonic()
    assert [semaphore.take() for _ in range(100)] == [False] * 100
    assert time.monotonic() - begun < 1.0


@pytest.mark.parametrize("permits", [1, 2, 3000])
def test_gives_out_what_was_put_in_and_no_more(semaphore: EventSemaphore, permits: int) -> None:
    semaphore.give(permits)
    assert drain(semaphore) == permits
    assert not semaphore.take()
    semaphore.give()
    assert drain(semaphore) == 1


def test_holds_the_largest_budget(semaphore: EventSemaphore) -> None:
    semaphore.give(10_000)
    assert drain(semaphore) == 10_000


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(st.none(), st.integers(1, 40)), max_size=60))
def test_is_an_integer_that_stops_at_zero(semaphore: EventSemaphore, steps: list[int | None]) -> None:
    count = 0
    for permits in steps:
        if permits is None:
            assert semaphore.take() is (count > 0)
            count = max(0, count - 1)
        else:
            semaphore.give(permits)
            count += permits
        assert readable(semaphore) is (count > 0)
    assert drain(semaphore) == count


def test_a_selector_wakes_when_a_permit_comes(semaphore: EventSemaphore) -> None:
    with forked(semaphore.give):
        assert select.select([semaphore], [], [], 10)[0], "nobody woke us"
    assert semaphore.take()


def test_counts_across_a_fork(semaphore: EventSemaphore) -> None:
    semaphore.give(2)

    def child() -> None:
        assert semaphore.take()
        semaphore.give(5)

    with forked(child) as process:
        assert process.join() == 0
    assert drain(semaphore) == 6


def test_counts_across_a_socket(semaphore: EventSemaphore) -> None:
    """What is adopted from descriptors that came over a socket is the same semaphore, of the same make."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [b"."], semaphore.fds)
        _, fds, _, _ = socket.recv_fds(theirs, 1, 4)
    twin = adopt(fds)
    assert type(twin) is type(semaphore)
    try:
        semaphore.give(3)
        assert twin.take()
        twin.give(2)
        assert readable(semaphore)
        assert drain(semaphore) == 4
        assert not twin.take()
    finally:
        twin.close()


def test_close_closes_all_and_twice_is_harmless(semaphore: EventSemaphore) -> None:
    fds = list(semaphore.fds)
    semaphore.close()
    semaphore.close()
    for fd in fds:
        with pytest.raises(OSError):
            os.fstat(fd)


def test_descriptors_do_not_pass_an_exec(semaphore: EventSemaphore) -> None:
    assert [os.get_inheritable(fd) for fd in semaphore.fds] == [False] * len(semaphore.fds)


def test_what_a_killed_process_took_stays_taken(semaphore: EventSemaphore) -> None:
    """The semaphore knows no owners; who gets back what the dead held is for the books to say."""
    semaphore.give(5)

    def child() -> None:
        assert semaphore.take()
        assert semaphore.take()
        ready.blow()
        signal.pause()

    with Whistle() as ready, forked(child) as process:
        ready.wait()
        assert process.kill() == -signal.SIGKILL
    assert drain(semaphore) == 3


def test_many_processes_neither_make_nor_lose_a_permit(semaphore: EventSemaphore) -> None:
    """A witness counts along: whoever has a permit finds a byte in it, or a permit was made from nothing."""
    permits, rounds = 7, 15_000
    witness, put = os.pipe()
    os.set_blocking(witness, False)
    os.write(put, b"." * permits)
    semaphore.give(permits)

    def child() -> None:
        done = 0
        while done < rounds:
            if not semaphore.take():
                select.select([semaphore], [], [], 1)
                continue
            os.read(witness, 1)
            if done % 10 == 0:
                os.sched_yield()
            os.write(put, b".")
            semaphore.give()
            done += 1

    try:
        with ExitStack() as stack:
            children = [stack.enter_context(forked(child)) for _ in range(6)]
            assert [each.join(60) for each in children] == [0] * 6
        assert drain(semaphore) == permits
    finally:
        os.close(witness)
        os.close(put)


def test_killed_while_taking_and_giving_costs_at_most_what_it_had_in_hand(semaphore: EventSemaphore) -> None:
    with mmap.mmap(-1, 8) as shared, memoryview(shared).cast("q") as rounds:

        def child() -> None:
            while True:
                if semaphore.take():
                    semaphore.give()
                rounds[0] += 1

        for kill in range(20):
            semaphore.give(3)
            rounds[0] = 0
            with forked(child) as process:
                until(lambda least=kill * 7: rounds[0] > least)
                process.kill()
            assert drain(semaphore) in (2, 3)


@pytest.mark.parametrize(("eventfd", "expected"), [(True, EventSemaphore), (False, PipeSemaphore)])
def test_make_prefers_the_eventfd(
    monkeypatch: pytest.MonkeyPatch, eventfd: bool, expected: type[EventSemaphore]
) -> None:
    if eventfd and not hasattr(os, "eventfd"):
        pytest.skip("no eventfd here")
    monkeypatch.setattr(module, "_EVENTFD", eventfd)
    made = make()
    assert type(made) is expected
    made.close()


def test_a_full_semaphore_says_so_instead_of_waiting() -> None:
    """A pipe holds so many tokens and no more: giving beyond it must not hang its giver."""
    semaphore = PipeSemaphore()
    try:
        with pytest.raises(BlockingIOError):
            _give_for_ever(semaphore.give)
    finally:
        semaphore.close()


def _give_for_ever(give: Callable[[int], None]) -> None:
    for _ in range(2000):
        give(4096)
