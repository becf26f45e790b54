"""The url of the engine that keeps a budget over several hosts: checked, and shown without its secrets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from urllib.parse import urlsplit

__all__ = ["ClusterSource", "check", "missing", "shown"]

#: The url, or a function, plain or async, that is asked for it whenever a manager is launched, and while the engine
#: refuses this host.
ClusterSource = str | Callable[[], str] | Callable[[], Awaitable[str]]

REDIS = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
POSTGRES = ("postgresql", "postgres")
_KNOWN = "redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel:// or postgresql://"


def check(url: object) -> str:
    """Refuse what names no engine. No message shows more of it than its scheme.

    Raises: TypeError, ValueError.
    """
    if not isinstance(url, str):
        raise TypeError(f"cluster must be a str, or a function that returns one, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        scheme, place = parts.scheme, parts.netloc + parts.path
        if "," not in parts.netloc:  # of Sentinel's hosts and PostgreSQL's each has a port
            parts.port  # noqa: B018  # else it is read later, and the error shows a part of a password
    except ValueError:
        raise ValueError("cluster: the url cannot be read; percent-encode what is special in a password") from None
    if scheme not in (*REDIS, *POSTGRES):
        raise ValueError(f"cluster must begin with {_KNOWN}" + (f", not {scheme}://" if "://" in url else ""))
    if not place.strip("/"):
        raise ValueError(f"cluster: {scheme}:// needs a host")
    return url


def missing(url: str) -> str:
    """What has to be installed for this engine; empty: nothing."""
    client, extra = ("psycopg", "postgres") if urlsplit(url).scheme in POSTGRES else ("redis", "redis")
    return "" if find_spec(client) else f"mppool[{extra}]"


def shown(url: str) -> str:
    """The engine's place without user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
