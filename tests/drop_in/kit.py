"""What the steps of the program are made with: either package and either flavour look the same from here."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

from tests.drop_in.outcomes import Text, failure, show

Run = Callable[["Kit"], Awaitable[Any]]
STEPS: dict[str, Run] = {}
ONCE: set[str] = set()  # steps about the package, not about a database


class Connection:
    """Either flavour: every method is awaited here."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.raw, name)
        if not callable(found):
            return found

        async def call(*args: Any, **named: Any) -> Any:
            result = found(*args, **named)
            return await result if inspect.isawaitable(result) else result

        return call


class Kit:
    """What a step works with."""

    def __init__(self, package: str, flavour: str, uri: str) -> None:
        self.name, self.flavour, self.uri = package, flavour, uri
        self.package = import_module(package)
        self.errors = import_module(f"{package}.errors")
        self.provider = uri.partition(":")[0]
        self.maker = self.package.PySQLXEngineSync if flavour == "sync" else self.package.PySQLXEngine

    def connection(self, *uri: Any) -> Connection:
        return Connection(self.maker(*uri or (self.uri,)))

    async def open(self, *uri: str) -> Connection:
        made = self.connection(*uri)
        await made.connect()
        return made

    async def attempt(self, awaitable: Awaitable[Any]) -> Text:
        """What came of it, as the outcome of a step would be shown."""
        try:
            return Text(show(await awaitable))
        except BaseException as error:
            return Text(failure(error))

    async def within(self, body: Callable[[Any], Awaitable[Any]]) -> Any:
        """The body in a ``with`` block."""
        conn = self.maker(self.uri)
        if self.flavour == "sync":
            with conn as inner:
                return await body(inner)
        async with conn as inner:
            return await body(inner)


def step(name: str, once: bool = False) -> Callable[[Run], Run]:
    """Add a step to the program."""

    def add(run: Run) -> Run:
        assert name not in STEPS, name
        STEPS[name] = run
        if once:
            ONCE.add(name)
        return run

    return add


def call(name: str, method: str, *args: Any, **named: Any) -> None:
    """A step that is one call on an open connection; an argument that is a function is given the kit."""

    async def run(kit: Kit) -> Any:
        conn = await kit.open()
        given = [arg(kit) if inspect.isfunction(arg) else arg for arg in args]
        return await getattr(conn, method)(*given, **named)

    step(name)(run)


def script(name: str, *calls: tuple[Any, ...]) -> None:
    """A step of several calls on one connection, each of which may fail."""

    async def run(kit: Kit) -> Any:
        conn = await kit.open()
        return [await kit.attempt(getattr(conn, method)(*args)) for method, *args in calls]

    step(name)(run)
