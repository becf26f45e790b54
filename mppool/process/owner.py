"""The way from a process to its budget's manager: to own it, to ask it something, to read its ledger.

The owner holds a connection to the manager, which stays as long as that is open. If the manager dies, the owner finds
or launches its successor when it next asks for something.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from dataclasses import replace
from typing import Any

from mppool import errors
from mppool.membership import asking, launcher
from mppool.membership.member import engine, launch_config
from mppool.process.hosted import cluster_error
from mppool.settings import BudgetSettings
from mppool.shared import identity, tenure
from mppool.shared import ledger as L
from mppool.shared.descriptors import Lost
from mppool.shared.messages import Channel

__all__ = ["Owner"]

logger = logging.getLogger("mppool.pool")

# Seconds until the engine of a budget over several hosts has said its first word. The host's agent is a process that
# must be started; it tells at once of an engine that cannot be reached.
ENGINE_PATIENCE = asking.LAUNCH_TIMEOUT


class Owner:
    """The part of `PoolManager` that talks to the manager; not public.

    Args:
        budget: its settings, as this process knows them.
        name: of its folder.
    """

    def __init__(self, budget: BudgetSettings, name: str) -> None:
        self._budget = budget
        self._name = name
        self._lock = threading.Lock()
        self._channel: Channel | None = None  # held by the owner: it keeps the manager there
        self._ledger: L.Ledger | None = None

    def _disown(self) -> None:
        """Give up being its owner, if this process is. Under the lock."""
        if self._channel is not None:
            self._let_go()
            self._channel = None

    def _own(self) -> None:
        """Find or launch the manager and be its owner. Under the lock."""
        budget = self._budget
        request = {
            "do": "own",
            "database": budget.database.key,
            "max_size": budget.max_size,
            "made": budget.made,
            "reserve": budget.reserve,
            "engine": engine(budget),
        }
        answer, channel = launcher.enter(launch_config(budget, self._name), request)
        if budget.max_size is None:
            self._budget = replace(budget, max_size=answer["max_size"], reserve=answer["reserve"])
        self._disown()
        self._channel = channel
        self._let_go = weakref.finalize(self, channel.close)  # also if `stop` is never called
        self._let_go.atexit = False
        self._open_ledger(channel)

    def _tell_to_stop(self) -> bool:
        """Tell the manager that runs now, which may be the successor of the one we knew. False: there is none. Under
        the lock."""
        while True:
            try:
                sock = asking.connect(self._name) if self._channel is None else self._channel.sock
                if sock is None:
                    return False
                _, channel = asking.ask(sock, {"do": "stop"}, self._name)
            except (ConnectionResetError, Lost):  # it was killed; or our end was closed by other code
                if self._channel is None:
                    continue
                try:
                    self._own()
                except errors.PoolError:
                    return True  # stopped already; or there is none to be had, and so nothing to stop
                continue
            if self._channel is None:
                channel.close()
            return True

    def _await_engine(self) -> None:
        """Hear what the cluster's engine says first, if it says something soon. Under the lock.

        Raises: BudgetMismatchError, ManagerUnavailableError.
        """
        assert self._ledger is not None
        header, deadline = self._ledger.header, time.monotonic() + ENGINE_PATIENCE
        while header.cluster == tenure.STARTING and time.monotonic() < deadline:
            time.sleep(0.005)
        if header.cluster in (tenure.MISMATCH, tenure.REFUSED):
            error = cluster_error(self._name, header)
            self._disown()
            self._ledger.close()
            self._ledger = None
            raise error
        if header.cluster == tenure.LOST:
            logger.warning("budget %s: %s", self._name, cluster_error(self._name, header))

    # -- asking ----------------------------------------------------------------------------------------------

    def _request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Ask the manager that runs now; an owner launches one if there is none, and members launch a successor: that
        is waited for. Raises: ManagerUnavailableError."""
        deadline = time.monotonic() + asking.LAUNCH_TIMEOUT
        while True:
            try:
                sock = asking.connect(self._name)
                if sock is not None:
                    answer, channel = asking.ask(sock, request, self._name)
                    channel.close()
                    return answer
                with self._lock:
                    if self._channel is not None:
                        self._own()
                        continue
                    ledger = self._ledger
                if ledger is None or not ledger.living(lambda token: True) or time.monotonic() > deadline:
                    raise errors.ManagerUnavailableError(f"budget {self._name!r} is not running: call start()")
            except (ConnectionResetError, BlockingIOError) as error:  # it was killed; or too many ask it
                if time.monotonic() > deadline:
                    raise errors.ManagerUnavailableError(f"budget {self._name!r}: {error}") from error
            time.sleep(0.01)

    def _busy(self, until: int) -> dict[int, int]:
        """{pid: connections in use} of processes that have not paused, or that a server still works for."""
        ledger, busy = self._read(), {}
        columns = (L.PID, L.STARTED, L.LEFT, L.ACKNOWLEDGED, L.IN_USE)
        for pid, started, left, acknowledged, in_use in zip(*(ledger.column(c, L.ROWS) for c in columns), strict=True):
            if pid and not left and (in_use or (started != L.NOBODY and acknowledged < until)):
                busy[pid] = in_use
        return busy

    # -- reading ---------------------------------------------------------------------------------------------

    def _known_size(self) -> int | None:
        ledger = self._ledger
        return int(ledger.cells[L.H_MAX_SIZE]) if ledger is not None else self._budget.max_size

    def _read(self) -> L.Ledger:
        with self._lock:
            ledger = self._ledger
            if self._channel is not None and not self._channel.is_ours():
                self._own()  # other code has closed our end
                ledger = self._ledger
            if ledger is None or not identity.alive(ledger.header.manager, ledger.header.started):
                try:
                    self._look_up()
                except errors.ManagerUnavailableError:
                    if ledger is None or not ledger.living(lambda token: True):
                        raise  # else its members go on, and what they publish there is still true
            assert self._ledger is not None
            return self._ledger

    def _look_up(self) -> None:
        """Read the ledger of the manager that runs now; an owner launches one if there is none. Under the lock."""
        if self._channel is not None:
            self._own()
            return
        sock = asking.connect(self._name)
        if sock is None:
            raise errors.ManagerUnavailableError(f"budget {self._name!r} is not running: call start()")
        try:
            _, channel = asking.ask(sock, {"do": "describe"}, self._name)
        except ConnectionResetError as error:
            raise errors.ManagerUnavailableError(f"budget {self._name!r} has just ended") from error
        self._open_ledger(channel)
        channel.close()

    def _open_ledger(self, channel: Channel) -> None:
        (fd,) = channel.claim_fds(1)
        self._ledger = L.Ledger(fd)
        os.close(fd)
