"""Whatever a process of this user says to the manager, the members do not notice."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from mppool import errors
from mppool.manager import allocator, server
from mppool.membership.member import Member
from mppool.shared import paths
from mppool.shared.messages import LONGEST, encode
from tests.manager import seats
from tests.manager.seats import NAME, cut_off, get, manager_of, runs, served_here, sit
from tests.waiting import Whistle, forked, until


@pytest.fixture
def member() -> Iterator[Member]:
    """A member that is served, before and after."""
    made = sit()
    pid = manager_of(made)
    get(made, 1)
    yield made
    get(made, 4)
    assert manager_of(made) == pid
    assert runs(pid)
    made.leave()


def attach(**change: Any) -> dict[str, Any]:
    return {"do": "attach", "database": None, "max_size": None, "warm": 0, **change}


def nested(levels: int) -> bytes:
    return b'{"do":"own","max_size":' + b"[" * levels + b"]" * levels + b"}\n"


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
        b"[]\n",
        b"[" * 50_000 + b"\n",
        b"x" * (LONGEST + 5000),
        encode({}),
        encode({"do": "dance"}),
        encode({"do": ["attach"]}),
        encode({"do": None}),
        encode({"do": "attach"}),
        encode(attach(warm="many")),
        encode(attach(warm=None)),
        encode(attach(warm=[1])),
        encode(attach(warm=1.5)),
        encode(attach(warm=float("inf"))),
        encode(attach(warm=float("nan"))),
        encode(attach(max_size={"a": 1})),
        *(nested(levels) for levels in (1, 500, 970, 980, 984, 986, 988, 990, 992, 994, 5000)),
        encode(attach()) + encode(attach()),
    ],
    ids=lambda words: f"{words[:40]!r} {len(words)}",
)
def test_who_does_not_speak_the_language_is_cut_off(member: Member, words: bytes) -> None:
    with seats.call() as sock:
        sock.sendall(words)
        assert cut_off(sock)


@pytest.mark.parametrize("warm", [-1, 0, 10**30, True], ids=repr)
def test_any_whole_number_is_a_wish(member: Member, warm: int) -> None:
    with seats.call() as sock:
        sock.sendall(encode(attach(warm=warm)))
        assert json.loads(sock.recv(4096))["ok"]


@pytest.mark.parametrize("words", [b"", b'{"do":"att', b"\n", encode({"do": "describe"})], ids=repr)
def test_who_says_half_or_nothing_is_left_alone(member: Member, words: bytes) -> None:
    with seats.call() as sock:
        sock.sendall(words)
        get(member, 2)
        assert runs(manager_of(member))


def test_many_come_and_say_nothing(member: Member) -> None:
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(seats.call())
        get(member, 2)


def test_who_gives_descriptors_is_cut_off(member: Member) -> None:
    with seats.call() as sock, open(os.devnull) as null:
        gift = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [null.fileno()] * 3))]
        sock.sendmsg([b"\n"], gift)
        assert cut_off(sock)


def test_who_asks_without_listening_is_cut_off(member: Member) -> None:
    with seats.call() as sock:
        with pytest.raises(OSError):
            _for_ever(lambda: sock.sendall(encode({"do": "describe"}) * 100))
        get(member, 2)


def _for_ever(act: Callable[[], object]) -> None:
    while True:
        act()


def test_who_rings_without_end_does_not_keep_others_waiting(member: Member) -> None:
    def ring() -> None:
        sock = seats.call()
        _for_ever(lambda: sock.sendall(b"\n" * 4096))

    with forked(ring), forked(ring):
        for _ in range(10):
            other = sit()
            get(other, 1)
            other.leave()


# -- when descriptors run out --------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", range(60, 64))
def test_without_descriptors_it_sleeps_until_somebody_goes(limit: int) -> None:
    """Knocking that cannot be answered must not keep it awake; members go on."""

    def launch() -> None:
        os.closerange(ready.blows + 1, limit)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        first = sit()
        ready.blow()
        signal.pause()
        first.leave()

    with Whistle() as ready, forked(launch), ExitStack() as stack:
        ready.wait()
        member = sit()
        crowd = [stack.enter_context(seats.call()) for _ in range(60)]
        until(lambda: _idle(manager_of(member)))
        get(member, 2)
        for sock in crowd:
            sock.close()
        other = sit()
        get(other, 2)
        other.leave()
        member.leave()


def _idle(pid: int) -> bool:
    def used() -> int:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = used()
    time.sleep(0.2)
    return used() == before


def test_a_member_too_many_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.L, "ROWS", 2)
    with served_here(lambda: None):
        members = [sit(), sit()]
        with pytest.raises(errors.ManagerUnavailableError, match="2 members already"):
            sit()
        members.pop().leave()
        members.append(sit())
        for member in members:
            member.leave()


def test_so_is_one_for_whom_there_are_no_descriptors() -> None:
    def fail() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def prepare() -> None:
        allocator.make = fail

    with served_here(prepare), pytest.raises(errors.ManagerUnavailableError, match=os.strerror(errno.EMFILE)):
        sit()


def test_it_allows_itself_as_many_descriptors_as_it_may_have() -> None:
    def launch() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        member = sit()
        with open(f"/proc/{manager_of(member)}/limits") as limits:
            soft, hard = next(line.split()[3:5] for line in limits if line.startswith("Max open files"))
        assert soft == hard
        member.leave()

    with forked(launch) as child:
        assert child.join() == 0


# -- other users ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user_does_not_get_to_the_door(member: Member) -> None:
    path = os.path.join(paths.folder(NAME), paths.SOCKET)

    def knock() -> None:
        os.setgroups([])
        os.setgid(65_534)
        os.setuid(65_534)
        with socket.socket(socket.AF_UNIX) as sock, pytest.raises(PermissionError):
            sock.connect(path)

    with forked(knock) as child:
        assert child.join() == 0


def test_nor_through_it() -> None:
    """Were the folder open for some reason, the kernel still says who it is."""

    def mistrust() -> None:
        server.messages.peer = lambda sock: (os.getppid(), os.getuid() + 1)

    with served_here(mistrust), seats.call() as sock:
        assert cut_off(sock)  # before it has said a word
