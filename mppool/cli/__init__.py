"""The command ``mppool``, or ``python -m mppool``.

Exit codes, of all commands but ``run``: 0 it is done; 1 there is no such budget, or it failed, in one line on stderr;
2 the command line is wrong. ``doctor`` exits with 1 if it found something. ``run`` exits as its command does.
"""

from __future__ import annotations

import click

from mppool import __version__
from mppool.cli import clustering, completion, doctor, measuring, reporting, running, showing, steering, watching

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mppool")
def main() -> None:
    """One database-connection budget for all the processes of an application.

    Exit codes: 0 done; 1 there is no such budget, or it failed; 2 the command line is wrong.
    """


for command in (
    running.run,
    showing.ls,
    showing.show,
    showing.stats,
    watching.top,
    measuring.metrics,
    reporting.report,
    doctor.doctor,
    clustering.cluster,
    completion.completion,
    *steering.COMMANDS,
):
    main.add_command(command)
