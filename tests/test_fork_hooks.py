"""All that is done at a fork is registered in one place, in an order that one place says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mppool import fork_hooks
from tests.import_graph import modules

REGISTER = "os.register_at_fork("


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No hooks but those of the test. A fork's child writes down what it is called for, too."""
    monkeypatch.setattr(fork_hooks, "_before", {})
    monkeypatch.setattr(fork_hooks, "_in_child", {})
    return []


def noted(calls: list[str], name: str) -> Callable[[], object]:
    return lambda: calls.append(name)


def child_writes(calls: list[str]) -> str:
    """What a forked child's list of calls is."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, " ".join(calls).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return said


def test_the_order_does_not_depend_on_who_was_imported_first(calls: list[str]) -> None:
    for order, name in ((fork_hooks.JOBS, "jobs"), (fork_hooks.DRIVER, "driver"), (fork_hooks.POOLS, "pools")):
        fork_hooks.register(order, before=noted(calls, f"before-{name}"), in_child=noted(calls, name))
    assert child_writes(calls) == "before-jobs before-pools before-driver driver pools jobs"
    assert calls == ["before-jobs", "before-pools", "before-driver"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_hook_that_raises_keeps_no_other_from_running(calls: list[str]) -> None:
    def fails() -> None:
        calls.append("fails")
        raise RuntimeError("a hook of this test fails")

    fork_hooks.register(fork_hooks.DRIVER, before=noted(calls, "before"), in_child=fails)
    fork_hooks.register(fork_hooks.POOLS, before=fails, in_child=noted(calls, "pools"))
    assert child_writes(calls) == "fails before fails pools"


def test_the_lock_is_held_when_the_process_forks_and_free_when_a_hook_runs(calls: list[str]) -> None:
    def note() -> None:
        calls.append("held" if fork_hooks.lock._is_owned() else "free")  # type: ignore[attr-defined]

    fork_hooks.register(fork_hooks.POOLS, before=note, in_child=note)
    assert child_writes(calls) == "free free"


def test_nobody_else_registers_a_hook() -> None:
    found = [name for name, path in modules() if REGISTER in Path(path).read_text(encoding="utf-8")]
    assert found == ["mppool.fork_hooks"]
