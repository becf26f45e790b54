"""A program may close descriptors that it did not open, as a daemon does: what we remembered of them is void."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mppool import PySQLXEnginePool, PySQLXEnginePoolSync, errors
from mppool.shared import descriptors
from mppool.shared.descriptors import Lost, Owned, OwnedSocket, told
from tests.process.children import use
from tests.waiting import forked, until

FIRST, LAST = 3, 256  # the numbers that a daemon closes
COUNT = 60  # as many things a program opens then; they take the numbers that we remember


class Files:
    """Files of the program's own."""

    def __init__(self, folder: Path) -> None:
        self.paths = [folder / f"file-{number}" for number in range(COUNT)]
        self.fds = [os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for path in self.paths]

    def check(self) -> None:
        """Nobody has closed, read or written any of them."""
        for fd, path in zip(self.fds, self.paths, strict=True):
            assert os.fstat(fd).st_ino == path.stat().st_ino, f"{fd} was closed, and is another file now"
            assert path.read_bytes() == b""
            assert os.lseek(fd, 0, os.SEEK_CUR) == 0, f"{fd} was read from"


class Sockets:
    """Connected pairs of sockets."""

    def __init__(self, _: Path) -> None:
        self.pairs = [socket.socketpair() for _ in range(COUNT // 2)]
        self.inodes = [os.fstat(each.fileno()).st_ino for pair in self.pairs for each in pair]

    def check(self) -> None:
        assert [os.fstat(each.fileno()).st_ino for pair in self.pairs for each in pair] == self.inodes
        poll = select.poll()
        for pair in self.pairs:
            for each in pair:
                poll.register(each, select.POLLIN | select.POLLHUP)
        assert poll.poll(0) == [], "something was written to them, or they were shut down"


class Counters:
    """Eventfds: all the same file to ``fstat``."""

    def __init__(self, _: Path) -> None:
        self.fds = [os.eventfd(1, os.EFD_NONBLOCK) for _ in range(COUNT)]
        self.told = [self._tell(fd) for fd in self.fds]

    def _tell(self, fd: int) -> str:
        with open(f"/proc/self/fdinfo/{fd}") as file:
            return "".join(line for line in file if line.startswith(("eventfd-count", "eventfd-id")))

    def check(self) -> None:
        assert [self._tell(fd) for fd in self.fds] == self.told


def in_a_child(daemon: Callable[[], None]) -> None:
    """Run it in a process of its own. The test runner's log and stderr have descriptors that are closed there: only
    number 2 is written to."""

    def told() -> None:
        logging.disable()
        try:
            daemon()
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            os._exit(1)

    with forked(told) as child:
        assert child.join() == 0


THINGS = pytest.mark.parametrize("things", [Files, Sockets, Counters])


@pytest.mark.parametrize("cls", [PySQLXEnginePoolSync, PySQLXEnginePool])
def test_a_child_that_closes_everything_keeps_its_files(cls: Any, database_uri: str, tmp_path: Path) -> None:
    """python-daemon closes everything by default. Our copy of the core for children was one of those numbers."""
    pool, lazy = PySQLXEnginePoolSync(database_uri, 0, 2), PySQLXEnginePool(database_uri, 0, 2)
    pool.start()
    use(pool)

    def daemon() -> None:
        os.closerange(FIRST, LAST)
        files = Files(tmp_path)
        if cls is PySQLXEnginePool:
            asyncio.run(lazy.start())
        use(lazy if cls is PySQLXEnginePool else pool)
        files.check()
        pool.stop()
        files.check()

    in_a_child(daemon)
    pool.stop()


@THINGS
@pytest.mark.parametrize("cls", [PySQLXEnginePoolSync, PySQLXEnginePool])
def test_a_process_that_closes_everything_in_itself_is_served_again(
    cls: Any, things: Callable[[Path], Any], database_uri: str, tmp_path: Path
) -> None:
    """What it has opened since is left alone by all that we did before: alarm, semaphore, seat, connections, core."""

    def daemon() -> None:
        pool = cls(database_uri, 1, 2)
        sync = cls is PySQLXEnginePoolSync
        pool.start() if sync else asyncio.run(pool.start())
        use(pool)
        until(lambda: not pool.stats().opening)  # an open that is cut off so takes until its timeout
        os.closerange(FIRST, LAST)
        opened = things(tmp_path)
        for _ in range(3):
            use_again(pool)
            opened.check()
        pool.stop() if sync else asyncio.run(pool.stop())
        opened.check()

    in_a_child(daemon)


def use_again(pool: Any) -> None:
    """Use it, though the first connections may be found broken."""
    for _ in range(4):
        try:
            use(pool)
            return
        except errors.NotConnectedError:
            continue
    raise AssertionError("no connection that works")


def test_a_borrowed_connection_says_what_happened_to_it(database_uri: str, tmp_path: Path) -> None:
    def daemon() -> None:
        pool = PySQLXEnginePoolSync(database_uri, 0, 1)
        pool.start()
        with pool.connection() as conn:
            assert conn.query_first("SELECT 1 AS a").a == 1
            os.closerange(FIRST, LAST)
            files = Files(tmp_path)
            with pytest.raises(errors.NotConnectedError, match="closed the descriptors"):
                conn.query_first("SELECT 1 AS a")
        with pool.connection(20) as conn:
            assert conn.query_first("SELECT 1 AS a").a == 1
        pool.stop()
        files.check()

    in_a_child(daemon)


def test_who_waits_while_everything_is_closed_is_served(postgres_uri: str, tmp_path: Path) -> None:
    """The agent is asleep then, on descriptors that are no more."""

    def daemon() -> None:
        import threading

        pool = PySQLXEnginePoolSync(postgres_uri, 0, 1)
        pool.start()
        served: list[Any] = []

        def wait() -> None:
            try:
                use_again(pool)
                served.append(1)
            except BaseException as error:  # what a thread says goes to a descriptor that is closed
                served.append(repr(error))

        with pool.connection() as conn:
            conn.query_first("SELECT 1 AS a")
            waiter = threading.Thread(target=wait)
            waiter.start()
            until(lambda: pool.stats().waiting)
            os.closerange(FIRST, LAST)
            files = Files(tmp_path)
        waiter.join()
        assert served == [1]
        pool.stop()
        files.check()

    in_a_child(daemon)


def test_one_that_finds_the_alarm_closed_too_late_wakes_the_new_thread(sqlite_uri: str) -> None:
    """Its ring failed, and meanwhile another caller has replaced the thread, which sleeps already."""
    with PySQLXEnginePoolSync(sqlite_uri, 1, 2) as pool:
        use(pool)
        agent: Any = pool._local.agent  # type: ignore[union-attr]
        thread = until(lambda: agent._asleep and agent._thread)
        agent._replace()
        use(pool)
        assert agent._thread is thread


# -- one descriptor ------------------------------------------------------------------------------------------


def test_an_owned_descriptor_is_told_from_what_has_its_number(tmp_path: Path) -> None:
    def files() -> tuple[int, int]:
        read, write = os.pipe()
        os.close(write)
        return read, os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)

    for make in (files, lambda: (os.eventfd(0), os.eventfd(0))):
        fd, other = make()
        owned = Owned(fd)
        assert owned.use() == fd
        os.dup2(other, fd)
        assert not owned.is_ours()
        with pytest.raises(Lost) as caught:
            owned.use()
        assert caught.value.errno == errno.EBADF
        owned.close()
        os.fstat(fd)  # it was not ours to close
        os.close(fd)
        os.close(other)


@pytest.mark.skipif(not os.path.exists("/proc/self/fdinfo"), reason="Linux tells of descriptors")
def test_a_descriptor_that_is_closed_while_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread's epoll, while a core looks for its own."""
    fd, real = os.eventfd(0), os.open

    def open_late(path: str, flags: int) -> int:
        source = real(path, flags)
        os.close(fd)
        return source

    with monkeypatch.context() as patch:
        patch.setattr(descriptors.os, "open", open_late)
        assert told(fd) == ""


def test_an_owned_descriptor_closes_once(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    owned = Owned(fd)
    owned.close()
    owned.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_an_owned_socket_lets_go_of_a_number_that_is_not_its_own() -> None:
    ours, theirs = socket.socketpair()
    other, end = socket.socketpair()
    number = ours.fileno()
    owned = OwnedSocket(ours)
    os.dup2(other.fileno(), number)
    with pytest.raises(Lost):
        owned.use()
    owned.close()
    del owned, ours
    os.fstat(number)
    os.close(number)
    for each in (theirs, other, end):
        each.close()
