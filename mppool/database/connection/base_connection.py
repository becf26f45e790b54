"""What `PySQLXEngineSync` and `PySQLXEngine` share: a `Link`, and whether a pool has lent it.

The object is cheap: a pool makes one for each borrow and detaches it when the connection is given back. So a caller
that keeps it cannot reach a connection which belongs to another borrower by then. Used without a pool, the object
opens and owns its link.
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
    """Takes a link's place: looks like a closed link, and says why there is none."""

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
    """A link, and whether a pool has lent it."""

    __slots__ = ("_database", "_lent", "_link")

    _link: Link
    _lent: bool
    _database: Database

    def __init__(self, uri: str) -> None:
        """Parameters and errors as the subclasses'."""
        self._database = Database.parse(uri)
        self._link = _NEVER
        self._lent = False

    @classmethod
    def lend(cls, link: Link) -> Self:
        """A new connection object for a pool's link; no call, two stores."""
        lent = _new(cls)
        lent._link = link
        lent._lent = True
        return lent  # type: ignore[no-any-return]

    def _take_back(self) -> None:
        self._link = RETURNED

    def _leave_to_parent(self) -> None:
        self._link = _PARENTS

    @property
    def uri(self) -> str:
        """The uri as the driver takes it, password included.

        Raises:
            NotConnectedError: it was a pool's connection and has been given back.
        """
        if self._lent and isinstance(self._link, _NoLink):
            raise errors.NotConnectedError(self._link.reason)
        return str(self._link.database.uri if self._lent else self._database.uri)

    @property
    def connected(self) -> bool:
        """Is there a connection? It may be broken nevertheless."""
        return self._link.conn is not None

    def __repr__(self) -> str:
        link = self._link
        state = f"connected to {link.database.key}" if link.conn is not None else link.reason
        return f"<{type(self).__name__} {state}>"

    def is_healthy(self) -> bool:
        """False when a call has found the connection broken. The database is not asked.

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
        """Detach from the link; returns it where the caller must close it."""
        link = self._link
        if isinstance(link, _NoLink):
            return None
        self._link = _CLOSED
        if self._lent:
            link.distrust()  # its borrower has closed it: the pool discards it when it is given back
            return None
        if link.conn is None:
            return None
        if link.in_transaction:
            _log.warning("connection to %s closed with an open transaction: it is rolled back", link.database.key)
        return link


_new: Any = object.__new__
