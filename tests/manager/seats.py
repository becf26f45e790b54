"""Seats at a budget whose database is never asked: what is tested is the manager, by its members' eyes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mppool.membership import asking
from mppool.membership.member import Member, launch_config
from mppool.settings import BudgetSettings
from mppool.shared import identity, paths
from mppool.shared import ledger as L
from tests.waiting import Child, forked, until

SECRET = "geheim-4711"
URI = f"postgresql://user:{SECRET}@127.0.0.1:1/shop"
NAME = "shop"


def settings(max_size: int = 4, uri: str = URI, named: bool = False) -> BudgetSettings:
    return BudgetSettings(uri, max_size, NAME if named else None)


def sit(max_size: int = 4, uri: str = URI, warm: int = 0, named: bool = False, name: str = NAME) -> Member:
    """Attach to the budget ``name``, launching its manager if need be; if not ``named``, it has no linger."""
    return Member(settings(max_size, uri, named), name, warm)


def config(max_size: int = 4, named: bool = False) -> dict[str, Any]:
    return launch_config(settings(max_size, named=named), NAME)


def manager_of(member: Member) -> int:
    return member.cells[L.H_MANAGER]


def credit(member: Member) -> int:
    return member.cells[member.at + L.CREDIT]


def want(member: Member, callers: int) -> None:
    """So many callers wait here: publish it and ring."""
    member.cells[member.at + L.WAITING] = callers
    member.channel.notify()


def get(member: Member, permits: int) -> None:
    """Come to have so many permits in use."""
    missing = permits - member.cells[member.at + L.HELD]
    want(member, missing)
    until(lambda: credit(member) >= permits)
    for _ in range(missing):
        until(member.semaphore.take)
    member.cells[member.at + L.HELD] = permits
    member.cells[member.at + L.IN_USE] = permits
    member.cells[member.at + L.WAITING] = 0


def runs(pid: int) -> bool:
    return identity.started(pid) != 0  # whether it is buried is for init to see to


def gone(pid: int) -> None:
    until(lambda: not runs(pid))


def call() -> socket.socket:
    """A raw connection to the running manager."""
    sock = asking.connect(NAME)
    assert sock is not None
    sock.settimeout(10)
    return sock


def cut_off(sock: socket.socket) -> bool:
    """Whether the manager closes the connection; waits for it."""
    try:
        while sock.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


@contextmanager
def served_here(prepare: Callable[[], None], **changes: Any) -> Iterator[Child]:
    """A manager in a forked child that ``prepare`` may tamper with, for what a real one cannot be made to do. It sends
    no helper unless asked to: there is no database that one could get into."""
    from mppool.manager import server

    folder = paths.make_folder(NAME)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.join(folder, paths.SOCKET))
    listener.listen(64)

    def serve() -> None:
        prepare()
        server.Manager(listener, folder, {**config(), "end_orphans": False, **changes}).run()

    with listener, forked(serve) as child:
        listener.close()
        yield child
    paths.remove_folder(folder)
