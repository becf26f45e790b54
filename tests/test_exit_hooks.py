"""All that is done at the interpreter's exit is registered in one place, which says in what order it is done."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.import_graph import HOME, modules


def said(program: str) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, cwd=HOME
    )
    assert run.stderr == ""
    return run.stdout.split()


def test_a_hook_comes_before_those_that_are_registered_by_now() -> None:
    program = """
        import atexit
        from mppool.exit_hooks import run_first_at_exit

        def ours(): print("ours")
        atexit.register(print, "first")
        run_first_at_exit(ours)
        atexit.register(print, "second")
    """
    assert said(program) == ["second", "ours", "first"]
    again = program + "    run_first_at_exit(ours)\n"
    assert said(again) == ["ours", "second", "first"]


def test_the_driver_comes_to_rest_before_pools_leave_and_both_before_earlier_hooks() -> None:
    program = """
        import atexit
        atexit.register(print, "earlier")
        from mppool.process import registry
        from mppool.database.runtime import drivers, exit_guard

        def told(name, real):
            def hook(*args):
                print(name)
                return real(*args)
            return hook

        atexit.unregister(registry._exit)
        registry.run_first_at_exit(told("pools", registry._exit))
        atexit.register(print, "between")
        drivers.settle = told("driver", drivers.settle)
        drivers._load(0, False, None)
        atexit.register(print, "later")
    """
    assert said(program) == ["later", "driver", "between", "pools", "earlier"]


def test_nobody_else_registers_a_hook() -> None:
    pattern = re.compile(r"^\s*(import atexit|from atexit)|_register_atexit", re.MULTILINE)
    found = [name for name, path in modules() if pattern.search(Path(path).read_text(encoding="utf-8"))]
    assert found == ["mppool.exit_hooks"]
