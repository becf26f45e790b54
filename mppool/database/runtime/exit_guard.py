"""At interpreter exit, daemon threads of the user's are stopped in our calls instead of raising errors.

When the interpreter exits, pools stop and calls in flight are cut off. A daemon thread of the user's would see an
error and print a traceback. So it blocks for ever instead, as the interpreter itself makes daemon threads do a moment
later. All other threads have ended by then, and the main thread gets its error.
"""

from __future__ import annotations

import threading
from _thread import allocate_lock

THREAD_PREFIX = "mppool-"  # of our own threads' names; these work until the end

exiting = False


def exit_begins() -> None:
    global exiting
    exiting = True


def is_exiting() -> bool:
    return exiting


def forked_in_child() -> None:
    """A child that is forked while its parent exits goes on for itself."""
    global exiting
    exiting = False


def block_if_exiting() -> None:
    """Block a daemon thread of the user's for ever at exit; otherwise return at once."""
    if not exiting:
        return
    thread = threading.current_thread()
    if thread.daemon and not thread.name.startswith(THREAD_PREFIX):
        lock = allocate_lock()
        lock.acquire()
        lock.acquire()
