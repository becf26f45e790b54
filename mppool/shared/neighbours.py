"""The user's other budgets on this host, as a process that launches a manager finds them. It looks under the launchers'
lock only, so that no budget is made or cleared away meanwhile.

When a whole program is killed with its manager, a folder is left that no process will use again, if its name was made
up for it. Such folders are removed. Processes that made a budget each, where one was meant, are found by their parent.
"""

from __future__ import annotations

import os
import re
import socket

from mppool.shared import identity, paths
from mppool.shared import ledger as L
from mppool.shared.seats import Seats

__all__ = ["Found", "clear_away", "has_members", "sibling"]

_SCOPES, _RESERVE = r"scope-\d+-[0-9a-f]{8}-[0-9a-f]{8}", re.escape(paths.RESERVE)
_MADE_UP = re.compile(rf"own-(?P<maker>\d+)-[0-9a-f]{{8}}|{_SCOPES}|(own-\d+-[0-9a-f]{{8}}|{_SCOPES}){_RESERVE}")


class Found:
    """A budget's folder with a ledger in it; a context.

    Raises: FileNotFoundError: it has none, or no whole one; OSError.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        fd = os.open(os.path.join(folder, paths.LEDGER), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size < L.SIZE:
                raise FileNotFoundError(f"{folder} has no whole ledger")
            self.ledger = L.Ledger(fd)
            self._seats = Seats(folder)
        finally:
            os.close(fd)

    @property
    def known(self) -> bool:
        """Whether this version of mppool can read it."""
        return self.ledger.header.magic == L.MAGIC

    @property
    def elsewhere(self) -> bool:
        """Whether its pids belong to another PID namespace."""
        return self.ledger.header.space != identity.space()

    def has_members(self) -> bool:
        """Whether members of it are, or may be, alive."""
        if self.elsewhere:
            return any(self.ledger.column(L.PID, L.ROWS)) and self._seats.any_taken()
        return bool(self.ledger.living(self._seats.taken))

    def has_manager(self) -> bool:
        header = self.ledger.header
        if not self.elsewhere and identity.alive(header.manager, header.started):
            return True
        return _answers(self._folder)  # it has only just begun, or is in another PID namespace

    def close(self) -> None:
        self._seats.close()
        self.ledger.close()

    def __enter__(self) -> Found:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _answers(folder: str) -> bool:
    """Whether a manager listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(os.path.join(folder, paths.SOCKET))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            pass  # it is busy
    return True


def has_members(name: str) -> bool:
    """Whether a budget has members that are, or may be, alive; with or without a manager."""
    try:
        with Found(paths.folder(name)) as found:
            return found.has_members()
    except OSError:
        return False


def clear_away(root: str, but: str) -> None:
    """Remove the folders of programs that were killed as a whole.

    Args:
        but: the name of a budget that is being launched.
    """
    for name in os.listdir(root):
        if name != but and _MADE_UP.fullmatch(name) and _is_dead(os.path.join(root, name)):
            paths.remove_folder(os.path.join(root, name))


def _is_dead(folder: str) -> bool:
    try:
        with Found(folder) as found:
            return found.known and not found.has_members() and not found.has_manager()
    except FileNotFoundError:
        return not _answers(folder)
    except OSError:
        return False


def sibling(root: str, name: str, database: int) -> int | None:
    """The pid of a process that has the same parent as the one that made up ``name``, and has made a budget of its own
    for the same database; None: there is none. The parent must run the same program: it is no shell.

    Args:
        database: as `ledger.database_key` has it.
    """
    maker = _maker(name)
    parent = identity.parent(maker)
    if not parent or not identity.same_program(maker, parent):
        return None
    for other in os.listdir(root):
        pid = _maker(other)
        if pid in (0, maker) or identity.parent(pid) != parent or not identity.same_program(pid, parent):
            continue
        try:
            with Found(os.path.join(root, other)) as found:
                if found.known and found.ledger.header.database == database and not found.elsewhere:
                    return pid
        except OSError:
            continue
    return None


def _maker(name: str) -> int:
    """The pid of the process for which a name was made up; 0: it was not."""
    found = _MADE_UP.fullmatch(name)
    return int(found["maker"] or 0) if found is not None else 0
