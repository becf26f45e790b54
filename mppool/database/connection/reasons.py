"""Why a connection could not be opened: the address, and the reason in a few words.

The driver raises the same error for a server that refuses, a server that is not there, and an unknown host name. Where
its code and message do not tell, we try to connect ourselves, after the driver has failed.
"""

from __future__ import annotations

import os
import socket
import time
from urllib.parse import unquote

from mppool import errors
from mppool.database.connection.error_classes import CANNOT_OPEN
from mppool.uri import PORTS, Database, options, split

__all__ = ["connect_error", "explained"]

LOOK_TIMEOUT = 1.0  # seconds that our own attempt may take
LOOK_AGAIN = 5.0  # seconds for which its result is reused: a server in trouble does not get twice the attempts
_looked: dict[tuple[str, int], tuple[float, str]] = {}  # by host and port: when, and what was found
_BY_CODE = {
    **dict.fromkeys(("28P01", "28000", "1045", "1698", "1251", "1862"), "authentication failed"),
    **dict.fromkeys(("3D000", "1049"), "no such database"),
    **dict.fromkeys(("42501", "1044"), "no privilege"),
    **dict.fromkeys(("53300", "1040", "1203", "1226"), "too many connections"),
    "57P03": "the server is starting or shutting down",
    CANNOT_OPEN: "the file cannot be opened",
}
_BY_WORDS = (
    ("Timed out", "timed out"),
    ("TLS", "TLS"),
    ("SSL", "TLS"),
    ("certificate", "TLS"),
    ("Error parsing connection string", "the uri"),
    ("The provided arguments are not supported", "a parameter of the uri"),
)
_FOREIGN = "something answers there, but not as a {} server that is ready does"


def connect_error(database: Database, code: str, message: str) -> errors.ConnectError:
    """The error for a connection that could not be opened, with the reason as far as the driver's message tells it."""
    reason = _BY_CODE.get(code, "") or next((reason for words, reason in _BY_WORDS if words in message), "")
    return errors.ConnectError(code, message, where=_shown(database), reason=reason)


def explained(database: Database, error: errors.ConnectError) -> errors.ConnectError:
    """The same error with a reason, if one can be found. Blocks: it may resolve the host, and connect once."""
    if error.reason or error.code != "0" or database.provider not in PORTS:
        return error
    place, now = _place(database), time.monotonic()
    looked_at, reason = _looked.get(place, (-LOOK_AGAIN, ""))
    if now >= looked_at + LOOK_AGAIN:
        reason = _look(database)
        _looked[place] = now, reason
    return errors.ConnectError(error.code, error.message, where=error.where, reason=reason)


def _place(database: Database) -> tuple[str, int]:
    """Host and port; or the path of a Unix socket, or of its folder, and the port all the same."""
    parts, given = split(database.uri.partition(":")[2]), options(database.uri)
    host = given.get("host" if database.provider == "postgresql" else "socket")
    return unquote(host or parts.host), parts.port or PORTS[database.provider]


def _shown(database: Database) -> str:
    if database.provider not in PORTS:
        return database.key.partition(":")[2].removeprefix("//")
    host, port = _place(database)
    if host.startswith("/"):
        return _path(database, host, port)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _path(database: Database, host: str, port: int) -> str:
    return os.path.join(host, f".s.PGSQL.{port}") if database.provider == "postgresql" else host


def _look(database: Database) -> str:
    host, port = _place(database)
    try:
        if host.startswith("/"):
            with socket.socket(socket.AF_UNIX) as knock:
                knock.settimeout(LOOK_TIMEOUT)
                knock.connect(_path(database, host, port))
        else:
            socket.create_connection((host, port), LOOK_TIMEOUT).close()
    except socket.gaierror:
        return "unknown host"
    except UnicodeError:
        return "unknown host"  # a label that is empty or too long
    except TimeoutError:
        return "timed out"
    except OSError as error:
        return os.strerror(error.errno).lower() if error.errno else type(error).__name__
    return _FOREIGN.format({"postgresql": "PostgreSQL", "mysql": "MySQL"}[database.provider])
