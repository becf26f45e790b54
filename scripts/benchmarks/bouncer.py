"""A PgBouncer of a benchmark's own, where one is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

from scripts.benchmarks.contract import Skip

CONFIGURATION = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 500
logfile = {folder}/bouncer.log
"""


@contextmanager
def bouncer(uri: str, size: int, folder: str) -> Iterator[str]:
    """Run one in front of the server, with `size` server connections; yields the uri that leads through it.

    Raises: Skip.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise Skip("PgBouncer is not installed")
    parts = urlsplit(uri)
    if parts.password:
        raise Skip("PgBouncer is measured only with a server that asks for no password")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        own = probe.getsockname()[1]
    file = os.path.join(folder, "bouncer.ini")
    with open(file, "w") as out:
        user, port = parts.username or "postgres", parts.port or 5432
        out.write(CONFIGURATION.format(host=parts.hostname, port=port, user=user, own=own, size=size, folder=folder))
    command = [program, "-q", file]
    if os.getuid() == 0:  # it refuses to be root
        os.chmod(folder, 0o777)
        command = [program, "-q", "-u", "nobody", file]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 5
        while socket.socket().connect_ex(("127.0.0.1", own)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Skip("PgBouncer did not come up")
            time.sleep(0.02)
        yield urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{own}"))
    finally:
        process.terminate()
        process.wait()
