"""What a recording makes of snapshots."""

from __future__ import annotations

import pytest

from mppool.view.recording import EVENTS, MOST, Counts, Recording
from tests.view.snapshots import budget, histogram, member


def recorder(*alive: int, every: float = 1.0) -> Recording:
    return Recording(every, lambda pid: f"program {pid}", lambda pid: pid in alive)


def test_samples_and_processes() -> None:
    recording = recorder()
    recording.note(50.0, budget(member(1, 2, 1, 0, 3, requests_num=10, wait=histogram(1.0))))
    recording.note(50.5, budget(member(1, 9, requests_num=15), max_size=8))
    recording.note(51.0, budget(member(1, 1, requests_num=20, wait=histogram(1.0, 0.1, 0.1)), member(2), moves=4))
    assert [sample.at for sample in recording.samples] == [0.0, 1.0]
    first, second = recording.samples
    assert first.processes == {1: Counts(2, 1, 0, 3)}
    assert first.total.held == 3
    assert second.moves == pytest.approx(4)
    assert first.p99 is None, "there is no second yet"
    assert second.p99 is not None
    assert 0.1 <= second.p99 < 0.2, "of the last second alone"
    assert recording.peak == 9, "also what is between two samples"
    process = recording.processes[1]
    assert (process.command, process.borrows, process.wait.count, process.most) == ("program 1", 10, 2, 9)


def test_events() -> None:
    recording = recorder(3)
    recording.note(0.0, budget(member(1, in_use=2), member(3)))
    recording.note(1.0, budget(member(2)))
    recording.note(2.0, budget(member(2), max_size=40, paused=True, manager_pid=9, generation=1))
    recording.note(3.0, budget(member(2), max_size=40, manager_pid=9, generation=1))
    assert [(event.at, event.kind) for event in recording.events] == [
        (1.0, "came"), (1.0, "ended"), (1.0, "left"),
        (2.0, "succession"), (2.0, "resize"), (2.0, "pause"), (2.0, "drain"),
        (3.0, "resume"),
    ]  # fmt: skip
    texts = [event.text for event in recording.events]
    assert "process 1 ended, with 2 in use" in texts
    assert "manager 9 took over from 4711" in texts
    assert "resized from 20 to 40 permits" in texts


def test_memory_is_bounded() -> None:
    recording = recorder()
    for at in range(5 * MOST):
        recording.note(float(at), budget(member(at)))
    assert MOST / 2 <= len(recording.samples) <= MOST
    assert recording.samples[0].at == 0.0
    assert recording.samples[-1].at > 5 * MOST - 10
    assert len(recording.events) == EVENTS


def test_where_nobody_asked_there_is_no_wait() -> None:
    recording = recorder()
    for at, wait in enumerate([histogram(), histogram(0.1), histogram(0.1)]):
        recording.note(float(at), budget(member(1, wait=wait)))
    assert [sample.p50 is None for sample in recording.samples] == [True, False, True]
