"""Seats: a lock that is held exactly as long as its process is the program that it was."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from mppool.shared import paths, seats
from mppool.shared.seats import Seat, Seats
from tests.waiting import Whistle, forked, until

pytestmark = pytest.mark.skipif(seats._SET is None, reason="this system has no locks of open files")
TOKEN, OTHER = 2**62 - 1, 7


@pytest.fixture
def folder(runtime_folder: str) -> Iterator[str]:
    made = paths.make_folder("shop")
    yield made
    paths.remove_folder(made)


@pytest.fixture
def looking(folder: str) -> Iterator[Seats]:
    made = Seats(folder)
    yield made
    made.close()


def test_a_seat_is_taken_until_its_member_gets_up(folder: str, looking: Seats) -> None:
    assert not looking.any_taken()
    mine = Seat(folder, TOKEN)
    assert (looking.taken(TOKEN), looking.taken(OTHER), looking.any_taken()) == (True, False, True)
    again = Seat(folder, TOKEN)  # with the successor
    mine.release()
    assert looking.taken(TOKEN)
    again.release()
    again.release()
    assert not looking.any_taken()


@pytest.mark.parametrize("end", ["killed", "exec"])
def test_it_goes_with_its_program(folder: str, looking: Seats, end: str) -> None:
    def sit() -> None:
        Seat(folder, TOKEN)
        taken.blow()
        go.wait()
        os.execv(sys.executable, [sys.executable, "-c", "import signal; signal.pause()"])

    with Whistle() as taken, Whistle() as go, forked(sit) as child:
        taken.wait()
        assert looking.taken(TOKEN)
        if end == "killed":
            child.kill()
        else:
            go.blow()
        until(lambda: not looking.taken(TOKEN))


def test_a_forked_copy_keeps_it_until_that_is_closed(folder: str, looking: Seats) -> None:
    mine = Seat(folder, TOKEN)

    def copy() -> None:
        go.wait()
        mine.release()
        closed.blow()
        over.wait()

    with Whistle() as go, Whistle() as closed, Whistle() as over, forked(copy):
        mine.release()
        assert looking.taken(TOKEN), "so a pid that is gone must tell of death"
        go.blow()
        closed.wait()
        assert not looking.taken(TOKEN)
        over.blow()


def test_a_number_that_is_anothers_by_now_is_left_alone(folder: str, looking: Seats) -> None:
    """As after python-daemon has closed all descriptors."""
    mine = Seat(folder, TOKEN)
    os.close(mine._fd)
    assert os.open(os.devnull, os.O_RDONLY) == mine._fd
    mine.release()
    os.fstat(mine._fd)
    os.close(mine._fd)
    mine.release()
    assert not looking.any_taken()


def test_a_system_without_such_locks_knows_nothing(
    folder: str, looking: Seats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seats, "_SET", None)
    monkeypatch.setattr(seats, "_GET", None)
    Seat(folder, TOKEN).release()
    assert looking.taken(TOKEN)
    assert looking.any_taken()
