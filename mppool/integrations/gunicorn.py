"""gunicorn: one budget for all its workers, owned by the master. In ``gunicorn.conf.py``:

    from mppool.integrations import gunicorn

    gunicorn.one_budget(globals(), "postgresql://…", max_size=20, name="web")

No other hook is needed. A worker that is told to end closes its connections at its interpreter's exit. The kernel tells
the manager of a killed one, sooner than gunicorn's master could (``child_exit``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from mppool import PoolManager, scope

__all__ = ["one_budget"]

logger = logging.getLogger("mppool.pool")
_managers: dict[str, PoolManager] = {}  # the master's, by the user's name: a reload (HUP) reads the configuration again


def one_budget(config: dict[str, Any], uri: str, max_size: int = 10, *, name: str, cluster: str | None = None) -> None:
    """Have the master start and own the budget of the pools that its workers make for this database.

    It is a scope (see `mppool.scope`): the application makes its pools without a name, when it is loaded by the master
    (``--preload``) or by each worker. A second master (USR2) that reads the same configuration shares the budget.

    Args:
        config: the configuration's ``globals()``. An ``on_starting`` that is there already is called first; one that is
            defined below replaces ours and must then call it.
        uri: the database, as the application's pools say it.
        max_size: permits over all workers, whatever the application's pools say.
        name: of the scope, 1 to 55 letters, digits, ``.``, ``_`` or ``-``; unique to this application on this host.
        cluster: the url of the engine that keeps the budget for several hosts, on all of which the application has this
            name; see `PoolManager`. None: the budget is this host's alone.

    Raises: TypeError, ValueError: a parameter is not what it should be. The master, when it starts, raises
        BudgetMismatchError or ManagerUnavailableError.
    """
    running = _managers.get(name)
    if running is None:
        scope.begin(max_size, name=name, cluster=cluster)
        running = _managers[name] = PoolManager(uri, max_size)
    elif running.max_size != max_size:
        logger.warning(
            "budget %s goes on with max_size=%d: a reload cannot make it %d, restart gunicorn for that",
            running.name,
            running.max_size,
            max_size,
        )
    config["on_starting"] = _then(config.get("on_starting"), running.start)


def _then(theirs: Callable[[Any], object] | None, ours: Callable[[], object]) -> Callable[[Any], None]:
    def on_starting(server: Any) -> None:
        if theirs is not None:
            theirs(server)
        ours()

    return on_starting
