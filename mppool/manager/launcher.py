"""Finding a budget's manager, or launching one. Runs in the members' processes, not in the manager's.

The manager is a fresh interpreter and never a fork of its launcher: no threads, locks, descriptors or connections
come along, and no ``__main__`` guard is needed. The launcher makes the listening socket itself, so it can connect
before the manager has even started, and two launchers are kept apart by a file lock.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import random
import resource
import select
import socket
import sys
import time
from typing import Any

from mppool import errors
from mppool.late import late, no_fork
from mppool.shared import ledger as L
from mppool.shared import messages, paths, room
from mppool.shared.descriptors import ask_for

logger = logging.getLogger("mppool.pool")

LAUNCH_TIMEOUT = 10.0  # seconds; a loaded machine starts an interpreter in less than one
# Seconds between looks while another process launches, at first and at most: hundreds of members may be looking.
_LOOK = (0.005, 0.05)
_BACKLOG = 4096  # as many members may knock at once; Linux makes it net.core.somaxconn
# Ctrl-C is not for the manager. A session of its own would keep it away, too, but to Linux's autogroup scheduler one
# process in a session weighs as much as all its members in theirs, in theory: on a busy machine it came to run seconds
# late where its members were served within some milliseconds.
_APART: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}
_NEEDED = (
    "PATH",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "MPPOOL_RUNTIME_DIR",
    "SSL_CERT_FILE",  # for the helper that the manager may start
    "SSL_CERT_DIR",
)  # of the environment: it may hold secrets
_BOOT = "import sys; sys.path.append(sys.argv[1]); from mppool.manager.server import main; main(sys.argv[2])"


def connect(name: str) -> socket.socket | None:
    """A connection to the budget's running manager; None: there is none.

    Raises: ManagerUnavailableError when the folder or the socket is not this user's own; BlockingIOError when too many
        others are connecting.
    """
    path = os.path.join(paths.folder(name), paths.SOCKET)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(LAUNCH_TIMEOUT)
    try:
        sock.connect(path)
        _, uid = messages.peer(sock)
    except BlockingIOError:  # so many knock that there is no room in its queue
        sock.close()
        raise
    except OSError as error:
        sock.close()
        if isinstance(error, (FileNotFoundError, ConnectionError)):
            return None
        raise errors.ManagerUnavailableError(f"budget {name!r}: cannot reach {path}: {error}") from error
    if uid != os.getuid():
        sock.close()
        raise errors.ManagerUnavailableError(f"budget {name!r}: {path} is served by user {uid}; refused")
    return sock


def connect_or_launch(config: dict[str, Any]) -> socket.socket:
    """A connection to the manager of ``config["name"]``, launched now if there is none.

    Raises: ManagerUnavailableError.
    """
    filelock = late("filelock")  # it costs more to import than all the rest here
    name, deadline = config["name"], time.monotonic() + LAUNCH_TIMEOUT
    try:
        path = os.path.join(paths.make_root(), paths.LOCK)
        lock = filelock.FileLock(path, timeout=0, mode=0o600)
        while True:
            try:
                sock = connect(name)
                if sock is not None:
                    return sock
                with lock:
                    sock = connect(name)
                    return sock if sock is not None else _launch(config)
            except BlockingIOError:
                time.sleep(random.uniform(*_LOOK))
            except filelock.Timeout:
                _wait_until_free(path, deadline)
            if time.monotonic() > deadline:
                text = f"budget {name!r}: another process has been launching a manager for {LAUNCH_TIMEOUT:g} s"
                raise errors.ManagerUnavailableError(text)
    except OSError as error:
        raise errors.ManagerUnavailableError(f"budget {name!r}: cannot launch a manager: {error}") from error


def _wait_until_free(path: str, deadline: float) -> None:
    """Wait until nobody has the lock, or for so long. Hundreds of members may wait for one that launches a manager, so
    a look must cost them less than an attempt to connect."""
    look = _LOOK[0]
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # it goes when it is given back
    try:
        while time.monotonic() < deadline:
            try:
                with no_fork():  # a child forked in between would keep the lock
                    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    fcntl.flock(fd, fcntl.LOCK_UN)
                return
            except BlockingIOError:
                time.sleep(look * random.uniform(0.75, 1.0))
                look = min(_LOOK[1], look * 1.25)
    finally:
        os.close(fd)


def _launch(config: dict[str, Any]) -> socket.socket:
    """Start the manager's process and connect to it. Only under the lock."""
    folder = paths.make_folder(config["name"])
    inherited = _inheritance(folder)
    if inherited is not None and inherited != (config["max_size"], L.database_key(config["database"])):
        raise errors.BudgetMismatchError(
            f"budget {config['name']!r} runs with other settings: its members have max_size {inherited[0]} and "
            + ("the same" if inherited[1] == L.database_key(config["database"]) else "another")
            + f" database; here max_size is {config['max_size']} and the database {config['database']}"
        )
    try:
        return _start(config, folder)
    except BaseException:
        if inherited is None:
            paths.remove_folder(folder)
        raise


def _inheritance(folder: str) -> tuple[int, int] | None:
    """max_size and database of a budget whose manager is gone and whose members live on; None: there are none."""
    try:
        fd = os.open(os.path.join(folder, paths.LEDGER), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.fstat(fd).st_size < L.SIZE:
            return None
        ledger = L.Ledger(fd)
    finally:
        os.close(fd)
    try:
        if ledger.cells[L.H_MAGIC] != L.MAGIC or not ledger.living():
            return None
        return ledger.cells[L.H_MAX_SIZE], ledger.cells[L.H_DATABASE]
    finally:
        ledger.close()


def _start(config: dict[str, Any], folder: str) -> socket.socket:
    subprocess = late("subprocess")
    socket_path = os.path.join(folder, paths.SOCKET)
    if os.path.lexists(socket_path):
        os.unlink(socket_path)  # of a manager that was killed
    # A child forked meanwhile would keep the listening socket and the pipe open: its parent's successors would knock at
    # a door that nobody opens, and a manager would wait for the end of its configuration.
    with no_fork():
        ask_for(8)  # those below, and those that starting a process needs
        log = os.open(os.path.join(folder, paths.LOG), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        reader, writer = os.pipe()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(socket_path)
            os.chmod(socket_path, 0o600)
            listener.listen(_BACKLOG)
            home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BOOT, home, folder, str(reader)],
                stdin=listener.fileno(),
                stdout=log,
                stderr=log,
                pass_fds=(reader,),
                **_APART,
                env={name: os.environ[name] for name in _NEEDED if name in os.environ},
            )
            os.write(writer, json.dumps(config).encode())  # the uri goes by a pipe: arguments can be read by everybody
        finally:
            listener.close()
            for fd in (log, reader, writer):
                os.close(fd)
    sock = connect(config["name"])
    if process.wait() == 0 and sock is not None:
        _warn_of_limit(config)
        return sock
    if sock is not None:
        sock.close()
    raise errors.ManagerUnavailableError(f"budget {config['name']!r}: {_last_words(folder)}")


def _warn_of_limit(config: dict[str, Any]) -> None:
    """Say so if the manager, which has our hard limit of open files, cannot serve as many members as there may be."""
    limit, connections = resource.getrlimit(resource.RLIMIT_NOFILE)[1], config["max_size"]
    members = room.members_within(limit, connections)
    if limit >= 0 and members < L.ROWS:
        logger.warning(
            "budget %s: its manager may open %d files, which is enough for about %d processes with %d connections; "
            "for %d processes raise the hard limit (ulimit -Hn) to %d before it is launched",
            config["name"],
            limit,
            members,
            connections,
            L.ROWS,
            room.needed(L.ROWS, connections),
        )


def _last_words(folder: str) -> str:
    try:
        with open(os.path.join(folder, paths.LOG), encoding="utf-8", errors="replace") as log:
            words = log.read().strip().splitlines()
    except OSError:
        words = []
    return f"the manager ended at once: {words[-1] if words else 'it left no message'}"


def ask(sock: socket.socket, request: dict[str, Any], name: str) -> tuple[dict[str, Any], messages.Channel]:
    """Send the first request on a fresh connection and wait for its answer.

    Returns: the answer, and the channel with the descriptors that came along.

    Raises: whichever of our errors the manager named; ManagerUnavailableError when it did not answer;
        ConnectionResetError when it left in the same instant (ask again).
    """
    channel = messages.Channel(sock)
    try:
        try:
            channel.send(request)
        except BrokenPipeError:
            pass  # it may have said why, and hung up
        deadline = time.monotonic() + LAUNCH_TIMEOUT
        poll = select.poll()  # which needs no descriptor
        poll.register(channel, select.POLLIN)
        while True:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise errors.ManagerUnavailableError(f"budget {name!r}: no answer in {LAUNCH_TIMEOUT} s")
            heard = channel.receive()
            if heard is None:
                raise ConnectionResetError(f"budget {name!r}: {_last_words(paths.folder(name))}")
            if heard[0]:
                break
        answer = heard[0][0]
        if not answer["ok"]:
            raise getattr(errors, answer["error"])(answer["message"])
    except BrokenPipeError as error:
        channel.close()
        raise ConnectionResetError(str(error)) from error
    except BaseException:
        channel.close()
        raise
    return answer, channel


def enter(config: dict[str, Any], request: dict[str, Any]) -> tuple[dict[str, Any], messages.Channel]:
    """Connect (launching if need be) and ask; once more if the manager was just leaving.

    Raises: BudgetMismatchError, ManagerUnavailableError.
    """
    failure: Exception | None = None
    for _ in range(5):
        try:
            return ask(connect_or_launch(config), request, config["name"])
        except ConnectionResetError as error:
            failure = error
    raise errors.ManagerUnavailableError(str(failure)) from failure
