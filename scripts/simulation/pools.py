"""What a pool is to the simulated world, and the pools that ours is compared with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scripts.simulation.engine import MS, Interpreter

if TYPE_CHECKING:
    from scripts.simulation.world import World

Lend = Callable[[Any], object]  # called with the connection

HOP = 0.05 * MS  # processor time of a proxy a query, half of it before the query and half after


class Pool(ABC):
    """A budget of connections over all processes of a world.

    Attributes:
        moves: connections opened so far.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.moves = 0

    @abstractmethod
    def borrow(self, process: int, lend: Lend) -> None:
        """Somebody in a process wants a connection: lend it, now or later."""

    def answered(self, process: int, connection: Any, then: Callable[[], object]) -> None:
        """The server has answered the statement on a connection; its borrower goes on with that."""
        then()

    @abstractmethod
    def give_back(self, process: int, connection: Any) -> None:
        """Its borrower is done with a connection."""


class Static(Pool):
    """Each process has its fixed share of the permits, all of it open from the start.

    Raises: ValueError: a process would have none.
    """

    def __init__(self, world: World, permits: int) -> None:
        super().__init__(world)
        if permits < world.processes:
            raise ValueError(f"{permits} permits cannot be divided among {world.processes} processes")
        each, more = divmod(permits, world.processes)
        self._free = [each + (process < more) for process in range(world.processes)]
        self._lines: list[deque[Lend]] = [deque() for _ in range(world.processes)]

    def borrow(self, process: int, lend: Lend) -> None:
        if self._free[process]:
            self._free[process] -= 1
            lend(None)
        else:
            self._lines[process].append(lend)

    def give_back(self, process: int, connection: Any) -> None:
        if self._lines[process]:
            self._lines[process].popleft()(None)
        else:
            self._free[process] += 1


class Ideal(Pool):
    """One line for all processes: any free connection goes to the oldest caller anywhere, in no time and for nothing.

    No pool in the processes can be better. A proxy can, a little: it has a connection back before its client knows.
    """

    def __init__(self, world: World, permits: int) -> None:
        super().__init__(world)
        self._free = permits
        self._line: deque[Lend] = deque()

    def borrow(self, process: int, lend: Lend) -> None:
        if self._free:
            self._free -= 1
            lend(None)
        else:
            self._line.append(lend)

    def give_back(self, process: int, connection: Any) -> None:
        if self._line:
            self._line.popleft()(None)
        else:
            self._free += 1


class Proxy(Ideal):
    """The same line in a process of its own, such as PgBouncer: every query goes through its one interpreter twice."""

    def __init__(self, world: World, permits: int) -> None:
        super().__init__(world, permits)
        self._interpreter = Interpreter()

    def _hop(self, then: Callable[..., object], *args: Any) -> None:
        self.world.processors.run(self._interpreter, HOP / 2, "proxy", then, *args)

    def borrow(self, process: int, lend: Lend) -> None:
        self._hop(super().borrow, process, lend)

    def answered(self, process: int, connection: Any, then: Callable[[], object]) -> None:
        self._hop(self._forward, process, connection, then)

    def _forward(self, process: int, connection: Any, then: Callable[[], object]) -> None:
        super().give_back(process, connection)
        then()

    def give_back(self, process: int, connection: Any) -> None:
        """It has it already."""
