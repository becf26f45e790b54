"""``mppool cluster``: what an administrator does once for budgets over several hosts."""

from __future__ import annotations

import click

from mppool import cluster_url
from mppool.cluster import setup

__all__ = ["cluster"]


@click.group()
def cluster() -> None:
    """Budgets over several hosts: the engine that keeps them."""


@cluster.command()
@click.option("--print", "prints", is_flag=True, help="Print the SQL, and do nothing.")
@click.option("--role", help="Grant this role what a host needs.")
@click.option("--url", envvar="MPPOOL_CLUSTER", help="postgresql://… of an administrator, or in MPPOOL_CLUSTER.")
def init(prints: bool, role: str | None, url: str | None) -> None:
    """Make the schema that keeps budgets in PostgreSQL, as the user of the url; or --print it.

    A host makes the schema itself where its role may. Redis needs nothing.
    """
    if prints:
        click.echo(setup.schema(role), nl=False)
        return
    if not url:
        raise click.UsageError("say --url or MPPOOL_CLUSTER, or --print")
    try:
        if not cluster_url.check(url).startswith(cluster_url.POSTGRES):
            raise click.ClickException("only PostgreSQL needs a schema; Redis needs nothing")
        setup.create(url, role)
    except (ValueError, setup.SetupError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{cluster_url.shown(url)} has the schema mppool")
