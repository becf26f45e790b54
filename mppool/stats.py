"""Snapshots: frozen, made in one go, safe to keep, compare and send. They hold numbers and names, no secrets."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BudgetStats", "MemberStats", "PoolStats"]


@dataclass(frozen=True)
class MemberStats:
    """One process at a budget.

    Attributes:
        pid: of the process.
        credit: permits that the process has, used or not.
        in_use: connections that are borrowed.
        idle: connections that are open and not borrowed.
        opening: connections that are being opened, checked or closed.
        waiting: callers that wait for a connection.
    """

    pid: int
    credit: int
    in_use: int
    idle: int
    opening: int
    waiting: int

    @property
    def held(self) -> int:
        """Connections open or being opened."""
        return self.in_use + self.idle + self.opening


@dataclass(frozen=True)
class BudgetStats:
    """A budget as its ledger shows it. It is read while others write: each number is true, their sum nearly so.

    Attributes:
        name: of the budget.
        max_size: permits of the budget.
        manager_pid: the pid of the manager process.
        short: permits that processes want and that the manager could not grant when it last tried.
        members: the processes that are attached.
    """

    name: str
    max_size: int
    manager_pid: int
    short: int
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
    """One process's local pool: what is there now, and counts since the pool was made.

    Attributes:
        name: of the budget.
        max_size: permits of the budget, over all processes.
        in_use: connections that are borrowed.
        idle: connections that are open and not borrowed.
        opening: connections that are being opened or checked.
        closing: connections that are being closed.
        waiting: callers that wait for a connection.
        borrows: connections lent so far.
        timeouts: callers that waited in vain.
        opened: connections opened so far.
        closed: connections closed so far.
        connect_errors: attempts to open a connection that failed.
        refused_full: attempts that the server refused because it was full; they were made again.
        rollbacks: transactions that borrowers left open.
        last_connect_error: why the last attempt to open a connection failed; None: it succeeded.
        manager_lost: True: there is no manager at this moment; the process goes on with the permits that it has.
    """

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
    refused_full: int
    rollbacks: int
    last_connect_error: str | None = None
    manager_lost: bool = False
