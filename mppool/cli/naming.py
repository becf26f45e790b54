"""What the commands share: the argument NAME, which completes itself, and a running budget by its name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click
from click.shell_completion import CompletionItem

from mppool import PoolManager, errors, host
from mppool.stats import BudgetStats

__all__ = ["NAME", "attached", "budget_argument", "read", "running"]


class BudgetName(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic from click 8.5 on
    """The name of a budget; a shell completes it to one that runs."""

    name = "name"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        with suppress(OSError):
            return [CompletionItem(name) for name in running() if name.startswith(incomplete)]
        return []


NAME = BudgetName()


def budget_argument(required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The argument NAME of a command."""
    return click.argument("name", type=NAME, required=required)


def running() -> list[str]:
    """The names of the budgets of this user that have a manager. Raises: OSError."""
    return [budget.name for budget in host.budgets() if budget.managed]


def attached(name: str) -> PoolManager:
    """The running budget of that name. Raises: ClickException, which says in one line why there is none."""
    try:
        return PoolManager.attach(name)
    except (errors.ManagerUnavailableError, ValueError) as error:
        text = str(error)
        with suppress(OSError):
            others = running()
            if others and name not in others:
                text += f"; these are: {', '.join(others)}"
        raise click.ClickException(text) from None
    except errors.PoolError as error:
        raise click.ClickException(str(error)) from None


def read(manager: PoolManager) -> BudgetStats:
    """Its statistics. Raises: ClickException."""
    try:
        return manager.stats()
    except errors.PoolError as error:
        raise click.ClickException(str(error)) from None
