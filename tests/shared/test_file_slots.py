"""No more slots over all processes than there are, and none lost when a process dies or forks."""

from __future__ import annotations

import os
import signal

import pytest

from mppool.shared import paths
from mppool.shared.file_slots import FileSlots
from tests.waiting import Whistle, forked, until


@pytest.fixture
def folder(runtime_folder: str) -> str:
    return paths.make_folder("shop")


@pytest.fixture(autouse=True)
def cleared(folder: str) -> object:
    yield
    paths.remove_folder(folder)
    assert not os.path.exists(folder)


def test_no_more_than_there_are(folder: str) -> None:
    mine, theirs = FileSlots(folder), FileSlots(folder)
    first, second = mine.take(2), theirs.take(2)
    assert first is not None
    assert second is not None
    assert mine.take(2) is None
    assert theirs.take(2) is None
    second.give_back()
    third = mine.take(2)
    assert third is not None
    first.give_back()
    third.give_back()
    assert sorted(os.listdir(folder)) == [f"{paths.FILE_SLOT}0", f"{paths.FILE_SLOT}1"], (
        "no more files than were needed"
    )


def test_one_process_after_another_gets_none_while_it_is_taken(folder: str) -> None:
    turn = FileSlots(folder).take(1)
    assert turn is not None

    def none() -> None:
        assert FileSlots(folder).take(1) is None

    with forked(none) as child:
        child.join()
    assert child.status == 0
    turn.give_back()


def test_a_turn_comes_free_when_its_process_is_killed(folder: str) -> None:
    def take_and_stay() -> None:
        turn = FileSlots(folder).take(1)
        assert turn is not None
        taken.blow()
        signal.pause()

    with Whistle() as taken, forked(take_and_stay) as child:
        taken.wait()
        turns = FileSlots(folder)
        assert turns.take(1) is None
        child.kill()
        turn = until(lambda: turns.take(1))
        turn.give_back()


@pytest.mark.parametrize("knows", [True, False])
def test_a_child_forked_meanwhile_keeps_nothing_taken(folder: str, knows: bool) -> None:
    """Neither one that gives its copies up, nor one that does not know of them."""
    turns = FileSlots(folder)
    turn = turns.take(1)
    assert turn is not None

    def child() -> None:
        if knows:
            turns.abandon()
            assert not turns._files
        ready.blow()
        over.wait()

    with Whistle() as ready, Whistle() as over, forked(child) as other:
        ready.wait()
        assert FileSlots(folder).take(1) is None, "a child's copy must not unlock the parent's"
        turn.give_back()
        again = FileSlots(folder).take(1)
        assert again is not None
        again.give_back()
        over.blow()
        assert other.join() == 0


def test_a_folder_that_is_gone(folder: str) -> None:
    turns = FileSlots(os.path.join(folder, "gone"))
    with pytest.raises(OSError):
        turns.take(3)


def test_a_link_laid_in_the_way_is_refused(folder: str, tmp_path: os.PathLike[str]) -> None:
    target = os.path.join(tmp_path, "precious")
    os.symlink(target, os.path.join(folder, f"{paths.FILE_SLOT}0"))
    with pytest.raises(OSError):
        FileSlots(folder).take(1)
    assert not os.path.exists(target)
