"""The same program on PySQLXEngine and on mppool: ``python -m tests.drop_in.side_by_side [uri …] [--all]``
prints where they differ, and with ``--all`` every step.

Each runs in a process of its own, with a time limit: PySQLXEngine's blocking calls and its asynchronous ones
deadlock in one process, and some inputs end it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import NamedTuple

from tests.drop_in import runner

PEER, OURS = "pysqlx_engine", "mppool"
FLAVOURS = ("sync", "async")
LIMIT = 60.0  # seconds for a run


class Step(NamedTuple):
    """A step's two outcomes."""

    name: str
    peer: str
    ours: str


def outcomes(package: str, flavour: str, uri: str) -> dict[str, str]:
    """Each step's outcome; a step that does not come back or ends the process has that as its outcome."""
    names = runner.names(uri.partition(":")[0], flavour)
    seen: dict[str, str] = {}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYSQLX_")}
    while len(seen) < len(names):
        command = [sys.executable, "-m", "tests.drop_in.runner", package, flavour, uri, str(len(seen))]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, timeout=LIMIT)
            output, end = done.stdout, f"ends the process ({done.returncode})"
        except subprocess.TimeoutExpired as error:
            output, end = error.stdout or b"", "never returns"
            done = None
        number = None
        for line in output.decode().splitlines():
            item = json.loads(line)
            if isinstance(item, int):
                number = item
            else:
                seen[names[number]] = item  # type: ignore[index]
        if number is None:
            raise RuntimeError(f"{command}: {end}: {done.stderr.decode() if done else ''}")
        seen.setdefault(names[number], end)
    return seen


def compare(uri: str, flavour: str) -> list[Step]:
    """Both packages' outcomes of every step."""
    with tempfile.TemporaryDirectory() as folder:
        uris = [f"sqlite:{folder}/{package}.db" if uri == "sqlite:" else uri for package in (PEER, OURS)]
        peer, ours = (outcomes(package, flavour, at) for package, at in zip((PEER, OURS), uris, strict=True))
    return [Step(name, peer[name], ours[name]) for name in ours]


def main(arguments: list[str]) -> None:
    show_all = "--all" in arguments
    uris = [argument for argument in arguments if argument != "--all"] or ["sqlite:"]
    for uri in uris:
        for flavour in FLAVOURS:
            steps = compare(uri, flavour)
            same = sum(step.peer == step.ours for step in steps)
            print(f"\n## {uri.partition(':')[0]}, {flavour}: {same} of {len(steps)} steps the same\n")
            print(f"| step | {PEER} | {OURS} | same? |\n|---|---|---|---|")
            for step in steps:
                if show_all or step.peer != step.ours:
                    cells = [cell.replace("|", "\\|")[:200] for cell in step]
                    print(f"| {' | '.join(cells)} | {'yes' if step.peer == step.ours else 'no'} |")


if __name__ == "__main__":
    main(sys.argv[1:])
