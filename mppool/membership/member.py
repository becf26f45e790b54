"""Membership: this process's seat at a budget, as seen from inside.

A seat is a connection to the manager, a row in the ledger and a semaphore. It vanishes with the process; the
manager then frees whatever it had. Only the agent attaches and listens; any thread may put a permit back, under the
pool's lock: what is held and what lies on the semaphore never change apart.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

from mppool import errors
from mppool.membership.launcher import enter
from mppool.settings import BudgetSettings
from mppool.shared import ledger as L
from mppool.shared import messages
from mppool.shared.descriptors import is_short
from mppool.shared.seats import Seat
from mppool.shared.semaphore import EventSemaphore, adopt

LINGER_NAMED = 2.0  # seconds a named budget's manager stays for the next comer


def launch_config(budget: BudgetSettings, name: str) -> dict[str, Any]:
    """What a manager must know. The uri is the only secret; it travels over pipes and private sockets."""
    return {
        "name": name,
        "uri": budget.uri,
        "database": budget.database.key,
        "port": budget.database.port,
        "max_size": budget.max_size,
        "linger": LINGER_NAMED if budget.name is not None else 0.0,
        "end_orphans": budget.end_orphans,
        "path": _absolute(sys.path),
    }


def _absolute(folders: list[str]) -> list[str]:
    """As they are from here; relative ones are left out where the working directory has been deleted."""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = ""
    joined = (os.path.normpath(os.path.join(here, each)) for each in folders if isinstance(each, str))
    return [each for each in joined if os.path.isabs(each)]


class Member:
    """A seat, taken.

    Args:
        budget: what this process believes of the budget; the manager checks it.
        name: of the budget's folder.
        warm: connections to be granted on arrival if they are free.
        token: a number of this seat's own, by which a successor of the manager knows it again.
        returning: the seat was had under another manager, and there may be connections open.

    Raises: BudgetMismatchError, ManagerUnavailableError; OSError: this process has no free descriptor.
    """

    def __init__(self, budget: BudgetSettings, name: str, warm: int, token: int = 0, returning: bool = False) -> None:
        request = {
            "do": "attach",
            "database": budget.database.key,
            "max_size": budget.max_size,
            "warm": warm,
            "token": token,
            "returning": returning,
        }
        self._token = token
        self._seat: Seat | None = None
        try:
            answer, self.channel = enter(launch_config(budget, name), request, self._sit if token else None)
            try:
                self.ledger, self.semaphore = self._received(answer["fds"], name)
            except BaseException:
                self.channel.close()  # the manager takes it for having left
                raise
        except BaseException:
            self._get_up()
            raise
        self.row = self.ledger.row(answer["row"])
        self.at = self.ledger.offset(answer["row"])  # and of its first cell
        self.undeclared: bool = answer["declare"]  # the manager waits to be told what is held

    def _sit(self, folder: str) -> None:
        """Before the manager writes down that this process is there. Raises: OSError."""
        self._get_up()
        self._seat = Seat(folder, self._token)

    def _get_up(self) -> None:
        if self._seat is not None:
            self._seat.get_up()
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
        """Whether nobody has closed its descriptors from outside. By two system calls."""
        return self.channel.is_ours() and self.semaphore.may_be_ours()

    @property
    def cells(self) -> memoryview:
        return self.ledger.cells

    def declare(self, held: int) -> None:
        """So many permits are held here, and none lies on a semaphore."""
        self.undeclared = False
        try:
            self.channel.send({"do": "declare", "held": held})
        except OSError:
            pass  # it is gone again; so is what it knew

    def opened(self, descriptor: int) -> bool:
        """Share a connection's socket, so that the manager can tell when the server has ended it should this process be
        killed. False: not just now, for the manager has too much to read."""
        try:
            self.channel.send({"do": "opened"}, [descriptor])
        except OSError as error:
            again = isinstance(error, BlockingIOError) or error.errno == errno.ETOOMANYREFS or is_short(error)
            return not again  # else it is gone
        return True

    def heard(self) -> bool:
        """Swallow what the manager sent (bells). False: the manager is gone."""
        try:
            return self.channel.receive() is not None
        except messages.Garbled:
            return False

    def leave(self) -> None:
        """Give up the seat: end of file is how the manager learns of it, also where a forked copy is still open; a
        successor that is to come finds it in the ledger."""
        self.row.left = 1
        self.channel.hang_up()
        self.abandon()

    def abandon(self) -> None:
        """Close this process's copies only: in a forked child the seat is the parent's."""
        self._get_up()
        self.channel.close()
        self.semaphore.close()
        self.ledger.close()
