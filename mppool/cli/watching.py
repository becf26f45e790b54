"""``mppool top``: which budget, and the loop that shows it."""

from __future__ import annotations

import click

from mppool import errors
from mppool.cli.naming import attached, budget_argument, running
from mppool.view.choose import choose
from mppool.view.terminal import Terminal
from mppool.view.top import watch

__all__ = ["top"]


@click.command()
@budget_argument(required=False)
@click.option(
    "--interval", type=click.FloatRange(0.1, 60), default=0.5, show_default=True, help="Seconds between two looks."
)
def top(name: str | None, interval: float) -> None:
    """Watch and steer a running budget, live; without NAME the one that runs, or one of a list.

    Rates and quantiles are those of the last 10 seconds. Press ? for the keys.
    """
    try:
        terminal = Terminal()
    except (OSError, ValueError):
        raise click.ClickException("top needs a terminal; try: mppool show NAME, or mppool stats NAME --json") from None
    names = [name] if name else running()
    if not names:
        raise click.ClickException("no budget runs for this user")
    first = attached(names[0])  # before the screen: an error stays to be read
    try:
        with terminal:
            chosen = names[0] if len(names) == 1 else choose(terminal, names)
            if chosen is None:
                return
            watch(first if chosen == names[0] else attached(chosen), terminal, interval)
    except errors.PoolError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        pass
