"""Charts: well-formed, exact, readable for those who see them and for those who hear them."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from mppool.view.chart import HEIGHT, WIDTH, Band, Curve, Mark, area, chart, nice_step


@pytest.mark.parametrize(("top", "steps", "step"), [(30, 6, 5), (10.2, 10, 2), (1, 6, 0.2), (170, 2, 100)])
def test_grid_steps_are_round(top: float, steps: int, step: float) -> None:
    assert nice_step(top, steps) == pytest.approx(step)


def test_an_area_is_of_steps_and_equal_steps_are_one() -> None:
    path = area([(0, 0, 1), (1, 0, 1), (2, 0, 3), (3, 0, 3)], lambda at: at, lambda value: value)
    assert path == "M0.0 1.0L2.0 1.0L2.0 3.0L3.0 3.0L3.0 3.0L3.0 0.0L3.0 0.0L0.0 0.0Z"


def made(*drawn: Band | Curve, **more: object) -> ElementTree.Element:
    text = chart("What <it> is", "At most 3 & no more", 10.0, 4.0, drawn, **more)  # type: ignore[arg-type]
    assert not re.search(r"\bnan\b|\binf\b", text)
    return ElementTree.fromstring(text)


def test_a_chart_says_what_it_shows() -> None:
    band = Band("use", [(0, 0, 1), (10, 0, 2)])
    curve = Curve("p99", [(0, 1.0), (5, None), (10, 99.0)])
    root = made(band, curve, marks=[Mark(5.0, "resize", "resized from 1 to 2")])
    svg = root.find(".//svg")
    assert svg is not None
    assert svg.attrib["role"] == "img"
    assert (svg.findtext("title"), svg.findtext("desc")) == ("What <it> is", "At most 3 & no more")
    paths = {path.attrib["class"]: path for path in svg.iter("path")}
    assert paths["mark resize"].attrib["d"] == f"M{WIDTH / 2:.1f} 0V{HEIGHT}"
    assert paths["mark resize"].findtext("title") == "resized from 1 to 2"
    assert paths["p99"].attrib["d"].count("M") == 2, "a gap where nothing is known"
    assert "-" not in paths["p99"].attrib["d"], "what is above the top is drawn at the top"
    labels = [span.text for span in root.iter("span")]
    assert labels == ["0", "1", "2", "3", "4", "0 s", "2 s", "4 s", "6 s", "8 s", "10 s"]


def test_a_small_one_has_no_time_axis_and_an_empty_one_is_whole() -> None:
    assert not any("x" in span.attrib["class"].split() for span in made(small=True).iter("span"))
    assert ElementTree.fromstring(chart("t", "d", 0.0, 0.0, [Band("use", [])])) is not None
