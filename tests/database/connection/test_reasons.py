"""An error about a connection that cannot be opened says where to, and why, whoever tells it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import secrets
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mppool import PySQLXEngine, PySQLXEnginePoolSync, PySQLXEngineSync, errors
from mppool.database.connection import reasons

SCHEMES = ["postgresql", "mysql"]


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def free_port() -> int:
    with listening() as server:
        return int(server.getsockname()[1])


def refused(uri: str) -> errors.ConnectError:
    """How connecting fails: alike in both flavours, and from a pool."""
    with pytest.raises(errors.ConnectError) as caught:
        PySQLXEngineSync(uri).connect()
    with pytest.raises(errors.ConnectError) as awaited:
        asyncio.run(PySQLXEngine(uri).connect())
    with pytest.raises(errors.ConnectError) as pooled:
        PySQLXEnginePoolSync(uri, min_size=1, max_size=1).start()
    error = caught.value
    for other in (awaited.value, pooled.value, pickle.loads(pickle.dumps(error))):
        assert (other.where, other.reason) == (error.where, error.reason)
    assert f"where={error.where!r}, reason={error.reason!r}" in str(error)
    return error


@pytest.mark.parametrize("scheme", SCHEMES)
def test_refused(scheme: str) -> None:
    port = free_port()
    error = refused(f"{scheme}://u:p@127.0.0.1:{port}/d")
    assert (error.where, error.reason) == (f"127.0.0.1:{port}", "connection refused")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_unknown_host(scheme: str) -> None:
    error = refused(f"{scheme}://u:p@no-such-host.invalid:77/d")
    assert (error.where, error.reason) == ("no-such-host.invalid:77", "unknown host")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_silent_server(scheme: str) -> None:
    with listening() as server:
        port = server.getsockname()[1]
        error = refused(f"{scheme}://u:p@127.0.0.1:{port}/d?connect_timeout=1")
    assert (error.where, error.reason) == (f"127.0.0.1:{port}", "timed out")


def test_something_else_answers() -> None:
    with listening() as server:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with client:
                        client.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        error = refused(f"postgresql://u:p@127.0.0.1:{server.getsockname()[1]}/d")
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert "not as a PostgreSQL server" in error.reason


def test_a_unix_socket(tmp_path: Any) -> None:
    error = refused(f"postgresql://u:p@localhost/d?host={tmp_path}")
    assert (error.where, error.reason) == (f"{tmp_path}/.s.PGSQL.5432", "no such file or directory")


def test_no_tls(postgres_server: Any) -> None:
    if postgres_server.run("SHOW ssl")[0][0] == "on":
        pytest.skip("this PostgreSQL has TLS")
    assert refused(f"{postgres_server.uri}?sslmode=require").reason == "TLS"


@pytest.mark.parametrize("kind", ["postgres", "mysql"])
def test_a_password(kind: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(f"{kind}_server")
    name = f"mppool_{secrets.token_hex(4)}"
    if kind == "postgres":
        server.run(f"CREATE ROLE {name} LOGIN PASSWORD 'right'")
    else:
        server.run(f"CREATE USER '{name}'@'%' IDENTIFIED BY 'right'")
    try:
        uri = server.uri_of("mysql" if kind == "mysql" else "postgres", name, "hunter2")
        with contextlib.closing(PySQLXEngineSync(uri)) as conn, contextlib.suppress(errors.ConnectError):
            conn.connect()
            pytest.skip("this server asks nobody for a password")
        error = refused(uri)
        assert error.reason == "authentication failed"
        assert "hunter2" not in str(error)
    finally:
        server.run(f"DROP {'ROLE' if kind == 'postgres' else 'USER'} {name}")


def test_no_such_database(postgres_server: Any, mysql_server: Any) -> None:
    for server in (postgres_server, mysql_server):
        assert refused(server.uri_of("no_such_database")).reason == "no such database"


def test_a_file(tmp_path: Any) -> None:
    error = refused(f"sqlite:{tmp_path}/missing/x.db")
    assert (error.where, error.reason) == (f"{tmp_path}/missing/x.db", "the file cannot be opened")


def test_nothing_is_tried_again_after_start_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    uri = f"postgresql://u:p@127.0.0.1:{free_port()}/d"
    for min_size in (0, 1, 3):
        with pytest.raises(errors.ConnectError, match="connection refused"):
            PySQLXEnginePoolSync(uri, min_size=min_size, max_size=3).start()
    assert "trying again" not in caplog.text


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_server_in_trouble_is_not_asked_twice_as_often(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[object] = []
    monkeypatch.setattr(reasons, "_look", lambda database: looks.append(database) or "connection refused")
    uri = f"{scheme}://u:p@127.0.0.1:{free_port()}/d"
    for _ in range(3):
        with pytest.raises(errors.ConnectError) as caught:
            PySQLXEngineSync(uri).connect()
        assert caught.value.reason == "connection refused"
    assert len(looks) == 1
