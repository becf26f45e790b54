"""Shells complete commands and the names of budgets that run."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from click.shell_completion import ShellComplete

from mppool import PoolManager
from mppool.cli import main
from tests.cli.commands import ask
from tests.waiting import until


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
def test_a_shell_takes_the_script(shell: str) -> None:
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("click asks bash for its version")
    script = ask("completion", shell).output
    assert "_MPPOOL_COMPLETE" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True, timeout=20)


def completed(*words: str) -> list[str]:
    *before, last = words
    complete = ShellComplete(main, {}, "mppool", "_MPPOOL_COMPLETE")
    return [item.value for item in complete.get_completions(list(before), last)]


def test_names_are_completed(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 3, "shop"), PoolManager(sqlite_uri, 3, "web"):
        assert completed("show", "") == ["shop", "web"]
        assert completed("top", "w") == ["web"]
        assert completed("metrics", "shop", "") == ["shop", "web"]
    until(lambda: completed("show", "") == [])
    assert {"doctor", "drain"} & set(completed("d")) >= {"doctor"}


def test_a_folder_that_cannot_be_read_completes_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPPOOL_RUNTIME_DIR", "relative")
    assert completed("show", "") == []
    assert "must be an absolute path" in ask("ls", code=1).stderr
    assert os.environ["MPPOOL_RUNTIME_DIR"] == "relative"
