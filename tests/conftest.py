"""Fixtures for every test: a runtime folder of its own, a balance sheet at its end, and servers with judges.

Servers are found or started once a run (`tests/servers.py`); each xdist worker has a database of its own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker

import pytest
from hypothesis import HealthCheck, settings

from tests import balance, servers
from tests.beats import Clock, beating

SHARED = "MPPOOL_TEST_SHARED"  # the folder that all processes of one run know
DEADLINE = 8.0  # seconds that what a test used may take to be gone
PROVIDERS = {"postgresql": "postgres", "mysql": "mysql"}

settings.register_profile("default", derandomize=True, deadline=None)
settings.register_profile(
    "thorough",
    deadline=None,
    max_examples=2000,
    stateful_step_count=100,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("fast", derandomize=True, deadline=None, max_examples=20)
FAST = os.environ.get("MPPOOL_TEST_FAST", "0") != "0"  # what ./scripts/test --fast sets
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast" if FAST else "default"))


def pytest_configure(config: pytest.Config) -> None:
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # a shell runs it in the background; tests send themselves one
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "leaves(reason): what this test leaves behind is meant to be; no balance sheet")
    config.addinivalue_line("markers", "slow: not a part of the fast tier (./scripts/test --fast)")
    # Forking a process with threads is what this package is for.
    config.addinivalue_line("filterwarnings", "ignore:This process .* is multi-threaded:DeprecationWarning")
    if not hasattr(config, "workerinput") and SHARED not in os.environ:
        os.environ[SHARED] = tempfile.mkdtemp(prefix="mpp-servers-")
        config.add_cleanup(lambda: servers.stop_private(os.environ.pop(SHARED)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In the fast tier: leave out what needs a database, and what is marked slow."""
    if FAST:
        databases = {*PROVIDERS, *(f"{stem}_uri" for stem in PROVIDERS.values()), "sqlite_uri", "sqlite"}
        slow = [item for item in items if item.get_closest_marker("slow") or _names(item) & databases]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


def _names(item: pytest.Item) -> set[str]:
    """The fixtures that a test asks for, and its parameters."""
    parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
    return {*getattr(item, "fixturenames", ()), *map(str, parameters)}


@pytest.fixture(scope="session", autouse=True)
def _lasting_helpers() -> None:
    """Start what the standard library keeps for ever once used, so that no test is charged with it."""
    resource_tracker.ensure_running()
    try:
        from multiprocess import resource_tracker as second  # its own copy of the module
    except ImportError:
        return
    second.ensure_running()


# --- every test ------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def runtime_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where this test's budgets keep their sockets and books: private, and short enough for a socket."""
    folder = tempfile.mkdtemp(prefix="mpp-", dir="/tmp")
    monkeypatch.setenv("MPPOOL_RUNTIME_DIR", folder)
    holder = os.open(folder, os.O_RDONLY)  # what is forked from here holds it too, and so can be told from others
    yield folder
    os.close(holder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def balance_sheet(request: pytest.FixtureRequest, runtime_folder: str) -> Iterator[None]:
    """After the test nothing is left of it: no process, thread, fd, file or server connection."""
    if request.node.get_closest_marker("leaves"):
        yield
        return
    judges = [servers.Judge(*_database(request, kind)) for kind in _kinds_used(request)]

    def take() -> balance.Sheet:
        open_now = {
            (judge.server.kind, backend): f"{judge.server.kind} {backend} {text}"
            for judge in judges
            for backend, text in judge.list().items()
        }
        return balance.take(runtime_folder, open_now, since)

    since = balance.now()
    before = take()
    yield
    balance.stop_forkserver()
    deadline = time.monotonic() + DEADLINE
    pause = 0.002
    while (rest := balance.left_over(before, take())) and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    if rest:
        for pid, _ in take().processes.keys() - before.processes.keys():  # the next test shall not suffer for it
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        pytest.fail(f"left over {DEADLINE:g} s after the test:\n{balance.describe(rest)}", pytrace=False)


def _kinds_used(request: pytest.FixtureRequest) -> list[str]:
    """The kinds of server that this test asks for, by its fixtures' names or a parameter that names one."""
    chosen = [str(value) for value in getattr(getattr(request.node, "callspec", None), "params", {}).values()]
    wanted = {*request.fixturenames, *chosen}
    return [kind for kind, stem in PROVIDERS.items() if wanted & {kind, f"{stem}_uri", f"{stem}_judge"}]


def _database(request: pytest.FixtureRequest, kind: str) -> tuple[servers.Server, str]:
    return request.getfixturevalue(f"_{PROVIDERS[kind]}_database")


# --- servers ---------------------------------------------------------------------------------------------


def _server(kind: str) -> servers.Server:
    try:
        return servers.find(kind, os.environ[SHARED])
    except servers.NoServer as error:
        reason = f"no {kind} server: {error}"
    if os.environ.get("MPPOOL_REQUIRE_SERVERS", "0") != "0":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def postgres_server() -> servers.Server:
    """A PostgreSQL server with rights to make databases and roles."""
    return _server("postgresql")


@pytest.fixture(scope="session")
def mysql_server() -> servers.Server:
    """A MariaDB or MySQL server with rights to make databases."""
    return _server("mysql")


def _own_database(server: servers.Server, worker: str) -> Iterator[tuple[servers.Server, str]]:
    name = server.create_database(f"mppool_{worker}")
    yield server, name
    server.drop_database(name)


@pytest.fixture(scope="session")
def _worker() -> str:
    return os.environ.get("PYTEST_XDIST_WORKER", "main")


@pytest.fixture(scope="session")
def _postgres_database(postgres_server: servers.Server, _worker: str) -> Iterator[tuple[servers.Server, str]]:
    yield from _own_database(postgres_server, _worker)


@pytest.fixture(scope="session")
def _mysql_database(mysql_server: servers.Server, _worker: str) -> Iterator[tuple[servers.Server, str]]:
    yield from _own_database(mysql_server, _worker)


@pytest.fixture
def sqlite_uri(tmp_path: os.PathLike[str]) -> str:
    """A SQLite file of this test's own."""
    return f"sqlite:{os.fspath(tmp_path)}/test.db"


@pytest.fixture
def postgres_uri(_postgres_database: tuple[servers.Server, str]) -> str:
    """This worker's PostgreSQL database."""
    server, name = _postgres_database
    return server.uri_of(name)


@pytest.fixture
def mysql_uri(_mysql_database: tuple[servers.Server, str]) -> str:
    """This worker's MariaDB database."""
    server, name = _mysql_database
    return server.uri_of(name)


@pytest.fixture
def postgres_judge(_postgres_database: tuple[servers.Server, str]) -> servers.Judge:
    """Counts the connections to this worker's PostgreSQL database as the server sees them."""
    return servers.Judge(*_postgres_database)


@pytest.fixture
def mysql_judge(_mysql_database: tuple[servers.Server, str]) -> servers.Judge:
    """Counts the connections to this worker's MariaDB database as the server sees them."""
    return servers.Judge(*_mysql_database)


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def database_uri(request: pytest.FixtureRequest) -> str:
    """Each of the three databases in turn."""
    name = {"sqlite": "sqlite_uri", "postgresql": "postgres_uri", "mysql": "mysql_uri"}[request.param]
    uri: str = request.getfixturevalue(name)
    return uri


@pytest.fixture
def limited_role(
    _postgres_database: tuple[servers.Server, str],
) -> Iterator[Callable[[int], servers.LimitedRole]]:
    """Makes PostgreSQL roles with ``CONNECTION LIMIT n`` that may use this worker's database."""
    server, database = _postgres_database
    made: list[str] = []

    def make(limit: int) -> servers.LimitedRole:
        name = f"mppool_role_{secrets.token_hex(4)}"
        server.run(f"CREATE ROLE {name} LOGIN PASSWORD 'secret' CONNECTION LIMIT {limit}")
        made.append(name)
        uri = server.uri_of(database, name, "secret")
        return servers.LimitedRole(name, uri, servers.Judge(server, database, name), servers.server_log(server))

    yield make
    for name in made:
        backends = [(pid,) for pid in servers.Judge(server, database, name).list()]
        for backend in backends:
            server.run("SELECT pg_terminate_backend(%s, 2000)", backend)
        server.run(f"DROP ROLE {name}")


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> Iterator[Clock]:
    """For bounds: its seconds are longer on a machine that is busy with other things. In a test with a `database_uri`
    it stands still while that database's server lets nobody in."""
    knock = None
    if "database_uri" in request.fixturenames:
        stem = PROVIDERS.get(request.getfixturevalue("database_uri").partition(":")[0])
        if stem is not None:
            server: servers.Server = request.getfixturevalue(f"{stem}_server")
            knock = lambda: server.connect().close()  # noqa: E731
    with beating(knock) as found:
        yield found
