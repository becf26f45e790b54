"""Bad input is refused at the door, with an error of the right class that says what to do, and nothing is left."""

from __future__ import annotations

import secrets
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from mppool import PoolManager, PySQLXEnginePool, PySQLXEnginePoolSync, errors
from mppool.settings import BudgetSettings
from tests.process.flavours import Flavour, run

GOOD = "postgresql://u:hunter2@localhost/db"


@pytest.fixture(params=["sync", "async"])
def flavour(request: pytest.FixtureRequest) -> Flavour:
    return Flavour(request.param)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("", "without a scheme"),
        ("hello", "without a scheme"),
        ("oracle://localhost/x", "oracle"),
        ("mariadb://localhost/x", "must begin with"),
        ("postgresql:", "must begin with"),
        ("postgresql:///x", "needs a host"),
        ("postgresql://localhost:99999/x", "[Pp]ort"),
        ("postgresql://localhost:abc/x", "[Pp]ort"),
        ("mysql://local\x00host/x", "control character"),
        ("mysql://localhost/\ud800", "surrogate"),
        ("sqlite:", "needs a file"),
        ("sqlite::memory:", "private to one connection"),
        ("file:app.db?foo", "name=value"),
    ],
)
def test_bad_uris(flavour: Flavour, uri: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        flavour.make(uri)
    with pytest.raises(ValueError, match=says):
        PoolManager(uri)


@pytest.mark.parametrize("uri", [None, 5, b"sqlite:x"])
def test_a_uri_is_a_str(flavour: Flavour, uri: Any) -> None:
    with pytest.raises(TypeError, match="uri must be a str"):
        flavour.make(uri)


@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        ({"max_size": 0}, ValueError, "max_size must be from 1 to 10000, not 0"),
        ({"max_size": -1}, ValueError, "max_size"),
        ({"max_size": 10_001}, ValueError, "max_size"),
        ({"max_size": "10"}, TypeError, "max_size must be an int, not str"),
        ({"max_size": True}, TypeError, "max_size must be an int, not bool"),
        ({"max_size": 2.0}, TypeError, "max_size"),
        ({"min_size": -1}, ValueError, "min_size must be at least 0"),
        ({"min_size": 4, "max_size": 3}, ValueError, r"min_size \(4\) must not be greater than max_size \(3\)"),
        ({"conn_timeout": 0}, ValueError, "conn_timeout must be more than zero"),
        ({"conn_timeout": -1}, ValueError, "conn_timeout"),
        ({"conn_timeout": float("nan")}, ValueError, "conn_timeout"),
        ({"conn_timeout": None}, TypeError, "conn_timeout must be a number of seconds"),
        ({"keep_alive": -1.0}, ValueError, "keep_alive"),
        ({"check_interval": "5"}, TypeError, "check_interval"),
        ({"max_idle": -5}, ValueError, "max_idle"),
        ({"connect_timeout": 0}, ValueError, "connect_timeout"),
        ({"monitor_batch_size": 0}, ValueError, "monitor_batch_size"),
        ({"max_waiting": 0}, ValueError, "max_waiting"),
        ({"configure": "x"}, TypeError, "configure must be callable"),
        ({"name": "a/b"}, ValueError, "name 'a/b'"),
        ({"name": ""}, ValueError, "name"),
        ({"name": ".."}, ValueError, "name"),
        ({"name": "x" * 65}, ValueError, "name"),
        ({"name": "ü"}, ValueError, "name"),
        ({"name": 5}, TypeError, "name must be a str"),
        ({"colour": "red"}, TypeError, "colour"),
    ],
)
def test_bad_settings(flavour: Flavour, bad: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        flavour.make(GOOD, **bad)
    assert "hunter2" not in str(caught.value)


def test_a_misspelt_parameter_is_refused_by_the_public_name(flavour: Flavour) -> None:
    maker: Any = PySQLXEnginePoolSync if flavour.name == "sync" else PySQLXEnginePool
    with pytest.raises(TypeError, match=f"^{maker.__name__} has no parameter 'min_sise': did you mean 'min_size'"):
        maker(GOOD, min_sise=1)
    with pytest.raises(TypeError, match=f"^{maker.__name__} has no parameter 'tint': it has uri, min_size, "):
        maker(GOOD, 1, tint="red")
    with pytest.raises(TypeError, match=rf"^{maker.__name__}\.__init__\(\) missing"):
        maker()
    manager = PoolManager(GOOD, 2)
    for make in (manager.pool, manager.async_pool):
        name = make.__name__
        with pytest.raises(TypeError, match=rf"^PoolManager\.{name} has no parameter 'keep_alife': did you mean"):
            make(keep_alife=3)


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
def test_bad_timeouts_of_a_call(flavour: Flavour, sqlite_uri: str, timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="timeout"):
        flavour.make(sqlite_uri).connection(timeout)


def test_a_database_is_known_by_where_it_is_and_not_by_who_asks() -> None:
    keys = {
        BudgetSettings(uri, 1).database.key
        for uri in (
            "postgresql://a:b@db/shop",
            "postgresql://c@db:5432/shop?sslmode=require",
            "postgresql://db/shop",
        )
    }
    assert keys == {"postgresql://db:5432/shop"}
    assert BudgetSettings("sqlite:./x.db", 1).database.key == BudgetSettings("file:x.db", 1).database.key
    assert "hunter2" not in repr(BudgetSettings(GOOD, 1))


def failing_start(flavour: Flavour, uri: str, **settings: Any) -> BaseException:
    """How start() fails; that nothing is left the balance sheet checks."""

    async def scenario() -> BaseException:
        pool = flavour.make(uri, **settings)
        with pytest.raises(Exception) as caught:
            await flavour.start(pool)
        assert pool.closed
        return caught.value

    began = time.monotonic()
    error: BaseException = run(scenario())
    assert time.monotonic() - began < 20, "at the earliest moment, not after conn_timeout"
    return error


@pytest.mark.parametrize("min_size", [0, 2])
def test_an_unreachable_server(flavour: Flavour, min_size: int) -> None:
    error = failing_start(flavour, "postgresql://u:hunter2@127.0.0.1:1/db", min_size=min_size, conn_timeout=60)
    assert isinstance(error, errors.ConnectError)
    assert "hunter2" not in str(error)


def test_a_missing_folder(flavour: Flavour) -> None:
    error = failing_start(flavour, "sqlite:/nonexistent/folder/x.db")
    assert isinstance(error, errors.ConnectError)
    assert error.code == "14"


@pytest.mark.parametrize("min_size", [0, 2])
def test_a_wrong_password(flavour: Flavour, mysql_server: Any, min_size: int) -> None:
    user = f"mppool_{secrets.token_hex(4)}"
    mysql_server.run(f"CREATE USER '{user}'@'%' IDENTIFIED BY 'right'")
    parts = urlsplit(mysql_server.uri)
    where = f"{parts.hostname}:{parts.port or 3306}"
    try:
        uri = f"mysql://{user}:hunter2@{where}/test"
        error = failing_start(flavour, uri, min_size=min_size, conn_timeout=60)
        assert isinstance(error, errors.ConnectError)
        assert error.code in ("1045", "1044", "1698")
        assert "hunter2" not in str(error)
    finally:
        mysql_server.run(f"DROP USER '{user}'@'%'")


def test_an_unknown_database(flavour: Flavour, postgres_server: Any) -> None:
    error = failing_start(flavour, postgres_server.uri_of("no_such_database"), min_size=1)
    assert isinstance(error, errors.ConnectError)
    assert error.code == "3D000"


def test_a_lazy_handle_tells_its_first_borrower_at_once(flavour: Flavour, postgres_server: Any) -> None:
    """No start(), so the first borrow is the earliest moment; and waiting would not help."""

    async def scenario() -> None:
        with PoolManager(postgres_server.uri_of("no_such_database"), 2) as manager:
            pool = manager.pool() if flavour.name == "sync" else manager.async_pool()
            with pytest.raises(errors.ConnectError, match="no_such_database"):
                async with flavour.connection(pool, 60):
                    raise AssertionError

    run(scenario())


def test_a_server_that_is_down_is_the_timeouts_cause(flavour: Flavour) -> None:
    async def scenario() -> None:
        with PoolManager("postgresql://u:hunter2@127.0.0.1:1/db", 2) as manager:
            pool = manager.pool() if flavour.name == "sync" else manager.async_pool()
            with pytest.raises(errors.PoolTimeoutError) as caught:
                async with flavour.connection(pool, 0.5):
                    raise AssertionError
            assert isinstance(caught.value.__cause__, errors.ConnectError)
            assert pool.stats().connections_errors >= 1

    run(scenario())
