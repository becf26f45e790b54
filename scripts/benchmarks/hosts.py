"""Hosts of one budget on a private engine: how much it costs, and how soon it settles.

The hosts are simulated: real host machines, a real engine client each, connections that are numbers; they share this
machine with the engine. The budget has two permits for each host.

``join``: all come at once, each wants two: until each has. ``crowded``: after ``busy`` each wants four at once: until
each has its share, two.
``idle …``: nothing changes: exchanges a second, the engine's processor time in percent of one core, and for each call.
``busy …``: each host wants another number, 0 to 4, every second; ``wait``: until it has that.
``back``: the engine is stopped for a second and started: until all have renewed, or have declared what they have.
``grow``: until all may have more again. ``… later``: the same after 15 s, when all leases have ended.
"""

from __future__ import annotations

import time
from functools import partial

from scripts.benchmarks.contract import Benchmark, Sample, Setting
from scripts.benchmarks.engines import PrivateEngine, private_engine
from scripts.benchmarks.fleet import Board, Fleet, clock, fleet

EACH = 2
QUIET, BUSY = 7.0, 8.0  # seconds, measured
PATIENCE = 60.0


def _rates(engine: PrivateEngine, hosts: Fleet, seconds: float, title: str) -> dict[str, float | None]:
    """What the engine does in so many seconds."""
    board, cpu, began = hosts.board, engine.processor_time(), clock()
    calls, exchanges = sum(board.calls), sum(board.exchanges)
    time.sleep(seconds)
    taken, lasted = engine.processor_time() - cpu, clock() - began
    called = sum(board.calls) - calls
    return {
        f"{title}: exchanges": (sum(board.exchanges) - exchanges) / lasted,
        f"{title}: calls": called / lasted,
        f"{title}: engine": taken / lasted * 100,
        f"{title}: a call": taken / max(1, called) * 1e6,
    }


def _join(hosts: Fleet) -> dict[str, float | None]:
    hosts.want(EACH)
    return {"join": _ms(hosts.have(EACH, PATIENCE))}


def _busy(engine: PrivateEngine, hosts: Fleet) -> dict[str, float | None]:
    hosts.vary(1.0, 2 * EACH)
    time.sleep(2.0)
    hosts.vary(1.0, 2 * EACH)
    sample = _rates(engine, hosts, BUSY, "busy")
    waits = hosts.waits() or [0.0]
    sample |= {f"busy: wait p{part}": waits[len(waits) * part // 100] * 1e3 for part in (50, 99)}
    hosts.want(2 * EACH)
    return {**sample, "crowded": _ms(hosts.have(EACH, PATIENCE))}


def _outage(engine: PrivateEngine, hosts: Fleet, seconds: float, title: str) -> dict[str, float | None]:
    """The engine goes and comes back; every host has two permits, and would like one more for a moment afterwards."""
    hosts.want(EACH)
    hosts.have(EACH, PATIENCE)
    gone = clock()
    engine.stop()
    time.sleep(seconds)
    engine.start()
    back = clock()
    renewed = hosts.until(lambda board: min(board.sent) > gone, PATIENCE)
    grown = hosts.until(partial(_may_grow, back), PATIENCE)
    return {f"back{title}": _ms(renewed), f"grow{title}": None if grown is None else clock() - back}


def _may_grow(since: float, board: Board) -> bool:
    return min(board.sent) > since and not any(board.learning)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def measure(kind: str, count: int, setting: Setting) -> Sample:
    max_size = EACH * count
    with private_engine(kind, setting) as engine:
        engine.ready(max_size)
        with fleet(engine, count, max_size) as hosts:
            sample = _join(hosts)
            time.sleep(4.0)  # rings and renewals of the beginning
            sample |= _rates(engine, hosts, QUIET, "idle")
            sample |= _busy(engine, hosts)
            sample |= _outage(engine, hosts, 1.0, "")
            sample |= _outage(engine, hosts, 15.0, " later")
            return sample


BENCHMARK = Benchmark(
    "hosts",
    "simulated hosts of one budget on a private engine, two permits for each",
    {
        "join": "ms",
        "crowded": "ms",
        "idle: exchanges": "/s",
        "idle: engine": "% of a core",
        "idle: a call": "µs of the engine",
        "busy: exchanges": "/s",
        "busy: calls": "/s",
        "busy: engine": "% of a core",
        "busy: a call": "µs of the engine",
        "busy: wait p50": "ms",
        "busy: wait p99": "ms",
        "back": "ms",
        "grow": "s",
        "back later": "ms",
        "grow later": "s",
    },
    {
        f"{count} on {kind}": partial(measure, kind, count)
        for kind, count in (
            ("Redis", 10),
            ("Redis", 100),
            ("Redis", 1000),
            ("PostgreSQL", 10),
            ("PostgreSQL", 100),
        )
    },
    rounds=1,
    timeout=400.0,
    compare=False,
    tall=True,
)
