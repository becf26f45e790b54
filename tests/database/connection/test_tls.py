"""Servers with certificates of an authority of our own: which of them are connected to."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from mppool import errors
from mppool.database.connection import calls
from mppool.database.connection.error_classes import is_permanent
from mppool.database.connection.opening import open_link
from mppool.database.runtime.loop_stand_in import drive
from mppool.uri import Database
from tests import private_servers, servers
from tests.private_servers import NoServer, Postgres

TLS_USED = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


class Authority(NamedTuple):
    certificate: str
    server_key: str
    server_certificate: str


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority, and a server's certificate by it for the name localhost."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    folder = str(tmp_path_factory.mktemp("tls"))
    root, root_key = f"{folder}/root.pem", f"{folder}/root.key"
    key, request, certificate = f"{folder}/server.key", f"{folder}/server.csr", f"{folder}/server.crt"
    new = ("req", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    _openssl(*new, "-x509", "-keyout", root_key, "-out", root, "-subj", "/CN=mppool test authority")
    _openssl(*new, "-keyout", key, "-out", request, "-subj", "/CN=localhost")
    with open(f"{folder}/names", "w") as file:
        file.write("subjectAltName=DNS:localhost\n")
    by = ("-CA", root, "-CAkey", root_key, "-CAcreateserial", "-days", "2", "-extfile", f"{folder}/names")
    _openssl("x509", "-req", "-in", request, *by, "-out", certificate)
    return Authority(root, key, certificate)


def _hand_over(source: str, to: str, like: str) -> None:
    """A copy that belongs to the server's user, and to nobody else."""
    shutil.copy(source, to)
    owner = os.stat(like)
    os.chown(to, owner.st_uid, owner.st_gid)
    os.chmod(to, 0o600)


def _answer(uri: str) -> None:
    servers.connect(uri).close()


@pytest.fixture(scope="module")
def home() -> Iterator[str]:
    """Pytest's own folders are closed to the servers' user."""
    folder = tempfile.mkdtemp(prefix="mpp-tls-", dir="/tmp")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _server(folder: str, **settings: str) -> Postgres:
    try:
        return Postgres(folder, _answer, **settings)
    except NoServer as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def postgres(authority: Authority, home: str) -> Iterator[str]:
    server = _server(f"{home}/postgres", ssl="on")
    _hand_over(authority.server_key, f"{server.data}/server.key", server.data)
    _hand_over(authority.server_certificate, f"{server.data}/server.crt", server.data)
    server.start()
    yield server.uri.replace("127.0.0.1", "localhost")
    server.stop()


@pytest.fixture(scope="module")
def mariadb(authority: Authority, home: str) -> Iterator[str]:
    for path in (authority.server_key, authority.server_certificate):
        shutil.copy(path, home)
        os.chmod(f"{home}/{os.path.basename(path)}", 0o644)
    try:
        uri, process = private_servers.launch_mariadb(
            f"{home}/mariadb", _answer, f"--ssl-key={home}/server.key", f"--ssl-cert={home}/server.crt"
        )
    except NoServer as error:
        pytest.skip(str(error))
    yield uri.replace("127.0.0.1", "localhost")
    process.kill()
    process.wait()


def used(uri: str) -> bool:
    """Connect; whether the connection is encrypted."""
    link = open_link(Database.parse(uri))
    try:
        sql = TLS_USED if link.provider == "postgresql" else "SHOW STATUS LIKE 'Ssl_cipher'"
        row: Any = drive(calls.query_first_as_dict(link, sql, None))
        return bool(row["ssl"] if "ssl" in row else row["Value"])
    finally:
        link.close()


def refused(uri: str, says: str) -> None:
    with pytest.raises(errors.ConnectError, match=says):
        open_link(Database.parse(uri)).close()


@pytest.mark.parametrize("mode", ["sslmode=verify-full", "sslmode=verify-ca", "sslaccept=strict"])
def test_postgresql_verified(postgres: str, authority: Authority, mode: str) -> None:
    known = f"&sslcert={authority.certificate}"
    assert used(f"{postgres}?{mode}{known}")
    refused(f"{postgres}?{mode}", "certificate verify failed")
    # the certificate is for another name; the driver checks both or neither
    refused(f"{postgres.replace('localhost', '127.0.0.1')}?{mode}{known}", "certificate verify failed")


@pytest.mark.parametrize(("mode", "encrypted"), [("require", True), ("prefer", True), ("disable", False)])
def test_postgresql_not_verified(postgres: str, mode: str, encrypted: bool) -> None:
    assert used(f"{postgres.replace('localhost', '127.0.0.1')}?sslmode={mode}") is encrypted


def test_a_postgresql_without_tls(home: str) -> None:
    """Something between may say so, too."""
    server = _server(f"{home}/plain", ssl="off")
    server.start()
    try:
        for mode in ("sslmode=verify-full", "sslmode=verify-ca", "sslaccept=strict", "sslmode=require"):
            refused(f"{server.uri}?{mode}", "TLS")
        assert not used(f"{server.uri}?sslmode=prefer")
    finally:
        server.stop()


def test_mysql(mariadb: str, authority: Authority) -> None:
    known = f"&sslcert={authority.certificate}"
    assert used(f"{mariadb}?sslaccept=strict{known}")
    assert used(f"{mariadb}?sslaccept=accept_invalid_certs")
    assert not used(mariadb)
    refused(f"{mariadb}?sslaccept=strict", "certificate verify failed|TLS")
    refused(f"{mariadb.replace('localhost', '127.0.0.1')}?sslaccept=strict{known}", "certificate verify failed|TLS")


# -- a handshake that is cut off -----------------------------------------------------------------------------


def _greeting(server: servers.Server) -> bytes:
    """A MariaDB server's first words, as one with TLS says them."""
    port = urlsplit(server.uri).port or 3306
    with socket.create_connection(("127.0.0.1", port)) as real:
        said = bytearray(real.recv(4096))
    capabilities = said.index(0, 5) + 1 + 4 + 8 + 1  # after the version: a number, the salt, a filler
    said[capabilities + 1] |= 0x08
    return bytes(said)


def _cut_off(listener: socket.socket, greeting: bytes, with_a_reset: bool) -> None:
    """Be a server with TLS that hangs up when the handshake has begun."""
    client, _ = listener.accept()
    with client:
        if greeting:
            client.sendall(greeting)
            client.recv(4096)  # that it would like TLS
        else:
            client.recv(8)  # the same
            client.sendall(b"S")
        client.recv(4096)
        if with_a_reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("how", ["reset", "end of file"])
@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_a_handshake_that_is_cut_off_may_succeed_the_next_time(
    kind: str, how: str, request: pytest.FixtureRequest
) -> None:
    greeting = _greeting(request.getfixturevalue("mysql_server")) if kind == "mysql" else b""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=_cut_off, args=(listener, greeting, how == "reset"))
        server.start()
        tls = "sslmode=require" if kind == "postgresql" else "sslaccept=accept_invalid_certs"
        uri = f"{kind}://somebody@127.0.0.1:{listener.getsockname()[1]}/shop?{tls}&connect_timeout=1"
        with pytest.raises(errors.ConnectError) as caught:
            open_link(Database.parse(uri))
        server.join()
    assert not is_permanent(caught.value), caught.value
