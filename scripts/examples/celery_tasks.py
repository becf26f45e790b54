"""Celery: a worker with four children, three connections for all of them; no signal is connected.

Run as it stands, this starts the worker and sends it forty tasks; by hand that is `celery -A celery_tasks worker
--concurrency 4`, with a broker that is more than a folder. Importing this file connects to nothing, here or in the
worker's main process: each child attaches at its first task. With `name=` the budget would be shared with whoever else
imports it, such as the web application that sends the tasks.

Needs: celery.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

from celery import Celery

from mppool import PoolManager, PySQLXEngineSync

FOLDER = os.environ.get("SHOP", ".")


def configure(conn: PySQLXEngineSync) -> None:
    conn.query("PRAGMA journal_mode = WAL")
    conn.raw_cmd("PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 30000")


app = Celery("celery_tasks", broker="filesystem://", backend=f"file://{FOLDER}/results")
app.conf.broker_transport_options = {
    "data_folder_in": f"{FOLDER}/messages",
    "data_folder_out": f"{FOLDER}/messages",
    "control_folder": f"{FOLDER}/control",
    "polling_interval": 0.05,
}
pool = PoolManager(f"sqlite:{FOLDER}/shop.db", max_size=3).pool(configure=configure)


@app.task(name="sell")
def sell(price: int) -> tuple[int, int]:
    """Which process has sold it, and how many connections were open then, in all processes."""
    with pool.connection() as conn:
        with conn.transaction(immediate=True):
            conn.execute("INSERT INTO sales VALUES (:pid, :price)", {"pid": os.getpid(), "price": price})
        time.sleep(0.02)  # somebody wraps it up
        return os.getpid(), PoolManager.attach(pool.name).stats().open


def main(folder: str) -> None:
    with PySQLXEngineSync(f"sqlite:{folder}/shop.db") as conn:
        conn.raw_cmd("CREATE TABLE sales (pid BIGINT, price BIGINT)")
    for name in ("messages", "control", "results"):
        os.mkdir(os.path.join(folder, name))
    command = [sys.executable, "-m", "celery", "-A", "celery_tasks", "worker", "--concurrency", "4", "-l", "error"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    with open(os.path.join(folder, "log"), "w+") as log:
        worker = subprocess.Popen([*command, *quiet], stdout=subprocess.DEVNULL, stderr=log)
        try:
            sent = [sell.delay(price) for price in range(40)]
            done = [each.get(timeout=30, interval=0.02) for each in sent]
        finally:
            worker.send_signal(signal.SIGTERM)  # Celery takes some seconds for that
            worker.wait(30)
            log.seek(0)
            if worker.returncode != 0:
                print(log.read())
    counts: dict[int, list[int]] = defaultdict(list)
    for pid, connections in done:
        counts[pid].append(connections)
    print(f"{'child':>8} {'tasks':>6} {'connections open, at most':>26}")
    for pid, connections in sorted(counts.items()):
        print(f"{pid:>8} {len(connections):>6} {max(connections):>26}")
    with PySQLXEngineSync(f"sqlite:{folder}/shop.db") as conn:
        row = conn.query_first("SELECT count(*) AS n, sum(price) AS total FROM sales")
    print(f"{row.n} sales, {row.total} in all; the worker ended with exit code {worker.returncode}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SHOP"] = folder  # for this file as the worker imports it, and as is imported here
        os.chdir(os.path.dirname(os.path.abspath(__file__)))
        import celery_tasks

        celery_tasks.main(folder)
