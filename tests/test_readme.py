"""The READMEs: every code block runs as it stands, every link leads somewhere, the tables say what the code does."""

from __future__ import annotations

import inspect
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mppool import PySQLXEnginePoolSync, errors
from tests.drop_in import differences
from tests.import_graph import HOME, PACKAGE
from tests.waiting import until

READMES = ("README.md", "mppool/README.md", "mppool/database/README.md")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(name: str) -> str:
    return (Path(HOME) / name).read_text(encoding="utf-8")


def blocks() -> list[tuple[str, str, str]]:
    """(file name, language, text) of each code block; the file name is in its first comment."""
    found = []
    for readme in READMES:
        for language, text in BLOCK.findall(text_of(readme)):
            if language:
                named = re.match(r"# ([\w.]+\.py)\b", text)
                found.append((named[1] if named else "command", language, text))
    return found


SCRIPTS = {name: text for name, language, text in blocks() if language == "python"}
COMMANDS = [text.strip() for _, language, text in blocks() if language == "sh"]
#: Modules without which a block cannot run.
NEEDS = {"asgi.py": "starlette"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all blocks in their files, and the working directory of this test."""
    for name, text in SCRIPTS.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    return {**os.environ, "PYTHONPATH": HOME, "PATH": path, **more}


def test_every_block_is_known() -> None:
    assert {language for _, language, _ in blocks()} == {"python", "sh"}
    assert "command" not in SCRIPTS, "a Python block begins with a comment that names its file"
    assert len(SCRIPTS) == sum(language == "python" for _, language, _ in blocks()), "two blocks with one name"


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_block_runs(name: str, folder: Path) -> None:
    if find_spec(NEEDS.get(name, "sys")) is None:
        pytest.skip(f"{name} needs {NEEDS[name]}")
    run = subprocess.run(
        [sys.executable, name], env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    stderr = re.sub(r"^doubling 100/100 .*\n", "", run.stderr) if name == "jobs.py" else run.stderr
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in stderr
    assert "Warning" not in stderr


def test_the_jobs_block_needs_no_rich(folder: Path) -> None:
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['rich'] = sys.modules['rich.progress'] = None\n")
    path = os.pathsep.join([str(folder), HOME])
    run = subprocess.run(
        [sys.executable, "jobs.py"], env=environment(PYTHONPATH=path), capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stdout) == (0, "9900\n"), run.stderr
    assert re.fullmatch(r"doubling 100/100 [\d.e+]+/s\n", run.stderr)


def test_the_application_block_answers(folder: Path) -> None:
    answers: list[Any] = []
    app = runpy.run_path("app.py")
    assert app["app"]({}, lambda *args: answers.append(args)) == [b"42\n"]
    assert answers[0][0] == "200 OK"
    app["pool"].stop()


def connected() -> socket.socket | None:
    """A connection to the server; None: it does not listen yet."""
    client = socket.socket(socket.AF_UNIX)
    try:
        client.connect("here.sock")
    except (FileNotFoundError, ConnectionRefusedError):
        client.close()
        return None
    return client


def served(command: list[str]) -> str:
    """What a server answers over its Unix socket; then it is told to end."""
    run = subprocess.Popen(
        command,
        env=environment(GUNICORN_CMD_ARGS="--bind unix:here.sock --log-level warning --graceful-timeout 5"),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with until(connected, 30) as client:
            client.settimeout(30)
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while more := client.recv(4096):
                answer += more
    finally:
        run.send_signal(signal.SIGTERM)
        _, complaints = run.communicate(timeout=60)
    assert "Traceback" not in complaints
    return answer.decode()


@pytest.mark.skipif(find_spec("gunicorn") is None, reason="needs gunicorn")
def test_the_command_serves_the_application(folder: Path) -> None:
    (command,) = COMMANDS
    (folder / "gunicorn.conf.py").unlink()
    assert served(command.split()).endswith("\r\n42\n")


@pytest.mark.skipif(find_spec("gunicorn") is None, reason="needs gunicorn")
def test_the_first_comment_and_the_configuration_serve_it_too(folder: Path) -> None:
    command = re.match(r"# app\.py: run it with  (.*)", SCRIPTS["app.py"])
    assert command
    assert served(command[1].split()).endswith("\r\n42\n")


# -- what the pages say ----------------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert text_of("README.md").count("\n") <= 200


@pytest.mark.parametrize("readme", READMES)
def test_every_link_leads_somewhere(readme: str) -> None:
    text = text_of(readme)
    anchors = {
        re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)", text, re.M)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors
        elif not target.startswith("https://"):
            assert (Path(HOME) / readme).parent.joinpath(target.partition("#")[0]).exists()


@pytest.mark.parametrize("readme", READMES)
def test_every_file_that_is_named_exists(readme: str) -> None:
    examples = Path(HOME) / "scripts" / "examples"
    for name in re.findall(
        r"`((?:\./|mppool/|tests/|scripts/)?[\w/]+\.py|\./scripts/\w+|scripts/\w+/)`", text_of(readme)
    ):
        places = [Path(HOME) / name, Path(PACKAGE) / name, examples / name, (Path(HOME) / readme).parent / name]
        assert any(place.exists() for place in places) or name in SCRIPTS, name


def test_the_table_of_settings_has_every_parameter_and_its_default() -> None:
    section = text_of("README.md").partition("## What you can set")[2].partition("\n## ")[0]
    said: dict[str, str] = {}
    for names, default in re.findall(r"^\| (`[^|]*) \|([^|]*)\|", section, re.MULTILINE):
        found = re.findall(r"`(\w+)`", names)
        default = default.strip()
        defaults = default.split(", ") if "," in default else [default] * len(found)
        said |= dict(zip(found, defaults, strict=True))
    parameters = inspect.signature(PySQLXEnginePoolSync.__init__).parameters
    assert said.keys() == parameters.keys() - {"self"}
    for name, default in said.items():
        value = parameters[name].default
        if value is inspect.Parameter.empty or name == "name":
            continue
        assert default.removesuffix(" s") == (f"{value:g}" if isinstance(value, float) else str(value)), name


def test_the_errors_that_are_named_exist() -> None:
    named = {name for readme in READMES for name in re.findall(r"`(?:\w+\.)*(\w+Error)`", text_of(readme))}
    builtin = {"ValueError", "TypeError", "AttributeError", "ValidationError", "PicklingError", "ImportError"}
    assert named - builtin <= set(errors.__all__)


def test_the_list_of_differences_is_the_one_that_is_tested() -> None:
    assert differences.table() in text_of("mppool/database/README.md")
