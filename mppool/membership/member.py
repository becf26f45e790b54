"""A pool's membership of a budget, as seen from its own process.

A member has a connection to the manager, a row in the ledger, a semaphore and a seat. All end with the process; the
manager then frees its permits. Only the agent attaches and listens. Any thread may put a permit back, under the pool's
lock: what is held and what lies on the semaphore never change apart.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

from mppool import errors
from mppool.cluster_url import shown
from mppool.membership.launcher import enter
from mppool.settings import KEPT, BudgetSettings
from mppool.shared import ledger as L
from mppool.shared import messages, tenure
from mppool.shared.descriptors import is_short
from mppool.shared.seats import Seat
from mppool.shared.semaphore import EventSemaphore, adopt

LEASE = 10.0  # seconds that a host of a budget over several may open connections after it was heard of
SLACK = tenure.SLACK
LINGER_NAMED = 2.0  # seconds that a named budget's manager stays after the last member has left


def launch_config(budget: BudgetSettings, name: str) -> dict[str, Any]:
    """What a manager must know. The uri, and the url of the cluster's engine, are secrets; they travel over pipes and
    private sockets. Raises: what a function that says the url of the engine raises."""
    return {
        "name": name,
        "uri": budget.uri,
        "database": budget.database.key,
        "port": budget.database.port,
        "max_size": budget.max_size,
        "made": budget.made,
        "reserve": budget.reserve,
        "linger": LINGER_NAMED if budget.name is not None else 0.0,
        "end_orphans": budget.end_orphans,
        "path": _absolute(sys.path),
        "cluster": budget.cluster_now(),
        "engine": engine(budget),
        "lease": LEASE,
        "slack": SLACK,
        "kept": KEPT,
    }


def engine(budget: BudgetSettings) -> str | None:
    """The place of the engine that keeps the budget over several hosts, without secrets; None: there is none."""
    return None if budget.cluster is None else shown(str(budget.cluster))


def _absolute(folders: list[str]) -> list[str]:
    """Absolute paths of these; relative ones are left out if the working directory has been deleted."""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = ""
    joined = (os.path.normpath(os.path.join(here, each)) for each in folders if isinstance(each, str))
    return [each for each in joined if os.path.isabs(each)]


class Member:
    """A member of a budget, attached.

    Args:
        budget: what this process assumes of the budget; the manager checks it.
        name: of the budget's folder.
        warm: connections to be granted on arrival if they are free.
        token: a number of this member's own, by which a successor of the manager recognises it.
        returning: it was a member under another manager, and may have connections open.

    Raises: BudgetMismatchError, ManagerUnavailableError; OSError: this process has no free descriptor.
    """

    def __init__(self, budget: BudgetSettings, name: str, warm: int, token: int = 0, returning: bool = False) -> None:
        request = {
            "do": "attach",
            "database": budget.database.key,
            "max_size": budget.max_size,
            "made": budget.made,
            "reserve": budget.reserve,
            "engine": engine(budget),
            "warm": warm,
            "token": token,
            "returning": returning,
        }
        self._token = token
        self._seat: Seat | None = None
        try:
            answer, self.channel = enter(launch_config(budget, name), request, self._take_seat if token else None)
            try:
                self.ledger, self.semaphore = self._received(answer["fds"], name)
            except BaseException:
                self.channel.close()  # to the manager the member has left
                raise
        except BaseException:
            self._leave_seat()
            raise
        self.row = self.ledger.row(answer["row"])
        self.number = int(answer["row"])
        self.at = self.ledger.offset(answer["row"])  # and of its first cell
        self.undeclared: bool = answer["declare"]  # the manager waits to be told what is held

    def _take_seat(self, folder: str) -> None:
        """Before the manager assigns a row, so that the seat is taken when others read the row. Raises: OSError."""
        self._leave_seat()
        self._seat = Seat(folder, self._token)

    def _leave_seat(self) -> None:
        if self._seat is not None:
            self._seat.release()
            self._seat = None

    def _received(self, count: int, name: str) -> tuple[L.Ledger, EventSemaphore]:
        """The ledger, and the semaphore of so many descriptors, that came with the answer."""
        book, *fds = self.channel.claim_fds(1 + count)
        try:
            ledger = L.Ledger(book)
            if ledger.header.magic != L.MAGIC:
                ledger.close()
                raise errors.ManagerUnavailableError(f"budget {name!r} is run by another version of mppool")
            return ledger, adopt(fds)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        finally:
            os.close(book)

    def is_ours(self) -> bool:
        """Whether no other code of this process has closed its descriptors. It takes two system calls."""
        return self.channel.is_ours() and self.semaphore.may_be_ours()

    @property
    def cells(self) -> memoryview:
        return self.ledger.cells

    def declare(self, held: int) -> None:
        """Tell the manager that ``held`` permits are held here, and that none lies on a semaphore."""
        self.undeclared = False
        try:
            self.channel.send({"do": "declare", "held": held})
        except OSError:
            pass  # the manager is gone again; the next one asks anew

    def opened(self, descriptor: int) -> bool:
        """Share a connection's socket: if this process is killed, the manager sees by it when the server has ended the
        connection. False: not just now, for the manager has too much to read."""
        try:
            self.channel.send({"do": "opened"}, [descriptor])
        except OSError as error:
            again = isinstance(error, BlockingIOError) or error.errno == errno.ETOOMANYREFS or is_short(error)
            return not again  # otherwise the manager is gone
        return True

    def tell_uri(self, uri: str) -> None:
        """The manager is to know this uri; it passes it to the reaper, and to processes that attach by name."""
        try:
            self.channel.send({"do": "uri", "uri": uri})
        except OSError:
            pass  # it is gone, or has too much to read: then it knows an older one

    def tell_cluster(self, url: str) -> None:
        """The manager is to go on with this url of the cluster's engine."""
        try:
            self.channel.send({"do": "cluster", "url": url})
        except OSError:
            pass  # it is gone, or has too much to read: then it is told again, or asks for itself

    def heard(self) -> bool:
        """Read and drop what the manager sent, which is notifications. False: the manager is gone."""
        try:
            return self.channel.receive() is not None
        except messages.Garbled:
            return False

    def leave(self) -> None:
        """End the membership. The manager learns of it by the end of file, even while a forked copy is open. A
        successor that is still to come finds it in the ledger."""
        self.row.left = 1
        self.channel.hang_up()
        self.abandon()

    def abandon(self) -> None:
        """Close this process's copies only: in a forked child the member is the parent's."""
        self._leave_seat()
        self.channel.close()
        self.semaphore.close()
        self.ledger.close()
