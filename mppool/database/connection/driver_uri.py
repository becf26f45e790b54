"""The database's uri as the driver gets it: with our defaults added; and messages without the uri's secrets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mppool.uri import options, secrets

if TYPE_CHECKING:
    from mppool.uri import Database

__all__ = ["refuses_looking", "scrub", "verifies", "with_defaults"]

LOOK = "client_connection_check_interval"  # PostgreSQL 14: how often the server looks for its client during a statement
LOOK_EVERY = 100  # milliseconds; a look is one system call
# Seconds until PostgreSQL probes a silent client, seconds between probes, and their number. Without an answer the
# server ends the connection, which it would otherwise count for two hours.
PROBES = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 3}


def verifies(database: Database) -> bool:
    """Whether a server's certificate is to be verified. PostgreSQL's and MySQL's are not unless asked for."""
    if database.provider in ("postgresql", "mysql"):
        return options(database.uri).get("sslaccept") == "strict"
    return database.provider == "sqlserver"


def with_defaults(database: Database, connect_timeout: float, looked_after: bool = True) -> str:
    """The uri with defaults for what it leaves open.

    Args:
        connect_timeout: seconds for an open, rounded up to whole ones.
        looked_after: a PostgreSQL server is told to end the statement, and the connection, of a client that is gone.
    """
    if database.provider not in ("postgresql", "mysql"):
        return database.uri
    uri: str = database.uri
    given = options(uri)
    more = []
    if "connect_timeout" not in given:
        more.append(f"connect_timeout={max(1, round(connect_timeout + 0.499))}")  # whole seconds only
    if database.provider == "mysql" and not given.keys() & {"prefer_socket", "socket"}:
        # on the same host the driver would open a second connection, over the Unix socket, and drop the first
        more.append("prefer_socket=false")
    settings = {**({} if LOOK in uri else {LOOK: LOOK_EVERY}), **({} if "tcp_keepalives" in uri else PROBES)}
    if database.provider == "postgresql" and looked_after and settings:
        own = "%20".join(f"-c%20{name}%3D{value}" for name, value in settings.items())
        if "options" in given:
            uri = uri.replace(f"options={given['options']}", f"options={given['options']}%20{own}", 1)
        else:
            more.append(f"options={own}")
    if not more:
        return uri
    glue = "" if uri.endswith(("?", "&")) else "&" if "?" in uri else "?"
    return uri + glue + "&".join(more)


def refuses_looking(message: str) -> bool:
    """Does this error say that the server (before PostgreSQL 14) or a proxy refuses a setting of `with_defaults`?"""
    return LOOK in message or "startup parameter" in message


def scrub(text: str, database: Database) -> str:
    """``text`` without the secrets of the database's uri."""
    for secret in secrets(database):
        # as a word of its own: a password of one letter must not make every message unreadable
        before = r"(?<!\w)" if secret[0].isalnum() else ""
        after = r"(?!\w)" if secret[-1].isalnum() else ""
        text = re.sub(before + re.escape(secret) + after, "***", text)
    return text
