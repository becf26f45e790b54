"""What ``mppool doctor`` thinks of what it found: facts in, findings out. It looks at nothing itself."""

from __future__ import annotations

import re
from typing import NamedTuple

from mppool.host import Budget, RuntimeFolder
from mppool.stats import BudgetStats

__all__ = [
    "Finding",
    "Server",
    "of_budget",
    "of_cluster",
    "of_fence",
    "of_folder",
    "of_members",
    "of_neighbours",
    "of_server",
    "of_versions",
]


class Finding(NamedTuple):
    """One thing that was looked at. ``remedy`` is what to do about it; empty: it is as it should be."""

    what: str
    remedy: str = ""


class Server(NamedTuple):
    """What a database server says of its limits. None: there is no such limit.

    Attributes:
        most: connections that it takes.
        reserved: of these, those that this role may not use.
        role, role_limit: the user, and how many connections it may have.
        database_limit: how many connections the database may have.
        used: connections that it has now, over all users.
        ours: those of the budget's that are among them.
    """

    most: int
    reserved: int
    role: str
    role_limit: int | None
    database_limit: int | None
    used: int
    ours: int = 0


def of_versions(python: tuple[int, int], core: str | None, wanted: str) -> list[Finding]:
    """Whether these versions go together.

    Args:
        python: the interpreter's version.
        core: that of pysqlx-core; None: it is not installed.
        wanted: the versions of pysqlx-core that mppool says it needs, as ``>=0.2.3,<0.3``.
    """
    shown = f"Python {python[0]}.{python[1]}"
    found = [Finding(shown, "" if (3, 10) <= python < (3, 14) else "use Python 3.10, 3.11, 3.12 or 3.13")]
    if core is None:
        return [*found, Finding("pysqlx-core is not installed", f"pip install 'pysqlx-core{wanted}'")]
    fits = all(_holds(_numbers(core), sign, _numbers(bound)) for sign, bound in re.findall(r"([<>]=?)([\d.]+)", wanted))
    return [*found, Finding(f"pysqlx-core {core}", "" if fits else f"pip install 'pysqlx-core{wanted}'")]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _holds(version: tuple[int, ...], sign: str, bound: tuple[int, ...]) -> bool:
    return {"<": version < bound, "<=": version <= bound, ">": version > bound, ">=": version >= bound}[sign]


def of_folder(folder: RuntimeFolder) -> Finding:
    """Whether budgets can be kept in the runtime folder."""
    named = "named by MPPOOL_RUNTIME_DIR" if folder.chosen else "the usual one"
    if not folder.problem:
        room = f"{folder.free >> 20} MB free" if folder.free < 1 << 30 else f"{folder.free / (1 << 30):.1f} GB free"
        state = "private" if folder.exists else "made with the first budget"
        return Finding(f"runtime folder {folder.path} ({named}): {state}, {room}")
    remedy = "set MPPOOL_RUNTIME_DIR to an absolute path of a folder of this user's own, the same for all processes"
    if "open to others" in folder.problem:
        remedy = f"chmod 700 {folder.path}"
    elif "KB free" in folder.problem:
        remedy = "make room there, or set MPPOOL_RUNTIME_DIR to another folder; each budget needs about 1 MB"
    elif "belongs to" in folder.problem:
        remedy = f"remove it as its owner, or set MPPOOL_RUNTIME_DIR; {folder.path} is this user's by its name"
    elif "/proc" in folder.problem:
        remedy = "mount /proc of this PID namespace"
    return Finding(f"runtime folder ({named}): {folder.problem}", remedy)


def of_budget(budget: Budget) -> Finding | None:
    """Whether a budget's folder is that of a running one; None: there is nothing to say of it."""
    if not budget.readable:
        return Finding(
            f"budget {budget.name} was made by another version of mppool",
            "run the same version in all processes; restart the older ones",
        )
    if budget.elsewhere and budget.running:
        return Finding(
            f"budget {budget.name} belongs to processes of another PID namespace (another container)",
            "give each container a runtime folder of its own and its own part of max_size",
        )
    if budget.managed:
        return None
    if budget.members:
        return Finding(
            f"budget {budget.name} has processes and no manager",
            "a successor takes over within a second; if this stays so, read `log` in the budget's folder",
        )
    return Finding(f"budget {budget.name}: left by processes that were killed; nothing runs, its next user reuses it")


def of_members(stats: BudgetStats, room: int | None) -> list[Finding]:
    """What is wrong with a running budget, by its statistics.

    Args:
        room: how many processes its manager can serve within its limit of open files; None: not known.
    """
    name, found = f"budget {stats.name}", []
    shown = f"{name}: {stats.open} of {stats.max_size} connections open, {len(stats.members)} processes"
    found.append(Finding(shown))
    if room is not None and len(stats.members) > room * 0.8:
        found.append(
            Finding(
                f"{name}: its manager's limit of open files is enough for {room} processes, and it has "
                f"{len(stats.members)}",
                "raise the hard limit (ulimit -Hn, LimitNOFILE=) before the first process starts",
            )
        )
    if stats.paused:
        found.append(Finding(f"{name} is paused, {stats.waiting} callers wait", f"mppool resume {stats.name}"))
    if stats.resized:
        found.append(
            Finding(
                f"{name} was resized to {stats.max_size} while it runs",
                "change max_size in the code too, or newcomers that say the old one are refused",
            )
        )
    if stats.orphans:
        found.append(
            Finding(
                f"{name}: {stats.orphans} connections of ended processes are still open at the server",
                "they come free when their statements end (60 s at most); let the role end its own backends "
                "(end_orphans=True)",
            )
        )
    if stats.waiting and not stats.paused and stats.in_use >= stats.max_size:
        oldest = max(stats.members, key=lambda member: member.oldest_use)
        held = f", the oldest for {oldest.oldest_use:.0f} s by process {oldest.pid}" if oldest.oldest_use >= 1 else ""
        found.append(
            Finding(
                f"{name}: all {stats.max_size} connections are in use{held}, and {stats.waiting} callers wait",
                "hold connections for a shorter time, or raise max_size",
            )
        )
    if stats.connections_refused:
        found.append(
            Finding(
                f"{name}: the server was full {stats.connections_refused} times when a connection was opened",
                "lower max_size, or raise the server's limit: something else uses connections, too",
            )
        )
    return found


def of_cluster(stats: BudgetStats) -> list[Finding]:
    """How a host stands with the other hosts of its budget."""
    name, found = f"budget {stats.name}", []
    ghosts = sum(host.credit for host in stats.hosts if host.ghost)
    text = f"{name}: {len(stats.hosts)} hosts by {stats.cluster}; this one may use {stats.cap} of {stats.max_size}"
    found.append(Finding(text))
    if stats.learning:
        found.append(Finding(f"{name} is learning what is open: no host gets more for some seconds"))
    if stats.cluster_lost or stats.cluster_error:
        found.append(
            Finding(
                f"{name}: {stats.cluster_error or 'the engine does not answer'}",
                "this host opens nothing until that is mended; what is open goes on",
            )
        )
    if ghosts:
        found.append(
            Finding(
                f"{name}: {ghosts} connections of hosts that are gone are still open at the database",
                "they are counted until the server has ended them; set tcp_keepalives_idle there if that takes long",
            )
        )
    return found


def of_fence(name: str, max_size: int, server: Server) -> list[Finding]:
    """Whether the server itself would refuse what is more than the budget: of several hosts one may be paused by its
    machine between the look at its lease and a connect."""
    if server.role_limit is not None:
        return []
    text = f"budget {name}: role {server.role} has no limit of connections, which would be a fence around all hosts"
    return [Finding(text, f"ALTER ROLE {server.role} CONNECTION LIMIT {max_size}")]


def of_neighbours(budgets: list[tuple[str, str, int, Server]]) -> list[Finding]:
    """Whether each server has room for all budgets of this user together.

    Args:
        budgets: of each its name, its server (type, host and port), its permits, and what the server says.
    """
    found = []
    for address in sorted({each[1] for each in budgets}):
        here = [(name, size) for name, at, size, _ in budgets if at == address]
        usable = next(server.most - server.reserved for _, at, _, server in budgets if at == address)
        total = sum(size for _, size in here)
        if len(here) > 1 and total > usable and all(size <= usable for _, size in here):
            names = ", ".join(f"{name} ({size})" for name, size in here)
            found.append(
                Finding(
                    f"{address}: the budgets {names} add up to {total} connections, and {usable} can be had there",
                    "lower their max_size, or raise the server's max_connections",
                )
            )
    return found


def of_server(name: str, max_size: int, server: Server) -> list[Finding]:
    """Whether the server has room for the whole budget of that name and so many permits."""
    found = []
    free_of_others = server.most - server.reserved - (server.used - server.ours)
    text = (
        f"budget {name} of {max_size}: the server takes {server.most} connections, of which "
        f"{server.reserved} are reserved; {server.used} are open, {server.ours} of them this budget's"
    )
    usable = server.most - server.reserved
    if max_size > usable:
        found.append(Finding(text, f"lower max_size to less than {usable}, or raise the server's max_connections"))
    elif max_size > free_of_others:
        advice = f"others leave {free_of_others}: lower max_size to that, raise max_connections, or close others'"
        found.append(Finding(text, advice))
    else:
        found.append(Finding(text))
    for what, limit in ((f"role {server.role}", server.role_limit), ("the database", server.database_limit)):
        if limit is not None and limit < max_size:
            fix = f"raise the limit of {what}, or lower max_size to {limit}"
            found.append(Finding(f"budget {name} of {max_size}: {what} may have {limit} connections", fix))
    return found
