"""``mppool completion``: the script by which a shell completes commands, options and budgets' names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["completion"]

SHELLS = ("bash", "fish", "zsh")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash, in ~/.bashrc:  eval "$(mppool completion bash)"
    zsh, in ~/.zshrc:    eval "$(mppool completion zsh)"
    fish:                mppool completion fish > ~/.config/fish/completions/mppool.fish
    """
    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(context.find_root().command, {}, "mppool", "_MPPOOL_COMPLETE").source())
