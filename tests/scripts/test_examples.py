"""Each example runs as it stands, prints something and complains about nothing.

An example's docstring may have a line ``Needs: gunicorn, psycopg``: modules without which it is skipped.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
EXAMPLES = os.path.join(HOME, "scripts", "examples")
NAMES = sorted(name for name in os.listdir(EXAMPLES) if name.endswith(".py") and not name.startswith("_"))


def needs(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        line = re.search(r"^Needs: (.*?)\.?$", ast.get_docstring(ast.parse(file.read())) or "", re.MULTILINE)
    return [] if line is None or line[1] == "nothing" else line[1].split(", ")


@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs(name: str) -> None:
    path = os.path.join(EXAMPLES, name)
    if missing := [module for module in needs(path) if find_spec(module) is None]:
        pytest.skip(f"{name} needs {', '.join(missing)}")
    run = subprocess.run(
        [sys.executable, path],
        env={**os.environ, "PYTHONPATH": HOME},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (run.stderr, run.returncode) == ("", 0)
    assert run.stdout


def test_the_jobs_example_tells_what_happened() -> None:
    run = subprocess.run(
        [sys.executable, os.path.join(EXAMPLES, "jobs.py")],
        env={**os.environ, "PYTHONPATH": HOME},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "   all 21063.00" in run.stdout
    assert "of 2 connections are open, in 5 processes" in run.stdout
    assert "LookupError('no such order')" in run.stdout
