"""Opening a connection: the driver's copy, the uri with our defaults, and errors that say where to and why not."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Coroutine
from contextlib import ExitStack
from time import monotonic
from typing import TYPE_CHECKING, Any

from mppool import errors
from mppool.database.connection.driver_uri import refuses_looking, scrub, verifies, with_defaults
from mppool.database.connection.error_classes import CANNOT_OPEN
from mppool.database.connection.link import Link
from mppool.database.connection.own_socket import find_socket, one_by_one
from mppool.database.connection.reasons import connect_error, explained
from mppool.database.runtime import drivers, sockets
from mppool.database.runtime.drivers import is_panic
from mppool.database.runtime.loop_stand_in import drive
from mppool.shared.descriptors import ask_for, is_short
from mppool.uri import PORTS, Database, options, split

if TYPE_CHECKING:
    from mppool.database.runtime.drivers import Driver

__all__ = ["open_link", "opening"]

NEEDED = 4  # free descriptors that opening a connection takes at most: SQLite's file with its journals


async def opening(database: Database, connect_timeout: float = 5.0, sqlite_connections: int = 0) -> Link:
    """Open a connection; parameters and errors as `open_link`, but the reason of a failure is not looked for."""
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
        code, message = error.code(), scrub(error.message(), database)  # type: ignore[attr-defined]
        _refuse_if_short(database)
        if code == CANNOT_OPEN and database.provider == "sqlite" and _may_be_opened(_file(database)):
            raise _was_short(database, message) from None
        raise connect_error(database, code, message) from None
    except BaseException as error:
        if is_panic(error):
            raise connect_error(database, "PANIC", "the driver panicked: it cannot make sense of the uri") from None
        if is_short(error):
            raise _short(database, error) from error  # the driver was not asked yet
        state.loose.add(driver)  # the open continues in the background, and is dropped when it succeeds
        raise
    finally:
        state.opens.discard(token)
    link = Link(driver, conn, database)
    if database.provider != "sqlite":
        await find_socket(link, sockets_before)
        if link.socket is not None:
            sockets.keep_alive(link.socket)
        if link.trust:
            link.drop(settled=True)
            message = "the server ended the connection as soon as it was open"
            raise errors.ConnectError("0", message, where=database.key, reason="ended by the server")
    return link


def _refuse_if_short(database: Database) -> None:
    """The driver does not say that it had no free descriptor. Raises: ConnectError, where there is none."""
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


def _may_be_opened(path: str) -> bool:
    """Whether neither the file nor its folder keeps SQLite from opening it. It is not opened for that: closing it would
    end the locks that SQLite holds on it in this process."""
    try:
        is_file = stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False
    return is_file and os.access(path, os.R_OK | os.W_OK) and os.access(os.path.dirname(path), os.W_OK | os.X_OK)


def _was_short(database: Database, message: str) -> errors.ConnectError:
    """SQLite does not say that it had no free descriptor, and now there are some."""
    message += " (it can be opened now: was there no free descriptor?)"
    return errors.ConnectError("0", message, where=database.key, reason="no free descriptor a moment ago")


def _short(database: Database, error: BaseException) -> errors.ConnectError:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    message = f"this process has no free descriptor ({error}; it may open {soft} files: ulimit -n)"
    return errors.ConnectError("0", message, where=database.key, reason="no free descriptor")


def _file(database: Database) -> str:
    return os.path.realpath(database.key.partition(":")[2]) if database.provider == "sqlite" else ""


_not_looking: set[str] = set()  # by database key: servers that refuse the settings to look for their clients


async def _new(driver: Driver, database: Database, connect_timeout: float) -> Any:
    looked_after = database.key not in _not_looking
    try:
        return await driver.new(with_defaults(database, connect_timeout, looked_after))
    except driver.Error as error:
        if database.provider == "sqlite" and not _is_short():
            # SQLite gives the same error when no descriptor is free, and one may be free by now.
            return await driver.new(with_defaults(database, connect_timeout, looked_after))
        if not (looked_after and database.provider == "postgresql" and refuses_looking(error.message())):  # type: ignore[attr-defined]
            raise
    _not_looking.add(database.key)
    return await driver.new(with_defaults(database, connect_timeout, False))


def open_link(database: Database, *, connect_timeout: float = 5.0, sqlite_connections: int = 0) -> Link:
    """Open a connection. Blocks; any thread.

    Args:
        database: the address, as parsed from the uri.
        connect_timeout: seconds, rounded up to whole ones; a ``connect_timeout`` in the uri wins.
        sqlite_connections: the number of SQLite connections that this process may come to have.

    Raises:
        ConnectError: with the database's code and message, without the password.
    """
    # The driver's own limit ends an open properly. Ours is longer, for name servers that never answer.
    limit = None if "connect_timeout" in options(database.uri) else 2 * connect_timeout + 5.0
    with ExitStack() as stack:
        if one_by_one(database):
            stack.enter_context(drivers.state.one_by_one)
            if not one_by_one(database):  # the thread before us has found that out
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
