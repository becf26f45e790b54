"""Containers that share a runtime folder and not their processes: each refuses what it cannot keep exact."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mppool.shared import identity, paths
from mppool.shared import ledger as L
from tests.crash.crew import Books
from tests.waiting import until

UNSHARE = ["unshare", *([] if os.geteuid() == 0 else ["-Ur"]), "-pf", "--kill-child"]
PROC = "--mount-proc"
PROGRAM = """
import sys
from mppool import PoolManager
pool = PoolManager(sys.argv[1], 1, "shop").pool(conn_timeout=10)
for line in sys.stdin:
    try:
        with pool.connection() as conn:
            print("got", conn.query_first("SELECT 1 AS a").a, flush=True)
            sys.stdin.readline()
    except Exception as error:
        print(type(error).__name__, error, flush=True)
"""


def _unshares() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, PROC, "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _unshares(), reason="no PID namespace can be made here")


class Container:
    """A program in a PID namespace of its own; it borrows when told to, and gives back when told again."""

    def __init__(self, uri: str, *how: str) -> None:
        command = [*UNSHARE, *how, sys.executable, "-c", PROGRAM, uri]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 30)[0]
        return self.process.stdout.readline().strip()

    def ask(self) -> str:
        self.tell()
        return self.answer()

    def kill(self) -> None:
        """All that is in it, its manager, too."""
        self.process.kill()
        self.process.wait()

    @property
    def pid(self) -> int:
        """The program's, as it is seen from here."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as children:
            return int(children.read().split()[0])


@contextmanager
def container(uri: str, *how: str) -> Iterator[Container]:
    made = Container(uri, *(how or [PROC]))
    try:
        yield made
    finally:
        made.kill()
        for pipe in (made.process.stdin, made.process.stdout):
            assert pipe is not None
            pipe.close()


def manager_of(folder: str) -> int:
    """The pid of the manager that runs in whichever namespace, as it is seen from here."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as words:
                if f"\0{folder}\0".encode() in words.read() and identity.started(int(pid)):
                    return int(pid)
        except OSError:
            continue
    return 0


@pytest.fixture
def folder(runtime_folder: str) -> Iterator[str]:
    yield os.path.join(runtime_folder, "shop")
    paths.remove_folder(os.path.join(runtime_folder, "shop"))  # of containers that were killed


def refused(said: str) -> bool:
    return said.startswith("ManagerUnavailableError budget 'shop'") and "MPPOOL_RUNTIME_DIR" in said


def test_another_containers_budget_is_refused(sqlite_uri: str, folder: str) -> None:
    with container(sqlite_uri) as one, container(sqlite_uri) as other:
        assert one.ask() == "got 1"
        said = other.ask()
        assert refused(said), said
        one.tell()
        assert one.ask() == "got 1"


def test_so_it_is_while_its_manager_is_gone(sqlite_uri: str, folder: str) -> None:
    """Its members' pids mean nothing here, or something else: they may all be alive."""
    with container(sqlite_uri) as one, container(sqlite_uri) as other:
        assert one.ask() == "got 1"
        os.kill(one.pid, signal.SIGSTOP)
        os.kill(manager_of(folder), signal.SIGKILL)
        until(lambda: not manager_of(folder))
        said = other.ask()
        assert refused(said), said
        os.kill(one.pid, signal.SIGCONT)
        one.tell()
        assert one.ask() == "got 1"


def test_one_that_was_killed_is_succeeded(sqlite_uri: str, folder: str) -> None:
    """What it left behind, in a folder that outlives containers, keeps nobody away."""
    with container(sqlite_uri) as one:
        assert one.ask() == "got 1"
    assert os.path.exists(folder)
    with container(sqlite_uri) as other:
        assert other.ask() == "got 1"
        books = Books("shop")
        assert sum(books.column(L.CREDIT).values()) == 1
        books.close()


def test_a_proc_of_another_namespace_is_refused(sqlite_uri: str, folder: str) -> None:
    """Without a /proc of its own a process reads there of others that have the pids of its own."""
    with container(sqlite_uri, "--fork") as one:
        assert "/proc shows the processes of another PID namespace" in one.ask()
