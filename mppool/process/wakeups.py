"""What wakes the agent, and the selector that it sleeps on: its wake pipe, the channel to the manager, the semaphore
while a permit is wanted, and the kernel's report that a server has ended a connection.

Other code of the process may close descriptors that it did not open, as a program does that becomes a daemon. So
each of these knows whether it is still ours, and all can be made anew.
"""

from __future__ import annotations

import selectors
from typing import TYPE_CHECKING

from mppool.database.contract import Endings
from mppool.process.wake_pipe import WakePipe

if TYPE_CHECKING:
    from mppool.database.contract import Link
    from mppool.shared.messages import Channel
    from mppool.shared.semaphore import EventSemaphore


class Wakeups:
    """Used on the agent's thread, but for `wake`, which any thread may call, and `watch` and `unwatch`."""

    def __init__(self) -> None:
        self._pipe = WakePipe()
        # It needs no descriptor itself, and is woken when what it looks at is closed from outside.
        self._selector = selectors.PollSelector()
        self.endings = Endings()

    def wake(self) -> bool:
        """False: other code has closed the pipe, and no thread was woken."""
        return self._pipe.notify()

    def clear(self) -> None:
        """Before looking at what there is to do, so that what comes later wakes again."""
        self._pipe.clear()

    def is_ready(self) -> bool:
        """Whether a `wake` would be noticed."""
        return self._pipe.is_ready()

    def prepare(self) -> None:
        """Have what is slept on, anew if other code has closed it: then only the wake pipe and the endings wake us.
        Raises: OSError: there is no free descriptor."""
        if self._pipe.is_ready():
            return
        before, self._pipe = self._pipe, WakePipe()
        self.endings.close()  # first: it is known by the wake pipe
        before.close()
        self._selector = selectors.PollSelector()
        self._pipe.prepare()
        self._selector.register(self._pipe, selectors.EVENT_READ)
        try:
            self.endings.prepare(self._pipe.fileno())
        except OSError:
            return  # one has to look, then
        if self.endings.fileno() >= 0:
            self._selector.register(self.endings, selectors.EVENT_READ)

    def sleep(self, pause: float | None) -> list[object]:
        """Sleep so many seconds at most; what woke us, if anything did."""
        return [key.fileobj for key, _ in self._selector.select(pause)]

    def hear(self, channel: Channel) -> None:
        """From now on the manager wakes us."""
        self._selector.register(channel, selectors.EVENT_READ)

    def unhear(self, channel: Channel) -> None:
        try:
            self._selector.unregister(channel)
        except (KeyError, ValueError):
            pass  # there is a new selector

    def listen(self, semaphore: EventSemaphore, listening: bool) -> None:
        """Watch the semaphore only while a permit is wanted: one that lies there unused must not keep us awake."""
        known = semaphore.fileno() in self._selector.get_map()
        listening = listening and semaphore.may_be_ours()
        if listening and not known:
            self._selector.register(semaphore, selectors.EVENT_READ)
        elif known and not listening:
            self._selector.unregister(semaphore)

    def watch(self, link: Link) -> None:
        """Notice when a connection's server ends it. Under the pool's lock."""
        socket = link.live_socket()
        if socket is not None:
            self.endings.watch(socket)

    def unwatch(self, link: Link) -> None:
        """A connection is about to be closed from here. It may be said twice."""
        socket = link.live_socket()
        if socket is not None:
            self.endings.forget(socket)

    def close(self) -> None:
        self._selector.close()
        self.endings.close()  # before the wake pipe, by which it is known
        self._pipe.close()
