"""A plain os.fork(): eight children use the handle that they inherited, two connections for all of them.

Needs: nothing.
"""

from __future__ import annotations

import os
import tempfile

from mppool import PySQLXEnginePoolSync


def child(pool: PySQLXEnginePoolSync, number: int) -> None:
    with pool.connection() as conn:
        conn.execute("INSERT INTO visits VALUES (:number)", {"number": number})


def main(folder: str) -> None:
    with PySQLXEnginePoolSync(f"sqlite:{folder}/app.db", 0, 2) as pool:
        with pool.connection() as conn:
            conn.raw_cmd("CREATE TABLE visits (number BIGINT)")
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
