"""`mppool metrics`: once, and served."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

from mppool import PoolManager
from mppool.cli.measuring import address
from tests.cli.commands import ask
from tests.import_graph import HOME

pytest.importorskip("prometheus_client")


def test_they_are_printed_once(sqlite_uri: str) -> None:
    with PoolManager(sqlite_uri, 3, "shop"), PoolManager(sqlite_uri, 4, "web"):
        assert 'mppool_max_connections{budget="shop"} 3.0\n' in ask("metrics", "shop").output
        every = ask("metrics").output
        assert re.findall(r'mppool_up\{budget="(\w+)"\} 1.0', every) == ["shop", "web"]
        assert "no budget 'nope' is running" in ask("metrics", "nope", code=1).stderr


def test_they_are_served_until_it_is_told_to_end(sqlite_uri: str) -> None:
    command = [sys.executable, "-m", "mppool", "metrics", "shop", "--listen", "0"]
    environ = {**os.environ, "PYTHONPATH": HOME}
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            said = server.stderr.readline()
            found = re.fullmatch(r"serving (http://127\.0\.0\.1:\d+/metrics)\n", said)
            assert found, said + server.stderr.read()

            def scrape() -> str:
                with urllib.request.urlopen(found[1], timeout=20) as answer:
                    assert answer.headers["Content-Type"].startswith("text/plain")
                    text: str = answer.read().decode()
                    return text

            assert 'mppool_up{budget="shop"} 0.0' in scrape()
            with PoolManager(sqlite_uri, 3, "shop"):
                assert 'mppool_max_connections{budget="shop"} 3.0' in scrape()
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0
        finally:
            server.kill()


@pytest.mark.parametrize(
    ("text", "found"),
    [("9187", ("127.0.0.1", 9187)), (":1", ("127.0.0.1", 1)), ("0.0.0.0:9", ("0.0.0.0", 9)), ("[::1]:9", ("::1", 9))],
)
def test_addresses(text: str, found: tuple[str, int]) -> None:
    assert address(text) == found


@pytest.mark.parametrize("text", ["", "host", "host:http", "1:99999", "1:-2"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="no address"):
        address(text)
    ask("metrics", "--listen", text, code=2)


def test_an_address_that_is_taken_and_a_missing_package_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert "cannot listen on 192.0.2.1:80" in ask("metrics", "--listen", "192.0.2.1:80", code=1).stderr
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert "pip install 'mppool[metrics]'" in ask("metrics", code=1).stderr
