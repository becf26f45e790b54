"""``mppool ls``, ``show`` and ``stats``: what is there now, once."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import Any

import click

from mppool import PoolManager, errors, host
from mppool.cli.naming import attached, budget_argument, read
from mppool.stats import BudgetStats, Histogram
from mppool.view.processes import command_of
from mppool.view.words import seconds

__all__ = ["ls", "show", "stats"]

_PARTS = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
_DERIVED = ("open", "free", "in_use", "idle", "opening", "waiting")


def table(rows: list[tuple[object, ...]], left: set[int]) -> str:
    """Lines of columns; those in ``left`` begin at their left edge. The last one is not padded."""
    widths = [max(len(str(row[at])) for row in rows) for at in range(len(rows[0]))]
    lines = (
        "  ".join(
            str(cell).ljust(width) if at in left else str(cell).rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


# -- ls ----------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def ls(as_json: bool) -> None:
    """List the running budgets of this user, also those without a name and those of scopes.

    A budget without a name is called own-PID-…, after the process that made it; one of a scope scope-PID-….
    """
    try:
        found = [budget for budget in host.budgets() if budget.running]
    except OSError as error:
        raise click.ClickException(f"the runtime folder cannot be read: {error}") from None
    entries = [_entry(budget) for budget in found]
    if as_json:
        click.echo(json.dumps(entries, indent=2))
        return
    if not entries:
        click.echo(f"no budget runs for this user (looked in {host.runtime_folder().path})")
        return
    rows: list[tuple[object, ...]] = [("name", "open", "of", "processes", "manager", "database", "program")]
    for each in entries:
        size = each["max_size"] if each["max_size"] is not None else "?"
        opened = each["open"] if each["open"] is not None else "?"
        members = each["members"] if each["members"] is not None else "?"
        row = each["name"], opened, size, members, each["manager"] or "none", each["database"] or "?", each["program"]
        rows.append(row)
    click.echo(table(rows, {0, 5, 6}))


def _entry(budget: host.Budget) -> dict[str, Any]:
    try:
        stats = PoolManager.attach(budget.name).stats()
    except errors.PoolError:
        unknown = dict.fromkeys(("database", "max_size", "open", "members", "manager"))
        return {"name": budget.name, **unknown, "program": _program(budget.name, [])}
    pids = [member.pid for member in stats.members]
    return {
        "name": budget.name,
        "database": stats.database,
        "max_size": stats.max_size,
        "open": stats.open,
        "members": len(pids),
        "manager": stats.manager_pid,
        "program": _program(budget.name, pids),
    }


def _program(name: str, pids: list[int]) -> str:
    """The command line of the process that made the budget, or of its first member."""
    made_by = re.match(r"(?:own|scope)-(\d+)-", name)
    for pid in ([int(made_by[1])] if made_by else []) + sorted(pids)[:1]:
        if command := command_of(pid):
            return command if len(command) <= 60 else command[:59] + "…"
    return ""


# -- show ----------------------------------------------------------------------------------------------------------


@click.command()
@budget_argument()
def show(name: str) -> None:
    """Show which process has how many permits and connections of the running budget NAME."""
    stats = read(attached(name))
    click.echo(
        f"budget {stats.name}: {stats.open} of {stats.max_size} connections open, {stats.free} permits free, "
        f"{stats.short} wanted; manager {stats.manager_pid}{_state(stats)}"
    )
    if stats.cluster:
        click.echo(_cluster(stats))
    heading = ("pid", "permits", "in use", "idle", "moving", "waiting", "wait p99", "oldest", "program")
    rows: list[tuple[object, ...]] = [heading]
    for member in stats.members:
        held = member.credit, member.in_use, member.idle, member.opening, member.waiting
        oldest = seconds(member.oldest_use) if member.oldest_use else "-"
        last = command_of(member.pid)
        if member.oldest_place:
            last += f"  oldest: {member.oldest_place}"
        rows.append((member.pid, *held, seconds(member.wait.quantile(0.99)), oldest, last))
    click.echo(table(rows, {8}))


def _cluster(stats: BudgetStats) -> str:
    """The engine, and a table of all hosts; above that of this host's processes."""
    state = "learning what is open" if stats.learning else "lost" if stats.cluster_lost else "in agreement"
    text = f"several hosts, kept by {stats.cluster}: {state}; this host may use {stats.cap}"
    if stats.cluster_error:
        text += f"; {stats.cluster_error}"
    rows: list[tuple[object, ...]] = [("host", "permits", "in use", "waiting", "heard of", "")]
    for each in stats.hosts:
        what = "gone; its connections are still open" if each.ghost else "this host" if each.here else ""
        rows.append((each.name, each.credit, each.in_use, each.waiting, seconds(each.lease_age), what))
    return f"{text}\n{table(rows, {0, 5})}"


def _state(stats: BudgetStats) -> str:
    words = [word for word in ("paused", "resized") if getattr(stats, word)]
    if stats.reserve:
        words.append(f"{stats.reserve} permits in reserve, which are the budget {stats.name}.reserve")
    if stats.orphans:
        words.append(f"{stats.orphans} connections of ended processes that the server has not ended")
    return "".join(f"; {word}" for word in words)


# -- stats ---------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A snapshot as JSON has it: fields by their names, times in seconds, quantiles of histograms."""
    if isinstance(value, Histogram):
        quantiles = {part: value.quantile(share) for part, share in _PARTS}
        return {"count": value.count, **{k: v if v != float("inf") else None for k, v in quantiles.items()}}
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    if hasattr(value, "__dataclass_fields__"):
        shown = {each.name: plain(getattr(value, each.name)) for each in fields(value)}
        if isinstance(value, BudgetStats):
            shown |= {name: getattr(value, name) for name in _DERIVED}
        return shown
    return value


@click.command()
@budget_argument()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with an entry for each process.")
def stats(name: str, as_json: bool) -> None:
    """Print all counters of the running budget NAME, over all its processes since it began.

    Names are those of mppool.stats.BudgetStats. Times that end in _ms are milliseconds; wait and usage are how long
    requests waited and connections were borrowed, in seconds: half, 90 % and 99 % took no longer than p50, p90, p99.
    """
    shown = plain(read(attached(name)))
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    rows: list[tuple[object, ...]] = []
    for key, value in shown.items():
        if key in ("members", "hosts"):
            value = len(value)
        elif isinstance(value, dict):
            value = "  ".join(
                f"{part} {'∞' if at is None else seconds(at) if part != 'count' else at}" for part, at in value.items()
            )
        rows.append((key, value))
    click.echo(table(rows, {0, 1}))
