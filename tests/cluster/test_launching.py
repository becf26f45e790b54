"""The manager's half of the agent: one process at a time, replaced after a pause, its secrets by a socket."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mppool.cluster import launching as module
from mppool.cluster.launching import PAUSE, STEADY, AgentProcess
from tests.waiting import until

TASK = {"path": [], "cluster": "redis://:geheim@127.0.0.1:1"}
ECHO = """
import json, os, sys, time
line = b""
while not line.endswith(b"\\n"): line += os.read(0, 1)
os.write(0, json.dumps({"argv": sys.argv, "task": json.loads(line)}).encode() + b"\\n")
os.pwrite(3, b"shown", 0)
time.sleep(60)
"""


@pytest.fixture
def agent(tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[AgentProcess]:
    monkeypatch.setattr(module, "_BOOT", ECHO)
    fd = os.open(os.path.join(tmp_path, "hosts"), os.O_RDWR | os.O_CREAT)
    made = AgentProcess(fd)
    yield made
    if made.runs:
        made.let_go(0.0)
    until(lambda: made.reap() or made.pid is None)
    os.close(fd)


def heard(agent: AgentProcess) -> list[dict[str, Any]]:
    return until(agent.hear, 20)


def test_the_task_comes_by_the_socket(agent: AgentProcess, tmp_path: os.PathLike[str]) -> None:
    assert agent.launch(TASK, 0.0)
    (said,) = heard(agent)
    assert said["task"] == TASK
    assert agent.pid is not None
    assert "geheim" not in " ".join(psutil.Process(agent.pid).cmdline())
    until(lambda: (Path(tmp_path) / "hosts").read_text() == "shown")


def test_its_end_is_heard_and_pauses_grow(agent: AgentProcess) -> None:
    pauses, now = [], 1000.0
    for _ in range(3):
        assert agent.launch(TASK, now)
        heard(agent)
        assert agent.pid is not None
        os.kill(agent.pid, signal.SIGKILL)
        until(lambda: agent.hear() is None)
        agent.let_go(now)
        pauses.append(agent.again_at - now)
        until(lambda: agent.reap() or agent.pid is None)
    assert pauses == sorted(pauses)
    assert PAUSE[0] < pauses[0] < pauses[-1]
    assert agent.launch(TASK, now)
    heard(agent)
    agent.let_go(now + 2 * STEADY)
    assert agent.again_at - now - 2 * STEADY == pytest.approx(PAUSE[0]), "it had been steady"


def test_one_that_does_not_read_is_told_later(agent: AgentProcess) -> None:
    assert agent.launch(TASK, 0.0)
    heard(agent)
    until(lambda: not agent.say({"used": 1}), 20)
    began = time.monotonic()
    assert not agent.say({"used": 2})
    assert time.monotonic() - began < 1.0


def test_nobody_is_told_when_there_is_none(agent: AgentProcess) -> None:
    assert not agent.say({"used": 1})
