"""This host's share of a budget over several hosts: how many permits its books have, and until when members may open.

The agent (`mppool.cluster.agent`) tells three numbers. The books follow them:

    cap      As many permits this host may have by the engine. The books never grant above it.
    target   As many it should come down to, since other hosts are short: what is beyond that is recalled.
    until    The lease: members open nothing after it. It is written into the ledger's header only while not more than
             ``cap`` is on accounts, or a member could open what the engine has given to another host meanwhile.

While the lease has ended the books only shrink: what lies unused is taken back, and nothing is granted.
"""

from __future__ import annotations

import os
import selectors
import socket
import time

from mppool.cluster.launching import AgentProcess
from mppool.shared import ledger as L
from mppool.shared import paths, tenure
from mppool.shared.tags import host_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mppool.manager.allocator import Allocator

__all__ = ["Share"]

LEAST_LOOK = 0.002  # seconds between two looks at the least: there may be many members
LOOK = 0.25  # seconds between looks at what members use: they do not tell when it becomes less
REAP = 0.01  # seconds until the next look at an agent that has closed its channel
SAY_AGAIN = 0.05  # seconds until the agent is told again, when it had too much to read
SHRINK = 0.05  # seconds between looks for permits that members put back, while the lease has ended
_NS = 1e9


class Share:
    """This host's share. The manager's books begin with what is on accounts already, and grow with the engine's word.

    Args:
        config: the manager's.
        folder: of the budget.
        allocator: whose books have inherited what there is.
        selector: its key's ``data`` for the agent is `hear`.
        changed: called when the header says something that members must look at.
        living: there are members of a predecessor's: its lease goes on.
    """

    def __init__(
        self,
        config: dict[str, Any],
        folder: str,
        allocator: Allocator,
        selector: selectors.BaseSelector,
        changed: Callable[[], None],
        living: bool,
    ) -> None:
        self._config, self._allocator, self._selector, self._changed = config, allocator, selector, changed
        self._header = header = allocator.ledger.header
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._hosts = os.open(os.path.join(folder, paths.HOSTS), flags, 0o600)
        if not tenure.host(header):
            tenure.name_host(header, host_name(socket.gethostname(), int.from_bytes(os.urandom(6), "big")))
        if not living:
            header.lease = tenure.LAPSED
        header.cluster = tenure.STARTING
        self._agent = AgentProcess(self._hosts)
        self._cap = self._target = allocator.used
        self._until = header.lease
        self._numbers = (0, 0, 0)  # in use, waiting, wanted, as seen last
        self._said: dict[str, int] | None = None
        self._followed = 0  # the number of the agent's message that the books go by
        self._unsaid: list[dict[str, Any]] = []  # what the agent could not be told yet
        self._resizing = False  # the engine does not know the size that was given here
        self._looked = self._look_at = self._say_at = 0.0
        allocator.cap(self._cap)

    @property
    def is_open(self) -> bool:
        """Whether members may open connections."""
        return tenure.now_ns() < self._header.lease

    # -- the agent -------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        return self._agent.fileno()

    def _task(self) -> dict[str, Any]:
        known = ("name", "uri", "cluster", "engine", "path", "lease", "slack", "kept")
        return {
            **{key: self._config[key] for key in known},
            "host": tenure.host(self._header),
            "max_size": self._header.max_size,
            "resize": self._resizing,
            "used": self._allocator.used,
        }

    def hear(self) -> None:
        """The agent is readable."""
        messages = self._agent.hear()
        try:
            for message in messages or ():
                self._follow(message)
        except (KeyError, TypeError, ValueError):
            messages = None
        if messages is None:
            self._lose_agent()

    def _lose_agent(self) -> None:
        """The next agent begins with what is on accounts, as the next request says: until then nothing is granted."""
        self._selector.unregister(self)
        self._agent.let_go(time.monotonic())
        self._cap = min(self._cap, self._allocator.used)
        self._said, self._unsaid, self._followed = None, [], 0

    def _follow(self, message: dict[str, Any]) -> None:
        header = self._header
        self._followed = int(message["n"])
        self._cap, self._target = max(0, int(message["cap"])), max(0, int(message["target"]))
        self._until = int(message["until"])
        header.learned_at, header.theirs = int(message["learned_at"]), int(message["theirs"])
        size = int(message["max_size"])
        if self._resizing:
            self._resizing = bool(message["resizing"]) or size != header.max_size
        elif size != header.max_size:  # it was resized on another host
            header.resized = time.monotonic_ns()
            header.max_size = size
        state = int(message["state"])
        if state != header.cluster:
            header.cluster = state
            self._changed()

    # -- what the books may hold -------------------------------------------------------------------------------

    def before_settling(self, now: float) -> bool:
        """Have the books go by the newest numbers. Returns whether there is something to settle by that."""
        allocator, header = self._allocator, self._header
        before = allocator.books.max_size
        opens = self.is_open
        if not opens:
            allocator.take_unused(now)
        size = min(self._cap, self._target)
        allocator.cap(size if opens else min(size, allocator.used))
        header.cap = self._cap
        if self._until > header.lease and allocator.used <= self._cap:
            header.lease = self._until
            if not opens and self.is_open:
                allocator.cap(size)
                self._changed()
        return allocator.books.max_size != before or (not opens and allocator.books.accounts.free != 0)

    def after_settling(self, now: float) -> None:
        """Launch an agent if there is none, and tell it what is used now."""
        if self._agent.dying:
            self._agent.reap()
        due = not self._agent.runs and self._agent.pid is None and now >= self._agent.again_at
        if due and self._agent.launch(self._task(), now):
            self._selector.register(self, selectors.EVENT_READ, self.hear)
        if not self._followed:
            return  # it has not said anything yet
        self._look(now)
        self._say_what_waits()
        say = dict(zip(("in_use", "waiting", "wanted"), self._numbers, strict=True))
        say |= {"used": self._allocator.used, "n": self._followed}
        if say != self._said:
            self._say_at = 0.0 if self._agent.say(say) else now + SAY_AGAIN
            self._said = None if self._say_at else say

    def _look(self, now: float) -> None:
        """What members use and want, by their rows; at most once in a moment for all that came together."""
        if now < self._looked + LEAST_LOOK:
            self._look_at = self._looked + LEAST_LOOK
            return
        self._looked, self._look_at = now, now + LOOK
        ledger, rows = self._allocator.ledger, self._allocator.rows
        cells = (L.PID, L.STARTED, L.CREDIT, L.IN_USE, L.WAITING, L.WARM)
        in_use = waiting = wanted = 0
        for pid, started, credit, used, line, warm in zip(*(ledger.column(c, rows) for c in cells), strict=True):
            if not pid:
                continue
            if started == L.NOBODY:  # its permits are with the server
                in_use, wanted = in_use + credit, wanted + credit
                continue
            used, line = max(0, used), max(0, line)
            in_use, waiting, wanted = in_use + used, waiting + line, wanted + max(used + line, warm)
        most = self._header.max_size
        self._numbers = min(in_use, most), min(waiting, most), min(wanted, most)

    def _say_what_waits(self) -> None:
        while self._unsaid and self._agent.say(self._unsaid[0]):
            del self._unsaid[0]

    def next_at(self, now: float) -> float:
        """When the manager must look at this again."""
        times = [self._look_at, *([self._say_at] if self._say_at else [])]
        if self._agent.dying:
            times.append(now + REAP)
        elif not self._agent.runs:
            times.append(self._agent.again_at)
        left = (self._header.lease - tenure.now_ns()) / _NS
        times.append(now + left if left > 0 else now + SHRINK if self._allocator.used else self._look_at)
        return min(times)

    # -- what the manager tells ----------------------------------------------------------------------------------

    def resize(self, max_size: int) -> None:
        """The budget, on all hosts, has so many permits from now on."""
        header = self._header
        if max_size != header.max_size:
            header.resized = time.monotonic_ns()
            header.max_size = max_size
        self._resizing = True
        self._tell({"resize": max_size})

    def tell_uri(self, uri: str) -> None:
        """The judge is to come with this uri."""
        self._tell({"uri": uri})

    def go_on_with(self, url: str) -> None:
        """The engine has this url now, with other credentials: another agent goes on with it."""
        if url != self._config["cluster"]:
            self._config["cluster"] = url
            if self._agent.runs:
                self._lose_agent()

    def _tell(self, message: dict[str, Any]) -> None:
        if self._agent.runs:  # another one is told by its task
            self._unsaid.append(message)

    def leave(self) -> None:
        """The budget ends on this host: all is given back."""
        self._agent.say({"leave": True})
        os.close(self._hosts)
