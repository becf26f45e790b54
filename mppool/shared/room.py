"""How many descriptors a manager needs for how many members, and which of them it keeps for itself."""

from __future__ import annotations

__all__ = ["members_within", "needed", "reserve"]

OWN = 64  # descriptors that a manager needs without any member: its files, and the reserve
MEMBER = 3  # descriptors a member costs the manager: a socket, a semaphore and a notice of its end
_RESERVE = 32  # descriptors


def needed(members: int, connections: int) -> int:
    """The limit of open files that a manager needs for so many members, with so many connections to a server."""
    return OWN + MEMBER * members + connections


def members_within(limit: int, connections: int) -> int:
    """How many members can be served within that limit."""
    return max(0, (limit - OWN - connections) // MEMBER)


def reserve(limit: int) -> int:
    """How many descriptors are kept from newcomers, for what else a manager does: it looks at processes, asks the
    kernel, receives connections' sockets, launches a reaper, leaves."""
    return min(_RESERVE, limit // 4)
