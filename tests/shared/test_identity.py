"""Who a process is, with the kernel's help and without it."""

from __future__ import annotations

import builtins
import os
import select
import signal
from collections.abc import Callable
from typing import Any

import pytest

from mppool.shared import identity
from tests.waiting import forked, until


@pytest.fixture(params=["proc", "psutil"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Identity as told by /proc, then as on a system that has none."""
    if request.param == "proc" and not os.path.exists("/proc/self/stat"):
        pytest.skip("no /proc here")
    if request.param == "psutil":
        real = builtins.open
        exists = os.path.exists

        class NoProc:
            """psutil keeps its own names; only the module under test is kept from /proc."""

            @staticmethod
            def open(path: Any, *args: Any, **kwargs: Any) -> Any:
                if str(path).startswith("/proc"):
                    raise FileNotFoundError(path)
                return real(path, *args, **kwargs)

        monkeypatch.setattr(identity, "open", NoProc.open, raising=False)
        monkeypatch.setattr(os.path, "exists", lambda path: not str(path).startswith("/proc/self") and exists(path))
    return str(request.param)


def zombie() -> int:
    """A child that has ended and is not buried yet."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_own_start_is_steady(way: str) -> None:
    assert identity.started(os.getpid()) == identity.started(os.getpid()) > 0


def test_a_younger_process_started_no_earlier(way: str) -> None:
    with forked(signal.pause) as child:
        assert identity.started(child.pid) >= identity.started(os.getpid())


def test_the_dead_have_no_start(way: str) -> None:
    with forked(lambda: None) as child:
        child.join()
        assert identity.started(child.pid) == 0


def test_a_zombie_counts_as_dead(way: str) -> None:
    pid = zombie()
    try:
        assert identity.started(pid) == 0
        assert not identity.alive(pid, 1)
    finally:
        os.waitpid(pid, 0)


def test_a_name_with_parentheses_and_blanks_is_no_trap() -> None:
    """The second field of /proc/pid/stat is whatever the program calls itself."""
    if not os.path.exists("/proc/self/comm"):
        pytest.skip("no /proc here")

    def child() -> None:
        before = identity.started(os.getpid())
        with open("/proc/self/comm", "w") as comm:
            comm.write(") Z 0 (")
        assert identity.started(os.getpid()) == before > 0

    with forked(child) as process:
        assert process.join() == 0


@pytest.mark.parametrize(
    ("pid", "since", "expected"),
    [
        (os.getpid, lambda start: start, True),
        (os.getpid, lambda start: start + 1, False),  # the number was given out again
        (os.getpid, lambda start: 0, False),
        (lambda: 0, lambda start: 0, False),
        (lambda: -1, lambda start: start, False),
    ],
)
def test_alive_wants_pid_and_start(
    way: str, pid: Callable[[], int], since: Callable[[int], int], expected: bool
) -> None:
    assert identity.alive(pid(), since(identity.started(os.getpid()))) is expected


def test_the_dead_are_not_alive_whatever_start_is_asked_for(way: str) -> None:
    """0 is what `started` says of the dead; it must not come out as "the same as ever"."""
    with forked(signal.pause) as child:
        since = identity.started(child.pid)
        assert identity.alive(child.pid, since)
        child.kill()
        assert not identity.alive(child.pid, since)
        assert not identity.alive(child.pid, 0)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no pidfd here")
def test_the_notice_becomes_readable_at_death_and_not_before() -> None:
    with forked(signal.pause) as child:
        notice = identity.death_notice(child.pid)
        assert notice is not None
        try:
            assert not select.select([notice], [], [], 0)[0]
            os.kill(child.pid, signal.SIGKILL)
            assert select.select([notice], [], [], 10)[0]
        finally:
            os.close(notice)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no pidfd here")
def test_the_notice_of_a_zombie_is_readable_at_once() -> None:
    pid = zombie()
    notice = identity.death_notice(pid)
    assert notice is not None
    try:
        assert select.select([notice], [], [], 0)[0]
    finally:
        os.close(notice)
        os.waitpid(pid, 0)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no pidfd here")
def test_no_process_no_notice() -> None:
    with forked(lambda: None) as child:
        child.join()
        with pytest.raises(ProcessLookupError):
            identity.death_notice(child.pid)


@pytest.mark.parametrize("lack", ["no such call", "old kernel", "sandbox"])
def test_without_pidfd_one_has_to_look(monkeypatch: pytest.MonkeyPatch, lack: str) -> None:
    def refuse(pid: int) -> int:
        raise OSError({"old kernel": 38, "sandbox": 1}[lack], lack)

    if lack == "no such call":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    else:
        monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    assert identity.death_notice(os.getpid()) is None
    with forked(signal.pause) as child:
        since = identity.started(child.pid)
        os.kill(child.pid, signal.SIGKILL)
        until(lambda: not identity.alive(child.pid, since))
