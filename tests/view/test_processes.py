"""What is told of processes, without their secrets."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from mppool.view.processes import Processes, command_of, shortened
from tests.waiting import until


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["/usr/bin/python3.11", "-u", "/srv/app.py", "--now"], "app.py --now"),
        (["/usr/bin/python3", "-m", "celery", "worker"], "python3 -m celery worker"),
        (["gunicorn: worker [app:app]", ""], "gunicorn: worker [app:app]"),
        (["/usr/sbin/postgres"], "postgres"),
        ([], ""),
        (["x", "postgresql://joe:s3cret:w@h/d"], "x postgresql://joe:***@h/d"),
        (["x", "--password=s3cret", "--password", "s3cret", "PWD=s3cret"], "x --password=*** --password *** PWD=***"),
    ],
)
def test_a_command_line_is_short_and_tells_no_password(words: list[str], text: str) -> None:
    assert shortened(words) == text
    assert "s3cret" not in shortened(words)


def test_processor_time_and_memory_are_looked_at_again_and_again() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        processes = Processes()
        first = processes.look([busy.pid, os.getpid()], time.monotonic())
        assert first[busy.pid].cpu == 0.0, "one look is no rate"
        assert first[os.getpid()].memory > 1 << 20
        until(lambda: processes.look([busy.pid], time.monotonic())[busy.pid].cpu > 0.0)
        busy.kill()
        busy.wait()
        assert processes.look([busy.pid], time.monotonic()) == {}
    assert command_of(busy.pid) == ""
