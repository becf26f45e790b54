"""The report: one HTML file that needs nothing else, for a screen of any width, light or dark."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from mppool.view.chart import Band, Curve, Mark, chart
from mppool.view.recording import Counts, Process, Recording, Sample
from mppool.view.style import STYLE
from mppool.view.window import grown
from mppool.view.words import count, seconds

if TYPE_CHECKING:
    from mppool.stats import BudgetStats

__all__ = ["page"]

STRIPS = 64  # processes that have a chart of their own
MARKS = 60  # events that are drawn into charts
WORDS = {
    "came": "a process came", "left": "a process left", "ended": "a process ended", "succession": "a new manager",
    "resize": "resized", "pause": "paused", "resume": "resumed", "drain": "drained",
}  # fmt: skip


def page(recording: Recording, begun: str) -> str:
    """The whole file as text.

    Args:
        begun: the date and time at which the recording began.

    Raises: ValueError: nothing has been recorded.
    """
    first, last = recording.first, recording.last
    if first is None or last is None:
        raise ValueError("nothing has been recorded")
    marks = [Mark(event.at, event.kind, event.text) for event in recording.events[:MARKS]]
    state = "".join(f", {word}" for word in ("paused", "resized") if getattr(last, word))
    body = [
        f"<h1>{escape(last.name)}</h1>",
        f"<p>{escape(last.database)} · {last.max_size} permits{state} · {len(recording.processes)} processes · "
        f"{recording.seconds:.0f} s from {escape(begun)}</p>",
        _tiles(recording, first, last),
        _connections(recording, last, marks),
        _waiting(recording, marks),
        _waits(recording, marks),
        _moves(recording, marks),
        _processes(recording, marks),
        _events(recording),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(last.name)}: mppool report</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _tiles(recording: Recording, first: BudgetStats, last: BudgetStats) -> str:
    asked = last.requests_num - first.requests_num
    queued = last.requests_queued - first.requests_queued
    wait = grown(last.wait, first.wait)
    rate = asked / recording.seconds if recording.seconds else 0.0
    grew = {
        word: getattr(last, name) - getattr(first, name)
        for word, name in (
            ("timeouts", "requests_timeouts"),
            ("other errors", "requests_errors"),
            ("refused by the server", "connections_refused"),
            ("failed opens", "connections_errors"),
            ("connections lost", "connections_lost"),
            ("leaks", "leaks"),
            ("moves", "moves"),
            ("successions", "successions"),
        )
    }
    grew["other errors"] = max(0, grew["other errors"] - grew["timeouts"])
    over = ' class="bad"' if recording.peak > max(last.max_size, first.max_size) else ""
    tiles = [
        ("borrows", f"{asked:,}", f"{count(rate)}/s", ""),
        ("waited", f"{100 * queued / asked:.0f} %" if asked else "0 %", f"{queued:,}", ""),
        ("wait p50", seconds(wait.quantile(0.5)), "", ""),
        ("wait p99", seconds(wait.quantile(0.99)), "", ""),
        ("most open", f"{recording.peak}", f"of {last.max_size}", over),
    ]
    harmless = ("moves", "successions")
    tiles += [
        (word, f"{number:,}", "", ' class="bad"' if number and word not in harmless else "")
        for word, number in grew.items()
        if number or word in ("timeouts", "moves")
    ]
    made = "".join(
        f"<div{kind}><dt>{word}</dt><dd>{value} <small>{more}</small></dd></div>" for word, value, more, kind in tiles
    )
    return f'<dl class="tiles">{made}</dl>'


def _section(title: str, keys: Iterable[tuple[str, str]], *parts: str) -> str:
    legend = "".join(f'<li><i class="{kind}"></i>{escape(word)}</li>' for kind, word in keys)
    return f'<section><h2>{escape(title)}</h2><ul class="keys">{legend}</ul>{"".join(parts)}</section>'


def _stack(samples: Sequence[Sample], of: Callable[[Sample], Counts], waiting: bool = False) -> list[Band]:
    """In use, opening, idle and perhaps waiting, one above the other."""
    levels = [(sample.at, of(sample)) for sample in samples]

    def band(kind: str, low: Callable[[Counts], int], high: Callable[[Counts], int]) -> Band:
        return Band(kind, [(at, low(counts), high(counts)) for at, counts in levels])

    bands = [
        band("use", lambda _: 0, lambda counts: counts.in_use),
        band("opening", lambda counts: counts.in_use, lambda counts: counts.in_use + counts.opening),
        band("idle", lambda counts: counts.in_use + counts.opening, lambda counts: counts.held),
    ]
    if waiting:
        bands.append(band("waiting", lambda counts: counts.held, lambda counts: counts.held + counts.waiting))
    return [each for each in bands if any(high > low for _, low, high in each.points)]


def _kinds(marks: Sequence[Mark]) -> list[tuple[str, str]]:
    return [(f"mark {kind}", WORDS[kind]) for kind in WORDS if any(mark.kind == kind for mark in marks)]


def _connections(recording: Recording, last: BudgetStats, marks: Sequence[Mark]) -> str:
    samples = recording.samples
    top = max([last.max_size, recording.peak, *(sample.max_size for sample in samples)]) * 1.05
    budget = _curve(recording, "max_size")._replace(kind="budget")
    drawn: list[Band | Curve] = [*_stack(samples, lambda sample: sample.total), budget]
    text = f"At most {recording.peak} of {last.max_size} connections were open at once."
    keys = [("use", "in use"), ("opening", "opening"), ("idle", "idle"), ("budget", "the budget"), *_kinds(marks)]
    return _section("Connections", keys, chart("Connections over time", text, recording.seconds, top, drawn, marks))


def _waiting(recording: Recording, marks: Sequence[Mark]) -> str:
    points = [(sample.at, 0, sample.total.waiting) for sample in recording.samples]
    most = max((high for _, _, high in points), default=0)
    text = f"At most {most} callers waited at once."
    drawn: list[Band | Curve] = [Band("waiting", points)] if most else []
    made = chart("Callers waiting over time", text, recording.seconds, most or 1, drawn, marks)
    return _section("Callers waiting", [("waiting", "over all processes")], made)


def _curve(recording: Recording, kind: str) -> Curve:
    return Curve(kind, [(sample.at, getattr(sample, kind)) for sample in recording.samples])


def _waits(recording: Recording, marks: Sequence[Mark]) -> str:
    curves = [_curve(recording, kind) for kind in ("p99", "p50")]
    finite = [value for curve in curves for _, value in curve.points if value is not None and value != float("inf")]
    most = max(finite, default=0.0)
    text = f"The 99th percentile of the waits of a second was at most {seconds(most)}."
    made = chart("Waits over time", text, recording.seconds, most * 1.05 or 0.001, curves, marks, seconds)
    return _section("How long requests waited", [("p99", "p99"), ("p50", "p50 of the last second")], made)


def _moves(recording: Recording, marks: Sequence[Mark]) -> str:
    curves = [_curve(recording, kind) for kind in ("opens", "moves")]
    most = max((value or 0.0 for curve in curves for _, value in curve.points), default=0.0)
    cost = recording.last.move_ms if recording.last else 0.0
    text = f"At most {count(most)} a second; each move costs a reconnect of {cost:.1f} ms."
    made = chart("Moves and opens over time", text, recording.seconds, most * 1.05 or 1, curves, marks, count)
    keys = [("moves", f"permits moved to another process, {cost:.1f} ms each"), ("opens", "connections opened")]
    return _section("Moves a second", keys, made)


def _processes(recording: Recording, marks: Sequence[Mark]) -> str:
    processes = sorted(recording.processes.values(), key=lambda each: (-each.borrows, -each.most, each.pid))
    samples, none = recording.samples, Counts()
    tops = (counts.held + counts.waiting for sample in samples for counts in sample.processes.values())
    top = max(tops, default=0) or 1
    strips = [_strip(each, recording, samples, top, none) for each in processes[:STRIPS]]
    rest = f"<p>{len(processes) - STRIPS} more processes are not shown.</p>" if len(processes) > STRIPS else ""
    keys = [("use", "in use"), ("opening", "opening"), ("idle", "idle"), ("waiting", "callers waiting, above")]
    return _section("Processes", keys, f'<div class="strips">{"".join(strips)}</div>', rest)


def _strip(each: Process, recording: Recording, samples: Sequence[Sample], top: int, none: Counts) -> str:
    p99 = seconds(each.wait.quantile(0.99))
    numbers = f"{each.borrows:,} borrows · wait p99 {p99} · at most {each.most} open"
    marks = [Mark(*event) for event in recording.events if str(each.pid) in event.text.split()]
    drawn = _stack(samples, lambda sample: sample.processes.get(each.pid, none), waiting=True)
    made = chart(f"Process {each.pid} over time", numbers, recording.seconds, top, drawn, marks, small=True)
    return (
        f'<article><h3>{each.pid} <span title="{escape(each.command)}">{escape(each.command)}</span></h3>'
        f"<p>{numbers}</p>{made}</article>"
    )


def _events(recording: Recording) -> str:
    if not recording.events:
        return "<section><h2>Events</h2><p>None: no process came or ended, the manager stayed.</p></section>"
    rows = "".join(
        f'<tr><td>{event.at:.1f} s</td><td><i class="mark {event.kind}"></i>{escape(event.text)}</td></tr>'
        for event in recording.events
    )
    head = "<thead><tr><th>when</th><th>what</th></tr></thead>"
    return f"<section><h2>Events</h2><table>{head}<tbody>{rows}</tbody></table></section>"
