"""The command ``mppool``, or ``python -m mppool``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from mppool import PoolManager, __version__, errors, scope

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mppool")
def main() -> None:
    """One database-connection budget for all the processes of an application."""


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--max-size", type=int, help="Permits of each budget, whatever the application says.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(max_size: int | None, command: Sequence[str]) -> None:
    """Run COMMAND and whatever it starts under one budget per database.

    For programs whose workers load the application for themselves, as in

        mppool run --max-size 20 -- gunicorn app:app -w 8

    Each pool that is made without a name, in any process of the command, is then a part of one budget.
    """
    try:
        scope.begin(max_size)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--max-size") from None
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        click.echo(f"mppool: cannot run {command[0]}: {error.strerror}", err=True)
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)


@main.command()
@click.argument("name")
def show(name: str) -> None:
    """Show which process has how many permits and connections of the running budget NAME."""
    try:
        stats = PoolManager.attach(name).stats()
    except (errors.PoolError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(
        f"budget {stats.name}: {stats.open} of {stats.max_size} connections open, {stats.free} permits free, "
        f"{stats.short} wanted; manager {stats.manager_pid}"
    )
    line = "{:>9} {:>8} {:>8} {:>8} {:>8} {:>8}"
    click.echo(line.format("pid", "permits", "in use", "idle", "moving", "waiting"))
    for member in stats.members:
        each = (member.pid, member.credit, member.in_use, member.idle, member.opening, member.waiting)
        click.echo(line.format(*each))
