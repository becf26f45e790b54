"""A database's uri: read, checked, and put into the driver's words. No message of this module shows any of it but its
scheme, and the names and values of options that are no secrets.

The driver ignores the options that it does not know, and values that it does not know of those that it does. Where that
would leave a connection less protected than was asked for, the uri is refused by name.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, unquote_plus

__all__ = ["Database", "Uri", "UriSource", "ask", "named", "options", "secrets"]

#: A database's uri, or a function, plain or async, that is asked for it whenever a connection is opened.
UriSource = str | Callable[[], str] | Callable[[], Awaitable[str]]

PROVIDERS = ("postgresql", "mysql", "sqlserver", "sqlite")
PORTS = {"postgresql": 5432, "mysql": 3306}
ESCAPE = (
    "in a user name or a password, '/', '?', '#', '@', ':', '[' and '%' must be percent-encoded, as "
    "urllib.parse.quote(password, safe='') does"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.]{0,30}")
_SERVER = re.compile(r"//(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?P<fragment>#.*)?", re.DOTALL)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::(?P<port>[^:]*))?")
_PROPERTY = re.compile(r"(?P<name>[^;=]*)=(?P<value>\{[^}]*\}|[^;]*)")  # of SQL Server

#: Options with a few values, of which the driver takes any other for its default.
_VALUES: dict[str, dict[str, tuple[str, ...]]] = {
    "postgresql": {
        "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
        "sslaccept": ("strict", "accept_invalid_certs"),
        "channel_binding": ("disable", "prefer", "require"),
    },
    "mysql": {"sslaccept": ("strict", "accept_invalid_certs")},
}
_ABOUT_TLS = re.compile(r"(?:ssl|tls|use_?ssl|use_?tls|require_?ssl)", re.IGNORECASE)
_TLS = {
    "postgresql": ("sslmode", "sslaccept", "sslcert", "sslidentity", "sslpassword"),
    "mysql": ("sslaccept", "sslcert", "sslidentity", "sslpassword"),
}
_TLS_HELP = {
    "postgresql": "write sslmode=verify-full for a server that is verified, sslcert=FILE for the certificate of its "
    "authority, sslidentity=FILE (PKCS #12) and sslpassword for one's own",
    "mysql": "write sslaccept=strict for a server that is verified, sslaccept=accept_invalid_certs for TLS alone, "
    "sslcert=FILE for the certificate of its authority, sslidentity=FILE (PKCS #12) and sslpassword for one's own",
}
_KNOWN = {
    *("application_name", "channel_binding", "connect_timeout", "connection_limit", "host", "options", "pgbouncer"),
    *("pool_timeout", "prefer_socket", "schema", "socket", "socket_timeout", "statement_cache_size"),
    *("max_connection_lifetime", "max_idle_connection_lifetime", *_TLS["postgresql"]),
}
#: How PostgreSQL notices that the way to a client of a budget over several hosts is cut: seconds until it probes one
#: that is silent, seconds between probes, and their number; and, since it does not probe while it waits for a client to
#: acknowledge what it sent, milliseconds until it gives that up.
_PROBES = {
    "tcp_keepalives_idle": 3,
    "tcp_keepalives_interval": 1,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_SQLITE_OWN = {"mode", "cache", "immutable", "nolock", "vfs", "psow"}  # SQLite's, which the driver does not pass on


class Uri(str):
    """A database's uri with its password. Its ``repr`` hides all but the scheme, because tools that print the variables
    of a failed function find it in many places."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{self.partition(':')[0]}:***'"


def ask(source: Callable[[], Any]) -> object:
    """What the function says; an async one runs to its end on this thread, in a loop of its own, or on another thread
    if a loop runs on this one. Raises: what it raises."""
    said = source()
    if not isinstance(said, Awaitable):
        return said
    import asyncio

    async def end(awaitable: Awaitable[object] = said) -> object:
        return await awaitable

    if asyncio._get_running_loop() is None:
        return asyncio.run(end())
    outcome: list[Any] = [None, None]

    def run() -> None:
        try:
            outcome[0] = asyncio.run(end())
        except BaseException as error:
            outcome[1] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


@dataclass(frozen=True)
class Database:
    """Where a budget's connections go. ``uri`` holds the password; nothing else here does."""

    uri: Uri = field(repr=False)  # as pysqlx-core takes it
    provider: str
    key: str  # what two users of one budget must agree on, without user and password
    port: int | None = None  # of the server; None: it is not reached over TCP, or perhaps not

    @classmethod
    def parse(cls, uri: object) -> Database:
        """Refuse here what pysqlx-core would panic on (an unknown scheme, ``?`` without ``=``), misread or ignore.

        Raises: TypeError, ValueError.
        """
        if not isinstance(uri, str):
            raise TypeError(f"uri must be a str, not {type(uri).__name__}")
        if any(ord(char) < 32 or 0xD800 <= ord(char) < 0xE000 for char in uri):
            raise ValueError("invalid uri: it contains a control character or a lone surrogate")
        scheme, colon, rest = uri.partition(":")
        if scheme in ("sqlite", "file") and colon:
            return cls._sqlite(rest)
        if scheme == "postgres":
            scheme = "postgresql"
        if scheme not in PROVIDERS or not rest.startswith("//"):
            known = colon and _SCHEME.fullmatch(scheme) and (rest.startswith("//") or scheme in PROVIDERS)
            raise ValueError(
                f"invalid uri ({scheme if known else 'without a scheme'}): it must begin with one of "
                "postgresql://, postgres://, mysql://, sqlserver://, sqlite: or file:"
            )
        return cls._sqlserver(rest) if scheme == "sqlserver" else cls._server(scheme, rest)

    def tagged(self, tag: str, timeout: float) -> Database:
        """The same PostgreSQL database, for a connection of a budget over several hosts.

        Its application_name begins with the host's tag, and the server notices within seconds that the way to this host
        is cut: until then it counts the connection. Opening it may take ``timeout`` whole seconds, and no longer.
        """
        given = options(self.uri)
        uri = named(self.uri, f"{tag} {unquote_plus(given.get('application_name', ''))}".strip())
        if "connect_timeout" in given:
            own = given["connect_timeout"]
            seconds = min(int(own), int(timeout)) if own.isdecimal() and int(own) else int(timeout)
            uri = _with(uri, "connect_timeout", str(seconds))
        if "tcp_keepalives" not in uri:
            probes = "%20".join(f"-c%20{name}%3D{value}" for name, value in _PROBES.items())
            before = given.get("options")
            uri = _with(uri, "options", f"{before}%20{probes}" if before else probes)
        return replace(self, uri=Uri(uri))

    @classmethod
    def _server(cls, scheme: str, rest: str) -> Database:
        parts = split(rest)
        if not parts.host:
            raise ValueError(f"invalid uri: {scheme} needs a host (use localhost with ?host=/folder for a socket)")
        pairs = _pairs(parts.query)
        given = dict(pairs)
        _check_options(scheme, pairs)
        host = given.get("host") or given.get("socket") or unquote(parts.host)
        query = (
            _with_tls(pairs, parts.query, over_socket=host.startswith("/")) if scheme == "postgresql" else parts.query
        )
        port = parts.port or PORTS[scheme]
        key = f"{scheme}://{host}:{port}/{unquote(parts.path.lstrip('/'))}"
        over_tcp = not host.startswith("/") and given.get("prefer_socket", "false") == "false"
        uri = f"{scheme}://{parts.authority}{parts.path}" + (f"?{query}" if query else "")
        return cls(Uri(uri), scheme, key, port if over_tcp else None)

    @classmethod
    def _sqlserver(cls, rest: str) -> Database:
        host, *properties = rest[2:].split(";")
        if "@" in host:
            raise ValueError("invalid uri: sqlserver takes user and password as properties: ;user=…;password=…")
        named = dict(each.split("=", 1) for each in properties if "=" in each)
        return cls(Uri(f"sqlserver:{rest}"), "sqlserver", f"sqlserver://{host}/{named.get('database', 'master')}")

    @classmethod
    def _sqlite(cls, rest: str) -> Database:
        path, question, given = rest.partition("?")
        if path.startswith("//"):
            path = path[2:]
            if path.startswith(("/./", "/../")):
                path = path[1:]  # SQLAlchemy's third slash; a path from the root is never spelt so
        if not path:
            raise ValueError("invalid uri: sqlite needs a file, as in sqlite:./app.db")
        if question and not all("=" in part for part in given.split("&")):
            raise ValueError(f"invalid uri: {given!r} after the '?' must be name=value pairs")
        for name, _ in _pairs(given):
            if name in _SQLITE_OWN:
                raise ValueError(f"invalid uri: {name}= is SQLite's own, and the driver does not pass it on")
        if path == ":memory:":
            raise ValueError("invalid uri: a :memory: database is private to one connection; a pool needs a file")
        try:
            path = os.path.abspath(path)  # one file whatever becomes of the working directory
        except FileNotFoundError:
            raise ValueError(
                "invalid uri: the path of a sqlite file must be absolute here, since the working directory of this "
                "process has been deleted"
            ) from None
        path = "/" + path.lstrip("/") if path.startswith("//") else path
        return cls(Uri(f"file:{path}{question}{given}"), "sqlite", f"sqlite:{path}")


def named(uri: str, name: str) -> str:
    """The uri of a PostgreSQL database with this application_name."""
    return _with(uri, "application_name", quote(name, safe=""))


def _with(uri: str, option: str, value: str) -> str:
    """The uri with this option; ``value`` is encoded."""
    place, _, query = uri.partition("?")
    kept = [part for part in query.split("&") if part and unquote_plus(part.partition("=")[0]) != option]
    return f"{place}?{'&'.join([*kept, f'{option}={value}'])}"


# --- the parts of a server's uri ----------------------------------------------------------------------------


class Parts(NamedTuple):
    """The parts behind the scheme, as they stand there: nothing is decoded."""

    authority: str
    user: str
    password: str
    host: str
    port: int | None
    path: str
    query: str


def split(rest: str) -> Parts:
    """Split the text behind ``scheme:`` as the driver does.

    Raises: ValueError: a part of a password could be taken for something else, and then be shown.
    """
    found = _SERVER.fullmatch(rest)
    if found is None or found["fragment"] is not None:
        raise ValueError(f"invalid uri: it contains a '#'; {ESCAPE}")
    authority, path, query = found["authority"], found["path"], found["query"] or ""
    if "@" in path or _foreign_at(query, "@" in authority):
        raise ValueError(f"invalid uri: there is an '@' behind the host; {ESCAPE}")
    account, _, place = authority.rpartition("@")
    user, _, password = account.partition(":")
    where = _HOST.fullmatch(place)
    if where is None:
        raise ValueError(f"invalid uri: host and port cannot be told apart; {ESCAPE}")
    port = where["port"]
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536 and len(port) < 6):
        raise ValueError(f"invalid uri: the port is not a number from 1 to 65535; {ESCAPE}")
    host = where["host"].lower().strip("[]")
    return Parts(authority, user, password, host, int(port) if port else None, path, query)


def _foreign_at(query: str, account: bool) -> bool:
    """Is there an ``@`` in the query that may be what follows a password? A value of an option may have one."""
    return any("@" in part and not (account and part.partition("=")[0] in _KNOWN) for part in query.split("&"))


def _pairs(query: str) -> list[tuple[str, str]]:
    """The options as the driver reads them."""
    parts = (part.partition("=") for part in query.split("&"))
    return [(unquote_plus(name), unquote_plus(value)) for name, _, value in parts if name]


def options(uri: str) -> dict[str, str]:
    """The options of a uri as they stand there; those with a few values are never encoded in `Database.uri`."""
    pairs = (part.partition("=") for part in uri.partition("?")[2].split("&"))
    return {name: value for name, _, value in pairs if name}


def secrets(database: Database) -> list[str]:
    """The parts of the uri that must not be shown, as they stand there and as the server gets them."""
    provider, uri = database.provider, str(database.uri)
    if provider == "sqlserver":
        found = [
            part["value"] for part in _PROPERTY.finditer(uri) if part["name"].strip().lower() in ("password", "pwd")
        ]
        found += [value[1:-1] for value in found if value.startswith("{")]
    elif provider in PORTS:
        found = [split(uri.partition(":")[2]).password, options(uri).get("sslpassword", "")]
        found.append(unquote_plus(found[1]))
    else:
        found = []
    return [secret for secret in {*found, *map(unquote, found)} if secret]


# --- options --------------------------------------------------------------------------------------------------


def _check_options(scheme: str, pairs: list[tuple[str, str]]) -> None:
    names = [name for name, _ in pairs]
    if scheme == "mysql" and "socket_timeout" in names:
        raise ValueError(
            "invalid uri: socket_timeout is not supported on MySQL: after a timeout, every query on the "
            "connection would return the result of the query before it"
        )
    for name, value in pairs:
        accepted = _VALUES[scheme].get(name)
        if accepted is not None:
            if value not in accepted:
                raise ValueError(f"invalid uri: {name} must be one of {', '.join(accepted)}, not {value!r}")
            if names.count(name) > 1:
                raise ValueError(f"invalid uri: {name} is given more than once")
        if _ABOUT_TLS.match(name) and name not in _TLS[scheme]:
            raise ValueError(f"invalid uri: the driver for {scheme} ignores {name}; {_TLS_HELP[scheme]}")


def _with_tls(pairs: list[tuple[str, str]], query: str, *, over_socket: bool) -> str:
    """PostgreSQL's query with the driver's words for ``sslmode=verify-full`` and ``verify-ca``.

    It can verify a server's certificate and name together or neither: verify-ca verifies the name, too. By itself it
    would take an unencrypted connection where the server offers no other, also if told to verify.
    """
    given = dict(pairs)
    mode, accept = given.get("sslmode", ""), given.get("sslaccept", "")
    verify = mode.startswith("verify-")
    if verify and accept == "accept_invalid_certs":
        raise ValueError(f"invalid uri: sslmode={mode} and sslaccept={accept} contradict each other")
    if accept == "strict" and mode in ("disable", "allow", "prefer"):
        raise ValueError(
            f"invalid uri: with sslmode={mode} an unencrypted connection would do, which sslaccept=strict cannot "
            "verify; write sslmode=verify-full"
        )
    driver = {"verify-ca": "require", "verify-full": "require", "allow": "prefer"}.get(mode, mode)
    if accept == "strict" and not mode and not over_socket:
        driver = "require"
    own = [
        (name, value) for name, value in (("sslmode", driver), ("sslaccept", "strict" if verify else accept)) if value
    ]
    kept = [part for part in query.split("&") if part and unquote_plus(part.partition("=")[0]) not in dict(own)]
    return "&".join([*kept, *(f"{name}={value}" for name, value in own)])
