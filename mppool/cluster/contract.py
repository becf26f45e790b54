"""What a budget over several hosts needs of the engine that keeps it: five calls, and nothing about fairness.

The engine keeps a header and one row a host. A row's *credit* is the number of connections that the host may have at
most; the engine never lets the sum of the credits grow above ``max_size``. Every call is atomic.

    exchange      A host says what it keeps, and asks for more. Also its renewal, its declaration and a resize.
    read          All rows.
    bury          A row comes down to what another host counted at the database.
    learned       The end of learning: what nobody declared is booked as ghosts.
    ring, listen  Hints from host to host. A hint may be lost, late or repeated: it never makes a permit.

An **epoch** is the life of the engine's data. It ends when the data are gone, or may be older than what hosts were
told: Redis was restarted or failed over, PostgreSQL has a new timeline. The next `exchange` begins a new epoch, which
is *learning*: hosts declare what they have, and nobody gets more until `learned`.

**number** counts the exchanges of an epoch; a row carries the number of its last one. No number is used twice in an
epoch, so a row whose number has not changed belongs to a host that has exchanged nothing in between.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Why an exchange was refused.
EPOCH = "epoch"  # the request is of another epoch, or of none: declare in the one that the answer names
SEQ = "seq"  # the engine has seen this ``seq`` of the host, or a later one: go on after the answer's ``seq``

FREE = -1  # the target in a ring that says: permits have become free


_HOST = re.compile(r"[A-Za-z0-9._-]{1,64}")


def check_host(host: str) -> str:
    """Refuse what is no host's name: it may come from a connection's tag, which anybody can write.

    Raises:
        ValueError: it is none.
    """
    if not _HOST.fullmatch(host):
        raise ValueError(f"host {host[:80]!r} must be 1 to 64 letters, digits, '.', '_' or '-'")
    return host


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class EngineError(Exception):
    """An engine did not do what it was asked to do. The message never contains a password."""


class EngineUnreachable(EngineError):
    """No answer: the call was executed, or not, or will be. Try again later, with a new ``seq``."""


class EngineRefused(EngineError):
    """The engine said no, and will say so again: wrong credentials, a missing right, no schema. A person must act."""


class Report(NamedTuple):
    """A host's use and demand. Other hosts plan by it; the engine only keeps it.

    Args:
        in_use: borrowed connections.
        waiting: callers in line.
        wanted: permits that the host would like to have in all, connections to keep warm included.
    """

    in_use: int = 0
    waiting: int = 0
    wanted: int = 0


class Row(NamedTuple):
    """What the engine knows of one host incarnation.

    Args:
        number: the epoch's `State.number` after its last exchange; 0: none, `learned` booked it.
        seq: the host's own count of its requests, as of the last that was executed.
        credit: connections that it may have.
        ghost: another host has buried it; it may still have ``credit`` connections. Its next exchange revives it.
        report: its last one.
    """

    number: int
    seq: int
    credit: int
    ghost: bool
    report: Report


class State(NamedTuple):
    """What `Engine.read` returns.

    Args:
        epoch: "" while there are no data, or data of an epoch that has ended: an exchange will begin a new one.
        learning: nobody gets more than it declares until `Engine.learned`.
        max_size: permits of the budget.
        lease: seconds that an answered exchange is good for, from when it was sent. Observers wait by this one.
        number: exchanges of this epoch.
        rows: by host.
    """

    epoch: str
    learning: bool
    max_size: int
    lease: float
    number: int
    rows: Mapping[str, Row]


class Request(NamedTuple):
    """One exchange.

    Args:
        host: the incarnation: 1 to 64 letters, digits, ``.``, ``_`` or ``-``, never used by another.
        epoch: that the host knows; "": none yet.
        seq: grows with each request of the host.
        keep: connections that it has, or may still open: its local cap, lowered before this is sent.
        ask: how many more it would like.
        report: its use and demand.
        max_size: permits, for an epoch that begins with this call, or with ``resize``.
        lease: seconds, for an epoch that begins with this call.
        resize: set the budget to ``max_size`` from now on.
    """

    host: str
    epoch: str
    seq: int
    keep: int
    ask: int
    report: Report
    max_size: int
    lease: float
    resize: bool = False


class Answer(NamedTuple):
    """What an exchange came to.

    Args:
        refused: `EPOCH`, `SEQ`, or "": it was executed.
        epoch: now.
        learning: see `State`.
        max_size: see `State`.
        lease: see `State`.
        free: permits on no row, after this.
        credit: of the host, after this; 0 if refused.
        number: of the host's row, after this; 0 if refused.
        seq: of the host's row, after this; 0 if it has none.
    """

    refused: str
    epoch: str
    learning: bool
    max_size: int
    lease: float
    free: int
    credit: int
    number: int
    seq: int


class Ring(NamedTuple):
    """A hint from another host.

    Args:
        sender: that host.
        target: permits to come down to, since the sender has fewer than its share; `FREE`: some may be free now;
            ``FREE - n``: the sender wishes for n more, as far as they are not needed.
    """

    sender: str
    target: int


class Listener(Protocol):
    """Rings for one host. Used by one thread, the same that uses the engine."""

    def fileno(self) -> int:
        """What to wait for with ``select``: it is readable when something may be heard. Ask anew for each wait;
        and call `heard` after other calls of the engine, which may have read rings along with their answers.

        Raises:
            EngineUnreachable: the link is down.
        """
        ...

    def heard(self, timeout: float = 0.0) -> list[Ring]:
        """The rings that have come, oldest first.

        Args:
            timeout: seconds to wait for the first.

        Raises:
            EngineUnreachable: the link is down. Rings may be lost; a later call listens again.
        """
        ...

    def close(self) -> None:
        """Listen no more."""
        ...


class Engine(Protocol):
    """The engine of one budget. Used by one thread at a time; each call ends within the engine's timeout.

    All calls raise `EngineUnreachable` and `EngineRefused`, and ValueError for what is no host's name.
    """

    def exchange(self, request: Request) -> Answer:
        """Renew, give back, ask and report at once.

        1. No data, or data of an epoch that has ended: all rows go, and a learning epoch begins, with the request's
           ``max_size`` and ``lease``.
        2. The request's epoch is not the one of the data: refused, `EPOCH`.
        3. The host's row has this ``seq`` or a higher one: refused, `SEQ`.
        4. ``resize`` sets the budget's ``max_size``. Credits stay as they are; what is free may fall below 0.
        5. The row's credit becomes ``min(credit, keep)``; a host without a row has 0, or while learning what it keeps.
           The rest of ``keep``, and then ``ask``, come from what is free; while learning, nothing does.
        6. Row and epoch get the next number; the row gets ``seq`` and ``report``, and is a ghost no more.

        Args:
            request: what the host says.
        """
        ...

    def read(self) -> State:
        """The header and all rows. Changes nothing."""
        ...

    def bury(self, epoch: str, host: str, number: int, count: int) -> bool:
        """Bring a row down to what was counted for its host. Also how a host leaves: its own row, with 0.

        Args:
            epoch: as read.
            host: whose row.
            number: as read, before the count.
            count: connections that its host still has at most; with 0 the row goes.

        Returns:
            False, and nothing is changed: another epoch, a learning one, no such row, or another number: its host has
            exchanged something since.
        """
        ...

    def learned(self, epoch: str, number: int, ghosts: Mapping[str, int]) -> bool:
        """End learning.

        Args:
            epoch: as read.
            number: `State.number`, as read, before the count.
            ghosts: connections that were counted for hosts without a row.

        Returns:
            False, and nothing is changed: another epoch, one that is not learning, or a host has declared since the
            read.
        """
        ...

    def ring(self, sender: str, targets: Mapping[str, int]) -> None:
        """Send hints.

        Args:
            sender: the host that rings.
            targets: by host, see `Ring.target`.
        """
        ...

    def listen(self, host: str) -> Listener:
        """Hear what is rung for a host from now on.

        Args:
            host: whose rings.
        """
        ...

    def close(self) -> None:
        """Close the engine's connections, listeners included."""
        ...


def check_name(name: str) -> None:
    """Refuse what cannot be a budget's name. Raises: ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"name {name!r} must be 1 to 64 letters, digits, '.', '_' or '-'")
