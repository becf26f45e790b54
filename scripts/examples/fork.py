"""A plain os.fork(): eight children use the handle that they inherited, two connections for all of them.

Needs: nothing.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing

from mppool import PoolManager, PySQLXEnginePoolSync


def child(pool: PySQLXEnginePoolSync, number: int) -> None:
    with pool.connection() as conn:
        conn.execute("INSERT INTO visits VALUES (:number)", {"number": number})


def main(folder: str) -> None:
    with closing(sqlite3.connect(f"{folder}/app.db")) as database:
        database.execute("CREATE TABLE visits (number BIGINT)")
    with PoolManager(f"sqlite:{folder}/app.db", 2) as manager:
        # It attaches on first use. Forked before, as here, no child can inherit the state of a thread. After is all the
        # same to mppool; but Python warns from 3.12 on, since a pool in use has a thread.
        pool = manager.pool()
        pids = []
        for number in range(8):
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    child(pool, number)
                    code = 0
                finally:
                    os._exit(code)  # no clean-up at all: the manager takes back what this process had
            pids.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        with pool.connection() as conn:
            row = conn.query_first("SELECT count(*) AS n FROM visits")
        print(f"exit codes {codes}, {row.n} visits")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(folder)
