"""A real Celery worker with processes: one budget for its children, however they end, without any hook.

The broker is a folder, as everywhere, or Redis where one listens: Celery runs its children otherwise with each.
"""

from __future__ import annotations

import gc
import glob
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from tests.waiting import until

celery = pytest.importorskip("celery")
pools = pytest.importorskip("kombu.pools")
redis = pytest.importorskip("redis")

HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
REDIS = "redis://127.0.0.1:6379/0"
BUDGET, CHILDREN, TASKS = 3, 4, 200
#: How the pool comes to be, and what makes it one budget.
LOADS: dict[str, dict[str, Any]] = {
    "inherited": {"env": {"SHOP_POOL": "inherited"}},
    "lazy": {"env": {"SHOP_POOL": "lazy"}},
    "named": {"env": {"SHOP_POOL": "each", "SHOP_NAME": "shop"}},
    "scope": {"env": {"SHOP_POOL": "each"}, "before": ["-m", "mppool", "run", "--", sys.executable]},
}


@contextmanager
def a_folder(folder: str) -> Iterator[dict[str, Any]]:
    for name in ("messages", "control"):
        os.mkdir(os.path.join(folder, name))
    places = {"data_folder_in": "messages", "data_folder_out": "messages", "control_folder": "control"}
    options = {key: os.path.join(folder, name) for key, name in places.items()}
    yield {"broker_url": "filesystem://", "broker_transport_options": {**options, "polling_interval": 0.05}}


@contextmanager
def a_redis(folder: str) -> Iterator[dict[str, Any]]:
    """Its keys begin with something of this test's own, and are gone afterwards."""
    prefix = f"mppool-{secrets.token_hex(4)}-"
    with redis.Redis.from_url(REDIS) as server:
        try:
            yield {"broker_url": REDIS, "broker_transport_options": {"global_keyprefix": prefix}}
        finally:
            for key in server.scan_iter(f"{prefix}*"):
                server.delete(key)


def redis_listens() -> bool:
    try:
        with redis.Redis.from_url(REDIS) as server:
            return bool(server.ping())
    except redis.RedisError:
        return False


BROKERS = {"filesystem": a_folder, "redis": a_redis}


@dataclass
class Running:
    """A worker, and who sends it tasks."""

    process: subprocess.Popen[bytes]
    client: Any

    def send(self, task: str, *args: object, **options: Any) -> Any:
        return self.client.send_task(task, args, **options)

    def check(self, tasks: int) -> Counter[int]:
        """Send so many tasks; how many of them each child did, each with the right result."""
        sent = [self.send("double", number) for number in range(tasks)]
        done = [each.get(timeout=40, interval=0.01) for each in sent]
        assert [result for _, result in done] == [2 * number for number in range(tasks)]
        return Counter(pid for pid, _ in done)


@contextmanager
def worker(uri: str, load: str, broker: str, folder: Any, *, quiet: bool = True, **conf: Any) -> Iterator[Running]:
    """Afterwards it has ended, with exit code 0; ``quiet``: it complained of nothing."""
    folder, how = os.fspath(folder), LOADS[load]
    results, log = os.path.join(folder, "results"), os.path.join(folder, "log")
    os.mkdir(results)
    with BROKERS[broker](folder) as transport:
        conf = {
            **transport,
            "result_backend": f"tests.integrations.celery_results:Results+file://{results}",
            "task_track_started": True,
            "worker_prefetch_multiplier": 1,
            **conf,
        }
        environ = {"SHOP_URI": uri, "SHOP_MAX_SIZE": str(BUDGET), "SHOP_CONF": json.dumps(conf), **how["env"]}
        command = [
            *(*how.get("before", []), "-m", "celery", "-A", "tests.integrations.celery_shop", "worker"),
            *("--pool", "prefork", "--concurrency", str(CHILDREN), "--loglevel", "warning"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ]
        with open(log, "wb") as file:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=HOME,
                env={**os.environ, "PYTHONPATH": HOME, **environ},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
            )
        client = celery.Celery("client", set_as_current=False)
        client.conf.update(conf)
        try:
            yield Running(process, client)
        finally:
            client.close()
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            finally:
                process.kill()
                process.wait()
    with open(log, encoding="utf-8") as file:
        said = file.read()
    assert process.returncode == 0, said
    assert not quiet or "Traceback" not in said, said


class Descriptors:
    """The system's own count of connections to a SQLite file: one descriptor each, in a worker and its children."""

    def __init__(self, process: int, uri: str) -> None:
        self.peak = 0
        self._process, self._path = psutil.Process(process), uri.partition(":")[2]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.peak = max(self.peak, len(self._open() & self._open()))  # in both: at once, in the moment between

    def _open(self) -> set[str]:
        pids = [self._process.pid, *(child.pid for child in self._process.children(recursive=True))]
        links = [link for pid in pids for link in glob.glob(f"/proc/{pid}/fd/*")]
        return {link for link in links if self._target(link) == self._path}

    @staticmethod
    def _target(link: str) -> str:
        try:
            return os.readlink(link)
        except OSError:
            return ""

    def __enter__(self) -> Descriptors:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture(autouse=True)
def _nothing_left_of_the_client(balance_sheet: None) -> Iterator[None]:
    """Its connections to the broker are kept for the next client of this process; the last bits go with the garbage."""
    yield
    pools.reset()
    gc.collect()


@pytest.fixture
def broker() -> str:
    return "redis" if redis_listens() else "filesystem"


def ends_children_well(broker: str) -> bool:
    """Whether Celery may end a child of its own accord.

    With a broker that has no event loop, its children share one pipe and one lock for their results. One that ends says
    so there, and Celery answers with SIGTERM, which the child has blocked until it has let go of the lock; but it has
    blocked it in its main thread only. In a child with any other thread the lock is now and then lost, and with it the
    worker. Who is killed in the middle of a task does not have it.
    """
    return broker != "filesystem"


@pytest.mark.parametrize("load", ["lazy", "scope"])
def test_celery_keeps_the_budget(postgres_uri: str, postgres_judge: Any, broker: str, load: str, tmp_path: Any) -> None:
    """Also when each child is replaced after some tasks."""
    conf = {"worker_max_tasks_per_child": 20} if ends_children_well(broker) else {}
    with worker(postgres_uri, load, broker, tmp_path, **conf) as running, postgres_judge.watch() as seen:
        done = running.check(TASKS)
    print(f"{load} {broker}: {[*done.values()]} tasks a child, greatest number of backends {seen.peak} of {BUDGET}")
    if conf:
        assert max(done.values()) <= 20
        assert len(done) >= TASKS / 20
    assert len(done) > 1
    assert 1 < seen.peak <= BUDGET


def test_celery_keeps_the_budget_on_sqlite(sqlite_uri: str, broker: str, tmp_path: Any) -> None:
    with worker(sqlite_uri, "named", broker, tmp_path) as running, Descriptors(running.process.pid, sqlite_uri) as seen:
        done = running.check(TASKS)
    print(f"{broker}: {[*done.values()]} tasks a child, greatest number of descriptors {seen.peak} of {BUDGET}")
    assert 1 < len(done) <= CHILDREN
    assert 1 < seen.peak <= BUDGET


def test_children_that_are_killed_give_their_permits_back(
    postgres_uri: str, postgres_judge: Any, broker: str, tmp_path: Any
) -> None:
    """By somebody, or by Celery at a time limit; in a statement of a minute, or in line for a connection."""

    def statements() -> int:
        return sum("pg_sleep(60)" in text for text in postgres_judge.list().values())

    limits = {"SoftTimeLimitExceeded": {"soft_time_limit": 1}}
    if ends_children_well(broker):
        limits["TimeLimitExceeded"] = {"time_limit": 1}
    with worker(postgres_uri, "inherited", broker, tmp_path, quiet=False) as running:
        with postgres_judge.watch() as first:
            limited = {error: running.send("hang", **limit) for error, limit in limits.items()}
            killed = [running.send("hang") for _ in range(2)]
            for error, each in limited.items():
                assert type(each.get(timeout=20, interval=0.01, propagate=False)).__name__ == error
            until(lambda: statements() == len(killed), 20)
            for each in killed:
                os.kill(each.info["pid"], signal.SIGKILL)
            until(lambda: statements() == 0)
        with postgres_judge.watch() as seen:
            done = running.check(TASKS)
    print(f"{broker}: {[*done.values()]} tasks a child, greatest number of backends {first.peak}, then {seen.peak}")
    assert first.peak <= BUDGET
    assert seen.peak == BUDGET, "all permits are back"
