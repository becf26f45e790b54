"""Launching a manager, finding the one that runs, and being told no."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from mppool import errors
from mppool.manager import launcher
from mppool.shared import ledger as L
from mppool.shared import paths
from mppool.shared.messages import encode
from tests.manager import seats
from tests.manager.seats import NAME, SECRET, gone, manager_of, runs, sit
from tests.waiting import forked, until


def proc(pid: int, *what: str) -> str:
    return os.path.join("/proc", str(pid), *what)


def field(pid: int, name: str) -> int:
    with open(proc(pid, "status")) as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name + ":"))


def targets(pid: int) -> set[str]:
    return {os.readlink(proc(pid, "fd", number)) for number in os.listdir(proc(pid, "fd"))}


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc here")


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
    assert launcher.connect(NAME) is None
    new = sit(max_size=5)
    assert manager_of(new) != pid
    assert [index for index in range(L.ROWS) if new.cells[new.ledger.row(index) + L.PID]] == [0]
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
    launcher.ask(seats.call(), {"do": "stop"}, NAME)[1].close()
    for request in ("attach", "own"):
        with pytest.raises(errors.ManagerUnavailableError, match="stopped"):
            launcher.ask(seats.call(), {"do": request, "warm": 0}, NAME)
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
    assert launcher.connect(NAME) is None


@pytest.mark.parametrize("act", [lambda: launcher.connect(NAME), sit], ids=["connect", "attach"])
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


# -- what kind of process it is ------------------------------------------------------------------------------


@needs_proc
def test_the_manager_is_nobodys_child_in_a_session_of_its_own() -> None:
    member = sit()
    pid = manager_of(member)
    assert field(pid, "PPid") != os.getpid()
    assert os.getsid(pid) == os.getpgid(pid) == pid
    assert os.readlink(proc(pid, "cwd")) == "/"
    assert field(pid, "VmRSS") <= 16 * 1024
    assert field(pid, "Threads") == 1
    member.leave()


@needs_proc
def test_it_inherits_nothing_but_what_is_its_own() -> None:
    """Not even what the launcher made inheritable: a web server's listening socket would stay bound for ever."""
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    member = sit()
    folder = paths.folder(NAME)
    mine = {os.path.join(folder, paths.LOG), os.path.join(folder, paths.LEDGER), "/dev/null"}
    kinds = {target.partition(":")[0] for target in targets(manager_of(member)) - mine}
    assert kinds <= {"anon_inode", "socket"}, "a pipe, a file or a terminal came along"
    with open("/proc/net/unix") as table:
        inodes = {line.split()[6] for line in table if len(line.split()) > 6}
    sockets = {target[8:-1] for target in targets(manager_of(member)) if target.startswith("socket:")}
    assert sockets <= inodes, "a socket that is none of the budget's"
    for fd in (reader, writer):
        os.close(fd)
    member.leave()


@needs_proc
def test_the_password_is_not_where_others_look() -> None:
    member = sit()
    pid, folder = manager_of(member), paths.folder(NAME)
    places = [proc(pid, "cmdline"), proc(pid, "environ"), *(os.path.join(folder, f) for f in (paths.LEDGER, paths.LOG))]
    for place in places:
        with open(place, "rb") as file:
            assert SECRET.encode() not in file.read(), place
    modes = {name: stat.S_IMODE(os.lstat(os.path.join(folder, name)).st_mode) for name in os.listdir(folder)}
    assert modes == {paths.SOCKET: 0o600, paths.LEDGER: 0o600, paths.LOG: 0o600}
    member.leave()


def test_a_manager_with_nothing_to_say_writes_nothing() -> None:
    member = sit()
    assert os.stat(os.path.join(paths.folder(NAME), paths.LOG)).st_size == 0
    member.leave()
