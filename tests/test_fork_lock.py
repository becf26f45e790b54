"""Late imports and forks take turns: a child never inherits a module that its parent was just importing."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from mppool.fork_lock import import_late
from tests.waiting import until

SLOW = """
import threading
from tests import test_late
test_late.begun.set()
assert test_late.go.wait(20)
"""
begun, go = threading.Event(), threading.Event()


def test_a_fork_waits_for_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_module_of_this_test.py").write_text(SLOW)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "tests.test_late", sys.modules[__name__])
    importer = threading.Thread(target=import_late, args=("slow_module_of_this_test",))
    importer.start()
    assert begun.wait(20)
    codes: list[int] = []

    def fork() -> None:
        pid = os.fork()
        if not pid:
            try:
                import_late("slow_module_of_this_test")
                os._exit(7)
            finally:
                os._exit(1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    forker = threading.Thread(target=fork)
    forker.start()
    forker.join(0.2)
    assert codes == []  # it waits: without that, its child would for ever
    assert forker.is_alive()
    go.set()
    until(lambda: codes == [7])
    forker.join()
    importer.join()
