"""Progress on stderr: a bar with rich (how many, how fast, how long still), a line of plain text without it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mppool.fork_lock import import_late

__all__ = ["progress_bar"]


PAUSE = 0.1  # seconds between two updates of the plain line


def _ignore(_: int) -> None:
    """No progress is shown."""


@contextmanager
def progress_bar(wanted: bool | str | None, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show progress on stderr for the length of the block; call the function that it gives with each count done.

    Args:
        wanted: True: show it. A str: show it with this text beside it. False: do not. None: show it if stderr is a
            terminal and rich is installed.
        total: the number of items; None: unknown.
    """
    terminal = bool(sys.stderr and sys.stderr.isatty())
    if wanted is False or (wanted is None and not terminal):
        yield _ignore
        return
    text = wanted if isinstance(wanted, str) else "jobs"
    try:
        rich = import_late("rich.progress")
    except ImportError:
        if wanted is None:
            yield _ignore
        else:
            with _plain_line(text, total, terminal) as advance:
                yield advance
        return
    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[rate]:.4g}/s"),
        rich.TimeRemainingColumn(),
    )
    console = import_late("rich.console").Console(stderr=True)
    # A worker may be forked while the bar is shown; what it prints must not wait for a lock of the bar's.
    with rich.Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task(text, total=total, rate=0.0)
        done, since = 0, time.monotonic()

        def move(count: int) -> None:
            nonlocal done
            done += count
            bar.update(task, completed=done, rate=done / max(1e-6, time.monotonic() - since))

        yield move


@contextmanager
def _plain_line(text: str, total: int | None, terminal: bool) -> Iterator[Callable[[int], None]]:
    """On a terminal one line that is written again and again; elsewhere one line when the block ends."""
    done, since, shown = 0, time.monotonic(), 0.0

    def show(end: str) -> None:
        rate = done / max(1e-6, time.monotonic() - since)
        of = "" if total is None else f"/{total}"
        if sys.stderr:
            sys.stderr.write(f"{text} {done}{of} {rate:.4g}/s{end}")
            sys.stderr.flush()

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        if terminal and time.monotonic() - shown >= PAUSE:
            shown = time.monotonic()
            show("   \r")

    try:
        yield advance
    finally:
        show("   \n" if terminal else "\n")
