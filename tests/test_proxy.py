"""The proxy that tests put in front of servers does what they tell it, and counts right."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.proxy import Proxy
from tests.servers import connect, run
from tests.waiting import until


class Echo(threading.Thread):
    """A server that says everything again."""

    def __init__(self) -> None:
        super().__init__(name="echo")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"postgresql://u:p%40ss@127.0.0.1:{self._listener.getsockname()[1]}/d?x=y"
        self._talks: list[threading.Thread] = []

    def run(self) -> None:
        while True:
            talk, peer = self._listener.accept()
            self._talks.append(threading.Thread(target=self._answer, args=(talk,)))
            self._talks[-1].start()
            if peer == self._last:
                return

    def _answer(self, talk: socket.socket) -> None:
        with talk, contextlib.suppress(ConnectionResetError):
            while said := talk.recv(4096):
                talk.sendall(said)

    def stop(self) -> None:
        with socket.socket() as last:
            last.bind(("127.0.0.1", 0))
            self._last = last.getsockname()
            last.connect(self._listener.getsockname())
            self.join()
        for talk in self._talks:
            talk.join()
        self._listener.close()

    _last: tuple[str, int] | None = None


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    echo = Echo()
    with Proxy(echo.uri) as proxy:  # before the thread: it forks
        echo.start()
        yield proxy
    echo.stop()


def call(proxy: Proxy) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    line.settimeout(5)
    return line


def said(line: socket.socket, text: bytes) -> bytes:
    line.sendall(text)
    return line.recv(4096)


def hears_nothing(line: socket.socket) -> bool:
    line.settimeout(0.1)
    try:
        line.recv(4096)
        return False
    except TimeoutError:
        return True
    finally:
        line.settimeout(5)


def test_the_uri_leads_through_it(proxy: Proxy) -> None:
    assert proxy.uri == f"postgresql://u:p%40ss@127.0.0.1:{proxy.port}/d?x=y"
    assert proxy.through("mysql://db/x") == f"mysql://127.0.0.1:{proxy.port}/x"


def test_what_it_passes_on(proxy: Proxy) -> None:
    with call(proxy) as line:
        assert said(line, b"hello") == b"hello"
        seen = proxy.seen()
        assert (len(seen.attempts), seen.connecting, seen.peak, seen.open) == (1, 1, 1, 1)
        assert time.monotonic() - seen.attempts[0] < 5
    until(lambda: proxy.seen().open == 0)
    assert proxy.forget().connecting == 0
    assert proxy.seen().attempts == []


def test_refused_and_back_on_the_same_port(proxy: Proxy) -> None:
    with call(proxy) as line:
        until(lambda: proxy.seen().open == 1)  # who is not accepted yet goes with the listener
        proxy.mode("refuse")
        with pytest.raises(ConnectionRefusedError):
            call(proxy)
        assert said(line, b"still here") == b"still here"
        proxy.mode("pass")
        with call(proxy) as another:
            assert said(another, b"hello") == b"hello"
    assert len(proxy.seen().attempts) == 2


def test_reset_at_once(proxy: Proxy) -> None:
    proxy.mode("reset")
    with pytest.raises(ConnectionResetError), call(proxy) as line:  # perhaps before it knows that it is connected
        said(line, b"hello")
    until(lambda: proxy.seen().open == 0)
    assert len(proxy.seen().attempts) == 1


def test_stalled_lines_go_on_when_it_passes(proxy: Proxy) -> None:
    with call(proxy) as old:
        assert said(old, b"before") == b"before"
        proxy.mode("stall")
        with call(proxy) as new, call(proxy) as leaver:
            for line in (old, new):
                line.sendall(b"stalled")
                assert hears_nothing(line)
            leaver.close()
            until(lambda: proxy.seen().open == 2)
            proxy.mode("pass")
            assert old.recv(100) == new.recv(100) == b"stalled"


@pytest.mark.parametrize("how", ["reset", "end"])
def test_cut(proxy: Proxy, how: str) -> None:
    with call(proxy) as one, call(proxy) as two:
        assert said(one, b"1") + said(two, b"2") == b"12"
        assert proxy.cut(how) == 2
        for line in (one, two):
            if how == "end":
                assert line.recv(1) == b""
            else:
                with pytest.raises(ConnectionResetError):
                    line.recv(1)
        with call(proxy) as three:
            assert said(three, b"3") == b"3"


def test_corrupt_and_late(proxy: Proxy) -> None:
    proxy.mode("corrupt")
    proxy.delay(0.1)
    with call(proxy) as line:
        began = time.monotonic()
        assert said(line, b"\x00\x0f") == b"\xff\xf0"
        assert time.monotonic() - began >= 0.1


def test_a_childs_copies_do_not_keep_a_line_open(proxy: Proxy) -> None:
    with call(proxy) as line:
        assert said(line, b"hello") == b"hello"
        hears, lives = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(lives)
            os.read(hears, 1)
            os._exit(0)
        proxy.mode("refuse")
        proxy.cut("end")
        assert line.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            call(proxy)
        os.close(lives)
        os.close(hears)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("database_uri", ["postgresql", "mysql"], indirect=True)
def test_it_knows_when_a_login_is_complete(database_uri: str) -> None:
    with Proxy(database_uri) as proxy:
        proxy.delay(0.3)  # so long that the three are there at once on any machine
        barrier, connections = threading.Barrier(3), []

        def login() -> None:
            barrier.wait()
            connections.append(connect(proxy.uri))

        threads = [threading.Thread(target=login) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seen = proxy.seen()
        assert (len(seen.attempts), len(seen.logins), seen.peak, seen.connecting, seen.open) == (3, 3, 3, 0, 3)
        assert all(seen.logins[0] - began >= 0.3 for began in seen.attempts)
        connections.append(connect(proxy.uri))
        assert run(connections[-1], "SELECT 1") == [(1,)]
        assert (len(proxy.seen().logins), proxy.seen().peak) == (4, 3)
        for connection in connections:
            connection.close()
