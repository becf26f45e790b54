"""`scripts/simulate`: one budget over many processes in simulated time, beside the pools it is compared with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import geometric_mean, mean

import click

from scripts.simulation import mppool_model
from scripts.simulation.runs import POOLS, Run, Summary, measure_all, summary
from scripts.simulation.scenarios import SCENARIOS, Scenario

FACTORS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Choice:
    """What the options say."""

    scenarios: list[Scenario]
    seeds: range
    seconds: float
    jobs: int

    def runs(self, scenario: Scenario, pool: str, constant: str = "", factor: float = 1.0) -> list[Run]:
        if pool == "static" and scenario.permits < scenario.processes:
            return []
        return [Run(scenario.name, pool, seed, self.seconds, constant, factor) for seed in self.seeds]


def shown(value: float, width: int) -> str:
    return f"{value:{width},.{0 if value >= 99.95 else 1}f}"


def titles(pool: str) -> str:
    text = f"{'req/s' if pool == 'ideal' else '÷ ideal':>8}{'p99':>8}{'worst':>8}"
    return text + (f"{'moves/s':>9}{'cores':>7}{'manager':>9}" if pool == "mppool" else "")


def cells(pool: str, found: Summary) -> str:
    text = f"{found.per_second:8,.0f}" if pool == "ideal" else f"{found.ratio:8.2f}"
    text += shown(found.p99, 8) + shown(found.worst_wait, 8)
    moves = f"{shown(found.moves, 9)}{found.moves_cores:7.2f}{found.manager_cores:9.2f}"
    return text + (moves if pool == "mppool" else "")


def print_table(choice: Choice) -> None:
    runs = [run for scenario, pool in product(choice.scenarios, POOLS) for run in choice.runs(scenario, pool)]
    figures = measure_all(runs, choice.jobs)
    click.echo(f"{'':27}" + "".join(f" │{pool:^{len(titles(pool))}}" for pool in POOLS).rstrip())
    click.echo(f"{'scenario':21}{'use':6}" + "".join(f" │{titles(pool)}" for pool in POOLS))
    for scenario in choice.scenarios:
        line, ideal = f"{scenario.name:21}{scenario.use:6}", [figures[run] for run in choice.runs(scenario, "ideal")]
        for pool in POOLS:
            found = [figures[run] for run in choice.runs(scenario, pool)]
            line += " │" + (cells(pool, summary(found, ideal)) if found else f"{'–':>8}".ljust(len(titles(pool))))
        click.echo(line)
    click.echo("p99: of requests, ms. worst: longest wait for a connection, ms, of all seeds.")
    click.echo("cores: processor time of moves, 1.00 is one core; manager: of the manager.")


def print_means(title: str, of: Sequence[Summary]) -> None:
    ratios = [each.ratio for each in of]
    ratio, p99 = geometric_mean(ratios) if all(ratios) else 0.0, geometric_mean([each.p99_ratio for each in of])
    worst, cores = max(each.worst_wait for each in of), max(each.moves_cores for each in of)
    click.echo(
        f"{title:34}{ratio:8.3f}{p99:8.2f}{shown(worst, 8)}{shown(mean(each.moves for each in of), 9)}{cores:7.2f}"
    )


@click.group(invoke_without_command=True, context_settings={"show_default": True})
@click.option("--use", type=click.Choice(["tune", "judge"]), help="Only the scenarios for that.  [default: both]")
@click.option("--only", multiple=True, metavar="TEXT", help="Only scenarios with this in their name; repeatable.")
@click.option("--seed", default=1, help="The first seed.")
@click.option("--seeds", default=3, type=click.IntRange(1), help="How many. Figures are medians, the worst is of all.")
@click.option("--seconds", default=4.0, type=click.FloatRange(0.1), help="Simulated, of each run.")
@click.option("--jobs", default=os.cpu_count() or 1, type=click.IntRange(1), help="Runs at a time.", show_default=False)
@click.pass_context
def main(
    context: click.Context, use: str | None, only: tuple[str, ...], seed: int, seeds: int, seconds: float, jobs: int
) -> None:
    """One budget of connections over many simulated processes, beside an ideal queue, a proxy and fixed shares.

    The same options print the same table, always. Without a command: the table.
    """
    if context.invoked_subcommand == "sweep":
        use = "tune"  # what judges a choice must not make it
    used = [scenario for scenario in SCENARIOS if use in (None, scenario.use)]
    chosen = [scenario for scenario in used if not only or any(text in scenario.name for text in only)]
    if not chosen:
        raise click.UsageError(f"there are only the scenarios {'; '.join(scenario.name for scenario in used)}")
    context.obj = Choice(chosen, range(seed, seed + seeds), seconds, jobs)
    if context.invoked_subcommand is None:
        print_table(context.obj)


@main.command()
@click.argument("names", nargs=-1, metavar="[CONSTANT]...")
@click.pass_obj
def sweep(choice: Choice, names: tuple[str, ...]) -> None:
    """Halve and double constants, one at a time, on the scenarios for tuning.

    CONSTANT is one of the policy's, or an input of the model such as OPEN. Without one: all of the policy's.
    """
    names, known = names or tuple(mppool_model.constants()), mppool_model.inputs()
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"there is no constant {', '.join(unknown)}; there are {', '.join(known)}")
    changes = [("", 1.0), *((name, factor) for name, factor in product(names, FACTORS) if factor != 1.0)]
    runs = {what: [choice.runs(each, "mppool", *what) for each in choice.scenarios] for what in changes}
    ideal = [choice.runs(each, "ideal") for each in choice.scenarios]
    figures = measure_all([run for lines in (*runs.values(), ideal) for line in lines for run in line], choice.jobs)
    click.echo(f"{'':34}{'÷ ideal':>8}{'p99 ÷':>8}{'worst':>8}{'moves/s':>9}{'cores':>7}")
    for name, factor in product(names, FACTORS):
        lines = zip(runs["" if factor == 1.0 else name, factor], ideal, strict=True)
        with mppool_model.scaled(name, factor) as value:
            title = f"{name} × {factor:g} = {value:g}"
        print_means(title, [summary([figures[run] for run in of], [figures[run] for run in by]) for of, by in lines])
    click.echo("÷ ideal, p99 ÷ ideal's: geometric means; worst wait, ms, and cores: greatest; moves/s: mean")


if __name__ == "__main__":
    main(prog_name="scripts/simulate")
