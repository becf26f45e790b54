"""The interpreter's exit: every hook of this package is registered here, and their order is said here.

`atexit` runs the hook first that was registered last; the program's hooks and other libraries' are among ours.

    jobs    registered again by each `Jobs`: worker processes are terminated. `multiprocess` has registered itself by
            then, so this comes before it waits for its children.
    driver  registered again whenever a copy of the driver is loaded: calls in flight are ended, and no new ones begin.
            Hooks that the program registered earlier run after it, and cannot use a connection any more.
    pools   registered when `mppool.process.registry` is imported, so after both: pools stop, what is idle is closed,
            the process leaves its budgets.

Jobs and driver may come in either order: a job's call runs in another process.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable

__all__ = ["run_first_at_exit"]


def run_first_at_exit(hook: Callable[[], object]) -> None:
    """Have a hook run at exit, before all hooks that are registered by now. Registered again, it moves to the front."""
    atexit.unregister(hook)
    atexit.register(hook)
