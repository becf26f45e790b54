"""Runs the program with one package in this process: ``python -m tests.drop_in.runner package flavour uri first``.

Writes a line for each step begun and each outcome, so that whoever started it knows the step that never came back.
The process ends without the interpreter's farewell: a driver's thread may still be at work.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from tests.drop_in import messages, parameters, surface
from tests.drop_in.kit import ONCE, STEPS, Kit
from tests.drop_in.outcomes import failure, show

__all__ = ["messages", "surface"]

TABLES = (
    "DROP TABLE IF EXISTS people",
    "DROP TABLE IF EXISTS scratch",
    "DROP TABLE IF EXISTS kinds",
    "DROP TABLE IF EXISTS made",
    "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(40) NOT NULL)",
    "CREATE TABLE scratch (id BIGINT PRIMARY KEY, name VARCHAR(40) NOT NULL)",
    "INSERT INTO people (id, name) VALUES (1, 'Ada'), (2, 'Bob'), (3, 'Cleo')",
)


def names(provider: str, flavour: str) -> list[str]:
    """The steps of such a run; those about the package are run once."""
    return [name for name in STEPS if name not in ONCE or (provider, flavour) == ("sqlite", "sync")]


async def run(package: str, flavour: str, uri: str, first: int) -> None:
    kit = Kit(package, flavour, uri)
    if not first:
        conn = await kit.open()
        for sql in (*TABLES, parameters.create(kit.provider)):
            await conn.raw_cmd(sql)
        await conn.close()
    for number, name in enumerate(names(kit.provider, flavour)):
        if number < first:
            continue
        print(json.dumps(number), flush=True)
        try:
            outcome = show(await STEPS[name](kit))
        except BaseException as error:
            outcome = failure(error)
        print(json.dumps(outcome.replace(uri.partition(":")[2], "…")), flush=True)


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:4], first=int(sys.argv[4])))  # type: ignore[misc]
    sys.stdout.flush()
    os._exit(0)
