"""Charts as inline SVG that stretch to any width, with their labels as HTML beside them, so that text keeps its size.

Colours are classes of the page's style. Times are seconds, from 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Band", "Curve", "Mark", "area", "chart", "nice_step"]

WIDTH, HEIGHT = 1000, 200  # of the drawing; the page stretches it


class Band(NamedTuple):
    """The area between two step functions: moments, and at each the lower and the upper value."""

    kind: str
    points: Sequence[tuple[float, float, float]]


class Curve(NamedTuple):
    """A step function: moments and values; None: nothing to show there."""

    kind: str
    points: Sequence[tuple[float, float | None]]


class Mark(NamedTuple):
    """Something that happened at a moment."""

    at: float
    kind: str
    text: str


def nice_step(top: float, steps: int) -> float:
    """A round distance between grid lines: 1, 2 or 5 times a power of ten."""
    rough = max(top, 1e-9) / steps
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def area(points: Sequence[tuple[float, float, float]], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    """The path of the area between two step functions of time: moments, and the lower and upper values."""

    def edge(which: int) -> list[tuple[float, float]]:
        found: list[tuple[float, float]] = []
        for point in points:
            value = y(point[which])
            if found and found[-1][1] == value and point is not points[-1]:
                continue
            if found:
                found.append((x(point[0]), found[-1][1]))
            found.append((x(point[0]), value))
        return found

    return "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in edge(2) + edge(1)[::-1]) + "Z"


def _line(
    points: Iterable[tuple[float, float | None]], x: Callable[[float], float], y: Callable[[float], float]
) -> str:
    path, pen, last = [], "M", 0.0
    for at, value in points:
        if value is None:
            pen = "M"
            continue
        if pen == "L":
            path.append(f"L{x(at):.1f} {last:.1f}")
        last = y(value)
        path.append(f"{pen}{x(at):.1f} {last:.1f}")
        pen = "L"
    return "".join(path)


def chart(
    title: str,
    description: str,
    seconds: float,
    top: float,
    drawn: Sequence[Band | Curve],
    marks: Sequence[Mark] = (),
    shown: Callable[[float], str] = "{:g}".format,
    small: bool = False,
) -> str:
    """One chart as HTML.

    Args:
        title: what it shows, for those who hear it.
        description: what it says, in numbers.
        seconds: how long the time axis is.
        top: the greatest value.
        drawn: areas and curves, the lowest layer first.
        marks: lines at moments.
        shown: how a value is written at the axis.
        small: without grid and time axis.
    """
    seconds, top = max(seconds, 1e-3), top or 1.0

    def x(at: float) -> float:
        return WIDTH * at / seconds

    def y(value: float) -> float:
        return HEIGHT * (1 - min(value, top) / top)

    step = nice_step(top, 2 if small else 4)
    grid = [number * step for number in range(int(top / step + 1e-9) + 1)]
    paths = [f'<path class="grid" d="M0 {y(value):.1f}H{WIDTH}"/>' for value in grid]
    for each in drawn:
        if each.points:
            path = area(each.points, x, y) if isinstance(each, Band) else _line(each.points, x, y)
            paths.append(f'<path class="{each.kind}" d="{path}"/>')
    paths += [
        f'<path class="mark {mark.kind}" d="M{x(mark.at):.1f} 0V{HEIGHT}"><title>{escape(mark.text)}</title></path>'
        for mark in marks
    ]
    labels = [f'<span class="y" style="top:{y(value) / HEIGHT:.2%}">{escape(shown(value))}</span>' for value in grid]
    return (
        f'<figure class="{"small" if small else "big"}"><div class="plot">'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{''.join(paths)}</svg>"
        f"{''.join(labels)}{'' if small else _times(seconds)}</div></figure>"
    )


def _times(seconds: float) -> str:
    step = nice_step(seconds, 6)
    numbers = range(int(seconds / step + 1e-9) + 1)
    spans = (
        f'<span class="x{" odd" if number % 2 else ""}" style="left:{number * step / seconds:.2%}">'
        f"{number * step:g} s</span>"
        for number in numbers
    )
    return "".join(spans)
