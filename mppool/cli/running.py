"""``mppool run``: a command, and all that it starts, under one budget per database."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from mppool import scope

__all__ = ["run"]


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--max-size", type=int, help="Permits of each budget, whatever the application says.")
@click.option("--name", help="Of the budgets; with --cluster the same on all hosts.")
@click.option(
    "--cluster",
    envvar=scope.CLUSTER,
    help="Engine that keeps them for several hosts: redis://… or postgresql://…; a password is safer in the variable.",
    show_envvar=True,
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(max_size: int | None, name: str | None, cluster: str | None, command: Sequence[str]) -> None:
    """Run COMMAND and whatever it starts under one budget per database.

    For programs whose workers load the application for themselves, as in

        mppool run --max-size 20 -- gunicorn app:app -w 8

    Each pool that is made without a name, in any process of the command, is then a part of one budget. With --cluster
    and --name, those for PostgreSQL are one budget on all hosts that say the same.
    """
    try:
        scope.begin(max_size, name=name, cluster=cluster)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        click.echo(f"mppool: cannot run {command[0]}: {error.strerror}", err=True)
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)
