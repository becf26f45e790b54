"""The bar: how many of how many, how fast, how long still. Needs rich."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mppool.fork_lock import import_late

__all__ = ["progress_bar"]


def _told(_: int) -> None:
    """Nobody looks."""


@contextmanager
def progress_bar(wanted: bool | str | None, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr for the length of the block; what it gives is called with the count of items just done.

    Args:
        wanted: whether there shall be one, or the text beside it; None: if stderr is a terminal and there is rich.
        total: how many there are; None: nobody knows.

    Raises: ImportError: one is wanted, and there is no rich.
    """
    if wanted is False or (wanted is None and not (sys.stderr and sys.stderr.isatty())):
        yield _told
        return
    try:
        rich = import_late("rich.progress")
    except ImportError as error:
        if wanted is None:
            yield _told
            return
        raise ImportError("progress needs rich: pip install 'mppool[progress]'") from error
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
        task = bar.add_task(wanted if isinstance(wanted, str) else "jobs", total=total, rate=0.0)
        done, since = 0, time.monotonic()

        def advance(count: int) -> None:
            nonlocal done
            done += count
            bar.update(task, completed=done, rate=done / max(1e-6, time.monotonic() - since))

        yield advance
