"""Clients that ask a web server without pause, in one process: ``python -m scripts.benchmarks.web_load PORT SECONDS``.

Each of them sends its next request when the last is answered (a closed loop), over a connection that it keeps as long
as the server does, 100 requests at most: so the workers of the server are dealt new clients all the time, and none
stays lucky. It prints one line of JSON: ``requests``, answered right in the measured time; ``p50`` and ``p99`` of
their times in ms; ``failures``, of all requests, also before: another answer, none, or no connection.
"""

from __future__ import annotations

import json
import select
import socket
import statistics
import sys
from time import perf_counter

CLIENTS, KEPT = 32, 100
SETTLE = 3.0  # seconds of load that are not measured: every worker comes up, pools grow
PATIENCE = 30.0  # seconds for what is still unanswered at the end
PAUSE = 0.1  # seconds after a failure
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
ANSWER = b"42\n"


class Client:
    """One connection at a time, one request at a time.

    Attributes:
        began: when the request that is unanswered was sent; None: there is none.
    """

    def __init__(self, port: int, poll: select.epoll, clients: dict[int, Client]) -> None:
        self._address = ("127.0.0.1", port)
        self._poll = poll
        self._clients = clients
        self._socket: socket.socket | None = None
        self._asked = 0
        self._got = b""
        self.began: float | None = None
        self.again_at = 0.0

    def ask(self) -> bool:
        """Send the next request. False: it could not be sent."""
        self.began, self._got = perf_counter(), b""
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._address, PATIENCE)
                self._socket.setblocking(False)
                self._clients[self._socket.fileno()] = self
                self._poll.register(self._socket.fileno(), select.EPOLLIN)
            self._socket.sendall(REQUEST)
        except OSError:
            self.fail()
            return False
        self._asked += 1
        return True

    def hear(self) -> bool | None:
        """Something came. True: the right answer; False: a failure; None: there is more to come."""
        assert self._socket is not None
        try:
            piece = self._socket.recv(65536)
        except OSError:
            piece = b""
        self._got += piece
        head, found, body = self._got.partition(b"\r\n\r\n")
        if piece and (not found or len(body) < len(ANSWER)):
            return None
        if not head.startswith(b"HTTP/1.1 200 ") or body != ANSWER:
            self.fail()
            return False
        if self._asked >= KEPT or b"connection: close" in head.lower():
            self.hang_up()
        return True

    def fail(self) -> None:
        self.hang_up()
        self.began, self.again_at = None, perf_counter() + PAUSE

    def hang_up(self) -> None:
        self._asked = 0
        if self._socket is not None:
            self._clients.pop(self._socket.fileno(), None)
            self._socket.close()  # which takes it out of the poll
            self._socket = None


def load(port: int, seconds: float) -> dict[str, float]:
    poll, asked = select.epoll(), {}  # type: ignore[var-annotated]
    clients = [Client(port, poll, asked) for _ in range(CLIENTS)]
    times: list[float] = []
    failures = 0
    begin = perf_counter() + SETTLE
    end = begin + seconds
    while (now := perf_counter()) < end + PATIENCE:
        if now < end:
            failures += sum(not client.ask() for client in clients if client.began is None and now >= client.again_at)
        elif all(client.began is None for client in clients):
            break
        for descriptor, _ in poll.poll(0.05):
            client = asked[descriptor]
            right = client.hear()
            if right is None:
                continue
            now = perf_counter()
            if not right:
                failures += 1
                continue
            if begin <= now < end and client.began is not None:
                times.append(now - client.began)
            client.began = None
            if now < end:
                failures += not client.ask()
    failures += sum(client.began is not None for client in clients)
    for client in clients:
        client.hang_up()
    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else [float("nan")] * 99
    return {"requests": len(times) / seconds, "p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3, "failures": failures}


if __name__ == "__main__":
    print(json.dumps(load(int(sys.argv[1]), float(sys.argv[2]))))
