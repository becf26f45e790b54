"""Where a connection was borrowed."""

from __future__ import annotations

import asyncio
import inspect
import threading

from mppool.process.places import Place, borrowed_at, here


def line() -> int:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def test_it_is_the_line_outside_the_package_and_its_thread() -> None:
    found: list[Place | None] = []

    def work() -> None:
        found.append(here())

    thread = threading.Thread(target=work, name="worker-3")
    thread.start()
    thread.join()
    (place,) = found
    assert place is not None
    assert str(place) == f"{__file__}:{work.__code__.co_firstlineno + 1} in work (thread worker-3)"
    assert place.short == f"process/test_places.py:{work.__code__.co_firstlineno + 1} in work (thread worker-3)"


def test_a_task_is_named() -> None:
    async def work() -> Place | None:
        return here()

    async def main() -> Place | None:
        return await asyncio.create_task(work(), name="checkout")

    place = asyncio.run(main())
    assert place is not None
    assert place.by == "task checkout"


def test_one_that_is_not_known_is_not_told() -> None:
    assert borrowed_at(object()) == ""
