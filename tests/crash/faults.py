"""Every executed line of the package is a fault point, without a word in the package: a tracer names them as they
come, and at the one that was chosen the process is killed, ends, is stopped, or is forked by another thread.

It also runs in the manager's process, so it imports nothing but the standard library's smallest.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

Point = tuple[str, str, int]  # phase, "file:function:line", how often it must have come in that phase

PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "mppool", "")


class Tracer:
    """Counts lines; acts at one.

    Args:
        point: where; None: nowhere.
        act: what is done there, in the thread that came there.
        forks: it is also done in processes that are forked from this one.
    """

    def __init__(self, point: Point | None, act: Callable[[], None], forks: bool = False) -> None:
        self.phase = "boot"
        self.seen: dict[tuple[str, str], int] = {}
        self._point, self._act = point, act
        self._pid = None if forks else os.getpid()

    def install(self) -> None:
        """Trace this thread's calls from now on, and those of all threads to come."""
        threading.settrace(self._call)
        sys.settrace(self._call)

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE) or code.co_name == "<module>":
            return None
        return self._line

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            code = frame.f_code
            name = f"{code.co_filename[len(PACKAGE) :]}:{code.co_name}:{frame.f_lineno}"
            key = self.phase, name
            count = self.seen[key] = self.seen.get(key, 0) + 1
            if self._point == (*key, count) and self._pid in (None, os.getpid()):
                self._point = None
                self._act()
        return self._line

    def points(self) -> list[Point]:
        """Each line in each phase when it first came, and when it last came."""
        return [(*key, count) for key, most in sorted(self.seen.copy().items()) for count in sorted({1, most})]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def leave() -> None:
    os._exit(3)


class Forker:
    """Forks in a thread of its own while another one stands at a point; the child uses what it inherited.

    Args:
        use: what the child does; it raises if that does not work.
    """

    def __init__(self, use: Callable[[], object]) -> None:
        self._use, self._now, self._done = use, threading.Event(), threading.Event()
        self.codes: list[int] = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def __call__(self) -> None:
        self._now.set()
        self._done.wait(0.2)  # a fork may have to wait for a lock that is held here: it comes a moment later then

    def _run(self) -> None:
        self._now.wait()
        pid = os.fork()
        if not pid:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
            code = 1
            try:
                self._use()
                code = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(code)
        self._done.set()
        self.codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


# -- in the manager's process --------------------------------------------------------------------------------------


def in_manager(order: str) -> None:
    """Trace this manager if there is an order for one: to write down what it saw when it leaves, or to be killed."""
    try:
        with open(order) as file:
            what = json.load(file)
    except FileNotFoundError:
        return

    def act() -> None:
        try:
            os.unlink(order)  # the next manager shall live
        except FileNotFoundError:
            pass
        kill()

    point = what.get("point")
    tracer = Tracer(None if point is None else (point[0], point[1], point[2]), act, forks=True)
    if "record" in what:
        import atexit

        def write() -> None:
            with open(what["record"], "w") as file:
                json.dump(tracer.points(), file)

        atexit.register(write)
    tracer.phase = "manager"
    tracer.install()


def boot(original: str, order: str) -> str:
    """The manager's boot code, traced."""
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    before, _, after = original.partition("from mppool.manager.server")
    traced = f"sys.path.append({home!r}); from tests.crash import faults; faults.in_manager({order!r}); "
    return f"{before}{traced}from mppool.manager.server{after}"
