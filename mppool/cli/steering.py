"""``mppool resize``, ``pause``, ``resume`` and ``drain``: a running budget is told what to do."""

from __future__ import annotations

from typing import Any

import click

from mppool import errors
from mppool.cli.naming import attached, budget_argument

__all__ = ["COMMANDS"]


def _do(name: str, verb: str, *args: Any, **more: Any) -> None:
    try:
        getattr(attached(name), verb)(*args, **more)
    except (errors.PoolError, ValueError) as error:
        raise click.ClickException(str(error)) from None


@click.command()
@budget_argument()
@click.argument("size", type=click.IntRange(1))
def resize(name: str, size: int) -> None:
    """Give the running budget NAME a SIZE of so many permits."""
    _do(name, "resize", size)


@click.command()
@budget_argument()
@click.option("--wait", is_flag=True, help="Return only when all that was borrowed has come back.")
@click.option("--timeout", type=click.FloatRange(0), default=30.0, show_default=True, help="Seconds to wait for that.")
@click.option(
    "--limit",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds until it goes on by itself.",
)
def pause(name: str, wait: bool, timeout: float, limit: float) -> None:
    """Lend nothing more of the running budget NAME, until it is resumed; callers wait, and none times out."""
    _do(name, "pause", wait=wait, timeout=timeout, limit=limit)


@click.command()
@budget_argument()
def resume(name: str) -> None:
    """Go on with the budget NAME after a pause."""
    _do(name, "resume")


@click.command()
@budget_argument()
def drain(name: str) -> None:
    """Replace every connection of the running budget NAME by a new one, borrowed ones when they come back."""
    _do(name, "drain")


COMMANDS = [resize, pause, resume, drain]
