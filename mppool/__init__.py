"""mppool: one database-connection budget for all the processes of an application.

Every public name is imported on first use: the manager process imports this package too and must stay small,
and a program that only declares a pool should not pay for pydantic or asyncio before it uses them.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mppool import errors
    from mppool.database.connection.async_connection import PySQLXEngine
    from mppool.database.connection.sync_connection import PySQLXEngineSync
    from mppool.database.values.rows import BaseRow
    from mppool.process.async_pool import PySQLXEnginePool
    from mppool.process.manager import PoolManager
    from mppool.process.sync_pool import PySQLXEnginePoolSync
    from mppool.settings import LOG_CONFIG

__all__ = [
    "LOG_CONFIG",
    "BaseRow",
    "PoolManager",
    "PySQLXEngine",
    "PySQLXEnginePool",
    "PySQLXEnginePoolSync",
    "PySQLXEngineSync",
    "__version__",
    "errors",
]

_HOME = {
    "LOG_CONFIG": "mppool.settings",
    "BaseRow": "mppool.database.values.rows",
    "PoolManager": "mppool.process.manager",
    "PySQLXEngine": "mppool.database.connection.async_connection",
    "PySQLXEnginePool": "mppool.process.async_pool",
    "PySQLXEnginePoolSync": "mppool.process.sync_pool",
    "PySQLXEngineSync": "mppool.database.connection.sync_connection",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "errors":
        return import_module("mppool.errors")
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
