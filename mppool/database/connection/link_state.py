"""What is known about one open connection: how far it is trusted, its transaction, and its name on the server.

Only this file writes these facts; all others call the methods, which are named after what happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mppool.database.connection.error_classes import Trust

if TYPE_CHECKING:
    from mppool.database.runtime.sockets import Descriptor

__all__ = ["LinkState", "Name"]


class Name(NamedTuple):
    """What a server calls a connection, and itself."""

    id: int
    server: str


class LinkState:
    """See `Link`, whose part it is.

    Attributes:
        trust: how far the connection can be trusted.
        in_transaction: a transaction was begun through this connection and has not been ended.
        failed: a call has failed since the transaction began; on PostgreSQL it may have aborted the transaction.
        savepoints: the number of open transaction blocks inside the outermost one.
        unclear: on MySQL, a transaction may be open, or autocommit off, without our knowledge.
        socket: the descriptor of the connection's socket; None: unknown, or SQLite.
        name: the server's own name for the connection, where the server does not see our address and port.
    """

    __slots__ = ("failed", "in_transaction", "name", "savepoints", "socket", "trust", "unclear")

    def __init__(self) -> None:
        self.trust = Trust.GOOD
        self.in_transaction = False
        self.failed = False
        self.savepoints = 0
        self.unclear = False
        self.socket: Descriptor | None = None
        self.name: Name | None = None

    # -- trust -----------------------------------------------------------------------------------------------

    @property
    def suspect(self) -> bool:
        """Must it be checked, or discarded, before its next use?"""
        return self.trust is not Trust.GOOD

    @property
    def doubtful(self) -> bool:
        """Must it never be lent again?"""
        return self.trust >= Trust.DOUBTFUL

    @property
    def unanswered(self) -> bool:
        """Are there no more calls on it?"""
        return self.trust is Trust.UNANSWERED

    def distrust(self, trust: Trust = Trust.DOUBTFUL) -> None:
        """Trust it no further than this. Does nothing where it is trusted less already."""
        if trust > self.trust:
            self.trust = trust

    def passed_check(self) -> None:
        """The database has answered: a suspect connection is good again."""
        if self.trust is Trust.SUSPECT:
            self.trust = Trust.GOOD

    def error_was_harmless(self, before: Trust) -> None:
        """The last error says little about the connection, whose trust was ``before``: a check is enough."""
        self.trust = max(before, Trust.SUSPECT)

    # -- the transaction -------------------------------------------------------------------------------------

    def transaction_begins(self) -> bool:
        """Note this before BEGIN is sent, so that an interrupt afterwards cannot lose it.

        Returns whether a transaction was open before.
        """
        before, self.in_transaction = self.in_transaction, True
        self.failed = self.failed and before
        return before

    def transaction_is_open(self, is_open: bool) -> None:
        """Note what is true now, after an answer of the server's or its absence."""
        self.in_transaction = is_open

    def transaction_reset(self) -> None:
        """Nothing is open, and autocommit is as it was."""
        self.in_transaction = self.unclear = False

    def transaction_may_begin(self) -> None:
        """Note before a MySQL statement whose effect on the transaction cannot be read from its text."""
        self.unclear = True
        self.distrust(Trust.SUSPECT)  # so that a pool resets it before anybody else borrows it

    def savepoint_set(self) -> None:
        self.savepoints += 1

    def savepoint_left(self) -> None:
        self.savepoints -= 1

    def savepoints_gone(self) -> None:
        """A new transaction has begun: it has no savepoints."""
        self.savepoints = 0

    # -- the server's side -----------------------------------------------------------------------------------

    def has_socket(self, socket: Descriptor) -> None:
        self.socket = socket

    def has_name(self, name: Name) -> None:
        self.name = name
