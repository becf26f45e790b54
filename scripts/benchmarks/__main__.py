"""Measures each named benchmark, peers in turn in each round, every measurement in a fresh interpreter."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import traceback
from fnmatch import fnmatchcase
from importlib import import_module, metadata
from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.benchmarks.contract import Benchmark, Results, Setting, Skip, find_mysql, find_postgres

NAMES = (
    "seed",
    "borrow",
    "query",
    "burst",
    "skew",
    "crowd",
    "parallel",
    "reclaim",
    "handover",
    "start",
    "attach",
    "restart",
    "turnaround",
    "web",
    "steady",
    "rove",
    "think",
    "watch",
    "hosts",
    "transit",
    "reach",
    "uneven",
)
PACKAGES = ("mppool", "pysqlx-core", "pysqlx-engine", "psycopg", "psycopg-pool", "sqlalchemy", "pymysql", "gunicorn")


def load(name: str) -> Benchmark:
    benchmark: Benchmark = import_module(f"scripts.benchmarks.{name}").BENCHMARK
    return benchmark


def measure_here(name: str, peer: str) -> None:
    """One measurement, in this process; the last line printed is its result as JSON."""
    with tempfile.TemporaryDirectory(prefix="mppool-bench-") as folder:
        try:
            answer: dict[str, Any] = {"sample": load(name).peers[peer](Setting(folder, find_postgres(), find_mysql()))}
        except Skip as reason:
            answer = {"skipped": str(reason)}
        except BaseException as error:
            traceback.print_exc()
            answer = {"failed": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)


def measure(benchmark: Benchmark, peer: str) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "scripts.benchmarks", "--measure", benchmark.name, peer]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=benchmark.timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {benchmark.timeout:g} s"}
    lines = done.stdout.strip().splitlines()
    try:
        answer: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {"failed": f"exit code {done.returncode}: {done.stderr.strip()[-300:]}"}
    if "failed" in answer and os.environ.get("BENCH_DEBUG"):
        print(done.stderr, file=sys.stderr)
    return answer


def picks(pattern: str, peer: str) -> bool:
    """Whether a peer's name contains the pattern, in which * stands for anything."""
    return fnmatchcase(peer, f"*{pattern}*")


def run(benchmark: Benchmark, rounds: int, only: list[str], console: Console) -> Results:
    results = Results()
    chosen = [peer for peer in benchmark.peers if not only or any(picks(pattern, peer) for pattern in only)]
    for number in range(1, rounds + 1):
        for peer in chosen:
            if peer in results.notes:
                continue
            console.print(f"[bright_black]{benchmark.name} {number}/{rounds}: {peer}", highlight=False)
            answer = measure(benchmark, peer)
            if "sample" in answer:
                results.add(peer, answer["sample"])
            else:
                results.notes[peer] = next(f"{key}: {value}" for key, value in answer.items())
    return results


def shown(value: float) -> str:
    """Three digits are enough."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(benchmark: Benchmark, results: Results, rounds: int) -> Table:
    """Medians and their range; in brackets, how many times the first peer's value it is."""
    head = [""]
    for metric, unit in benchmark.units.items():
        arrow = "↑" if metric in benchmark.more_is_better else ""
        head.append(f"{metric} [bright_black]{unit}{arrow}[/]")
    lines = []
    first = next(iter(benchmark.peers))
    for peer in benchmark.peers:
        if peer not in results.samples:
            if peer in results.notes:
                lines.append([peer, f"[yellow]{results.notes[peer]}", *[""] * (len(benchmark.units) - 1)])
            continue
        cells = []
        for metric in benchmark.units:
            values = results.samples[peer].get(metric)
            median, ours = results.median(peer, metric), results.median(first, metric)
            if values is None:
                cells.append("")
            elif median is None:
                cells.append("[red]never")
            else:
                numbers = [value for value in values if value is not None]
                spread = f" [bright_black]{shown(min(numbers))}–{shown(max(numbers))}[/]" if len(numbers) > 1 else ""
                ratio = f" [cyan]({median / ours:.2f} ×)[/]" if benchmark.compare and peer != first and ours else ""
                cells.append(f"{shown(median)}{ratio}{spread}")
        lines.append([peer, *cells])
    if benchmark.tall:
        head, *lines = (list(line) for line in zip(head, *lines, strict=True))
    report = Table(title=f"{benchmark.name}: {benchmark.what}; median of {rounds}", title_justify="left")
    report.add_column(head[0])
    for title in head[1:]:
        report.add_column(title, justify="right")
    for line in lines:
        report.add_row(*line)
    return report


def machine() -> dict[str, Any]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "versions": versions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--list", action="store_true", help="what there is to measure; with NAME also its peers")
    parser.add_argument("--rounds", type=int, help="measurements of each peer (default: each benchmark's own)")
    only = "only peers whose name contains this; * in it stands for anything; repeatable"
    parser.add_argument("--only", "--peer", action="append", default=[], metavar="PART", help=only)
    parser.add_argument("--json", metavar="FILE", help="write every sample")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure_here(*options.measure)
        return
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    console = Console()
    benchmarks = [load(name) for name in options.names or NAMES]
    if options.list:
        for benchmark in benchmarks:
            console.print(f"[bold]{benchmark.name:10}[/]{benchmark.what}", highlight=False)
            if options.names:
                console.print(
                    *(f"          {peer}" for peer in benchmark.peers), sep="\n", highlight=False, markup=False
                )
        return
    document: dict[str, Any] = {"machine": machine(), "benchmarks": {}}
    for benchmark in benchmarks:
        rounds = options.rounds or benchmark.rounds
        results = run(benchmark, rounds, options.only, console)
        console.print(table(benchmark, results, rounds))
        document["benchmarks"][benchmark.name] = {
            "what": benchmark.what,
            "units": dict(benchmark.units),
            "samples": results.samples,
            "notes": results.notes,
        }
        if options.json:  # after each, so that an interrupted run leaves what it has
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump(document, file, indent=1)


if __name__ == "__main__":
    main()
