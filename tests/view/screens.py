"""A program on a terminal of its own (a pty), and what a person would see there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

__all__ = ["Screen", "on_a_terminal"]

_WRITTEN = re.compile(r"\x1b\[(\d+);1H((?:(?!\x1b\[\d+;1H).)*)", re.DOTALL)
_STYLES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """The terminal's other end. Lines are drawn whole, each with its place before it; that is all it understands."""

    def __init__(self, fd: int, columns: int, lines: int) -> None:
        self.fd, self.said = fd, ""
        self.resize(columns, lines)
        self.before = termios.tcgetattr(fd)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._lines = [""] * lines

    def press(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def read(self, wait: float) -> bool:
        """Take in what is written within ``wait`` seconds; False: the program has closed its end."""
        if not select.select([self.fd], [], [], wait)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.said += data.decode(errors="replace")
        return bool(data)

    @property
    def lines(self) -> list[str]:
        shown = list(self._lines)
        for place, text in _WRITTEN.findall(self.said):
            if int(place) <= len(shown):
                shown[int(place) - 1] = _STYLES.sub("", text)
        return shown

    def until(self, fact: Callable[[list[str]], Any], timeout: float = 20.0) -> list[str]:
        """Wait until the screen is as wanted."""
        deadline = time.monotonic() + timeout
        while not fact(lines := self.lines):
            assert self.read(0.1), "the program has ended:\n" + self.said[-2000:]
            assert time.monotonic() < deadline, "\n".join(lines)
        return self.lines

    def end(self) -> None:
        """Take in the rest."""
        while self.read(20.0):
            pass

    @property
    def is_as_before(self) -> bool:
        """Whether the terminal's modes are those from before, and the screen is the usual one, with a cursor."""
        off = max(self.said.rfind("\x1b[?1049h"), self.said.rfind("\x1b[?25l"), self.said.rfind("\x1b[?7l"))
        on = min(self.said.rfind("\x1b[?1049l"), self.said.rfind("\x1b[?25h"), self.said.rfind("\x1b[?7h"))
        return on > off and termios.tcgetattr(self.fd) == self.before


@contextlib.contextmanager
def on_a_terminal(
    command: Sequence[str], columns: int = 80, lines: int = 24, **environ: str
) -> Iterator[tuple[Any, Screen]]:
    """Run a command there; its process (`subprocess.Popen`) and the screen. It is killed in the end."""
    ours, theirs = os.openpty()
    try:
        screen = Screen(ours, columns, lines)
        with subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C is a signal there
            env={**os.environ, "TERM": "xterm", **environ},
        ) as process:
            try:
                yield process, screen
            finally:
                process.kill()
    finally:
        os.close(ours)
        os.close(theirs)
