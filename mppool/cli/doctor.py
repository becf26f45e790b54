"""``mppool doctor``: looks at this host, the budgets that run and their servers, and says what to do."""

from __future__ import annotations

import sys
from importlib import metadata

import click

from mppool import PoolManager, PySQLXEngineSync, __version__, errors, host
from mppool.cli import checks
from mppool.cli.checks import Finding, Server
from mppool.cli.naming import budget_argument
from mppool.cluster import setup
from mppool.stats import BudgetStats

__all__ = ["doctor"]

_WAIT = 3.0  # seconds for a connection of the budget's

_POSTGRES = """
SELECT current_setting('max_connections')::int AS most,
    CASE WHEN rolsuper THEN 0 ELSE current_setting('superuser_reserved_connections')::int
        + coalesce(current_setting('reserved_connections', true), '0')::int END AS reserved,
    rolname::text AS role, nullif(rolconnlimit, -1)::int AS role_limit,
    (SELECT nullif(datconnlimit, -1)::int FROM pg_database WHERE datname = current_database()) AS database_limit,
    (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend') AS used
FROM pg_roles WHERE rolname = current_user
"""
_MYSQL = """
SELECT CAST(@@global.max_connections AS SIGNED) AS most, CAST(@@max_user_connections AS SIGNED) AS role_limit,
    current_user() AS role,
    (SELECT CAST(count(*) AS SIGNED) FROM information_schema.processlist) AS used
"""


@click.command()
@budget_argument(required=False)
@click.option("--uri", help="Look at this database too, with a connection of its own, as for --max-size permits.")
@click.option("--max-size", type=click.IntRange(1), default=10, show_default=True, help="For --uri: permits meant.")
def doctor(name: str | None, uri: str | None, max_size: int) -> None:
    """Look for what is wrong, with this host and with all running budgets, or with NAME alone; say what to do.

    A running budget's server is asked over one of its own connections; if none comes free within 3 seconds it is not
    asked. Exit code 1: there is a finding with a remedy.
    """
    found = [Finding(f"mppool {__version__}"), *_versions(), checks.of_folder(host.runtime_folder())]
    found += _budgets(name)
    if uri is not None:
        found += _database(uri, max_size)
    for each in found:
        click.echo(f"{'!!' if each.remedy else 'ok'}  {each.what}")
        if each.remedy:
            click.echo(f"    -> {each.remedy}")
    wrong = sum(bool(each.remedy) for each in found)
    click.echo(f"{wrong} finding{'s' if wrong != 1 else ''}" if wrong else "nothing found")
    sys.exit(1 if wrong else 0)


def _versions() -> list[Finding]:
    needs = metadata.requires("mppool") or []
    wanted = next((need.removeprefix("pysqlx-core") for need in needs if need.startswith("pysqlx-core")), "")
    try:
        core = metadata.version("pysqlx-core")
    except metadata.PackageNotFoundError:
        core = None
    return checks.of_versions(sys.version_info[:2], core, wanted)


def _budgets(name: str | None) -> list[Finding]:
    try:
        all_of_them = host.budgets()
    except OSError:
        return []  # the finding about the folder says it
    chosen = [budget for budget in all_of_them if name in (None, budget.name)]
    if name is not None and not any(budget.managed for budget in chosen):
        raise click.ClickException(f"no budget {name!r} is running for this user on this host")
    found: list[Finding] = []
    asked: list[tuple[str, str, int, Server]] = []
    for budget in chosen:
        if (finding := checks.of_budget(budget)) is not None:
            found.append(finding)
        if budget.managed and budget.readable and not budget.elsewhere:
            found += _running(budget.name, asked)
    found += checks.of_neighbours(asked)
    return found or [Finding("no budget runs for this user")]


def _running(name: str, asked: list[tuple[str, str, int, Server]]) -> list[Finding]:
    """What is to be said of a running budget. What its server said is added to ``asked``."""
    try:
        manager = PoolManager.attach(name)
        stats = manager.stats()
    except errors.PoolError as error:
        return [Finding(f"budget {name}: {error}", "look again; it may just be ending")]
    found = checks.of_members(stats, host.members_within(stats.manager_pid, stats.max_size))
    if manager.cluster is not None:
        found += _cluster(stats, manager.cluster)
    if stats.paused:
        return found  # nothing is lent
    try:
        with manager.pool(conn_timeout=_WAIT) as pool, pool.connection() as conn:
            server = ask(conn, stats.database)
            stats = manager.stats()
        if server is not None:
            if not host.is_reserve(name):  # its permits are another's, too
                asked.append((name, stats.database.rpartition("/")[0], stats.max_size, server))
            ours = stats.open
            if stats.cluster:
                found += checks.of_fence(stats.name, stats.max_size, server)
                ours = max(ours, sum(each.credit for each in stats.hosts))
            found += checks.of_server(stats.name, stats.max_size, server._replace(ours=ours))
    except errors.PoolTimeoutError:
        found.append(Finding(f"budget {name}: no connection came free in {_WAIT:g} s, so its server was not asked"))
    except (errors.PoolError, errors.PySQLXError) as error:
        found.append(Finding(f"budget {name}: its server cannot be asked: {error}", "see the error"))
    return found


def _cluster(stats: BudgetStats, url: str) -> list[Finding]:
    """What is to be said of a budget over several hosts, and of its engine."""
    found = checks.of_cluster(stats)
    try:
        found += [Finding(f"budget {stats.name}: {what}", remedy) for what, remedy in setup.look(url)]
    except setup.SetupError as error:
        found.append(Finding(f"budget {stats.name}: its engine cannot be asked: {error}", "see the error"))
    return found


def _database(uri: str, max_size: int) -> list[Finding]:
    try:
        with PySQLXEngineSync(uri) as conn:
            server = ask(conn, uri)
    except (errors.PySQLXError, ValueError, OSError) as error:
        return [Finding(f"--uri: {error}", "check host, port, user and password")]
    if server is None:
        return [Finding("--uri: the database opens; it has no limit of connections")]
    return checks.of_server("for --uri", max_size, server._replace(used=server.used - 1))


def ask(conn: PySQLXEngineSync, database: str) -> Server | None:
    """What the server says of its limits; None: it has none.

    Args:
        database: a uri or a key, of which the scheme counts.
    """
    provider = database.partition(":")[0]
    if provider in ("postgresql", "postgres"):
        row = conn.query_first_as_dict(_POSTGRES)
        return Server(**row) if row else None
    if provider == "mysql":
        row = conn.query_first_as_dict(_MYSQL) or {}
        limit = row.pop("role_limit") or None
        return Server(**row, reserved=0, role_limit=limit, database_limit=None)
    return None
