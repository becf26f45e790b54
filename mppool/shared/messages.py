"""What manager and members say to each other: lines of JSON over a Unix socket, descriptors beside them.

An empty line is a notification: "look at the ledger". Notifications carry nothing, so any number of them may become
one. A peer that sends anything but lines of JSON objects, or a line longer than `LONGEST`, is cut off.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
from array import array

from mppool.shared.descriptors import Lost, OwnedSocket, is_short

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NOTIFICATION = b"\n"
LONGEST = 65_536  # bytes a line may have
_PIECE = 4096  # bytes read at a time
_MOST_FDS = 4  # that come in one piece
_UNCLAIMED_FDS = 64  # that may be waiting to be claimed
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Garbled(ValueError):
    """The peer does not speak this protocol."""


class CutShort(OSError):
    """Descriptors were sent to this process, which had not enough free ones to receive them."""

    def __init__(self) -> None:
        super().__init__(errno.EMFILE, "no free descriptor for what was sent to this process")


def encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class Channel:
    """One end of a non-blocking connection between a member and its manager."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = OwnedSocket(sock)
        self.fds: list[int] = []  # descriptors received and not yet claimed
        self._cut_short = False
        self._buffer = b""

    @property
    def sock(self) -> socket.socket:
        """Raises: Lost: it was closed from outside."""
        return self._sock.use()

    def fileno(self) -> int:
        return self._sock.fileno()

    def is_ours(self) -> bool:
        """Whether no other code of this process has closed it."""
        return self._sock.is_ours()

    @property
    def whole(self) -> bool:
        """Whether no message has been received in part."""
        return not self._buffer

    def notify(self) -> bool:
        """Send one notification. A full socket has some already. One that the peer has closed is noticed elsewhere.
        False: other code of this process has closed it."""
        try:
            self.sock.send(NOTIFICATION)
        except Lost:
            return False
        except OSError:
            pass
        return True

    def send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        """Send a message, whole. Raises: OSError when the peer is gone or does not read."""
        data = encode(message)
        if not fds:
            self.sock.sendall(data)
            return
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))]
        sent = self.sock.sendmsg([data], ancillary)
        self.sock.sendall(data[sent:])

    def receive(self) -> tuple[list[dict[str, Any]], bool] | None:
        """What has come: (messages, whether a notification was among it). None: the peer is gone.

        It reads a limited amount at a time, so that a peer that never stops does not keep others waiting. The rest is
        there at the next call, and a selector says so.

        Raises: Garbled.
        """
        messages: list[dict[str, Any]] = []
        notified = False
        for _ in range(LONGEST // _PIECE):
            try:
                data, ancillary, flags, _ = self.sock.recvmsg(_PIECE, socket.CMSG_SPACE(4 * _MOST_FDS), _CLOEXEC)
            except BlockingIOError:
                return messages, notified
            except OSError as error:
                return (messages, notified) if messages or is_short(error) else None
            # There is room for more than a message brings: what is missing found no free descriptor here.
            self._cut_short |= bool(flags & socket.MSG_CTRUNC)
            for level, kind, raw in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds = array("i")
                    fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
                    self._keep(fds)
            if not data:
                return (messages, notified) if messages else None  # the end is read again next time
            if data == NOTIFICATION and not self._buffer:
                notified = True
                continue
            *lines, self._buffer = pieces = (self._buffer + data).split(b"\n")
            if max(map(len, pieces)) > LONGEST:
                raise Garbled(f"a line of more than {LONGEST} bytes")
            for line in lines:
                if not line:
                    notified = True
                    continue
                try:
                    message = json.loads(line)
                except (ValueError, RecursionError):
                    raise Garbled("a line that is not JSON") from None
                if not isinstance(message, dict):
                    raise Garbled("a line that is not a JSON object")
                messages.append(message)
        return messages, notified

    def _keep(self, fds: array[int]) -> None:
        self.fds.extend(fds)
        if not _CLOEXEC:
            for fd in fds:
                os.set_inheritable(fd, False)
        if len(self.fds) > _UNCLAIMED_FDS:
            raise Garbled("more descriptors than a peer announces")

    def claim_fds(self, count: int) -> list[int]:
        """The next descriptors that came; the caller closes them.

        Raises: CutShort: some could not be received; Garbled: they were not sent.
        """
        claimed, self.fds = self.fds[:count], self.fds[count:]
        if len(claimed) < count:
            for fd in claimed:
                socket.close(fd)
            if self._cut_short:
                raise CutShort
            raise Garbled(f"{count} descriptors were announced, {len(claimed)} came")
        return claimed

    def hang_up(self) -> None:
        """End the connection for every process that has a copy of this end."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer has done so already

    def close(self) -> None:
        for fd in self.fds:
            socket.close(fd)
        self.fds.clear()
        self._sock.close()


def peer(sock: socket.socket) -> tuple[int | None, int]:
    """(pid, uid) of the process at the other end, as the kernel knows them.

    Linux: SO_PEERCRED. macOS: LOCAL_PEERPID and LOCAL_PEERCRED. Raises: OSError.
    """
    if hasattr(socket, "SO_PEERCRED"):
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, _ = struct.unpack("3i", raw)
        return pid, uid
    credentials = sock.getsockopt(0, 1, 76)  # SOL_LOCAL, LOCAL_PEERCRED: struct xucred { u_int version; uid_t uid; … }
    (pid,) = struct.unpack("i", sock.getsockopt(0, 2, 4))  # LOCAL_PEERPID
    return pid, struct.unpack_from("2I", credentials)[1]
