"""PySQLXEngine's own pool examples run on mppool with nothing but the import line changed.

The two programs beside this file are its documentation's, to the letter; they are the specification here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def program(name: str, folder: Path) -> Path:
    """The example with its import line changed, in a folder of its own."""
    text = (HERE / name).read_text()
    changed, times = re.subn(r"^from pysqlx_engine import", "from mppool import", text, flags=re.M)
    assert times == 1
    path = folder / "main.py"
    path.write_text(changed)
    return path


@pytest.mark.parametrize("name", ["pool_async.py", "pool_sync.py"])
def test_the_example_runs(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, program(name, tmp_path).name],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    log = done.stderr
    assert done.returncode == 0, log[-2000:]
    assert "Error occurred" not in log
    assert "Traceback" not in log
    assert re.search(r"Time taken: [\d.]+ seconds", log)
    assert log.count("SELECT") >= 1000, "SQL was to be logged"
    assert "\x1b[" in log, "in colour"


@pytest.mark.parametrize(
    ("switch", "seen"),
    [
        ("PYSQLX_SQL_LOG", r"SELECT :a AS a|SELECT \? AS a"),
        ("PYSQLX_DEV_MODE", r"SELECT 'it''s' AS a"),
        ("PYSQLX_ERROR_JSON_FMT", r'"error": "QueryError"'),
        ("PYSQLX_USE_COLOR", r"\x1b\["),
    ],
)
@pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
def test_each_switch_does_what_it_says(switch: str, seen: str, on: bool, tmp_path: Path) -> None:
    script = """
import logging, sys
logging.basicConfig(level=logging.DEBUG)
from mppool import PySQLXEngineSync, errors
conn = PySQLXEngineSync("sqlite:./dev.db")
conn.connect()
conn.query_first("SELECT :a AS a", {"a": "it's"})
try:
    conn.query("SELEKT")
except errors.QueryError as error:
    print(error, file=sys.stderr)
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYSQLX_")}
    if on:
        environment[switch] = "1"
    if switch == "PYSQLX_USE_COLOR":  # it colours what the others show
        environment["PYSQLX_SQL_LOG"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert bool(re.search(seen, done.stderr)) is on, done.stderr
