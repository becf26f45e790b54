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
import pwd
import random
import resource
import select
import socket
import sys
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from mppool import errors
from mppool.fork_lock import import_late, no_fork
from mppool.shared import identity, messages, paths, room
from mppool.shared import ledger as L
from mppool.shared.descriptors import ask_for
from mppool.shared.neighbours import Found, clear_away, sibling

if TYPE_CHECKING:
    import subprocess

logger = logging.getLogger("mppool.pool")

LAUNCH_TIMEOUT = 10.0  # seconds; a loaded machine starts an interpreter in less than one
# Seconds between looks while another process launches, at first and at most: hundreds of members may be looking.
_LOOK = (0.005, 0.05)
_BACKLOG = 4096  # members that may connect at once; Linux limits it to net.core.somaxconn
# Ctrl-C must not reach the manager. A session of its own would do that, too, but Linux's autogroup scheduler shares the
# processors among sessions: on a busy machine the manager ran seconds late while its members were served within some
# milliseconds.
_APART: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}
_NEEDED = (
    "PATH",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "SSL_CERT_FILE",  # for the reaper that the manager may launch
    "SSL_CERT_DIR",
)  # of the environment: it may hold secrets
_warned: set[int] = set()  # pids
_BOOT = "import sys; sys.path.append(sys.argv[1]); from mppool.manager.server import main; main(sys.argv[2])"


def check_place(name: str) -> None:
    """Refuse a name if another folder would be used for it, and so a second budget made.

    Raises: ManagerUnavailableError.
    """
    try:
        paths.folder(name)
    except paths.UnsafeFolder as error:
        raise errors.ManagerUnavailableError(f"budget {name!r}: {error}") from error
    users = paths.changed_user(name)
    if users is not None:
        was, now = map(_user, users)
        raise errors.ManagerUnavailableError(
            f"budget {name!r} belongs to user {was}: this process, or the one that it was forked from, took part in it "
            f"as that user, and is user {now} now, who cannot. A second budget beside it would exceed the limit. "
            f"Change the user before the first pool is started (run the whole program as {now}); or let each process "
            f"start its pool after the change, with a name that all of them give"
        )


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name!r} ({uid})"
    except KeyError:
        return str(uid)


def connect(name: str) -> socket.socket | None:
    """A connection to the budget's running manager; None: there is none.

    Raises: ManagerUnavailableError when the folder or the socket is not this user's own; BlockingIOError when too many
        others are connecting.
    """
    check_place(name)
    path = os.path.join(paths.folder(name), paths.SOCKET)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(LAUNCH_TIMEOUT)
    try:
        sock.connect(path)
        _, uid = messages.peer(sock)
    except BlockingIOError:  # so many connect that its queue is full
        sock.close()
        raise
    except OSError as error:
        sock.close()
        if isinstance(error, (FileNotFoundError, ConnectionError)):
            return None
        raise errors.ManagerUnavailableError(f"budget {name!r}: cannot reach {path}: {error}") from error
    if uid != os.geteuid():
        sock.close()
        raise errors.ManagerUnavailableError(f"budget {name!r}: {path} is served by user {uid}; refused")
    return sock


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
    inherited = _inheritance(folder)
    if inherited is not None and inherited != (config["max_size"], L.database_key(config["database"])):
        raise errors.BudgetMismatchError(
            f"budget {config['name']!r} runs with other settings: its members have max_size {inherited[0]} and "
            + ("the same" if inherited[1] == L.database_key(config["database"]) else "another")
            + f" database; here max_size is {config['max_size']} and the database {config['database']}"
        )
    if inherited is None:
        clear_away(os.path.dirname(folder), config["name"])
    try:
        return _start(config, folder)
    except BaseException:
        if inherited is None:
            paths.remove_folder(folder)
        raise


def _inheritance(folder: str) -> tuple[int, int] | None:
    """max_size and database of a budget whose manager is gone and whose members live on; None: there are none.

    Raises: ManagerUnavailableError: they are in another PID namespace; OSError.
    """
    try:
        found = Found(folder)
    except FileNotFoundError:
        return None
    with found:
        if not found.known or not found.has_members():
            return None
        if found.elsewhere:
            raise errors.ManagerUnavailableError(f"budget {os.path.basename(folder)!r}: {identity.ELSEWHERE}")
        return found.ledger.header.max_size, found.ledger.header.database


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
    words = _last_words(folder) or _lack_of_room(folder) or "it left no message"
    raise errors.ManagerUnavailableError(f"budget {config['name']!r}: the manager ended at once: {words}")


def _spawn(folder: str, listener: int, log: int, configuration: int) -> subprocess.Popen[bytes]:
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environ = {name: os.environ[name] for name in _NEEDED if name in os.environ}
    environ[paths.RUNTIME_DIR] = os.path.dirname(folder)  # for the reaper, which is a member
    process: subprocess.Popen[bytes] = import_late("subprocess").Popen(
        [sys.executable, "-I", "-S", "-c", _BOOT, home, folder, str(configuration)],
        stdin=listener,
        stdout=log,
        stderr=log,
        pass_fds=(configuration,),
        **_APART,
        env=environ,
    )
    return process


def _warn_of_limit(config: dict[str, Any]) -> None:
    """Warn if the manager, which inherits this process's hard limit of open files, cannot serve all members there may
    be."""
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
            return log.read().strip().rpartition("\n")[2]
    except OSError:
        return ""


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
            f"it cannot write its ledger of {L.SIZE // 1024} KB in {folder}: {error.strerror}. Make room there, or set "
            f"{paths.RUNTIME_DIR} to another folder"
        )
    return ""


def ask(sock: socket.socket, request: dict[str, Any], name: str) -> tuple[dict[str, Any], messages.Channel]:
    """Send the first request on a fresh connection and wait for its answer.

    Returns: the answer, and the channel with the descriptors that came along.

    Raises: the error of ours that the manager named; ManagerUnavailableError: it did not answer; ConnectionResetError:
        it left in the same instant (ask again).
    """
    channel = messages.Channel(sock)
    try:
        try:
            channel.send(request)
        except BrokenPipeError:
            pass  # it may have said why before it closed
        deadline = time.monotonic() + LAUNCH_TIMEOUT
        poll = select.poll()  # unlike a selector it needs no descriptor
        poll.register(channel, select.POLLIN)
        while True:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise errors.ManagerUnavailableError(f"budget {name!r}: no answer in {LAUNCH_TIMEOUT} s")
            heard = channel.receive()
            if heard is None:
                words = _last_words(paths.folder(name)) or "it left no message"
                raise ConnectionResetError(f"budget {name!r}: the manager ended at once: {words}")
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
    for _ in range(5):
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
