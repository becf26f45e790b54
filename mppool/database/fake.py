"""A database in memory that obeys `mppool.database.contract`, for tests without a server.

`FakeDatabase.open_link` takes the place of `open_link`. Each external step can be told to succeed, to fail, to be
slow, or never to end; and the server can cut a connection off. Nothing sleeps longer than the caller's timeout.
"""

from __future__ import annotations

import time
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

from mppool import errors
from mppool.database.connection.error_classes import Trust
from mppool.database.connection.link_state import LinkState

if TYPE_CHECKING:
    from mppool.database.contract import Link, Open
    from mppool.database.runtime.sockets import Descriptor
    from mppool.uri import Database

__all__ = ["FakeDatabase", "FakeLink", "Step"]

SLOW = 0.02  # seconds that a slow step takes


class Step(Enum):
    """What becomes of an external step."""

    SUCCEEDS = "succeeds"
    FAILS = "fails"
    SLOW = "slow"
    NEVER = "never"


def _ends(step: Step, timeout: float) -> bool:
    """Wait as the step does, ``timeout`` seconds at most; whether it succeeded."""
    if step in (Step.SLOW, Step.NEVER):
        time.sleep(min(SLOW, timeout) if step is Step.SLOW else timeout)
    return step is Step.SUCCEEDS or (step is Step.SLOW and timeout >= SLOW)


class FakeDatabase:
    """A server.

    Attributes:
        opens: what becomes of the next opens, in order; further ones succeed.
        limit: the connections that it has room for; None: any number.
        connections: those that it counts, also while it has not noticed a close.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.opens: deque[Step] = deque()
        self.limit = limit
        self.connections: set[FakeLink] = set()

    def open_link(self, database: Database, *, connect_timeout: float = 5.0, sqlite_connections: int = 0) -> FakeLink:
        """Open a connection. Raises: ConnectError: as told, or the server has no room."""
        if not _ends(self.opens.popleft() if self.opens else Step.SUCCEEDS, connect_timeout):
            raise errors.ConnectError("0", "the fake database was told to refuse", where=database.key)
        if self.limit is not None and len(self.connections) >= self.limit:
            raise errors.ConnectError("53300", "too many connections", where=database.key)
        link = FakeLink(self, database)
        self.connections.add(link)
        return link


class FakeLink(LinkState):
    """A connection.

    Attributes:
        answers: what becomes of a check or a rollback; ``ending``: of a call that runs when it is closed;
            ``leaving``: of the server's notice of the close.
    """

    def __init__(self, server: FakeDatabase, database: Database) -> None:
        super().__init__()
        self.server = server
        self.provider = database.provider
        self.since = time.monotonic()
        self.conn: object | None = object()
        self.answers = self.ending = self.leaving = Step.SUCCEEDS

    def cut_off(self) -> None:
        """The server ends the connection."""
        self.server.connections.discard(self)
        self.answers = Step.FAILS

    def _asks(self, timeout: float) -> bool:
        if self.conn is None or self.trust >= Trust.DOUBTFUL:
            return False
        if not _ends(self.answers, timeout):
            self.distrust()
            return False
        return True

    def check(self, timeout: float = 5.0) -> bool:
        if not self._asks(timeout):
            return False
        self.passed_check()
        return True

    def reset(self, timeout: float = 5.0) -> bool:
        if not self.in_transaction and not self.unclear:
            return self.conn is not None and self.trust < Trust.DOUBTFUL
        if not self._asks(timeout):
            return False
        self.transaction_reset()
        return True

    def live_socket(self) -> Descriptor | None:
        return None

    def taken(self) -> str:
        return ""

    def prepare_close(self) -> bool:
        return True

    def close(self, timeout: float = 5.0) -> bool:
        if self.conn is not None and not _ends(self.ending, timeout):
            return False
        self.drop(settled=True)
        return True

    def await_close(self, timeout: float) -> bool:
        if not _ends(self.leaving, timeout):
            return False
        self.server.connections.discard(self)
        return True

    def forget_twin(self) -> None:
        self.server.connections.discard(self)

    def break_off(self) -> None:
        self.ending = Step.SUCCEEDS
        self.cut_off()

    def drop(self, *, settled: bool = False) -> None:
        self.conn = None
        self.transaction_is_open(False)

    def abandon(self) -> None:
        self.conn = None
        self.transaction_is_open(False)


if TYPE_CHECKING:
    # for the type checker: both drivers obey the contract
    from mppool.database.connection.opening import open_link

    _real: Open = open_link
    _fake: Open = FakeDatabase().open_link
    _link: type[Link] = FakeLink
