"""What kind of process a manager is: small, alone, with nothing inherited and nothing to read for others."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from mppool.shared import paths
from tests.manager.seats import NAME, SECRET, manager_of, sit

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc here")


def proc(pid: int, *what: str) -> str:
    return os.path.join("/proc", str(pid), *what)


def field(pid: int, name: str) -> int:
    with open(proc(pid, "status")) as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name + ":"))


def targets(pid: int) -> set[str]:
    return {os.readlink(proc(pid, "fd", number)) for number in os.listdir(proc(pid, "fd"))}


def test_the_manager_is_nobodys_child_in_a_group_of_its_own() -> None:
    member = sit()
    pid = manager_of(member)
    assert field(pid, "PPid") != os.getpid()
    assert os.getpgid(pid) == pid
    assert os.readlink(proc(pid, "cwd")) == "/"
    assert field(pid, "VmRSS") <= 16 * 1024
    assert field(pid, "Threads") == 1
    member.leave()


def test_it_inherits_nothing_but_what_is_its_own() -> None:
    """Not even what the launcher made inheritable: a web server's listening socket would stay bound for ever."""
    web = socket.create_server(("127.0.0.1", 0))
    reader, writer = os.pipe()
    for fd in (web.fileno(), reader):
        os.set_inheritable(fd, True)
    member = sit()
    folder = paths.folder(NAME)
    mine = {os.path.join(folder, paths.LOG), os.path.join(folder, paths.LEDGER), os.path.join(folder, paths.SEATS)}
    mine.add("/dev/null")
    kinds = {target.partition(":")[0] for target in targets(manager_of(member)) - mine}
    assert kinds <= {"anon_inode", "socket"}, "a pipe, a file or a terminal came along"
    with open("/proc/net/unix") as table:
        inodes = {line.split()[6] for line in table if len(line.split()) > 6}
    sockets = {target[8:-1] for target in targets(manager_of(member)) if target.startswith("socket:")}
    assert sockets <= inodes, "a socket that is none of the budget's"
    member.leave()
    web.close()
    for fd in (reader, writer):
        os.close(fd)


def test_the_password_is_not_where_others_look() -> None:
    member = sit()
    pid, folder = manager_of(member), paths.folder(NAME)
    places = [proc(pid, "cmdline"), proc(pid, "environ"), *(os.path.join(folder, f) for f in (paths.LEDGER, paths.LOG))]
    for place in places:
        with open(place, "rb") as file:
            assert SECRET.encode() not in file.read(), place
    modes = {name: stat.S_IMODE(os.lstat(os.path.join(folder, name)).st_mode) for name in os.listdir(folder)}
    assert modes == {paths.SOCKET: 0o600, paths.LEDGER: 0o600, paths.LOG: 0o600, paths.SEATS: 0o600}
    member.leave()


def test_a_manager_with_nothing_to_say_writes_nothing() -> None:
    member = sit()
    assert os.stat(os.path.join(paths.folder(NAME), paths.LOG)).st_size == 0
    member.leave()
