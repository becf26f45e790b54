"""The engine's contract in plain Python. `Store` is the reference: the Lua and the SQL of the others do the same.

`MemoryEngine` is for tests, and for hosts that are threads of one process.
"""

from __future__ import annotations

import select
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING

from mppool.cluster.contract import EPOCH, SEQ, Answer, Report, Request, Ring, Row, State, check_host

if TYPE_CHECKING:
    from collections.abc import Mapping


class Store:
    """The data of one budget, and the calls that change them. No lock, clock or chance.

    Attributes:
        run: of the server that the data are good on; the engines of others compare it with the server's.
        declared: `number` of the last exchange that made a row.
    """

    __slots__ = ("declared", "epoch", "learning", "lease", "max_size", "number", "rows", "run")

    def __init__(self, run: str = "") -> None:
        self.run = run
        self.epoch = ""
        self.learning = False
        self.max_size = self.number = self.declared = 0
        self.lease = 0.0
        self.rows: dict[str, Row] = {}

    @property
    def free(self) -> int:
        """Permits on no row. Below 0 after a resize to less than what is out."""
        return self.max_size - sum(row.credit for row in self.rows.values())

    def exchange(self, request: Request, run: str, fresh: str) -> Answer:
        """See `Engine.exchange`.

        Args:
            request: what a host says.
            run: of the server, now.
            fresh: a name for the epoch that begins with this call, if one does.
        """
        if not self.epoch or self.run != run:
            self._begin(request, run, fresh)
        row = self.rows.get(request.host)
        seq = row.seq if row else 0
        if request.epoch != self.epoch:
            return self._answer(EPOCH, seq)
        if row and request.seq <= seq:
            return self._answer(SEQ, seq)
        if request.resize:
            self.max_size = request.max_size
        credit = self._credit(row, request)
        self.number += 1
        if row is None:
            self.declared = self.number
        self.rows[request.host] = Row(self.number, request.seq, credit, False, request.report)
        return self._answer("", request.seq, credit, self.number)

    def _begin(self, request: Request, run: str, fresh: str) -> None:
        self.run, self.epoch, self.learning = run, fresh, True
        self.max_size, self.lease, self.number, self.declared = request.max_size, request.lease, 0, 0
        self.rows = {}

    def _credit(self, row: Row | None, request: Request) -> int:
        keep, had = request.keep, row.credit if row else 0
        if self.learning:
            return min(had, keep) if row else keep
        kept = min(had, keep)
        free = self.free + had - kept
        return kept + max(0, min(keep - kept + request.ask, free))

    def _answer(self, refused: str, seq: int, credit: int = 0, number: int = 0) -> Answer:
        free = self.free
        return Answer(refused, self.epoch, self.learning, self.max_size, self.lease, free, credit, number, seq)

    def read(self, run: str) -> State:
        """See `Engine.read`."""
        epoch = self.epoch if self.run == run else ""
        rows = dict(self.rows) if epoch else {}
        return State(epoch, self.learning, self.max_size, self.lease, self.number, rows)

    def bury(self, epoch: str, host: str, number: int, count: int, run: str) -> bool:
        """See `Engine.bury`."""
        row = self.rows.get(host)
        if epoch != self.epoch or run != self.run or self.learning or row is None or row.number != number:
            return False
        credit = min(row.credit, count)
        if credit > 0:
            self.rows[host] = row._replace(credit=credit, ghost=True)
        else:
            del self.rows[host]
        return True

    def learned(self, epoch: str, number: int, ghosts: Mapping[str, int], run: str) -> bool:
        """See `Engine.learned`."""
        if epoch != self.epoch or run != self.run or not self.learning or self.declared > number:
            return False
        self.learning = False
        for host, count in ghosts.items():
            if count > 0 and host not in self.rows:
                self.rows[host] = Row(0, 0, count, True, Report())
        return True


class Listening:
    """Rings for one host of a `MemoryEngine`."""

    def __init__(self, engine: MemoryEngine, host: str) -> None:
        self._engine, self._host = engine, host
        self._rings: deque[Ring] = deque()
        self._inside, self._outside = socket.socketpair()
        self._outside.setblocking(False)
        self._inside.setblocking(False)

    def tell(self, ring: Ring) -> None:
        """A ring has come."""
        self._rings.append(ring)
        try:
            self._inside.send(b"!")
        except OSError:
            pass  # full: it is readable already; or closed

    def fileno(self) -> int:
        """See `Listener`."""
        return self._outside.fileno()

    def heard(self, timeout: float = 0.0) -> list[Ring]:
        """See `Listener`."""
        if timeout > 0 and not self._rings:
            select.select([self._outside], [], [], timeout)
        try:
            self._outside.recv(4096)
        except BlockingIOError:
            pass
        heard = []
        while self._rings:
            heard.append(self._rings.popleft())
        return heard

    def close(self) -> None:
        """See `Listener`."""
        self._engine.forget(self._host, self)
        self._inside.close()
        self._outside.close()


class MemoryEngine:
    """One budget in this process's memory; may be used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._store, self._runs, self._epochs = Store(), 0, 0
        self._listeners: list[tuple[str, Listening]] = []

    def exchange(self, request: Request) -> Answer:
        """See `Engine`."""
        with self._lock:
            self._epochs += 1
            check_host(request.host)
            return self._store.exchange(request, str(self._runs), f"e{self._epochs}")

    def read(self) -> State:
        """See `Engine`."""
        with self._lock:
            return self._store.read(str(self._runs))

    def bury(self, epoch: str, host: str, number: int, count: int) -> bool:
        """See `Engine`."""
        with self._lock:
            return self._store.bury(epoch, host, number, count, str(self._runs))

    def learned(self, epoch: str, number: int, ghosts: Mapping[str, int]) -> bool:
        """See `Engine`."""
        with self._lock:
            for host in ghosts:
                check_host(host)
            return self._store.learned(epoch, number, ghosts, str(self._runs))

    def ring(self, sender: str, targets: Mapping[str, int]) -> None:
        """See `Engine`."""
        with self._lock:
            for host in (sender, *targets):
                check_host(host)
            told = [(each, targets[host]) for host, each in self._listeners if host in targets]
        for listening, target in told:
            listening.tell(Ring(sender, target))

    def listen(self, host: str) -> Listening:
        """See `Engine`."""
        listening = Listening(self, check_host(host))
        with self._lock:
            self._listeners.append((host, listening))
        return listening

    def forget(self, host: str, listening: Listening) -> None:
        """A listener is closed."""
        with self._lock:
            self._listeners = [each for each in self._listeners if each != (host, listening)]

    def close(self) -> None:
        """See `Engine`."""
        for _, listening in list(self._listeners):
            listening.close()

    def lose(self) -> None:
        """The data are gone, as after FLUSHALL."""
        with self._lock:
            self._store = Store(str(self._runs))

    def restart(self) -> None:
        """The data are of another run, as after a restart from what was saved."""
        with self._lock:
            self._runs += 1
