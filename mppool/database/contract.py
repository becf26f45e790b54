"""What the pool needs of a database driver: open, check, reset, close, and the connection's socket.

This is the seam at which another driver could come in. The pool's side imports from here, and the public connection
classes, and nothing else of `mppool.database`. `mppool.database.fake` obeys the same contract in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mppool.database.connection.backends import ANSWER, END, Lost, end_of, ended, parsed, plain, sees
from mppool.database.connection.base_connection import RETURNED
from mppool.database.connection.error_classes import Trust, is_full, is_permanent
from mppool.database.connection.opening import open_link
from mppool.database.connection.own_socket import one_by_one
from mppool.database.runtime.drivers import settle
from mppool.database.runtime.exit_guard import THREAD_PREFIX, block_if_exiting, exit_begins, is_exiting
from mppool.database.runtime.private_library import make_spare
from mppool.database.runtime.sockets import Endings
from mppool.database.sql.lexer import lexer

if TYPE_CHECKING:
    from mppool.database.connection.link_state import Name
    from mppool.database.runtime.sockets import Descriptor
    from mppool.uri import Database

__all__ = [
    "ANSWER", "END", "RETURNED", "THREAD_PREFIX", "Endings", "Link", "Lost", "Open", "Trust", "block_if_exiting",
    "end_of", "ended", "exit_begins", "is_exiting", "is_full", "is_permanent", "lexer", "make_spare", "one_by_one",
    "open_link", "parsed", "plain", "sees", "settle",
]  # fmt: skip


class Link(Protocol):
    """One open connection. Every method may be called on any thread; none raises for a broken connection.

    ``trust`` and ``in_transaction`` are attributes, for they are read at every give-back.
    """

    provider: str
    trust: Trust
    in_transaction: bool
    socket: Descriptor | None  # None: unknown, or there is none
    name: Name | None  # the server's own name for it, where the server does not see our address and port
    since: float  # monotonic time in seconds when it had been opened

    def distrust(self, trust: Trust = ...) -> None:
        """Trust it no further than this; without an argument: never lend it again."""

    def check(self, timeout: float = 5.0) -> bool:
        """Does the database answer within ``timeout`` seconds? SUSPECT becomes GOOD, or DOUBTFUL where it does not."""
        ...

    def reset(self, timeout: float = 5.0) -> bool:
        """Roll back an open transaction; whether the connection can be lent to another borrower."""
        ...

    def live_socket(self) -> Descriptor | None:
        """The socket if it is known and still open."""
        ...

    def taken(self) -> str:
        """Why it is of no use, if other code has closed the descriptors that it needs; "" if none has."""
        ...

    def prepare_close(self) -> bool:
        """Keep what `await_close` needs; False: no descriptor is free just now."""
        ...

    def close(self, timeout: float = 5.0) -> bool:
        """Close once all calls have ended; False: one still runs after ``timeout`` seconds, call again."""
        ...

    def await_close(self, timeout: float) -> bool:
        """After `close`: does the server no longer count it, at the latest in ``timeout`` seconds?"""
        ...

    def forget_twin(self) -> None:
        """`await_close` will not be called again."""

    def break_off(self) -> None:
        """End a call in flight at once."""

    def drop(self, *, settled: bool = False) -> None:
        """Let go of it without waiting; ``settled``: no call runs on it."""

    def abandon(self) -> None:
        """In a forked child: keep it for ever and never touch it."""


class Open(Protocol):
    """The signature of `open_link`. Raises: ConnectError, at the latest soon after ``connect_timeout`` seconds."""

    def __call__(self, database: Database, *, connect_timeout: float = 5.0, sqlite_connections: int = 0) -> Link: ...
