"""For administrators: the schema in PostgreSQL, and whether an engine is set up well. The command line uses this."""

from __future__ import annotations

from typing import Any

from mppool.cluster.contract import EngineError
from mppool.cluster.engines import engine_of

__all__ = ["SetupError", "create", "look", "schema"]


class SetupError(Exception):
    """The engine did not do it; the message never contains a password."""


def schema(role: str | None = None) -> str:
    """The SQL that makes the schema in PostgreSQL.

    Args:
        role: that keeps budgets there; None: without its grants.
    """
    from mppool.cluster.postgres_engine import schema_sql

    return schema_sql(role)


def create(url: str, role: str | None = None) -> None:
    """Make the schema in PostgreSQL, as the user of the url.

    Args:
        url: ``postgresql://…``.
        role: as for `schema`.

    Raises: SetupError.
    """
    try:
        import psycopg
    except ImportError:
        raise SetupError("psycopg is not installed: pip install 'mppool[postgres]'") from None
    try:
        with psycopg.connect(url) as connection:
            connection.execute(schema(role).encode())
    except psycopg.Error as error:
        raise SetupError(" ".join(str(error).split())) from None


def look(url: str) -> list[tuple[str, str]]:
    """What is to be said of an engine: (what it is, what to do about it; empty: nothing).

    Raises: SetupError: it cannot be asked.
    """
    try:
        engine = engine_of(url, "doctor")
    except ImportError as error:
        raise SetupError(f"its client is not installed: {error}") from None
    try:
        return _of_redis(engine) if hasattr(engine, "guard") else _of_postgres(engine)
    except EngineError as error:
        raise SetupError(str(error)) from None
    finally:
        engine.close()


def _of_redis(engine: Any) -> list[tuple[str, str]]:
    info: dict[str, Any] = engine.guard(engine._client.info)
    name = f"Redis {info.get('redis_version', '?')}"
    saved = "appends each change to its file" if info.get("aof_enabled") else "keeps nothing over a restart"
    found = [(f"{name} {saved}; each restart is a new epoch: hosts get nothing more for some 12 s", "")]
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if info.get("maxmemory") and policy.startswith("allkeys"):
        text = f"{name} may evict the budget's keys (maxmemory-policy {policy}): each time is a new epoch"
        found.append((text, "set maxmemory-policy noeviction, or give the budgets a server of their own"))
    replicas = int(info.get("connected_slaves", 0))
    if replicas and "min_slaves_good_slaves" not in info:
        text = f"{name} has {replicas} replicas and takes writes without them: a partition may leave two masters"
        found.append((text, "set min-replicas-to-write 1"))
    return found


def _of_postgres(engine: Any) -> list[tuple[str, str]]:
    engine.read()  # connects, and makes or checks the schema
    rows = engine._call(
        "SELECT current_setting('server_version'), current_setting('synchronous_standby_names'), "
        "(SELECT count(*) FROM pg_stat_replication), current_setting('fsync')"
    )
    version, names, standbys, fsync = rows[0]
    found = [(f"PostgreSQL {version} has the schema mppool; each host takes one connection of it", "")]
    if int(standbys) and not names:
        text = f"PostgreSQL {version} has {standbys} standbys, none of them synchronous: a promotion is a new epoch"
        found.append((text, ""))
    if fsync == "off":
        found.append((f"PostgreSQL {version} runs with fsync off: a crash may bring old rows back", "set fsync on"))
    return found
