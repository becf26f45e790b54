"""A allocator on a real ledger and real semaphores, with every store watched as it happens."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mppool.manager import allocator as module
from mppool.manager.allocator import Allocator
from mppool.shared import ledger as L
from mppool.shared.semaphore import make


class Watched:
    """A semaphore that looks at the ledger whenever a permit moves.

    Were the manager killed in that instant, its successor would believe the ledger: it must show at least what is
    out there with this member, and over all members no more than the budget.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.real = make()
        self.fds = self.real.fds
        self.out = 0  # given and not recalled

    def give(self, permits: int) -> None:
        member = self.budget.member_of(self)
        self.out += permits
        assert self.budget.credit(member) >= self.out, "granted before the ledger knew"
        assert sum(self.budget.credits()) <= self.budget.max_size, "granted twice"
        self.budget.grants.append((member, permits))
        self.real.give(permits)

    def take(self) -> bool:
        assert self.budget.credit(self.budget.member_of(self)) >= self.out, "recalled in the ledger first"
        taken = self.real.take()
        self.out -= taken
        return taken

    def close(self) -> None:
        self.real.close()


LONG_AGO = 1  # ns


class Budget:
    """A allocator and what its members do and report."""

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        with tempfile.TemporaryDirectory() as folder:
            self.ledger, fd = L.Ledger.create(os.path.join(folder, "ledger"))
            os.close(fd)
        self.bells: list[int] = []
        self.grants: list[tuple[int, int]] = []
        self.allocator = Allocator(self.ledger, max_size, self.bells.append)
        self.rang: set[int] = set()

    def attach(self, warm: int = 0) -> int:
        member = self.allocator.attach(os.getpid(), 1, warm, 0.0)
        assert member is not None
        return member

    def member_of(self, semaphore: object) -> int:
        return next(member for member, each in self.allocator.semaphores.items() if each is semaphore)

    def report(self, member: int, **facts: int) -> None:
        for name, value in facts.items():
            self.ledger.cells[self.ledger.offset(member) + getattr(L, name.upper())] = value
        idle = self.cell(member, L.HELD) - self.cell(member, L.IN_USE) - self.cell(member, L.MOVING)
        self.ledger.cells[self.ledger.offset(member) + L.IDLE_SINCE] = LONG_AGO if idle > 0 else 0
        self.rang.add(member)

    def settle(self, now: float = 100.0) -> float | None:
        """All that have reported ring."""
        self.bells.clear()
        self.grants.clear()
        rang, self.rang = self.rang, set()
        return self.allocator.settle(now, rang)

    def cell(self, member: int, cell: int) -> int:
        return self.ledger.cells[self.ledger.offset(member) + cell]

    def credit(self, member: int) -> int:
        return self.cell(member, L.CREDIT)

    def credits(self) -> list[int]:
        return [self.credit(member) for member in range(4)]

    def take_all(self, member: int) -> int:
        """The member takes what lies on its semaphore, and says so."""
        taken = 0
        while self.allocator.semaphores[member].real.take():  # type: ignore[attr-defined]
            taken += 1
        self.report(member, held=self.cell(member, L.HELD) + taken)
        return taken

    def worker(self, permits: int = 0, **facts: int) -> int:
        """A member that has so many permits, holds a connection for each, and reports ``facts``."""
        member = self.attach()
        self.report(member, waiting=permits)
        self.settle()
        assert self.take_all(member) == permits
        self.report(member, **{"waiting": 0, **facts})
        return member


@contextmanager
def opened(max_size: int) -> Iterator[Budget]:
    with pytest.MonkeyPatch.context() as patch:
        budget = Budget(max_size)
        patch.setattr(module, "make", lambda: Watched(budget))
        try:
            yield budget
        finally:
            for member in list(budget.allocator.semaphores):
                budget.allocator.leave(member)
            budget.ledger.close()
