"""Who a process is: its pid and when it started. A pid alone lies, since the system gives it out again.

Where the kernel can tell of a death it does: a pidfd becomes readable. Elsewhere one has to look.
"""

from __future__ import annotations

import os

_EXITING = 0x4  # of a process's flags on Linux


def started(pid: int) -> int:
    """When a process started, in units that only mean something to compare (clock ticks since boot on Linux,
    microseconds elsewhere); 0: there is no such process (a zombie counts as none)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if os.path.exists("/proc/self/stat"):
            return 0
        return _started_by_psutil(pid)
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def _started_by_psutil(pid: int) -> int:
    import psutil  # only where /proc is not

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return 0
        return int(process.create_time() * 1_000_000)
    except psutil.NoSuchProcess:
        return 0


def alive(pid: int, since: int) -> bool:
    """Whether the process that had this pid at that start is still there. Nobody is who had none."""
    return pid > 0 and since > 0 and started(pid) == since


def runs(pid: int, since: int) -> bool:
    """The same, but a process counts as gone that has begun to end: it closes its descriptors some time before."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return not os.path.exists("/proc/self/stat") and alive(pid, since)
    return fields[0] not in (b"Z", b"X") and int(fields[19]) == since and not int(fields[6]) & _EXITING


def death_notice(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None: this system has none, look with `alive`.

    Raises: ProcessLookupError when there is no such process.
    """
    try:
        return os.pidfd_open(pid)
    except AttributeError:
        return None
    except OSError as error:
        if isinstance(error, ProcessLookupError):
            raise
        return None  # an old kernel, or a sandbox that forbids it
