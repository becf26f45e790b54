"""`scripts/demo` does its job on each database, small."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from xml.etree import ElementTree

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BRIEF = ("--jobs", "60", "--workers", "3", "--max-size", "5", "--hold", "0.01", "0.03")


def demo(*arguments: str, cwd: os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    environment: Mapping[str, str] = {**os.environ, "PYTHONPATH": ROOT, "COLUMNS": "120"}
    command = [sys.executable, "-m", "scripts.demonstration", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=50, check=False)


def test_the_demo_keeps_the_budget_and_draws_it(database_uri: str, tmp_path: os.PathLike[str]) -> None:
    done = demo(*BRIEF, "--uri", database_uri, "--picture", "run.svg", "--report", "run.html", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60 of 60, 0 errors" in done.stdout
    counts = [int(number) for number in re.findall(r"(?:ledger|itself) +│ +(\d+) in \d+ samples", done.stdout)]
    assert len(counts) == (1 if database_uri.startswith("sqlite") else 2), done.stdout
    assert 1 <= min(counts) <= max(counts) <= 5
    ElementTree.parse(os.path.join(tmp_path, "run.svg"))
    with open(os.path.join(tmp_path, "run.html"), encoding="utf-8") as page:
        text = page.read()
    assert re.search(r"<dt>borrows</dt><dd>\d\d ", text)
    assert text.count("<article>") == 3


def test_a_bad_uri_is_told_in_one_line(tmp_path: os.PathLike[str]) -> None:
    done = demo(*BRIEF, "--uri", "nonsense:x", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_an_unreachable_server_is_told_at_once(tmp_path: os.PathLike[str]) -> None:
    done = demo(*BRIEF, "--uri", "postgresql://nobody@127.0.0.1:1/nothing", cwd=tmp_path)
    assert done.returncode == 1
    assert "ConnectError" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_hosts_share_the_budget_and_one_is_killed_on_the_way(postgres_uri: str, tmp_path: os.PathLike[str]) -> None:
    brief = ("--jobs", "200", "--max-size", "7", "--hold", "0.05", "0.1", "--no-live", "--picture", "run.svg")
    done = demo("--hosts", "2", *brief, "--uri", postgres_uri, cwd=tmp_path)
    if "skipped:" in done.stdout:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 of 200, 0 errors" in done.stdout
    for event in ("host 2 killed", "host 2 started again"):
        assert re.search(rf"{event} +│ at \d", done.stdout), done.stdout
    counts = [int(number) for number in re.findall(r"by the server +│ +(\d+) in \d+ samples", done.stdout)]
    assert len(counts) == 1, done.stdout
    assert 1 <= counts[0] <= 7
    ElementTree.parse(os.path.join(tmp_path, "run.svg"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--hosts", "0"),
        ("--hosts", "2", "--report", "r.html"),
        ("--hosts", "2", "--uri", "sqlite:a.db"),
        ("--cluster", "x"),
    ],
)
def test_what_does_not_go_with_hosts_is_refused(arguments: tuple[str, ...], tmp_path: os.PathLike[str]) -> None:
    done = demo(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "--hosts" in done.stderr
