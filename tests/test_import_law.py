"""Who may import whom, read from the source; and what an import really brings along, seen in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mppool
from tests.import_graph import HOME, Import, circles, graph, imports, modules

OUTSIDE = {"cli", "view", "metrics", "integrations", "__main__"}  # they know what a user knows
FOR_ALL = {"cluster_url", "errors", "exit_hooks", "fork_hooks", "fork_lock", "scope", "settings", "stats", "uri"}

LEAVES = {"shared.descriptors", "shared.tcp_state"}

#: What of ours each part may import. "reaper.launching" is a part of its own: the manager's half of the reaper.
#: So are the manager's half of the cluster's agent, the process that counts for it at the database, and `LEAVES`, which
#: need nothing of ours and may be used by the database's part.
OURS: dict[str, set[str]] = {
    "__init__": FOR_ALL | {"database", "process"},
    "cluster_url": set(),
    "errors": {"settings"},
    "exit_hooks": set(),
    "fork_hooks": set(),
    "fork_lock": {"fork_hooks"},
    "scope": {"cluster_url", "settings"},
    "settings": {"cluster_url", "uri"},
    "uri": set(),
    "stats": set(),
    "host": {"shared", *LEAVES},
    "core": {"core"},
    "cluster": {"cluster", "core", "shared", *LEAVES},
    "cluster.launching": {"shared", *LEAVES},
    "cluster.setup": {"cluster"},
    "cluster.counting": FOR_ALL | {"database"},
    "shared": {"shared", *LEAVES},
    "shared.descriptors": set(),
    "shared.tcp_state": set(),
    "manager": {"manager", "core", "shared", *LEAVES, "reaper.launching", "cluster.launching"},
    "membership": FOR_ALL | {"membership", "core", "shared", *LEAVES},
    "process": FOR_ALL | {"process", "core", "shared", *LEAVES, "database", "membership"},
    "reaper": FOR_ALL | {"reaper", "core", "shared", *LEAVES, "database", "process"},
    "reaper.launching": {"shared", *LEAVES},
    "database": FOR_ALL | {"database", *LEAVES},
    **{part: FOR_ALL | {"public", "host", "cluster.setup"} | OUTSIDE for part in OUTSIDE},
}

#: What a part may name besides, for the type checker only: what it has there comes late.
NAMED: dict[str, set[str]] = {"process": {"integrations"}}

#: What of other people's; those that are not always needed only inside functions.
THEIRS: dict[str, set[str]] = {
    "errors": {"pygments (late)"},
    "shared": {"psutil (late)"},
    "membership": {"filelock (late)"},
    "cluster": {"redis (late)", "psycopg (late)"},
    "cluster.setup": {"psycopg (late)"},
    "database": {"pysqlx_core", "pydantic", "pydantic_core", "pygments (late)", "psutil (late)"},
    "integrations": {"* (late)"},
    "view": {"psutil"},
    "metrics": {"prometheus_client (late)", "opentelemetry (late)"},
    "cli": {"click", "psutil", "prometheus_client (late)"},
}

#: Of the standard library, for code without clock, I/O, lock, log or chance.
PURE = {
    "__future__", "abc", "bisect", "collections", "collections.abc", "dataclasses", "enum", "functools",
    "heapq", "itertools", "math", "operator", "typing",
}  # fmt: skip

#: Modules outside of core that are as pure.
PURE_OF_CLUSTER = {f"mppool.cluster.{name}" for name in ("fairness", "ghosts", "holding", "host")}

#: What the manager's process must do without; each of these brings more along than it is worth there.
TOO_HEAVY = {
    "argparse", "asyncio", "concurrent", "contextlib", "ctypes", "dataclasses", "datetime", "inspect", "logging",
    "multiprocessing", "pathlib", "queue", "random", "subprocess", "tempfile", "threading", "traceback", "typing",
    "urllib", "uuid", "filelock", "multiprocess", "psutil", "pydantic", "pysqlx_core",
    "mppool.database", "mppool.errors", "mppool.membership", "mppool.process", "mppool.reaper.terminating",
    "mppool.settings",
}  # fmt: skip


def part_of(module: str) -> str:
    """mppool.process.agent is of "process", mppool.reaper.launching of itself, mppool.PoolManager is public."""
    name = module.removeprefix("mppool").removeprefix(".")
    for apart in ("reaper.launching", "cluster.launching", "cluster.counting", "cluster.setup", *LEAVES):
        if name == apart or name.startswith(f"{apart}."):
            return apart
    if name in mppool.__all__ and name not in FOR_ALL:
        return "public"
    return name.partition(".")[0] or "__init__"


def _behind_the_contract(module: str) -> bool:
    doors = ("contract", "connection.sync_connection", "connection.async_connection")
    return module.startswith("mppool.database.") and not module.startswith(tuple(f"mppool.database.{x}" for x in doors))


def judge(module: str, each: Import) -> str | None:
    """What is wrong with an import; None: nothing."""
    part = part_of(module)
    top = each.module.partition(".")[0]
    if top == "mppool":
        twins = {"mppool.process.sync_pool", "mppool.process.async_pool"}
        if module in twins and any(each.module.startswith(twin) for twin in twins - {module}):
            return "sync and async handle never import each other"
        if part == "__init__" and not (each.late or each.typing):
            return "the package itself imports nothing of its own before it is asked for it"
        named = NAMED.get(part, set()) if each.typing else set()
        if part in {"process", "reaper"} and _behind_the_contract(each.module):
            return f"{part} may import the contract and the public connections of the database's part"
        if part_of(each.module) not in OURS[part] | named:
            return f"{part} may import {', '.join(sorted(OURS[part])) or 'nothing'} of ours"
    elif top not in sys.stdlib_module_names:
        allowed = THEIRS.get(part, set())
        if not (each.typing or top in allowed or (each.late and {f"{top} (late)", "* (late)"} & allowed)):
            return f"{part} may import {', '.join(sorted(allowed)) or 'nothing'} of others'"
    elif (part == "core" or module in PURE_OF_CLUSTER) and not each.typing and each.module not in PURE:
        return "core is pure"
    elif (
        part in {"manager", "reaper.launching", "cluster.launching", "shared", *LEAVES}
        and not (each.typing or each.late)
        and top in TOO_HEAVY
    ):
        return "the manager's process must stay small"
    return None


def violations(source: str, module: str, package: bool = False) -> list[str]:
    found = []
    for each in imports(source, module, package):
        if wrong := judge(module, each):
            found.append(f"{module}:{each.line} imports {each.module}: {wrong}")
    return found


@pytest.mark.parametrize(("module", "path"), modules(), ids=[name for name, _ in modules()])
def test_every_module_keeps_the_law(module: str, path: str) -> None:
    with open(path, encoding="utf-8") as file:
        assert violations(file.read(), module, path.endswith("__init__.py")) == []


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("mppool", "from mppool.errors import PoolError"),
        ("mppool", "import pydantic"),
        ("mppool.errors", "from mppool.process import handle"),
        ("mppool.settings", "from mppool import errors"),
        ("mppool.core.policy", "import time"),
        ("mppool.core.policy", "def now():\n    from time import monotonic"),
        ("mppool.core.policy", "import os.path"),
        ("mppool.core.pool", "if True:\n    import random"),
        ("mppool.core.pool", "try:\n    import logging\nexcept ImportError: pass"),
        ("mppool.core.pool", "from mppool.errors import PoolError"),
        ("mppool.core.pool", "from ..shared import ledger"),
        ("mppool.core", "from .. import errors"),
        ("mppool.shared.paths", "from mppool import errors"),
        ("mppool.shared.identity", "import psutil"),
        ("mppool.shared.ledger", "from dataclasses import dataclass"),
        ("mppool.manager.server", "from mppool.membership import launcher"),
        ("mppool.manager.server", "from mppool.membership.member import Member"),
        ("mppool.manager.server", "import logging"),
        ("mppool.manager.server", "from concurrent.futures import Future"),
        ("mppool.manager.allocator", "from mppool import settings"),
        ("mppool.membership.launcher", "from filelock import FileLock"),
        ("mppool.membership.launcher", "from mppool.manager.server import Manager"),
        ("mppool.membership.succession", "from mppool.process.local import LocalPool"),
        ("mppool.reaper.launching", "from mppool.reaper.terminating import main"),
        ("mppool.reaper.terminating", "from mppool.manager.server import Manager"),
        ("mppool.manager.orphans", "from mppool.reaper.terminating import main"),
        ("mppool.cluster.redis_engine", "import redis"),
        ("mppool.cluster.postgres_engine", "from psycopg import pq"),
        ("mppool.cluster.host", "from mppool import errors"),
        ("mppool.cluster.holding", "import time"),
        ("mppool.manager.server", "from mppool.cluster.host import Host"),
        ("mppool.process.agent", "from mppool.manager.server import Manager"),
        ("mppool.process.agent", "import pysqlx_core"),
        ("mppool.process.agent", "from mppool.database.connection.link import Link"),
        ("mppool.process.manager", "def jobs():\n    from mppool.integrations.jobs import Jobs"),
        ("mppool.process.sync_pool", "from mppool.process.async_pool import PySQLXEnginePool"),
        ("mppool.process.async_pool", "from . import sync_pool"),
        ("mppool.process.async_pool", "import mppool.process.sync_pool"),
        ("mppool.database.values.rows", "from mppool.process import registry"),
        ("mppool.database.values.rows", "from mppool import PoolManager"),
        ("mppool.cli", "from mppool.process.manager import PoolManager"),
        ("mppool.metrics", "from mppool.shared import ledger"),
        ("mppool.metrics", "import prometheus_client"),
        ("mppool.view.screen", "import rich"),
        ("mppool.view.screen", "from mppool.shared import ledger"),
        ("mppool.cli.doctor", "from mppool.shared import paths"),
        ("mppool.host", "from mppool.membership import launcher"),
        ("mppool.integrations.gunicorn", "import gunicorn"),
        ("mppool.integrations.gunicorn", "from mppool.process import registry"),
    ],
)
def test_a_planted_violation_is_found(module: str, planted: str) -> None:
    assert len(violations(planted, module, module == "mppool.core")) == 1


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("mppool", "def __getattr__(name):\n    from mppool import errors"),
        ("mppool.core.policy", "from heapq import heappush"),
        ("mppool.core.policy", "if TYPE_CHECKING:\n    from time import struct_time"),
        ("mppool.shared.identity", "def look():\n    import psutil"),
        ("mppool.manager.server", "from mppool.shared import ledger as L"),
        ("mppool.membership.member", "from mppool.membership.launcher import enter"),
        ("mppool.manager.orphans", "from mppool.reaper.launching import Reaper"),
        ("mppool.process.manager", "if TYPE_CHECKING:\n    from mppool.integrations.jobs import Jobs"),
        ("mppool.cluster.redis_engine", "def guard():\n    import redis"),
        ("mppool.cluster.host", "from mppool.core.backoff import Backoff"),
        ("mppool.cli", "from mppool import PoolManager, errors"),
        ("mppool.integrations.gunicorn", "def hook():\n    import gunicorn"),
    ],
)
def test_what_is_lawful_passes(module: str, planted: str) -> None:
    assert violations(planted, module) == []


def test_every_lazy_name_has_a_home() -> None:
    known = {name for name, _ in modules()}
    assert set(mppool._HOME.values()) <= known
    assert set(mppool._HOME) | {"errors", "__version__"} == set(mppool.__all__)


# -- one direction -------------------------------------------------------------------------------------------


def test_no_module_imports_another_that_imports_it() -> None:
    assert circles(graph()) == [], "see: python -m tests.import_graph"


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}}, [{"a", "b"}]),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}, [{"a", "b", "c"}]),
        ({"a": {"b"}, "b": {"a", "c"}, "c": {"d"}, "d": {"c"}}, [{"a", "b"}, {"c", "d"}]),
    ],
)
def test_circles_are_found(edges: dict[str, set[str]], expected: list[set[str]]) -> None:
    assert circles(edges) == expected


# -- what an import brings along -----------------------------------------------------------------------------


def brought(statement: str, *flags: str) -> set[str]:
    """The modules of a fresh interpreter after a statement."""
    path = [HOME] if "-S" in flags else [HOME, *sys.path]
    code = f"import sys; sys.path.extend({path!r}); {statement}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-I", *flags, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def among(names: set[str], modules: set[str]) -> set[str]:
    return {module for module in modules if any(module == name or module.startswith(name + ".") for name in names)}


def test_the_manager_brings_little_along() -> None:
    modules = brought("import mppool.manager.server", "-S")
    assert "mppool.manager.allocator" in modules
    assert among(TOO_HEAVY, modules) == set()
    foreign = {module for module in modules if module.split(".")[0] != "mppool"}
    assert len(foreign) < 75, "count what came new; each costs memory in every budget's manager"
    assert len(modules) < 110, "and its own"


def test_the_package_alone_brings_nothing() -> None:
    bare = brought("from importlib import import_module", "-S")
    assert brought("import mppool", "-S") - bare == {"mppool", "__future__"}


def test_what_is_not_always_needed_comes_late() -> None:
    names = ", ".join(name for name in mppool.__all__ if not name.startswith("_"))
    late = {
        "filelock",
        "psutil",
        "pygments",
        "multiprocess",
        "multiprocessing",
        "rich",
        "mppool.manager.server",
    }
    assert among(late, brought(f"from mppool import {names}")) == set()
