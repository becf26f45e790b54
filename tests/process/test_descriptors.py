"""A program may close descriptors that it did not open, as a daemon does: what we remembered of them is void."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mppool import PySQLXEnginePool, PySQLXEnginePoolSync
from tests.process.children import use
from tests.waiting import forked

FIRST, LAST = 3, 256  # the numbers that a daemon closes


class Files:
    """Files that a program opens after it has closed everything: they take the numbers that we remember."""

    def __init__(self, folder: Path, count: int = 80) -> None:
        os.closerange(FIRST, LAST)
        self.paths = [folder / f"file-{number}" for number in range(count)]
        self.fds = [os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for path in self.paths]

    def check(self) -> None:
        """Nobody has closed or written any of them."""
        for fd, path in zip(self.fds, self.paths, strict=True):
            assert os.fstat(fd).st_ino == path.stat().st_ino, f"{fd} was closed, and is another file now"
            assert path.read_bytes() == b""
            assert os.lseek(fd, 0, os.SEEK_CUR) == 0, f"{fd} was read from"


@pytest.mark.parametrize("cls", [PySQLXEnginePoolSync, PySQLXEnginePool])
def test_a_child_that_closes_everything_keeps_its_files(cls: Any, database_uri: str, tmp_path: Path) -> None:
    """python-daemon closes everything by default. Our copy of the core for children was one of those numbers."""
    pool = PySQLXEnginePoolSync(database_uri, 0, 2)
    inherited = pool if cls is PySQLXEnginePoolSync else cls(database_uri, 0, 2)
    pool.start()
    use(pool)

    def daemon() -> None:
        files = Files(tmp_path)
        if inherited is not pool:
            import asyncio

            asyncio.run(inherited.start())
        use(inherited)
        files.check()
        if inherited is pool:
            inherited.stop()
        files.check()

    with forked(daemon) as child:
        assert child.join() == 0
    pool.stop()
