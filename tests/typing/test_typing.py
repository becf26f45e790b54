"""Users' programs as mypy and pyright see them: the right ones are clean, and each mistake is found.

``right`` files have no error. In ``wrong_…`` files each line that ends with ``# wrong`` has one, and no other line has.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.import_graph import HOME

FOLDER = Path(__file__).parent
PROGRAMS = sorted(path.name for path in FOLDER.glob("*.py") if path.name not in ("__init__.py", Path(__file__).name))


def mypy(folder: Path) -> set[tuple[str, int]]:
    """(file, line) of each error in all programs."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", "--no-pretty"]
    command += ["--cache-dir", str(folder), *(str(FOLDER / name) for name in PROGRAMS)]
    run = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=280)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found = re.findall(r"^(.+?):(\d+): error: ", run.stdout, re.MULTILINE)
    return {(os.path.basename(path), int(line)) for path, line in found}


def pyright(folder: Path) -> set[tuple[str, int]]:
    """As `mypy`; basedpyright brings along what it runs on."""
    config = folder / "pyrightconfig.json"
    config.write_text(json.dumps({"typeCheckingMode": "standard", "extraPaths": [HOME]}))
    files = [str(FOLDER / name) for name in PROGRAMS]
    command = [
        sys.executable,
        "-m",
        "basedpyright",
        "--outputjson",
        "--level",
        "error",
        "--project",
        str(config),
        *files,
    ]
    run = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=280)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found = json.loads(run.stdout)["generalDiagnostics"]
    return {(os.path.basename(each["file"]), each["range"]["start"]["line"] + 1) for each in found}


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_right_programs_are_clean_and_mistakes_are_found(checker: object, tmp_path: Path) -> None:
    module = {mypy: "mypy", pyright: "basedpyright"}[checker]  # type: ignore[index]
    if find_spec(module) is None:
        pytest.skip(f"needs {module}: it is in the extra `lint`")
    planted = {
        (name, number)
        for name in PROGRAMS
        for number, line in enumerate((FOLDER / name).read_text().splitlines(), 1)
        if line.endswith("# wrong")
    }
    found = checker(tmp_path)  # type: ignore[operator]
    assert found - planted == set(), "errors where there should be none"
    assert planted - found == set(), "mistakes that were not found"


def test_there_are_programs_of_both_kinds() -> None:
    assert "pools.py" in PROGRAMS
    assert "wrong_pools.py" in PROGRAMS
