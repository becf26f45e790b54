"""The command in this process: faster than another interpreter, and seen by coverage."""

from __future__ import annotations

import gc

import click
from click.testing import CliRunner, Result

from mppool.cli import main

__all__ = ["ask"]


def ask(*args: str, code: int = 0, command: click.Command = main) -> Result:
    """Run ``mppool args``, or another command; it exits with this code, and says in one line why it failed."""
    result = CliRunner().invoke(command, args, prog_name="mppool")
    assert result.exit_code == code, (result.output, result.exception)
    result.exc_info = None  # its frames would keep what the command had
    gc.collect()
    if code == 1 and result.stderr:
        *before, last = result.stderr.splitlines()
        assert last.startswith("Error: ")
        assert not any(line.startswith("Error: ") for line in before)
    return result
