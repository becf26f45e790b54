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
import socket
import sys
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from mppool import errors
from mppool.cluster_url import missing
from mppool.fork_lock import import_late, no_fork
from mppool.membership.asking import LAUNCH_TIMEOUT, ask, check_place, connect, last_words
from mppool.shared import identity, messages, paths, room, sizes
from mppool.shared import ledger as L
from mppool.shared.descriptors import ask_for
from mppool.shared.neighbours import Found, clear_away, sibling

if TYPE_CHECKING:
    import subprocess

logger = logging.getLogger("mppool.pool")

# Seconds between looks while another process launches, at first and at most: hundreds of members may be looking.
_LOOK = (0.005, 0.05)
_BACKLOG = 4096  # members that may connect at once; Linux limits it to net.core.somaxconn
CALLS = 10  # of managers that were just leaving, or were killed, until a newcomer gives up
# Ctrl-C must not reach the manager. A session of its own would do that, too, but Linux's autogroup scheduler shares the
# processors among sessions: on a busy machine the manager ran seconds late while its members were served within some
# milliseconds.
_APART: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {}
_NEEDED = (
    "PATH",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "SSL_CERT_FILE",  # for the reaper that the manager may launch
    "SSL_CERT_DIR",
)  # of the environment: it may hold secrets
_warned: set[int] = set()  # pids
_BOOT = "import sys; sys.path.append(sys.argv[1]); from mppool.manager.server import main; main(sys.argv[2])"
if not _APART:  # Python 3.10 cannot have a new process begin so: it does so itself, and until then blocks signals
    _BOOT = f"import os; os.setpgid(0, 0); {_BOOT}"


_quiet: set[str] = set()  # locks of ours


def _is_not_ours(record: logging.LogRecord) -> bool:
    """A filter: what filelock says (DEBUG) of a lock that is looked at every few milliseconds helps nobody."""
    return not _quiet.intersection(map(str, record.args or ()))


def connect_or_launch(config: dict[str, Any]) -> socket.socket:
    """A connection to the manager of ``config["name"]``, which is launched if there is none.

    Raises: ManagerUnavailableError.
    """
    filelock = import_late("filelock")  # its import costs more than that of all else here
    name, deadline = config["name"], time.monotonic() + LAUNCH_TIMEOUT
    check_place(name)
    try:
        path = os.path.join(paths.make_root(os.path.dirname(paths.folder(name))), paths.LOCK)
        lock = filelock.FileLock(path, timeout=0, mode=0o600)
        _quiet.add(path)
        logging.getLogger("filelock").addFilter(_is_not_ours)
        while True:
            try:
                sock = connect(name)
                if sock is not None:
                    return sock
                with lock:
                    sock = connect(name)
                    if sock is not None:
                        return sock
                    sock = _launch(config)
                _warn_of_sibling(config, os.path.dirname(path))
                return sock
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
    """Wait until the lock is free, or until the deadline. Hundreds of members may wait for one that launches a manager,
    so a look must cost less than an attempt to connect."""
    look = _LOOK[0]
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # the file is removed when the lock is released
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
    inherited = _inheritance(folder, config)
    if not inherited:
        if config["max_size"] is None:
            if not os.listdir(folder):
                paths.remove_folder(folder)
            raise errors.ManagerUnavailableError(
                f"budget {config['name']!r}: max_size=None takes the size of a running budget, and none is running on "
                "this host: give max_size here, or start the budget first where its size is given"
            )
        clear_away(os.path.dirname(folder), config["name"])
    try:
        _check_client(config)
        return _start(config, folder)
    except BaseException:
        if not inherited:
            paths.remove_folder(folder)
        raise


def _check_client(config: dict[str, Any]) -> None:
    """Raises: ManagerUnavailableError: what the cluster's engine needs is not installed."""
    extra = missing(config["cluster"]) if config["cluster"] else ""
    if extra:
        raise errors.ManagerUnavailableError(
            f"budget {config['name']!r}: the engine {config['engine']} needs a client that is not installed: "
            f"pip install '{extra}'"
        )


def _inheritance(folder: str, config: dict[str, Any]) -> bool:
    """Whether there is a budget of that name whose manager is gone and whose members live on.

    Raises: BudgetMismatchError: they mean another budget; ManagerUnavailableError: they are in another PID namespace;
        OSError.
    """
    try:
        found = Found(folder)
    except FileNotFoundError:
        return False
    with found:
        if not found.known or not found.has_members():
            return False
        if found.elsewhere:
            raise errors.ManagerUnavailableError(f"budget {os.path.basename(folder)!r}: {identity.ELSEWHERE}")
        header = found.ledger.header
        wrong = sizes.mismatch(header, config["max_size"], config["made"], reserve=config["reserve"])
        if header.database != L.database_key(config["database"]):
            wrong = f"its members have another database than {config['database']}" + (f", and {wrong}" if wrong else "")
        if bool(header.lease) != bool(config["cluster"]):
            wrong = f"its members have {'a' if header.lease else 'no'} cluster, which is {config['engine']} here"
    if wrong:
        raise errors.BudgetMismatchError(f"budget {config['name']!r} runs with other settings: {wrong}")
    return True


def _warn_of_sibling(config: dict[str, Any], root: str) -> None:
    """Warn, once in each process, if it has made a budget where it was probably meant to share another process's."""
    if os.getpid() in _warned:
        return
    other = sibling(root, config["name"], L.database_key(config["database"]))
    if other is not None:
        _warned.add(os.getpid())
        import_late("logging").getLogger("mppool.pool").warning(
            "pool %s: process %d, which was started by the same parent as this one, has a budget of its own for the "
            "same database, %s: each of the two may open max_size=%d connections. If they are meant to share one, give "
            'their pools a name (name="…"), or start the whole program with "mppool run -- COMMAND"; or make the pool '
            "before the processes are forked (gunicorn --preload)",
            config["name"],
            other,
            config["database"],
            config["max_size"],
        )


def _start(config: dict[str, Any], folder: str) -> socket.socket:
    socket_path = os.path.join(folder, paths.SOCKET)
    if os.path.lexists(socket_path):
        os.unlink(socket_path)  # of a manager that was killed
    # A child forked meanwhile would keep the listening socket and the pipe open: processes would connect to a socket on
    # which none accepts, and the manager would wait for the end of its configuration.
    with no_fork():
        ask_for(8)  # those below, and those that starting a process needs
        log = os.open(os.path.join(folder, paths.LOG), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        reader, writer = os.pipe()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(socket_path)
            os.chmod(socket_path, 0o600)
            listener.listen(_BACKLOG)
            process = _spawn(folder, listener.fileno(), log, reader)
            os.write(writer, json.dumps(config).encode())  # the uri goes through a pipe: any user can read arguments
        except BlockingIOError as error:
            raise errors.ManagerUnavailableError(
                f"budget {config['name']!r}: cannot launch a manager: {identity.NO_MORE}"
            ) from error
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
    words = last_words(folder) or _lack_of_room(folder) or "it left no message"
    raise errors.ManagerUnavailableError(f"budget {config['name']!r}: the manager ended at once: {words}")


def _spawn(folder: str, listener: int, log: int, configuration: int) -> subprocess.Popen[bytes]:
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environ = {name: os.environ[name] for name in _NEEDED if name in os.environ}
    environ[paths.RUNTIME_DIR] = os.path.dirname(folder)  # for the reaper, which is a member
    popen, signal = import_late("subprocess").Popen, import_late("signal")
    # What the manager ignores, as soon as it can.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        process: subprocess.Popen[bytes] = popen(
            [sys.executable, "-I", "-S", "-c", _BOOT, home, folder, str(configuration)],
            stdin=listener,
            stdout=log,
            stderr=log,
            pass_fds=(configuration,),
            **_APART,
            env=environ,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def _warn_of_limit(config: dict[str, Any]) -> None:
    """Warn if the manager, which inherits this process's hard limit of open files, cannot serve all members there may
    be."""
    limit, connections = resource.getrlimit(resource.RLIMIT_NOFILE)[1], config["max_size"] or 0
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


def _lack_of_room(folder: str) -> str:
    """Why a manager could not make its ledger there, nor write a message; empty: it could."""
    try:
        fd = os.open(os.path.join(folder, paths.LOG), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            L.reserve(fd)
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)
    except OSError as error:
        return (
            f"it cannot write its ledger of {L.RESERVED // 1024} KB in {folder}: {error.strerror}. Make room there, or "
            f"set {paths.RUNTIME_DIR} to another folder"
        )
    return ""


def _is_open(channel: weakref.ref[messages.Channel]) -> bool:
    held = channel()
    return held is not None and held.fileno() >= 0


def enter(
    config: dict[str, Any], request: dict[str, Any], sit: Callable[[str], None] | None = None
) -> tuple[dict[str, Any], messages.Channel]:
    """Connect (and launch a manager if need be) and ask; again if the manager was just leaving.

    Args:
        sit: called with the budget's folder each time before the manager is asked.

    Raises: BudgetMismatchError, ManagerUnavailableError.
    """
    failure: Exception | None = None
    for _ in range(CALLS):
        try:
            sock = connect_or_launch(config)
            try:
                if sit is not None:
                    sit(paths.folder(config["name"]))
                request["space"] = identity.space()
            except BaseException:
                sock.close()
                raise
            answer, channel = ask(sock, request, config["name"])
            paths.arrived(config["name"], partial(_is_open, weakref.ref(channel)))
            return answer, channel
        except (ConnectionResetError, FileNotFoundError) as error:
            failure = error
        except OSError as error:
            raise errors.ManagerUnavailableError(f"budget {config['name']!r}: no seat can be taken: {error}") from error
    raise errors.ManagerUnavailableError(str(failure)) from failure
