"""What became of a run: the journals, which errors an event explains, and the balance sheet."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

#: Events that may end what a host's callers do at the database.
DISTURBING = frozenset({"database cut off", "cable pulled", "host killed"})
#: … and that may keep a process of the host from starting, besides.
AT_A_START = DISTURBING | {"manager killed", "manager and agent killed"}
#: Its caller waited for so long that what had ended before it began is no excuse.
IN_VAIN = "PoolTimeoutError"
STARTING = "at its start: "
GRACE = 20.0  # seconds after such an event in which a connection may still turn out to be lost


class Event(NamedTuple):
    """
    Args:
        host: its number; None: all.
        ended: by the monotonic clock; infinity while it lasts.
    """

    kind: str
    host: int | None
    began: float
    ended: float


class Failure(NamedTuple):
    """A job that failed, or a start of a handle.

    Args:
        kind: the error's class.
    """

    host: int
    began: float
    at: float
    kind: str
    text: str


def is_explained(failure: Failure, events: list[Event]) -> bool:
    """Whether something happened meanwhile, or shortly before, that cuts connections of its host."""
    causes = AT_A_START if failure.kind.startswith(STARTING) else DISTURBING
    grace = 0.0 if failure.kind == IN_VAIN else GRACE
    return any(
        event.kind in causes
        and event.host in (None, failure.host)
        and event.began <= failure.at
        and failure.began <= event.ended + grace
        for event in events
    )


@dataclass
class Journals:
    """What callers wrote, over all processes."""

    done: int = 0
    longest: float = 0.0
    refused: int = 0
    ended: int = 0  # processes that came to their end
    failures: list[Failure] = field(default_factory=list)

    @classmethod
    def read(cls, folder: str) -> Journals:
        journals = cls()
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                for line in file:
                    journals.add(int(name.partition("-")[0]), line.rstrip("\n"))
        return journals

    def add(self, host: int, line: str) -> None:
        """A line of a process of this host."""
        kind, at, *more = line.split(" ")
        if kind == "n":
            self.done += int(more[0])
            self.longest = max(self.longest, float(more[1]))
        elif kind == "end":
            self.ended += 1
            self.refused += int(more[0])
        else:
            began, *words = more
            prefix = STARTING if words[0] == "start:" else ""
            name, *text = words[1:] if prefix else words
            self.failures.append(Failure(host, float(began), float(at), prefix + name, " ".join(text)))


@dataclass
class Peaks:
    """The most that was seen.

    Args:
        connections: of hosts at the database.
        judges: connections of judges there.
        nobody: seconds in which no host had a connection, at most.
        credits: on the engine's rows.
        doubts: readings of more than there may be, with the time: of connections, and of credits.
    """

    connections: int = 0
    judges: int = 0
    nobody: float = 0.0
    credits: int = 0
    samples: int = 0
    looks: int = 0
    doubts: list[str] = field(default_factory=list)


@dataclass
class Sheet:
    """All that is looked at.

    Args:
        permits: of the hosts, without the one that is kept for the judge.
        limit: the role's.
        had: permits that one process could have at once in the end.
        refused: by the server's log.
        left: what is there after the end.
    """

    engine: str
    limit: int
    permits: int
    journals: Journals
    events: list[Event]
    peaks: Peaks
    had: int
    refused: int
    left: list[str]

    @property
    def unexplained(self) -> list[Failure]:
        return [failure for failure in self.journals.failures if not is_explained(failure, self.events)]

    def lines(self) -> list[tuple[str, str, bool]]:
        """What was looked at, what was found, and whether it is right."""
        peaks, journals, unexplained = self.peaks, self.journals, self.unexplained
        return [
            ("permits to be had in the end", f"{self.had} of {self.permits}", self.had == self.permits),
            (
                "most connections the server saw",
                f"{peaks.connections} of {self.permits}, {peaks.samples} samples",
                0 < peaks.connections <= self.permits,
            ),
            (
                "most credit on the engine's rows",
                f"{peaks.credits} of {self.permits}, {peaks.looks} looks",
                peaks.credits <= self.permits,
            ),
            ("most judges it saw", f"{peaks.judges}", peaks.judges <= self.limit - self.permits),
            ("refused by the role's limit, by the log", f"{self.refused}", self.refused == 0),
            ("jobs done", f"{journals.done}", journals.done > 0),
            ("… failed, as an event explains", f"{len(journals.failures) - len(unexplained)}", True),
            ("… failed without a cause", f"{len(unexplained)}", not unexplained),
            ("left after the end", f"{len(self.left)}", not self.left),
        ]

    @property
    def good(self) -> bool:
        return all(right for _, _, right in self.lines())

    def show(self, console: Console) -> None:
        table = Table(title=f"{self.engine}: the balance sheet", title_justify="left")
        for heading in ("", "found", ""):
            table.add_column(heading, justify="right" if heading == "found" else "left")
        for what, found, right in self.lines():
            table.add_row(what, found, "[green]ok" if right else "[bold red]FAILED")
        console.print(table)
        kinds = Counter(event.kind for event in self.events)
        console.print("events: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
        errors = Counter(failure.kind for failure in self.journals.failures)
        console.print("errors: " + (", ".join(f"{count} {kind}" for kind, count in errors.most_common()) or "none"))
        console.print(f"longest wait of a job that was done: {self.journals.longest:.1f} s")
        console.print(f"longest time in which no host had a connection: {self.peaks.nobody:.1f} s")
        began = self.events[0].began if self.events else 0.0
        unexplained = [_told(failure, began) for failure in self.unexplained[:10]]
        explained = [failure for failure in self.journals.failures if failure not in self.unexplained]
        for each in explained[:: max(1, len(explained) // 8)]:
            console.print(f"explained: {_told(each, began)}", highlight=False, soft_wrap=True)
        for text in (*unexplained, *self.peaks.doubts[:10], *self.left[:10]):
            console.print(f"[red]{text}", highlight=False, soft_wrap=True)


def _told(failure: Failure, began: float) -> str:
    """One line; times are since the first event, as the events' are."""
    asked, at = failure.began - began, failure.at - began
    return f"host {failure.host}, {asked:.1f} to {at:.1f} s: {failure.kind}: {failure.text[:300]}"
