"""The demo's pure parts: the plan's floor, the timeline, the picture, the verdict."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from scripts.demonstration.display import bar, screen
from scripts.demonstration.hosts import HostPlan, Outcome
from scripts.demonstration.picture import draw, nice_step
from scripts.demonstration.report import Verdict, percentile
from scripts.demonstration.server_count import ServerCount, labelled
from scripts.demonstration.timeline import Counts, Sample, Timeline
from scripts.demonstration.workload import Plan, Report


def stats(**members: tuple[int, int, int, int]) -> Any:
    """A `BudgetStats` to the demo's eye; members by pid as p1=(in use, idle, opening, waiting)."""
    rows = [
        SimpleNamespace(pid=int(pid[1:]), in_use=a, idle=b, opening=c, waiting=d)
        for pid, (a, b, c, d) in members.items()
    ]
    return SimpleNamespace(members=rows, open=sum(row.in_use + row.idle + row.opening for row in rows))


def a_run(peak: int = 30, errors: tuple[str, ...] = (), jobs: int = 8) -> Verdict:
    plan = Plan.draw(jobs, 2, 30, 1, 0.1, 0.5)
    timeline = Timeline(100.0, (1, 2))
    for step in range(50):
        timeline.note(stats(p1=(step % 20, 1, 2, 5), p2=(10 - step % 10, 0, 0, 0)), 100.0 + step / 10)
    timeline.peak = peak
    reports = [Report(waits=[0.1] * len(holds), errors=list(errors)) for holds in plan.holds]
    return Verdict(plan, tuple(reports), timeline, None, 5.0)


def test_the_plan_is_the_seeds_and_its_floor_exact() -> None:
    plan = Plan.draw(1000, 4, 30, 7, 0.1, 0.5)
    assert plan == Plan.draw(1000, 4, 30, 7, 0.1, 0.5) != Plan.draw(1000, 4, 30, 8, 0.1, 0.5)
    assert [len(holds) for holds in plan.holds] == [250] * 4
    assert plan.floor == pytest.approx(sum(map(sum, plan.holds)) / 30)
    assert [plan.kind(worker) for worker in range(4)] == ["sync", "sync", "async", "async"]


def test_the_floor_is_never_below_the_longest_job() -> None:
    assert Plan(30, ((0.5,), (0.1,))).floor == 0.5
    assert Plan(30, ((),)).floor == 0.0


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8])
def test_every_worker_has_a_kind_and_the_first_is_sync(workers: int) -> None:
    plan = Plan.draw(10, workers, 3, 1, 0.1, 0.2)
    assert plan.kind(0) == "sync"
    assert {plan.kind(worker) for worker in range(workers)} <= {"sync", "async"}


def test_the_timeline_knows_workers_by_pid_and_the_peak_of_all() -> None:
    timeline = Timeline(10.0, (2, 3))
    sample = timeline.note(stats(p1=(1, 0, 0, 0), p2=(2, 1, 1, 4)), 10.5)
    assert sample == Sample(0.5, (Counts(2, 1, 1, 4), Counts()))
    assert sample.open == 4
    assert timeline.peak == 5, "a member that is no worker counts too"


def test_thinning_keeps_the_ends() -> None:
    timeline = Timeline(0.0, (1,))
    for step in range(1000):
        timeline.note(stats(p1=(step, 0, 0, 0)), step / 100)
    thin = timeline.thinned(100)
    assert 90 <= len(thin) <= 102
    assert (thin[0], thin[-1]) == (timeline.samples[0], timeline.samples[-1])
    assert Timeline(0.0, ()).thinned(10) == []


def test_percentiles() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, percent) for percent in (0, 50, 95, 99, 100)] == [1, 50, 95, 99, 100]
    assert percentile([], 50) == 0.0
    assert percentile([3.0], 50) == 3.0


@pytest.mark.parametrize(("top", "steps", "step"), [(30, 6, 5), (10.2, 10, 2), (1, 6, 0.2), (170, 2, 100)])
def test_grid_steps_are_round(top: float, steps: int, step: float) -> None:
    assert nice_step(top, steps) == pytest.approx(step)


def test_the_picture_is_well_formed_and_says_what_it_shows() -> None:
    verdict = a_run()
    svg = draw(verdict.timeline, verdict.plan, "8 jobs <at once>", "sqlite & all")
    root = ElementTree.fromstring(svg)
    words = " ".join(text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text"))
    for expected in (
        "8 jobs <at once>",
        "sqlite & all",
        "budget 30",
        "process 1 (sync)",
        "process 2 (async)",
    ):
        assert expected in words
    assert len([*root.iter("{http://www.w3.org/2000/svg}path")]) == 5
    assert not re.search(r"\bnan\b|\binf\b", svg)


def test_a_run_without_samples_can_be_drawn() -> None:
    ElementTree.fromstring(draw(Timeline(0.0, (1,)), Plan(1, ((0.1,),)), "t", "s"))


def test_hosts_are_a_plan_of_their_own() -> None:
    plan = HostPlan(31, ((0.5,) * 60, (0.5,) * 60))
    assert plan.floor == pytest.approx(2.0), "one permit is kept"
    assert [plan.label(0), plan.label(1)] == ["host 1", "host 2"]
    timeline = Timeline(10.0, ())
    assert timeline.add([Counts(2, 1, 1, 4), Counts(3)], 10.5) == Sample(0.5, (Counts(2, 1, 1, 4), Counts(3)))
    assert timeline.peak == 7
    svg = draw(timeline, plan, "t", "s", [(0.2, "host 2 killed"), (0.4, "host 2 started again")])
    for words in ("host 1", "host 2 killed", "host 2 started again"):
        assert words in svg
    outcome = Outcome(
        plan, timeline, ServerCount("postgresql://h/d", "n", peak=31), [Report(), Report()], [60, 60], 3.0
    )
    assert outcome.exit_code == 0
    outcome.done[0] = 59
    assert outcome.exit_code == 1, "a job that nobody did"
    console = Console(width=140, record=True, file=io.StringIO())
    outcome.print(console, "redis, of its own")
    assert "119 of 120" in console.export_text()


def test_bars_fill_exactly() -> None:
    assert bar(Counts(5, 3, 2, 9), 10, "blue", 10).plain == "█████▒▒░░░"
    assert bar(Counts(1, 0, 0, 0), 10, "blue", 10).plain == "█·········"
    assert len(bar(Counts(40, 0, 0, 0), 30, "blue", 10).plain) == 10, "over the budget still fits the screen"


def test_the_screen_shows_the_total() -> None:
    plan = Plan.draw(8, 2, 30, 1, 0.1, 0.5)
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(screen(plan, Sample(1.0, (Counts(3, 1, 0, 2), Counts(4, 0, 1, 0))), [1, 2]))
    text = console.export_text()
    assert "budget 9/30" in text
    assert "3/8" in text


def test_the_verdict_and_its_exit_code() -> None:
    assert a_run().exit_code == 0
    assert a_run(peak=31).exit_code == 1
    assert a_run(errors=("PoolTimeoutError: …",)).exit_code == 1
    short = a_run()
    short.reports[0].waits.pop()
    assert short.exit_code == 1, "a job that nobody did"
    server = ServerCount("postgresql://h/d", "n", peak=31)
    assert Verdict(short.plan, a_run().reports, short.timeline, server, 5.0).exit_code == 1
    console = Console(width=140, record=True, file=io.StringIO())
    a_run(errors=("PoolTimeoutError: …",)).print(console, "sqlite")
    assert "2 × PoolTimeoutError" in console.export_text()


def test_only_postgres_uris_are_labelled() -> None:
    assert labelled("postgresql://h/d", "n") == "postgresql://h/d?application_name=n"
    assert labelled("postgresql://h/d?a=b", "n") == "postgresql://h/d?a=b&application_name=n"
    for uri in ("postgresql://h/d?application_name=x", "mysql://h/d", "sqlite:./a.db"):
        assert labelled(uri, "n") == uri
