"""A scope: one budget per database for a whole tree of processes, by a word in its environment.

A program whose workers load the application for themselves makes each pool once per worker; nothing shows that they
are meant to be one. In a scope they are one: a handle or manager that is made without a name has the scope's budget
for its database. ``mppool run -- command`` begins one, as make's jobserver begins one for its jobs; `begin` in a
``gunicorn.conf.py`` does the same. Every process that is forked or started from there is in it.
"""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import MutableMapping
from dataclasses import replace

from mppool.cluster_url import check
from mppool.settings import ALWAYS, BudgetSettings, check_name

__all__ = ["begin", "named", "owns"]

SCOPE, MAX_SIZE, CLUSTER = "MPPOOL_SCOPE", "MPPOOL_MAX_SIZE", "MPPOOL_CLUSTER"


def begin(
    max_size: int | None = None,
    environ: MutableMapping[str, str] | None = None,
    *,
    name: str | None = None,
    cluster: str | None = None,
) -> str:
    """Begin a scope, or stay in the one that there is.

    Args:
        max_size: permits of each of its budgets, whatever the handles say; None: what they say.
        environ: the environment to put it into; None: that of this process, for processes that start from now on.
        name: of a scope that others may begin, too, and so join: gunicorn's second master in an upgrade (USR2), say,
            which does not inherit what the first one's configuration put into the environment. None: one is made up.
        cluster: the url of the engine that keeps its budgets for PostgreSQL databases over several hosts, on all of
            which a scope with this ``name`` begins; None: they are this host's alone.

    Returns: the scope's name.

    Raises: TypeError, ValueError: ``max_size`` or ``name`` is not what it should be.
    """
    environ = os.environ if environ is None else environ
    if name is not None:
        check_name(name)
        check_name(f"{name}-{0:08x}")  # its budgets have names of this form
    if cluster is not None:
        if name is None:
            raise ValueError("a scope over several hosts needs a name, the same on all hosts")
        environ[CLUSTER] = check(cluster)
    if max_size is not None:
        BudgetSettings("sqlite:any", max_size)  # refuses a bad value
        environ[MAX_SIZE] = str(max_size)
    return environ.setdefault(SCOPE, name or f"scope-{os.getpid()}-{secrets.token_hex(4)}")


def owns(name: str) -> bool:
    """Whether the budget called ``name`` belongs to the scope that this process is in."""
    scope = os.environ.get(SCOPE)
    return bool(scope) and name.startswith(f"{scope}-")


def named(budget: BudgetSettings) -> tuple[BudgetSettings, str]:
    """The ``budget`` with what the scope decides, and its name: the user's, the scope's, or one made up for this
    program and its forked children.

    Raises: ValueError: the environment holds a value that is no number of permits; or the budget is to have the size of
        a running one, and cannot be another one's.
    """
    scope, given = os.environ.get(SCOPE), os.environ.get(MAX_SIZE)
    if budget.name is not None:
        return budget, budget.name
    if not scope:
        if budget.max_size is None:
            raise ValueError("max_size=None takes the size of a running budget: say which one, by its name")
        return budget, f"own-{os.getpid()}-{secrets.token_hex(4)}"
    if given and not given.isdigit():
        raise ValueError(f"the environment variable {MAX_SIZE} must be a whole number, not {given!r}")
    name = f"{scope}-{zlib.crc32(budget.database.key.encode()):08x}"
    size = int(given) if given else budget.max_size
    # Its processes begin at any time, with numbers that were written down before.
    cluster = budget.cluster
    if cluster is None and budget.database.provider == "postgresql":
        cluster = os.environ.get(CLUSTER) or None
    return replace(budget, max_size=size, name=name, made=ALWAYS, cluster=cluster), name
