"""Descriptors that are remembered while other code runs in the process.

A remembered number alone proves nothing. A program may close what it did not open (a daemon closes everything, in a
forked child or in itself), and the kernel then gives the number to a file of the program's. So the identity of the file
behind the number is remembered too, and is compared before each use.

That costs one system call for each use, about a microsecond. It does not protect against another thread that closes the
number and opens a file between the comparison and the use.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    Identity = tuple[int, int, int]  # device, inode, type

__all__ = ["Lost", "Owned", "OwnedSocket", "ask_for", "identity", "is_short", "never_close", "told", "unlike_any"]

# Errors of a moment without free descriptors, or without memory for one: try again.
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_PART = 1024  # bytes: a shorter answer of the kernel's is the last one; it gives a page at a time


class Lost(OSError):
    """Other code has closed a remembered descriptor; its number may be another file's."""

    def __init__(self, fd: int) -> None:
        super().__init__(errno.EBADF, f"descriptor {fd} was closed by other code of this process")


def is_short(error: BaseException) -> bool:
    """Whether this is for want of free descriptors."""
    return isinstance(error, OSError) and error.errno in _SHORT


def identity(fd: int) -> Identity:
    """The file behind a descriptor. Raises: OSError."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode)


def told(fd: int) -> str:
    """All that Linux tells of a descriptor; empty elsewhere. Raises: OSError: there is no free descriptor to read it
    with."""
    text = b""
    try:
        source = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            while True:
                piece = os.read(source, 65_536)
                text += piece
                if len(piece) < _PART:
                    break
        finally:
            os.close(source)
    except OSError as error:
        if is_short(error):
            raise
        return ""  # it is not open, or was closed while it was read
    return text.decode(errors="replace")


def ask_for(count: int) -> None:
    """Check that ``count`` descriptors are free now, before code that fails for good without. Raises: OSError."""
    probes: list[int] = []
    try:
        while len(probes) < count:
            probes.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for probe in probes:
            os.close(probe)


def unlike_any() -> int:
    """A new descriptor whose only use is that its inode is its own. Raises: OSError."""
    try:
        return os.memfd_create("mppool-guard")
    except (AttributeError, OSError):
        read, write = os.pipe()
        os.close(write)
        return read


class Owned:
    """One descriptor of ours.

    All eventfds, epolls and their like are the same file to ``fstat``. They are distinguished by what Linux tells of
    them: an eventfd by its number, others by ``mark``. Where it does not tell, any of the same kind counts as ours.

    Args:
        fd: just made, or just received.
        mark: a text that `told` has of this descriptor and of no other.

    Raises: OSError.
    """

    __slots__ = ("_identity", "_kind", "_mark", "fd")

    def __init__(self, fd: int, mark: str | None = None) -> None:
        self.fd = fd
        self._identity = identity(fd)
        self._kind = _anonymous(fd)
        self._mark = mark or (_number(fd) if self._kind else None)

    def is_ours(self) -> bool:
        """Whether the number still stands for the same file."""
        try:
            if self.fd < 0 or identity(self.fd) != self._identity:
                return False
        except OSError:
            return False
        if self._kind is None:
            return True
        try:
            if self._mark is not None:
                return self._mark in told(self.fd)
        except OSError:
            pass  # it cannot be read just now
        return _anonymous(self.fd) == self._kind

    def may_be_ours(self) -> bool:
        """The same by one system call. It does not notice that another eventfd has the number."""
        try:
            return self.fd >= 0 and identity(self.fd) == self._identity
        except OSError:
            return False

    def use(self) -> int:
        """The number. Raises: Lost."""
        if not self.is_ours():
            raise Lost(self.fd)
        return self.fd

    def close(self) -> None:
        """Close it if it is still ours. May be called again."""
        if self.is_ours():
            os.close(self.fd)
        self.fd = -1


def _anonymous(fd: int) -> str | None:
    """The kind of a file that has no inode of its own; None: it has one."""
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None
    return target if target.startswith("anon_inode:") else None


def _number(fd: int) -> str | None:
    try:
        lines = told(fd).splitlines(keepends=True)
    except OSError:
        return None
    return next((line for line in lines if line.startswith("eventfd-id:")), None)


class OwnedSocket:
    """A socket of ours. Python would close it by its number, whatever that is by then. Raises: OSError."""

    __slots__ = ("_owned", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._owned = Owned(sock.fileno())

    def fileno(self) -> int:
        """The number, -1 once it was closed or found lost."""
        return self._sock.fileno()

    def is_ours(self) -> bool:
        if self._sock.fileno() >= 0 and self._owned.is_ours():
            return True
        self._sock.detach()  # so that Python does not close the number
        return False

    def use(self) -> socket.socket:
        """The socket. Raises: Lost."""
        if not self.is_ours():
            raise Lost(self._owned.fd)
        return self._sock

    def close(self) -> None:
        """Close it if it is still ours. May be called again."""
        if self.is_ours():
            self._sock.close()


_kept: list[Any] = []  # until they are kept for ever


def never_close(thing: Any) -> None:
    """Keep an object for ever that would close a number which is not its own any more: even beyond the interpreter's
    exit, which drops all that modules hold."""
    _kept.append(thing)
    try:
        import ctypes
    except (OSError, ImportError):
        return  # no descriptor is free to import it with; the next call keeps this object, too
    while _kept:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(_kept.pop()))
