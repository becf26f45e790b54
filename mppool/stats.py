"""Snapshots: frozen, made in one go, safe to keep, compare and send. They hold numbers and names, no secrets."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BudgetStats", "MemberStats", "PoolStats"]


@dataclass(frozen=True)
class MemberStats:
    """One process at a budget. Counts are connections (callers for ``waiting``), ``credit`` is permits."""

    pid: int
    credit: int
    in_use: int
    idle: int
    opening: int  # on the move: being opened, looked after or closed
    waiting: int

    @property
    def held(self) -> int:
        """Connections open or being opened."""
        return self.in_use + self.idle + self.opening


@dataclass(frozen=True)
class BudgetStats:
    """A budget as its ledger shows it. Read while others write: each number is true, their sum nearly so."""

    name: str
    max_size: int
    manager_pid: int
    hungry: int  # permits wanted that nobody could give at the last reckoning
    members: tuple[MemberStats, ...]

    @property
    def open(self) -> int:
        """Connections open or being opened, over all processes."""
        return sum(member.held for member in self.members)

    @property
    def free(self) -> int:
        """Permits that no process has been given."""
        return self.max_size - sum(member.credit for member in self.members)


@dataclass(frozen=True)
class PoolStats:
    """One process's local pool: what is there now, and counts since it came up."""

    name: str
    max_size: int
    in_use: int
    idle: int
    opening: int
    closing: int
    waiting: int
    borrows: int
    timeouts: int
    opened: int
    closed: int
    connect_errors: int
    refused_full: int  # opens that the server refused because it was full, and that were tried again
    rollbacks: int  # transactions that borrowers left open
    last_connect_error: str | None = None  # why the last open failed; None: it succeeded
    manager_lost: bool = False  # there is no manager just now: this process goes on with what it has
