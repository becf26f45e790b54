"""The two connections a program sees: `PySQLXEngineSync` blocks, `PySQLXEngine` is awaited; both are faces of
a `Link`.

A face is light: made anew for each borrow and detached when the connection is given back, so that whoever
kept it cannot reach a connection that now belongs to somebody else. Used alone, it opens and owns its link.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from mppool import errors
from mppool.database.connection.link import Link
from mppool.uri import Database

if TYPE_CHECKING:
    from typing import TypeVar

    from typing_extensions import Self

    T = TypeVar("T")

__all__ = ["CLOSE_TIMEOUT", "RETURNED", "BaseConnection"]

CLOSE_TIMEOUT = 5.0
_log = logging.getLogger("mppool.connection")


class _NoLink:
    """Stands where a link was: looks like a closed one and says why."""

    __slots__ = ("reason",)
    conn = None
    provider = ""
    failed = in_transaction = False

    def __init__(self, reason: str) -> None:
        self.reason = reason


_NEVER: Any = _NoLink("not connected to the database: call connect() first")
_CLOSED: Any = _NoLink("the connection was closed")
RETURNED: Any = _NoLink("the connection was given back to its pool")
_PARENTS: Any = _NoLink(
    "the connection belongs to the process that this one was forked from, inside the block that had borrowed it: "
    "borrow one here, with pool.connection()"
)


class BaseConnection:
    """What both connections are: a link, and whether it is lent."""

    __slots__ = ("_database", "_lent", "_link")

    _link: Link
    _lent: bool
    _database: Database

    def __init__(self, uri: str) -> None:
        """
        Args:
            uri: ``postgresql://…``, ``mysql://…``, ``sqlserver://…``, ``sqlite:path`` or ``file:path``.

        Raises:
            ValueError: the uri is malformed or asks for what is not supported.
            TypeError: it is not a str.
        """
        self._database = Database.parse(uri)
        self._link = _NEVER
        self._lent = False

    @classmethod
    def lend(cls, link: Link) -> Self:
        """A new face for a pool's link; costs two stores."""
        face = _new(cls)
        face._link = link
        face._lent = True
        return face  # type: ignore[no-any-return]

    def _take_back(self) -> None:
        self._link = RETURNED

    def _leave_to_parent(self) -> None:
        self._link = _PARENTS

    @property
    def uri(self) -> str:
        """The uri as the driver takes it, password included.

        Raises:
            NotConnectedError: it was a pool's connection, and was given back.
        """
        if self._lent and isinstance(self._link, _NoLink):
            raise errors.NotConnectedError(self._link.reason)
        return str(self._link.database.uri if self._lent else self._database.uri)

    @property
    def connected(self) -> bool:
        """Is there a connection? It may be broken all the same."""
        return self._link.conn is not None

    def __repr__(self) -> str:
        link = self._link
        state = f"connected to {link.database.key}" if link.conn is not None else link.reason
        return f"<{type(self).__name__} {state}>"

    def is_healthy(self) -> bool:
        """False when a call has found the connection broken. Asks nobody.

        Raises:
            NotConnectedError: there is no connection.
        """
        link = self._live()
        return not link.doubtful and bool(link.conn.is_healthy())

    def requires_isolation_first(self) -> bool:
        """Must the isolation level be set before a transaction begins (SQL Server, MySQL), or after?

        Raises:
            NotConnectedError: there is no connection.
        """
        return bool(self._live().conn.requires_isolation_first())

    def _live(self) -> Link:
        link = self._link
        if link.conn is None:
            raise errors.NotConnectedError(link.reason)
        return link

    def _check_unconnected(self) -> None:
        if self._lent or self._link.conn is not None:
            raise errors.AlreadyConnectedError()

    def _leave(self) -> Link | None:
        """Detach from the link; returns it if it is for us to close."""
        link = self._link
        if isinstance(link, _NoLink):
            return None
        self._link = _CLOSED
        if self._lent:
            link.doubtful = True  # its user is done with it: the pool discards it when it comes back
            return None
        if link.conn is None:
            return None
        if link.in_transaction:
            _log.warning("connection to %s closed with an open transaction: it is rolled back", link.database.key)
        return link


_new: Any = object.__new__
