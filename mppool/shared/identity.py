"""Which process it is: its pid and its start time. A pid alone does not tell, since the system uses it again.

Where the kernel can report a death, it does: a pidfd becomes readable. On other systems one has to look.
"""

from __future__ import annotations

import os

ELSEWHERE = (
    "its members are in another PID namespace (another container, say), and which of them live cannot be seen from "
    "here; a budget cannot be kept so. Give each namespace a runtime folder of its own (MPPOOL_RUNTIME_DIR, or an own "
    "/dev/shm) and its part of max_size, or have the containers share their PID namespace"
)

NO_MORE = (
    "this user may have no more processes and threads just now (ulimit -u, or pids.max of the container or service): "
    "raise that limit, or start fewer of them"
)

_EXITING = 0x4  # of a process's flags on Linux


def started(pid: int) -> int:
    """When a process started, in units that can only be compared (clock ticks since boot on Linux, microseconds
    elsewhere); 0: there is no such process (a zombie counts as none)."""
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


def space() -> int:
    """The PID and time namespaces of this process, as a number. Only processes with the same number can use the pids
    and start times of each other. 0: this system has none.

    Raises: OSError: ``/proc`` tells of another namespace's processes.
    """
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            raise OSError("/proc shows the processes of another PID namespace; it must be mounted in this one")
        pids, times = os.stat("/proc/self/ns/pid").st_ino, 0
        if os.path.exists("/proc/self/ns/time"):
            times = os.stat("/proc/self/ns/time").st_ino
    except FileNotFoundError:
        return 0
    return (pids ^ times << 30) & (1 << 62) - 1


def alive(pid: int, since: int) -> bool:
    """Whether the process with this pid and this start time is still there; False if either is 0."""
    return pid > 0 and since > 0 and started(pid) == since


def parent(pid: int) -> int:
    """The process that started this one, or has adopted it; 0: none, or it is not known."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def same_program(one: int, other: int) -> bool:
    """Whether two processes run the same executable; compared by name alone if one is another user's."""
    try:
        return os.readlink(f"/proc/{one}/exe") == os.readlink(f"/proc/{other}/exe")
    except OSError:
        pass
    try:
        with open(f"/proc/{one}/comm", "rb") as first, open(f"/proc/{other}/comm", "rb") as second:
            return first.read() == second.read()
    except OSError:
        return False


def runs(pid: int, since: int) -> bool:
    """Like `alive`, but False once the process has begun to end: it closes its descriptors some time before."""
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
