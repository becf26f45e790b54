"""A process that gevent or eventlet has patched is told so, at once."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

FAKE = """
import sys, types
module = types.ModuleType({module!r})
module.{question} = lambda name: name in {patched!r}
sys.modules[{module!r}] = module
"""
USE = """
from mppool import PySQLXEnginePoolSync, errors
pool = PySQLXEnginePoolSync("sqlite:" + sys.argv[1], 1, 2)
try:
    pool.start()
except errors.UnsupportedError as error:
    print(f"refused: {error}")
else:
    pool.stop()
    print("started")
"""


def run(setup: str, tmp_path: object) -> str:
    command = [sys.executable, "-c", setup + USE, f"{tmp_path}/a.db"]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout


@pytest.mark.parametrize(
    ("module", "question"), [("gevent.monkey", "is_module_patched"), ("eventlet.patcher", "is_monkey_patched")]
)
def test_a_patched_process_is_refused_and_told_what_to_do(module: str, question: str, tmp_path: object) -> None:
    said = run(FAKE.format(module=module, question=question, patched=["thread", "socket"]), tmp_path)
    assert said.startswith(f"refused: {module.split('.')[0]} has replaced this process's thread and socket modules")
    assert "gthread" in said
    assert "asyncio" in said


def test_one_that_is_only_imported_is_no_reason(tmp_path: object) -> None:
    fake = FAKE.format(module="gevent.monkey", question="is_module_patched", patched=["time"])
    assert run(fake, tmp_path) == "started\n"


@pytest.mark.skipif(find_spec("gevent") is None, reason="needs gevent")
def test_the_real_gevent(tmp_path: object) -> None:
    said = run("from gevent import monkey; monkey.patch_all(); import sys\n", tmp_path)
    assert said.startswith("refused: gevent has replaced")
