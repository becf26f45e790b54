"""A terminal that shows whole screens and reads single keys, and is as it was before however the program ends.

Only lines that changed are written, so that a slow line (ssh) carries little. What `SIGKILL` leaves, ``reset`` mends.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

__all__ = ["KEYS", "Terminal", "keys_in"]

#: Escape sequences of keys, after the escape. Keys that are not here are ignored.
KEYS = {
    "[A": "up", "OA": "up", "[B": "down", "OB": "down", "[5~": "pageup", "[6~": "pagedown", "[H": "home", "OH": "home",
    "[1~": "home", "[F": "end", "OF": "end", "[4~": "end",
}  # fmt: skip
_NAMED = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\x08": "backspace"}
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # the other screen, no cursor, no wrap
_LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def keys_in(text: str) -> list[str]:
    """The keys in what a terminal sent: characters, and names from `KEYS`; a lone escape is ``escape``."""
    found, at = [], 0
    while at < len(text):
        if text[at] != "\x1b":
            found.append(
                {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\x08": "backspace"}.get(text[at], text[at])
            )
            at += 1
            continue
        end = at + 1
        if text[end : end + 1] in ("[", "O"):
            end += 1
            while end < len(text) and not ("@" <= text[end] <= "~"):
                end += 1
            found += [KEYS[key]] if (key := text[at + 1 : end + 1]) in KEYS else []
            end += 1
        else:
            found.append("escape")
        at = end
    return found


class Terminal:
    """The terminal of this process; a context. Only in the main thread.

    Raises: OSError: stdin or stdout is none.
    """

    def __init__(self) -> None:
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        if not (os.isatty(self._in) and os.isatty(self._out)):
            raise OSError("stdin and stdout must be a terminal")
        self._before: Any = None
        self._shown: list[str] = []
        self._wake = (-1, -1)
        self._handlers: dict[int, Any] = {}

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines; at least 20 and 5."""
        columns, lines = os.get_terminal_size(self._out)
        return max(20, columns), max(5, lines)

    def __enter__(self) -> Terminal:
        self._before = termios.tcgetattr(self._in)
        self._wake = os.pipe()
        for fd in self._wake:
            os.set_blocking(fd, False)
        try:
            signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
            for number in _ENDS:
                self._handlers[number] = signal.signal(number, self._end)
            self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._stop)
            self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, self._resized)
            self._take()
        except BaseException:
            self._restore()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        try:
            self._give()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(-1)
            for fd in self._wake:
                os.close(fd)

    def _take(self) -> None:
        tty.setcbreak(self._in)
        self._shown = []
        self._write(_ENTER)

    def _give(self) -> None:
        with contextlib.suppress(termios.error):  # it has hung up
            termios.tcsetattr(self._in, termios.TCSAFLUSH, self._before)
        with contextlib.suppress(OSError):
            self._write(_LEAVE)

    @staticmethod
    def _end(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    def _stop(self, *_: object) -> None:
        """Ctrl-Z: the shell gets its terminal back until it continues this process."""
        self._give()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()

    def _resized(self, *_: object) -> None:
        self._shown = []  # `keys` returns at once, and all is drawn again

    def keys(self, timeout: float) -> list[str] | None:
        """The keys that come within ``timeout`` seconds; none if the window changed. None: the terminal is gone."""
        ready, _, _ = select.select([self._in, self._wake[0]], [], [], max(0.0, timeout))
        if self._wake[0] in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake[0], 4096)
        if self._in not in ready:
            return []
        try:
            data = os.read(self._in, 4096)
        except OSError:
            return None
        return keys_in(data.decode(errors="ignore")) if data else None

    def show(self, lines: Sequence[str]) -> None:
        """Draw the screen: lines of full width."""
        old = self._shown if len(self._shown) == len(lines) else [""] * len(lines)
        changed = [f"\x1b[{at};1H{new}" for at, (new, was) in enumerate(zip(lines, old, strict=True), 1) if new != was]
        clear = "" if self._shown else "\x1b[2J"
        self._shown = list(lines)
        if changed:
            self._write(clear + "".join(changed))

    def _write(self, text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(self._out, data) :]
