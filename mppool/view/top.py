"""``mppool top``: a budget watched and steered on a terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from mppool import errors
from mppool.view.history import History, Moment
from mppool.view.processes import Processes
from mppool.view.screen import SORTS, Row, Seen, View, draw
from mppool.view.window import Window

if TYPE_CHECKING:
    from mppool import PoolManager
    from mppool.view.terminal import Terminal

__all__ = ["Top", "watch"]

WINDOW = 10.0  # seconds of which rates and quantiles are
BAR = 3.0  # seconds in one small bar
KEPT = 1800.0  # seconds of history
TOLD = 5.0  # seconds that a message stays


class Top:
    """A budget as the screen has it: looked at by `sample`, steered by `press`, drawn by `frame`.

    Args:
        manager: the budget's.
        interval: seconds between two looks.
    """

    def __init__(self, manager: PoolManager, interval: float = 0.5) -> None:
        each = max(1, round(BAR / interval))
        self.manager, self.view, self.done = manager, View(), False
        self._seen = Seen(Window(WINDOW), History(round(KEPT / interval), each))
        self._shown: Seen | None = None  # what a frozen screen shows
        self._processes = Processes()
        self._answer: Callable[[str], None] | None = None  # takes what is typed at a prompt
        self._typed, self._asked, self._told = "", "", 0.0

    # -- looking -------------------------------------------------------------------------------------------------

    def sample(self, now: float, clock: str = "") -> None:
        """Look at the budget and its processes. The last picture stays if the budget has ended."""
        try:
            stats = self.manager.stats()
        except errors.PoolError:
            self.tell(f"budget {self.manager.name!r} does not run just now: this is the last of it; q quits", now)
            return
        seen = self._seen
        seen.window.add(now, stats)
        seen.history.add(Moment(stats.in_use, stats.waiting, seen.window.latest_wait().quantile(0.99)))
        facts = self._processes.look([member.pid for member in stats.members], now)
        none = self._processes.unknown
        rows = []
        for member in stats.members:
            wait = seen.window.member_wait(member.pid, member.wait)
            rows.append(Row(member, facts.get(member.pid, none), wait.quantile(0.99)))
        self._seen = Seen(seen.window, seen.history, rows, clock)
        if self.view.message and now - self._told > TOLD:
            self.view.message = ""

    def frame(self, columns: int, lines: int) -> list[str]:
        """The screen, as lines of full width."""
        self.view.prompt = f"{self._asked}{self._typed}" if self._answer else ""
        return draw(self._shown if self._shown is not None else self._seen, self.view, columns, lines)

    def tell(self, text: str, now: float) -> None:
        self.view.message, self._told = text, now

    # -- keys ------------------------------------------------------------------------------------------------------

    def press(self, key: str, now: float) -> None:
        """Do what a key says."""
        if self._answer is not None:
            self._type(key)
        elif self.view.help and key != "q":
            self.view.help = False
        elif key in SORTS:
            self.view.reverse = key == self.view.sort and not self.view.reverse
            self.view.sort = key
        elif key in self._KEYS:
            self._KEYS[key](self, now)

    def _type(self, key: str) -> None:
        if key == "escape":
            self._answer = None
        elif key == "backspace":
            self._typed = self._typed[:-1]
        elif key == "enter":
            answer, self._answer = self._answer, None
            assert answer is not None
            answer(self._typed.strip())
        elif len(key) == 1 and key.isprintable():
            self._typed += key

    def _ask(self, question: str, answer: Callable[[str], None]) -> None:
        self._asked, self._typed, self._answer = question, "", answer

    def _quit(self, _: float) -> None:
        self.done = True

    def _help(self, _: float) -> None:
        self.view.help = True

    def _freeze(self, _: float) -> None:
        """The screen stays; what happens is still looked at."""
        self.view.frozen = not self.view.frozen
        self._shown = None
        if self.view.frozen:
            seen = self._seen
            self._shown = Seen(seen.window.copy(), seen.history.copy(), seen.rows, seen.clock)

    def _next_sort(self, _: float) -> None:
        order = list(SORTS)
        self.view.sort, self.view.reverse = order[(order.index(self.view.sort) + 1) % len(order)], False

    def _toggle_places(self, _: float) -> None:
        self.view.places = not self.view.places

    def _scroll(self, rows: int) -> None:
        self.view.top = max(0, self.view.top + rows)

    # -- steering --------------------------------------------------------------------------------------------------

    def _pause(self, now: float) -> None:
        stats = self._seen.window.last
        if stats.paused:
            self._do("resume", now)
        else:
            self._ask(
                f"pause {stats.name}: nothing more is lent, for 60 s at most. y: yes  ",
                self._if_yes("pause"),
            )

    def _drain(self, _: float) -> None:
        name = self._seen.window.last.name
        self._ask(f"drain {name}: each connection is replaced as it comes back. y: yes  ", self._if_yes("drain"))

    def _if_yes(self, verb: str) -> Callable[[str], None]:
        def answer(typed: str) -> None:
            if typed.lower() in ("y", "yes"):
                self._do(verb, time.monotonic())

        return answer

    def _resize(self, _: float) -> None:
        def answer(typed: str) -> None:
            if typed.isdigit() and int(typed):
                self._do("resize", time.monotonic(), int(typed))
            elif typed:
                self.tell(f"{typed!r} is no number of permits", time.monotonic())

        stats = self._seen.window.last
        self._ask(f"resize {stats.name} from {stats.max_size} to how many permits? ", answer)

    def _by(self, step: int, now: float) -> None:
        size = self._seen.window.last.max_size + step
        if size >= 1:
            self._do("resize", now, size)

    def _do(self, verb: str, now: float, *args: int) -> None:
        """Have the manager do it, on a thread of its own: it may take until connections are given back."""
        method = getattr(self.manager, verb, None)
        if method is None:
            self.tell(f"this version of mppool has no {verb}", now)
            return
        words = " ".join([verb, *map(str, args)])

        def act() -> None:
            try:
                method(*args)
            except Exception as error:
                self.tell(f"{words}: {error}", time.monotonic())
            else:
                self.tell(f"{words}: done", time.monotonic())

        self.tell(f"{words} …", now)
        threading.Thread(target=act, name=f"mppool-top-{verb}", daemon=True).start()

    _KEYS: ClassVar[dict[str, Callable[[Top, float], None]]] = {
        "q": _quit,
        "?": _help,
        " ": _freeze,
        "s": _next_sort,
        "\t": _toggle_places,
        "p": _pause,
        "d": _drain,
        "r": _resize,
        "+": lambda top, now: top._by(1, now),
        "=": lambda top, now: top._by(1, now),
        "-": lambda top, now: top._by(-1, now),
        "up": lambda top, _: top._scroll(-1),
        "down": lambda top, _: top._scroll(1),
        "pageup": lambda top, _: top._scroll(-10),
        "pagedown": lambda top, _: top._scroll(10),
        "home": lambda top, _: top._scroll(-(1 << 20)),
        "end": lambda top, _: top._scroll(1 << 20),
    }


def watch(manager: PoolManager, terminal: Terminal, interval: float = 0.5) -> None:
    """Show the budget until q is pressed or the terminal is gone.

    Args:
        interval: seconds between two looks.

    Raises: PoolError: it cannot be read at all. KeyboardInterrupt: Ctrl-C.
    """
    manager.stats()
    top, due = Top(manager, interval), time.monotonic()
    while not top.done:
        now = time.monotonic()
        if now >= due:
            top.sample(now, time.strftime("%H:%M:%S"))
            due = max(due + interval, now + interval / 2)
        terminal.show(top.frame(*terminal.size))
        keys = terminal.keys(due - time.monotonic())
        if keys is None:
            return
        for key in keys:
            top.press(key, time.monotonic())
