"""What a database's uri says beyond the address: completed, and kept out of messages. `mppool.uri` reads it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mppool.uri import options, secrets

if TYPE_CHECKING:
    from mppool.uri import Database

__all__ = ["refuses_looking", "scrub", "verifies", "with_defaults"]

LOOK = "client_connection_check_interval"  # PostgreSQL 14: how often it looks for its client during a statement
LOOK_EVERY = 100  # milliseconds; a look is one system call
# Seconds until it probes a client that says nothing, and from one probe to the next; and how many. Without an answer
# it ends the connection, which otherwise counts there for two hours.
PROBES = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 3}


def verifies(database: Database) -> bool:
    """Whether a server's certificate is to be verified. PostgreSQL's and MySQL's are not unless asked for."""
    if database.provider in ("postgresql", "mysql"):
        return options(database.uri).get("sslaccept") == "strict"
    return database.provider == "sqlserver"


def with_defaults(database: Database, connect_timeout: float, looked_after: bool = True) -> str:
    """The uri with what the user left open: a bound on connecting, no second connection on MySQL, and, where
    ``looked_after``, a PostgreSQL server that ends the statement of a client that is gone, and its connection."""
    if database.provider not in ("postgresql", "mysql"):
        return database.uri
    uri: str = database.uri
    given = options(uri)
    more = []
    if "connect_timeout" not in given:
        more.append(f"connect_timeout={max(1, round(connect_timeout + 0.499))}")  # whole seconds only
    if database.provider == "mysql" and not given.keys() & {"prefer_socket", "socket"}:
        # on the same host it would open a second connection to ask for the socket's path, and drop the first
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
    """Whether a server (before PostgreSQL 14), or a proxy before it, does not take the setting that
    `with_defaults` adds."""
    return LOOK in message or "startup parameter" in message


def scrub(text: str, database: Database) -> str:
    """``text`` without the secrets of the database's uri."""
    for secret in secrets(database):
        # as a word of its own: a password of one letter must not make every message unreadable
        before = r"(?<!\w)" if secret[0].isalnum() else ""
        after = r"(?!\w)" if secret[-1].isalnum() else ""
        text = re.sub(before + re.escape(secret) + after, "***", text)
    return text
