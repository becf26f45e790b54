"""Where daemon threads wait for the end of the world.

When the interpreter exits, pools stop and calls in flight are cut off. A daemon thread of the user's would see that
as an error and print a traceback nobody asked for; it is stopped where it is instead, as the interpreter itself does
with daemon threads a moment later. Other threads have ended by then, and the main thread gets its error.
"""

from __future__ import annotations

import threading
from _thread import allocate_lock

THREAD_PREFIX = "mppool-"  # our own threads' names begin so; they have work to do until the very end

exiting = False


def exit_begins() -> None:
    global exiting
    exiting = True


def block_if_exiting() -> None:
    """Return at once in normal times; for a user's daemon thread at exit, never."""
    if not exiting:
        return
    thread = threading.current_thread()
    if thread.daemon and not thread.name.startswith(THREAD_PREFIX):
        lock = allocate_lock()
        lock.acquire()
        lock.acquire()
