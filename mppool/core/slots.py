"""What the local pool's machine works on, and what it tells its caller to do: slots, callers and actions."""

from __future__ import annotations

from typing import Any, NamedTuple


class Slot:
    """A permit and, once it is open, its connection.

    Attributes:
        began: when its connection began to be opened.
        lent_at: since when it has been borrowed, if it is.
    """

    __slots__ = ("began", "expires", "idle_since", "lent_at", "link")

    def __init__(self, began: float = 0.0) -> None:
        self.link: Any = None
        self.began = began
        self.expires = self.idle_since = self.lent_at = 0.0


class Waiter:
    """A caller: ``slot`` is set once a connection is lent, ``error`` once it has failed; until then it is in line.
    Only under the pool's lock. ``broken``: an exception has ended its borrow."""

    __slots__ = ("broken", "error", "since", "slot")

    def __init__(self, since: float) -> None:
        self.since = since
        self.slot: Slot | None = None
        self.error: BaseException | None = None
        self.broken: object = None

    def wake(self) -> bool:
        """Wake the caller; False: it can no longer be woken. Called without the lock, perhaps more than once."""
        raise NotImplementedError

    def let_go(self) -> None:
        """The caller can no longer use what it borrowed."""

    def leave_to_parent(self) -> None:
        """In a forked child: what was borrowed belongs to the parent."""


class Serve(NamedTuple):
    """Wake this waiter; its slot is set."""

    waiter: Waiter


class Close(NamedTuple):
    """Close this slot's connection, then report `PoolMachine.closed`."""

    slot: Slot


class Check(NamedTuple):
    """Check or reset this slot's connection, then report `PoolMachine.checked`."""

    slot: Slot
