"""The screen of ``mppool top``, drawn from what is known: nothing is read and nothing is asked here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mppool.view.history import History
from mppool.view.lines import BLUE, BOLD, CYAN, DIM, GREEN, RED, REVERSE, YELLOW, Piece, bar, line, spark
from mppool.view.processes import Facts
from mppool.view.window import Window
from mppool.view.words import count, fit, memory, seconds

if TYPE_CHECKING:
    from mppool.stats import BudgetStats, MemberStats

__all__ = ["HELP", "SORTS", "Row", "Seen", "View", "draw", "sorted_rows"]

WIDE = 112  # columns from which the borrow's place has a column of its own
OLD = 30.0  # seconds from which a borrow is shown as old
HEAD = 9  # lines above the table

HELP = """\
sort by  u in use      i idle     w waiting  o oldest borrow
         l p99 of waits           c CPU      m memory   n pid
         s the next of these; the same letter again: the other way
steer    p pause: nothing more is lent; again: resume
         + - one permit more, less           r resize to a number
         d drain: each connection is replaced as it comes back
look     space freeze   tab command or place of the oldest borrow
         arrows, page keys: scroll           q quit

USE in use   IDLE open, not in use   OPNG being opened, checked or closed
WAIT callers in line   PRM/FAIR permits it has / its fair share just now
OLDEST its longest borrow that lasts; its place is told with leak_threshold
P99 of waits in the last 10 s   bar: █ in use ▒ opening ░ idle x orphans"""


@dataclass(frozen=True)
class Row:
    """One process: its statistics, what the system tells of it, and the p99 of its waits in the window (seconds)."""

    member: MemberStats
    facts: Facts
    p99: float


@dataclass
class Seen:
    """What has been looked at so far."""

    window: Window
    history: History
    rows: list[Row] = field(default_factory=list)
    clock: str = ""


@dataclass
class View:
    """How it is to be shown."""

    sort: str = "u"
    reverse: bool = False
    frozen: bool = False
    help: bool = False
    places: bool = False
    top: int = 0  # the first row that is shown
    message: str = ""
    prompt: str = ""


SORTS: dict[str, tuple[str, Callable[[Row], Any]]] = {
    "u": ("in use", lambda row: (row.member.in_use, row.member.held)),
    "i": ("idle", lambda row: row.member.idle),
    "w": ("waiting", lambda row: (row.member.waiting, row.member.waiting_for)),
    "o": ("oldest", lambda row: row.member.oldest_use),
    "l": ("p99", lambda row: row.p99),
    "c": ("cpu", lambda row: row.facts.cpu),
    "m": ("memory", lambda row: row.facts.memory),
    "n": ("pid", lambda row: -row.member.pid),
}


def sorted_rows(rows: list[Row], view: View) -> list[Row]:
    """The greatest first; rows of the same value keep their place by pid."""
    _, key = SORTS[view.sort]
    return sorted(sorted(rows, key=lambda row: row.member.pid), key=key, reverse=not view.reverse)


def draw(seen: Seen, view: View, columns: int, lines: int) -> list[str]:
    """The whole screen, each line as wide as the screen."""
    stats = seen.window.last
    head = [*_numbers(seen, view, columns), *_sparks(seen, columns)]
    if view.help:
        body = [[(text, "")] for text in ["", *HELP.splitlines()]]
    else:
        body = [[(_heading(view, columns), REVERSE)]]
        rows = sorted_rows(seen.rows, view)
        room = lines - len(head) - 2
        view.top = max(0, min(view.top, len(rows) - room))
        body += [_row(row, view, columns) for row in rows[view.top : view.top + room]]
        if not rows:
            body.append([("  no process is attached", DIM)])
    screen = [*head, *body][: lines - 1]
    screen += [[]] * (lines - 1 - len(screen))
    return [line(pieces, columns) for pieces in [*screen, _foot(stats, seen, view, columns, lines)]]


# -- above the table ---------------------------------------------------------------------------------------------


def _numbers(seen: Seen, view: View, columns: int) -> list[list[Piece]]:
    stats = seen.window.last
    state: list[Piece] = []
    for shown, word in (
        (view.frozen, "FROZEN"),
        (stats.paused, "PAUSED"),
        (stats.resized, "RESIZED"),
        (stats.learning, "LEARNING"),
        (stats.cluster_lost, "CLUSTER LOST"),
    ):
        if shown:
            state += [("  ", ""), (f" {word} ", f"{REVERSE};{YELLOW}")]
    right = f"manager {stats.manager_pid}  {seen.clock}"
    left: list[Piece] = [(stats.name, BOLD), (f"  {stats.database}", "")]
    room = columns - len(right) - 2 - sum(len(text) for text, _ in state)
    title = [(fit("".join(text for text, _ in left), room).rstrip(), BOLD)] if _length(left) > room else left
    gap = columns - len(right) - _length(title) - _length(state)
    return [
        [*title, *state, (" " * max(1, gap), ""), (right, DIM)],
        _budget(stats, columns),
        _who(stats),
        _flow(seen.window),
        _troubles(seen.window),
    ]


def _length(pieces: list[Piece]) -> int:
    return sum(len(text) for text, _ in pieces)


def _budget(stats: BudgetStats, columns: int) -> list[Piece]:
    tight = stats.in_use >= stats.max_size
    colour = RED if tight and stats.waiting else YELLOW if stats.in_use >= 0.8 * stats.max_size else GREEN
    shown = f" {stats.open}/{stats.max_size}"
    parts = [
        (stats.in_use, "█", colour),
        (stats.opening, "▒", CYAN),
        (stats.idle, "░", BLUE),
        (stats.orphans, "x", RED),
    ]
    whole = max(stats.max_size, stats.open)
    style = f"{BOLD};{RED}" if stats.open > stats.max_size else BOLD
    return [*bar(parts, whole, max(1, columns - len(shown))), (shown, style)]


def _who(stats: BudgetStats) -> list[Piece]:
    longest = max((member.waiting_for for member in stats.members), default=0.0)
    waiting = f"waiting {stats.waiting}" + (f" (longest {seconds(longest)})" if stats.waiting and longest else "")
    return [
        (f"in use {stats.in_use}", BOLD),
        (f"  opening {stats.opening}  idle {stats.idle}  free {stats.free}", ""),
        (" │ ", DIM),
        (waiting, f"{BOLD};{YELLOW}" if stats.waiting else ""),
        (" │ ", DIM),
        (f"{len(stats.members)} processes", ""),
        *([(" │ ", DIM), (f"orphans {stats.orphans}", RED)] if stats.orphans else []),
    ]


def _flow(window: Window) -> list[Piece]:
    asked, queued = window.rate("requests_num"), window.rate("requests_queued")
    wait = window.wait()
    share = f"{100 * queued / asked:.0f}% waited" if asked else "0% waited"
    usage = window.usage()
    return [
        (f"{count(asked)} borrows/s", BOLD),
        (f"  {share}  wait p50 {seconds(wait.quantile(0.5))} p99 {seconds(wait.quantile(0.99))}", ""),
        (" │ ", DIM),
        (f"held p50 {seconds(usage.quantile(0.5))} p99 {seconds(usage.quantile(0.99))}", ""),
    ]


def _troubles(window: Window) -> list[Piece]:
    stats = window.last
    pieces: list[Piece] = [
        (f"moves {count(window.rate('moves'))}/s of {stats.move_ms:.1f}ms", ""),
        (f"  opens {count(window.rate('connections_num'))}/s", ""),
        (" │ ", DIM),
    ]
    for word, number in (
        ("timeouts", stats.requests_timeouts),
        ("refused", stats.connections_refused),
        ("failed", stats.connections_errors),
        ("lost", stats.connections_lost),
        ("leaks", stats.leaks),
        ("successions", stats.successions),
    ):
        if number or word in ("timeouts", "refused", "failed"):
            pieces.append((f"{word} {count(number)}  ", YELLOW if number else ""))
    return pieces


def _sparks(seen: Seen, columns: int) -> list[list[Piece]]:
    stats, found = seen.window.last, []
    room = max(1, columns - 9 - 18)
    for label, which, colour in (("in use", "in_use", GREEN), ("waiting", "waiting", YELLOW), ("p99", "wait", CYAN)):
        values = seen.history.bars(which, room)
        known = [value for value in values if value is not None]
        most = max(known, default=0.0)
        shown = seconds if which == "wait" else count
        top = max(stats.max_size, most) if which == "in_use" else most
        now = f" {shown(known[-1] if known else 0):>6} max {shown(most):>6}"
        found.append([(f"{label:<8} ", DIM), (spark(values, top), colour), (now, "")])
    return found


# -- the table ---------------------------------------------------------------------------------------------------

_COLUMNS = (
    ("n", "PID", 7), ("c", "CPU%", 6), ("m", "MEM", 5), ("u", "USE", 5), ("i", "IDLE", 6), ("", "OPNG", 5),
    ("w", "WAIT", 6), ("", "PRM/FAIR", 9), ("o", "OLDEST", 8), ("l", "P99", 6),
)  # fmt: skip
_FIXED = sum(size for _, _, size in _COLUMNS) + 2


def _heading(view: View, columns: int) -> str:
    cells = []
    for key, name, size in _COLUMNS:
        mark = "▴" if view.reverse else "▾"
        cells.append(fit(f"{name}{mark}" if key == view.sort else name, size, right=True))
    text = "".join(cells) + "  "
    if columns >= WIDE:
        first, _ = _two(columns)
        return fit(text + fit("COMMAND", first) + " OLDEST BORROW AT", columns)
    return fit(text + ("OLDEST BORROW AT" if view.places else "COMMAND"), columns)


def _two(columns: int) -> tuple[int, int]:
    room = columns - _FIXED - 1
    first = max(20, room // 2)
    return first, room - first


def _row(row: Row, view: View, columns: int) -> list[Piece]:
    member, facts = row.member, row.facts
    oldest = seconds(member.oldest_use) if member.oldest_use else "-"
    fair = f"{member.credit}/{member.share:.3g}" if member.share else f"{member.credit}/-"
    asked = YELLOW if member.waiting else ""
    pieces: list[Piece] = [
        (fit(str(member.pid), 7, right=True), ""),
        (fit(f"{100 * facts.cpu:.0f}" if facts.memory else "-", 6, right=True), ""),
        (fit(memory(facts.memory) if facts.memory else "-", 5, right=True), ""),
        (fit(str(member.in_use), 5, right=True), f"{BOLD};{GREEN}" if member.in_use else DIM),
        (fit(str(member.idle), 6, right=True), "" if member.idle else DIM),
        (fit(str(member.opening), 5, right=True), CYAN if member.opening else DIM),
        (fit(str(member.waiting), 6, right=True), f"{BOLD};{YELLOW}" if member.waiting else DIM),
        (fit(fair, 9, right=True), ""),
        (fit(oldest, 8, right=True), RED if member.oldest_use >= OLD else ""),
        (fit(seconds(row.p99), 6, right=True), asked),
        ("  ", ""),
    ]
    if columns >= WIDE:
        first, second = _two(columns)
        return [*pieces, (fit(facts.command, first), ""), (" " + fit(member.oldest_place, second), DIM)]
    return [*pieces, (member.oldest_place if view.places else facts.command, "")]


# -- below it ----------------------------------------------------------------------------------------------------


def _foot(stats: BudgetStats, seen: Seen, view: View, columns: int, lines: int) -> list[Piece]:
    if view.prompt:
        return [(fit(view.prompt[-columns:], columns), f"{REVERSE};{BOLD}")]
    if view.message:
        return [(fit(view.message, columns), f"{REVERSE};{YELLOW}")]
    room = lines - HEAD - 1
    below = len(seen.rows) - view.top - room
    keys = [
        ("q", "quit"), ("s", f"sort:{SORTS[view.sort][0]}"), ("p", "resume" if stats.paused else "pause"),
        ("+-r", "size"), ("d", "drain"), ("space", "go on" if view.frozen else "freeze"), ("?", "help"),
    ]  # fmt: skip
    pieces: list[Piece] = []
    for key, word in keys:
        pieces += [(key, BOLD), (f" {word}  ", "")]
    if below > 0:
        pieces.append((f"{below} more ↓", DIM))
    return pieces
