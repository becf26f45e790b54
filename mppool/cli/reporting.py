"""``mppool report``: a running budget recorded for a while, as one HTML file."""

from __future__ import annotations

import os
import time

import click
import psutil

from mppool import PoolManager, errors
from mppool.cli.naming import attached, budget_argument
from mppool.view.page import page
from mppool.view.processes import command_of
from mppool.view.recording import Recording

__all__ = ["record", "report"]


@click.command()
@budget_argument()
@click.option("--seconds", type=click.FloatRange(0.1), default=60.0, show_default=True, help="How long it is watched.")
@click.option("--output", type=click.Path(dir_okay=False), help="The file.  [default: mppool-NAME.html]")
def report(name: str, seconds: float, output: str | None) -> None:
    """Watch the running budget NAME for a while and write what happened to one HTML file that needs no network.

    Ctrl-C ends it early; the file has what was seen until then, also if the budget ends.
    """
    manager, path = attached(name), output or f"mppool-{name}.html"
    begun = time.strftime("%Y-%m-%d %H:%M:%S")
    click.echo(f"watching {name} for {seconds:g} s …", err=True)
    recording = record(manager, seconds)
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(page(recording, begun))
    except ValueError:
        raise click.ClickException(f"budget {name!r} ended before it was seen") from None
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from None
    click.echo(os.path.abspath(path))


def record(manager: PoolManager, seconds: float) -> Recording:
    """Watch a budget for so long, or until it ends or Ctrl-C is pressed."""
    every = max(0.02, seconds / 600)
    recording = Recording(every, command_of, psutil.pid_exists)
    start = due = time.monotonic()
    try:
        while (now := time.monotonic()) <= start + seconds:
            recording.note(now, manager.stats())
            due = max(due + every, now)
            time.sleep(max(0.0, due - time.monotonic()))
    except errors.PoolError as error:
        click.echo(f"mppool: {error}", err=True)
    except KeyboardInterrupt:
        click.echo("", err=True)
    return recording
