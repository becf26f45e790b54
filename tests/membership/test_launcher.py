"""Launching a manager, finding the one that runs, and being told no."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from mppool import PoolManager, errors
from mppool.membership import asking, launcher
from mppool.shared import ledger as L
from mppool.shared import paths
from mppool.shared.messages import encode
from tests.manager import seats
from tests.manager.seats import NAME, SECRET, gone, manager_of, runs, sit
from tests.waiting import forked, until

# -- one manager a budget ------------------------------------------------------------------------------------


def test_the_first_launches_and_the_others_join() -> None:
    first, second = sit(), sit()
    assert runs(manager_of(first))
    assert manager_of(first) == manager_of(second) != os.getpid()
    assert first.at != second.at
    second.leave()
    assert runs(manager_of(first)), "it stays for the other"
    first.leave()


def test_another_name_another_manager() -> None:
    one, other = sit(), sit(name="other")
    assert manager_of(one) != manager_of(other)
    one.leave()
    other.leave()


def test_all_who_launch_at_once_get_the_same_manager() -> None:
    tell, told = os.pipe(), os.pipe()

    def launch(name: str) -> None:
        original = launcher._launch
        launcher._launch = lambda config: (time.sleep(0.02), original(config))[1]  # so that they do meet
        os.close(told[1])
        os.read(told[0], 1)  # until the last one has been forked and the pipe is closed
        member = sit(name=name)
        os.write(tell[1], b"%s %d\n" % (name.encode(), manager_of(member)))
        signal.pause()

    with ExitStack() as stack:
        for index in range(12):
            stack.enter_context(forked(launch, f"shop{index % 3}"))
        os.close(told[1])
        lines = b""
        while lines.count(b"\n") < 12:
            lines += os.read(tell[0], 4096)
    for fd in (*tell, told[0]):
        os.close(fd)
    assert len(set(lines.split(b"\n")[:-1])) == 3, lines


def test_who_comes_while_the_manager_leaves_gets_another() -> None:
    """Without linger it leaves at once, so comers meet every moment of its leaving."""

    def come_and_go() -> None:
        for _ in range(25):
            member = sit()
            assert runs(manager_of(member)) or not member.heard()
            member.leave()

    with ExitStack() as stack:
        children = [stack.enter_context(forked(come_and_go)) for _ in range(3)]
        assert [child.join() for child in children] == [0, 0, 0]


@pytest.mark.parametrize(("resets", "enough"), [(0, True), (4, True), (launcher.CALLS, False)])
def test_who_is_hung_up_on_calls_again_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, resets: int, enough: bool
) -> None:
    original, calls = launcher.ask, []

    def ask(sock: socket.socket, *args: Any) -> Any:
        calls.append(1)
        if len(calls) > resets:
            return original(sock, *args)
        sock.close()
        raise ConnectionResetError("it was leaving")

    monkeypatch.setattr(launcher, "ask", ask)
    if enough:
        sit().leave()
        assert resets < len(calls) <= launcher.CALLS  # one that heard them come and go may be leaving, too
        return
    with pytest.raises(errors.ManagerUnavailableError, match="leaving"):
        sit()


def test_an_end_before_the_answer_is_a_reset() -> None:
    for unread in (b"", b"x"):
        ours, theirs = socket.socketpair()
        ours.send(unread)
        theirs.close()
        with pytest.raises(ConnectionResetError):
            asking.ask(ours, {"do": "describe"}, NAME)


def test_it_shares_the_processors_with_its_members() -> None:
    """A session of its own would be a group of its own to Linux's autogroup scheduler, and be served late."""
    member = sit()
    pid = manager_of(member)
    assert os.getsid(pid) == os.getsid(0)
    assert os.getpgid(pid) != os.getpgid(0), "Ctrl-C does not reach it"
    member.leave()


def test_ctrl_c_does_not_reach_it_even_while_it_starts() -> None:
    def launch() -> None:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGALRM, lambda *_: os.killpg(0, signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        member = sit()
        signal.setitimer(signal.ITIMER_REAL, 0)
        member.leave()

    with forked(launch) as child:
        assert child.join() == 0


@pytest.mark.parametrize("moment", [0.0, 0.01, 0.03, 0.04, 0.05, 0.06, 0.08, 0.12])
def test_a_launcher_killed_at_any_moment_leaves_the_way_free(moment: float) -> None:
    with forked(sit) as child:
        time.sleep(moment)
        child.kill()
    member = sit()
    assert runs(manager_of(member))
    member.leave()


# -- what is left of a killed one ----------------------------------------------------------------------------


def test_what_a_killed_manager_left_is_replaced() -> None:
    old, older = sit(max_size=3), sit(max_size=3)
    seats.get(older, 3)
    pid = manager_of(old)
    os.kill(pid, signal.SIGKILL)
    gone(pid)
    old.leave()
    older.leave()
    folder = paths.folder(NAME)
    assert {paths.SOCKET, paths.LEDGER} <= set(os.listdir(folder)), "it could not clean up"
    assert asking.connect(NAME) is None
    new = sit(max_size=5)
    assert manager_of(new) != pid
    assert [index for index in range(L.ROWS) if new.cells[new.ledger.offset(index) + L.PID]] == [0]
    seats.get(new, 5)
    new.leave()


@pytest.mark.parametrize("trap", ["file", "dangling symlink"])
def test_what_is_no_socket_is_replaced(trap: str) -> None:
    path = os.path.join(paths.make_folder(NAME), paths.SOCKET)
    if trap == "file":
        with open(path, "x"):
            pass
    else:
        os.symlink("/nowhere", path)
    sit().leave()


@pytest.mark.parametrize("file", [paths.LOG, paths.LEDGER])
def test_a_symlink_is_never_followed(tmp_path: os.PathLike[str], file: str) -> None:
    victim = os.path.join(tmp_path, "victim")
    with open(victim, "w") as made:
        made.write("precious")
    folder = paths.make_folder(NAME)
    os.symlink(victim, os.path.join(folder, file))
    with pytest.raises(errors.ManagerUnavailableError, match=f"'{NAME}'.*[Ll]evels of symbolic links"):
        sit()
    with open(victim) as read:
        assert read.read() == "precious"
    paths.remove_folder(folder)


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere/python"])
def test_a_manager_that_cannot_start_is_reported(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(errors.ManagerUnavailableError, match=f"budget '{NAME}'"):
        sit()


# -- no --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_size": 5}, ["max_size", "4", "5"]),
        (
            {"uri": "mysql://u:p@127.0.0.1/db"},
            ["database", "postgresql://127.0.0.1:1/shop", "mysql://127.0.0.1:3306/db"],
        ),
        ({"max_size": 9, "uri": "sqlite:/x"}, ["max_size", "4", "9", "database", "sqlite:/x"]),
    ],
)
def test_another_budget_of_the_same_name_is_refused(change: dict[str, object], words: list[str]) -> None:
    member = sit()
    with pytest.raises(errors.BudgetMismatchError) as caught:
        sit(**change)  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in [NAME, *words]), caught.value
    assert SECRET not in str(caught.value)
    member.leave()


def test_another_user_and_password_are_the_same_database() -> None:
    member, other = sit(), sit(uri="postgresql://admin@127.0.0.1:1/shop")
    other.leave()
    member.leave()


def test_a_stopped_budget_takes_nobody_and_goes_with_its_last_member() -> None:
    member = sit(named=True)
    pid = manager_of(member)
    asking.ask(seats.call(), {"do": "stop"}, NAME)[1].close()
    for request in ("attach", "own"):
        with pytest.raises(errors.ManagerUnavailableError, match="stopped"):
            asking.ask(seats.call(), {"do": request, "warm": 0}, NAME)
    seats.get(member, 4)
    member.leave()
    until(lambda: not runs(pid), 1.0)  # no linger


@pytest.mark.parametrize("stopped", [False, True])
def test_no_means_no(stopped: bool) -> None:
    """Who was refused and stays on the line has no seat, and gets one answer a request."""
    member = sit()
    with seats.call() as sock:
        verb = {"do": "stop"} if stopped else {"do": "describe"}
        for request in (verb, {"do": "attach", "max_size": 4 if stopped else 9, "warm": 0}, {"do": "describe"}):
            sock.sendall(encode(request))
        lines = b""
        while lines.count(b"\n") < 3:
            lines += sock.recv(4096)
    answers = [json.loads(line) for line in lines.splitlines()]
    assert [answer["ok"] for answer in answers] == [True, False, True]
    assert all("row" not in answer for answer in answers)
    member.leave()


def test_connect_finds_nobody_where_nobody_is() -> None:
    assert asking.connect(NAME) is None


@pytest.mark.parametrize("act", [lambda: asking.connect(NAME), sit], ids=["connect", "attach"])
def test_a_socket_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    member = sit()
    with monkeypatch.context() as patch:
        patch.setattr(launcher.messages, "peer", lambda sock: (1, 12_345))
        with pytest.raises(errors.ManagerUnavailableError, match="12345"):
            act()
    member.leave()


def test_an_unsafe_place_is_refused(runtime_folder: str) -> None:
    os.chmod(runtime_folder, 0o777)
    with pytest.raises(errors.ManagerUnavailableError, match="open to others"):
        sit()
    os.chmod(runtime_folder, 0o700)


def test_nobody_forks_while_a_manager_is_launched(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child would have a copy of the listening socket, and keep the door of a dead manager open."""
    begun, go, real = threading.Event(), threading.Event(), json.dumps

    def slow(*args: Any, **kwargs: Any) -> str:
        begun.set()
        assert go.wait(20)
        return real(*args, **kwargs)

    monkeypatch.setattr(launcher.json, "dumps", slow)
    manager = PoolManager(sqlite_uri, 2)
    codes: list[int] = []

    def fork() -> None:
        pid = os.fork()
        if not pid:
            mine = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd not in known]
            os._exit(sum(each.startswith(("socket:", "pipe:")) for each in mine))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    known = {*os.listdir("/proc/self/fd")}
    threads = [threading.Thread(target=manager.start), threading.Thread(target=fork)]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    threads[1].join(0.2)
    assert codes == []
    go.set()
    for thread in threads:
        thread.join()
    manager.stop()
    assert codes[0] <= 1, "the connection to the manager, perhaps; nothing that belongs to the launch"
