"""A process whose threads or sockets are greenlets in disguise is refused before it can hang.

The pool's agent is a thread, and waits in system calls that no hub of gevent's or eventlet's knows of. Nothing is
imported here: what has patched this process is in ``sys.modules`` already.
"""

from __future__ import annotations

import sys

from mppool import errors

PATCHED = ("thread", "socket")


def refuse() -> None:
    """Raises: UnsupportedError: gevent or eventlet has replaced this process's threads or sockets."""
    for module, question in (("gevent.monkey", "is_module_patched"), ("eventlet.patcher", "is_monkey_patched")):
        patched = getattr(sys.modules.get(module), question, None)
        found = [name for name in PATCHED if patched is not None and patched(name)]
        if found:
            raise errors.UnsupportedError(
                f"{module.partition('.')[0]} has replaced this process's {' and '.join(found)} module"
                f"{'s' if len(found) > 1 else ''}; a pool would wait for ever there. Use threads instead "
                "(gunicorn -k gthread), or asyncio (an ASGI worker and PySQLXEnginePool)"
            )
