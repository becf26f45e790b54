"""The Celery application that real workers run in these tests; the environment says how its pool comes to be."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from celery import Celery
from celery.signals import worker_process_init

from mppool import PoolManager, PySQLXEnginePoolSync

URI, HOW, MAX_SIZE = os.environ["SHOP_URI"], os.environ["SHOP_POOL"], int(os.environ["SHOP_MAX_SIZE"])

app = Celery("shop")
app.conf.update(json.loads(os.environ["SHOP_CONF"]))

if HOW == "lazy":  # nothing happens until a child uses it
    pool = PoolManager(URI, MAX_SIZE).pool()
else:
    pool = PySQLXEnginePoolSync(URI, 0, MAX_SIZE, name=os.environ.get("SHOP_NAME"))
if HOW == "inherited":  # by the worker's main process, before it forks
    pool.start()
if HOW == "each":  # by every child for itself

    @worker_process_init.connect
    def start(**_: Any) -> None:
        pool.start()


@app.task(name="double")
def double(number: int) -> tuple[int, int]:
    with pool.connection() as conn:
        row = conn.query_first(f"SELECT {number:d} * 2 AS a")
        time.sleep(0.01)
        return os.getpid(), row.a


@app.task(name="hang")
def hang() -> None:
    with pool.connection() as conn:
        conn.query_first("SELECT pg_sleep(60)::text AS a")
