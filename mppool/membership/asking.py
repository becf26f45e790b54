"""Asking a budget's manager: the way to its socket, the first request, its answer. Runs in the members' processes."""

from __future__ import annotations

import os
import pwd
import select
import socket
import time
from typing import Any

from mppool import errors
from mppool.shared import messages, paths

LAUNCH_TIMEOUT = 10.0  # seconds; a loaded machine starts an interpreter in less than one


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
                words = last_words(paths.folder(name)) or "it left no message"
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


def last_words(folder: str) -> str:
    try:
        with open(os.path.join(folder, paths.LOG), encoding="utf-8", errors="replace") as log:
            return log.read().strip().rpartition("\n")[2]
    except OSError:
        return ""
