"""Opening a connection, and finding out which of the driver's sockets is its own.

The driver opens by itself and tells nothing of how; its sockets are only known as a set. Where one open runs at a
time, the socket that came is the connection's. Where several run at once, the server is asked from which port it
sees the connection come; over a Unix socket, or with a proxy between, it does not see ours, and they go one after the
other. The socket is what a hung call is ended by, and what tells when a server has ended a connection. A connection
whose socket could not be found works all the same.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Coroutine
from contextlib import ExitStack
from time import monotonic
from typing import TYPE_CHECKING, Any

from mppool import errors
from mppool.database.connection.backends import introduce
from mppool.database.connection.driver_uri import refuses_looking, scrub, verifies, with_defaults
from mppool.database.connection.error_classes import is_panic
from mppool.database.connection.link import Link
from mppool.database.connection.reasons import connect_error, explained
from mppool.database.runtime import drivers, sockets
from mppool.database.runtime.loop_stand_in import drive
from mppool.shared.descriptors import ask_for, is_short
from mppool.uri import PORTS, Database, options, split

if TYPE_CHECKING:
    from mppool.database.runtime.drivers import Driver

__all__ = ["one_by_one", "open_link", "opening"]

NEEDED = 4  # free descriptors that opening a connection takes at the most: SQLite's file with its journals


async def opening(database: Database, connect_timeout: float = 5.0, sqlite_connections: int = 0) -> Link:
    """Open a connection; see `open_link`."""
    state = drivers.state
    if state.stopped:
        raise errors.ConnectError("0", "the interpreter is exiting", reason="exiting")
    token = object()
    state.opens.add(token)
    try:
        driver = state.get(database.provider, sqlite_connections, verifies(database), _file(database))
    except BaseException as error:
        state.opens.discard(token)
        if is_short(error):
            raise _short(database, error) from error
        raise
    if database.provider in PORTS:
        driver.watch.ports.add(split(database.uri.partition(":")[2]).port or PORTS[database.provider])
    try:
        sockets_before = driver.watch.sockets() if database.provider != "sqlite" else set()
        conn = await _new(driver, database, connect_timeout)
    except driver.Error as error:
        code, message = error.code(), error.message()  # type: ignore[attr-defined]
        _refuse_if_short(database)
        raise connect_error(database, code, scrub(message, database)) from None
    except BaseException as error:
        if is_panic(error):
            raise connect_error(database, "PANIC", "the driver panicked: it cannot make sense of the uri") from None
        if is_short(error):
            raise _short(database, error) from error  # the driver was not asked yet
        state.loose.add(driver)  # it goes on in the background, and is dropped when it succeeds
        raise
    finally:
        state.opens.discard(token)
    link = Link(driver, conn, database)
    if database.provider != "sqlite":
        await _find_socket(link, sockets_before)
        if link.socket is not None:
            sockets.keep_alive(link.socket)
        if link.suspect or link.doubtful:
            link.drop(settled=True)
            message = "the server ended the connection as soon as it was open"
            raise errors.ConnectError("0", message, where=database.key, reason="ended by the server")
    return link


def _refuse_if_short(database: Database) -> None:
    """The driver does not tell that it had no free descriptor. Raises: ConnectError."""
    try:
        ask_for(NEEDED)
    except OSError as error:
        raise _short(database, error) from error


def _is_short() -> bool:
    try:
        ask_for(NEEDED)
    except OSError:
        return True
    return False


def _short(database: Database, error: BaseException) -> errors.ConnectError:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    message = f"this process has no free descriptor ({error}; it may open {soft} files: ulimit -n)"
    return errors.ConnectError("0", message, where=database.key, reason="no free descriptor")


def _file(database: Database) -> str:
    return os.path.realpath(database.key.partition(":")[2]) if database.provider == "sqlite" else ""


_not_looking: set[str] = set()  # servers that do not look after their clients


async def _new(driver: Driver, database: Database, connect_timeout: float) -> Any:
    looked_after = database.key not in _not_looking
    try:
        return await driver.new(with_defaults(database, connect_timeout, looked_after))
    except driver.Error as error:
        if database.provider == "sqlite" and not _is_short():
            # SQLite says the same of a moment without free descriptors, which may be over by now.
            return await driver.new(with_defaults(database, connect_timeout, looked_after))
        if not (looked_after and database.provider == "postgresql" and refuses_looking(error.message())):  # type: ignore[attr-defined]
            raise
    _not_looking.add(database.key)
    return await driver.new(with_defaults(database, connect_timeout, False))


#: Servers that see the port which a connection comes from: connections opened at once can be told apart.
_seeing: set[str] = set()
_asked: set[str] = set()  # whether they do


def one_by_one(database: Database) -> bool:
    """Whether connections have to be opened one after the other: as long as it is not known that they need not."""
    return database.provider != "sqlite" and database.key not in _seeing


async def _find_socket(link: Link, before: set[sockets.Descriptor]) -> None:
    key = link.database.key
    alone = _claim(link, before, None) == 1
    port = sockets.local_port(link.socket) if alone and link.socket is not None else None
    if alone and key in _asked and (key in _seeing or port is None):
        return
    known = await introduce(link)
    if known is None:
        return
    name, (_, seen) = known
    if alone:
        _asked.add(key)
        if port is not None and port == seen:
            _seeing.add(key)
    elif seen:
        _claim(link, before, seen)
    if key not in _seeing:
        link.name = name


def _claim(link: Link, before: set[sockets.Descriptor], port: int | None) -> int:
    """Note the link's socket if only one can be it; how many could be."""
    with drivers.state.lock:
        owned = {other.socket for other in drivers.state.linked() if other.conn is not None}
        try:
            free = link.driver.watch.sockets() - before - owned
        except OSError:
            return 0  # there is no free descriptor to look with
        if port is not None:
            free = {descriptor for descriptor in free if sockets.local_port(descriptor) == port}
        if len(free) == 1:
            link.socket = free.pop()
            return 1
        return len(free)


def open_link(database: Database, *, connect_timeout: float = 5.0, sqlite_connections: int = 0) -> Link:
    """Open a connection. Blocks; any thread.

    Args:
        database: where to.
        connect_timeout: seconds, rounded up to whole ones, unless the uri has its own.
        sqlite_connections: how many SQLite connections this process may come to have.

    Raises:
        ConnectError: with the database's code and message, without the password.
    """
    # The core's own limit ends an open properly; ours is behind it, for name servers that never answer.
    limit = None if "connect_timeout" in options(database.uri) else 2 * connect_timeout + 5.0
    with ExitStack() as stack:
        if one_by_one(database):
            stack.enter_context(drivers.state.one_by_one)
            if not one_by_one(database):  # whoever went first has found that out
                stack.close()
        began = monotonic()
        flow: Coroutine[Any, Any, Link] = opening(database, connect_timeout, sqlite_connections)
        try:
            return drive(flow, limit)
        except TimeoutError:
            message = f"Timed out when connecting to the database ({monotonic() - began:.1f} s)"
            raise connect_error(database, "0", message) from None
        except errors.ConnectError as error:
            raise explained(database, error) from None
