"""The picture of a run: who held how many connections over time, and who waited. SVG, written by hand.

Above, the processes' connections stacked under the line of the budget: solid is in use, pale is open but idle
or being opened. Below, the callers in line. It follows the reader's light or dark scheme.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from mppool.view.chart import area, nice_step
from scripts.demonstration.timeline import Counts, Sample, Timeline
from scripts.demonstration.workload import Plan

WIDTH, LEFT, RIGHT = 1000, 56, 150
TOP, HEIGHT = 92, 300
GAP, WAITING_HEIGHT, FOOT = 58, 90, 46
COLUMNS = 700

# Okabe and Ito's palette: told apart by most colour-blind eyes, and legible on white and on black.
PALETTE = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#009e73", "#cc79a7")

STYLE = """
svg { background: #ffffff; font: 13px system-ui, "Segoe UI", "DejaVu Sans", sans-serif }
text { fill: #57606a } .title { font-size: 20px; font-weight: 600; fill: #1f2328 } .strong { fill: #1f2328 }
.grid { stroke: #d8dee4; stroke-width: 1 } .axis { stroke: #8c959f; stroke-width: 1 }
.budget { stroke: #cf222e; stroke-width: 1.5; stroke-dasharray: 6 4 }
.budget-text { fill: #cf222e; font-weight: 600 }
.floor { stroke: #57606a; stroke-width: 1.2; stroke-dasharray: 2 3 }
.pale { opacity: 0.35 } .waiting { fill: #8c959f; opacity: 0.35 }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117 } text { fill: #9198a1 } .title, .strong { fill: #f0f6fc }
  .grid { stroke: #21262d } .axis { stroke: #656c76 } .budget { stroke: #ff7b72 }
  .budget-text { fill: #ff7b72 }
  .floor { stroke: #9198a1 }
}
"""


def colour(worker: int) -> str:
    return PALETTE[worker % len(PALETTE)]


def band(
    samples: Sequence[Sample],
    low: Callable[[Sample], float],
    high: Callable[[Sample], float],
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> str:
    """The path of the area between two step functions of time."""

    return area([(sample.at, low(sample), high(sample)) for sample in samples], x, y)


def draw(timeline: Timeline, plan: Plan, title: str, subtitle: str, marks: Sequence[tuple[float, str]] = ()) -> str:
    """The whole SVG as text.

    Args:
        marks: what happened when, in seconds.
    """
    samples = timeline.thinned(COLUMNS)
    seconds = max(samples[-1].at if samples else 0.0, plan.floor, 1e-3)
    highest = max(plan.max_size, timeline.peak)
    most_waiting = max((sum(c.waiting for c in s.workers) for s in samples), default=0) or 1
    right, bottom = WIDTH - RIGHT, TOP + HEIGHT
    waiting_top = bottom + GAP
    waiting_bottom = waiting_top + WAITING_HEIGHT

    def x(at: float) -> float:
        return LEFT + (right - LEFT) * at / seconds

    def y(count: float) -> float:
        return bottom - HEIGHT * count / (highest * 1.08)

    def y_waiting(count: float) -> float:
        return waiting_bottom - WAITING_HEIGHT * count / most_waiting

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {waiting_bottom + FOOT}" role="img" '
        f'aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="38">{escape(title)}</text>',
        f'<text x="{LEFT}" y="62">{escape(subtitle)}</text>',
        *_grid(y, nice_step(highest, 6), highest, right),
        *_bands(samples, len(plan.holds), x, y),
        *_names(samples, plan, y, right),
        _line("budget", LEFT, y(plan.max_size), right, y(plan.max_size)),
        _text(LEFT + 4, y(plan.max_size) - 6, f"budget {plan.max_size}", "budget-text"),
        _line("axis", LEFT, bottom, right, bottom),
        _text(LEFT, TOP - 9, "connections: solid in use, pale idle or opening"),
        *_grid(y_waiting, nice_step(most_waiting, 2), most_waiting, right),
    ]
    if samples:

        def waiting(sample: Sample) -> float:
            return sum(counts.waiting for counts in sample.workers)

        out.append(f'<path class="waiting" d="{band(samples, lambda _: 0, waiting, x, y_waiting)}"/>')
    out += [
        _line("axis", LEFT, waiting_bottom, right, waiting_bottom),
        _text(LEFT, waiting_top - 10, "callers waiting"),
    ]
    out += _seconds(x, seconds, plan.floor, waiting_bottom)
    out += _marks(marks, x)
    out.append("</svg>")
    return "\n".join(out) + "\n"


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _grid(y: Callable[[float], float], step: float, top: float, right: float) -> list[str]:
    out = []
    for number in range(int(top / step + 1e-9) + 1):
        value = number * step
        if value:
            out.append(_line("grid", LEFT, y(value), right, y(value)))
        out.append(_text(LEFT - 8, y(value) + 4, f"{value:g}", anchor="end"))
    return out


def _bands(
    samples: Sequence[Sample], workers: int, x: Callable[[float], float], y: Callable[[float], float]
) -> list[str]:
    """Stacked bottom up: each process's connections in use, and above them its others, pale."""

    def level(worker: int, part: Callable[[Counts], int]) -> Callable[[Sample], float]:
        return lambda sample: sum(c.held for c in sample.workers[:worker]) + part(sample.workers[worker])

    out = []
    for worker in range(workers if samples else 0):
        base, used, held = (level(worker, part) for part in (lambda c: 0, lambda c: c.in_use, lambda c: c.held))
        out.append(f'<path fill="{colour(worker)}" d="{band(samples, base, used, x, y)}"/>')
        out.append(f'<path class="pale" fill="{colour(worker)}" d="{band(samples, used, held, x, y)}"/>')
    return out


def _names(samples: Sequence[Sample], plan: Plan, y: Callable[[float], float], right: float) -> list[str]:
    """Each process's name beside its band, with its mean number of connections."""
    means = [
        sum(sample.workers[worker].held for sample in samples) / max(len(samples), 1)
        for worker in range(len(plan.holds))
    ]
    total = sum(means) or 1.0
    line = min(30.0, (HEIGHT - 10) / len(means))  # a second line of text only where it has room
    out, below, lowest = [], 0.0, y(0) + 2
    for worker, mean in enumerate(means):
        # in proportion to the bands, but never nearer than the text is high
        at = min(y((below + mean / 2) * plan.max_size / total) + 4, lowest)
        below, lowest = below + mean, at - line
        out.append(f'<rect x="{right + 8}" y="{at - 11:.1f}" width="11" height="11" rx="2" fill="{colour(worker)}"/>')
        out.append(_text(right + 25, at - 1, plan.label(worker), "strong"))
        if line == 30:
            out.append(_text(right + 25, at + 13, f"{mean:.1f} on average"))
    return out


def _marks(marks: Sequence[tuple[float, str]], x: Callable[[float], float]) -> list[str]:
    """A line for each, with its words one below the other."""
    out = []
    for number, (at, what) in enumerate(marks):
        out.append(_line("axis", x(at), TOP, x(at), TOP + HEIGHT))
        out.append(_text(x(at) + 4, TOP + HEIGHT + 20 - (HEIGHT - 18 * number), what, "strong"))
    return out


def _seconds(x: Callable[[float], float], seconds: float, floor: float, bottom: float) -> list[str]:
    out, step = [], nice_step(seconds, 10)
    for number in range(int(seconds / step + 1e-9) + 1):
        at = number * step
        out.append(_line("axis", x(at), bottom, x(at), bottom + 5))
        out.append(_text(x(at), bottom + 20, f"{at:g} s", anchor="middle"))
    out.append(_line("floor", x(floor), TOP, x(floor), bottom))
    out.append(_text(x(floor) - 6, TOP + HEIGHT + 20, f"floor {floor:.2f} s", anchor="end"))
    return out
