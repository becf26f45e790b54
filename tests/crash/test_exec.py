"""A member becomes another program: its pid and its start stay, and all that it had is free."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mppool import PoolManager
from mppool.membership import succession
from mppool.shared import ledger as L
from tests.crash.crew import Books, crew, kill_manager, succeeded
from tests.crash.test_succession import no_manager
from tests.waiting import Child, Whistle, forked, until

LASTS = "import sys; sys.stdin.buffer.read()"


@contextmanager
def member(manager: PoolManager, permits: int, go: Whistle, comes_over: bool) -> Iterator[Child]:
    """A process that holds permits until it is told to become another program, which does nothing."""
    has = Whistle()

    def hold() -> None:
        if not comes_over:
            succession.Member = lambda *_, **__: threading.Event().wait()  # type: ignore[misc,assignment]
        leases = [manager.pool().connection(10) for _ in range(permits)]
        for lease in leases:
            lease.__enter__()
        has.blow()
        go.wait()
        os.dup2(reader, 0)
        os.execv(sys.executable, [sys.executable, "-c", LASTS])

    reader, writer = os.pipe()
    with has, forked(hold) as child:
        has.wait()
        yield child
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("when", ["manager", "no manager", "successor"])
def test_its_permits_are_free(database_uri: str, runtime_folder: str, when: str) -> None:
    manager = PoolManager(database_uri, 2)
    manager.start()
    books = Books(manager.name)
    with crew(manager, 1) as (other,), Whistle() as go:
        other.ask("probe")
        with member(manager, 2, go, comes_over=when == "manager") as child:
            before = books.manager()
            if when == "manager":
                go.blow()
            elif when == "no manager":
                with no_manager(runtime_folder):
                    kill_manager(books)
                    go.blow()
                    until(lambda: b"sys.stdin" in command(child.pid))
            else:
                kill_manager(books)
                succeeded(books, before)
                assert books.column(L.CREDIT)[child.pid] == 2
                go.blow()
            other.ask("hold", 2)
            assert b"sys.stdin" in command(child.pid), "it lives, with the same pid"
        other.ask("release")
    books.close()
    manager.stop()


def command(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as words:
        return words.read()
