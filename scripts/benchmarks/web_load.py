"""Clients that ask a web server without pause, in one process: ``python -m scripts.benchmarks.web_load PORT SECONDS
SHARE``.

Each of them sends its next request when the last is answered (a closed loop), over a connection that it keeps as long
as the server does, 100 requests at most: so the workers of the server are dealt new clients all the time, and none
stays lucky. (``BENCH_KEPT`` is another number than 100; with a great one the clients stay where they are, as wrk's do.)
``SHARE`` of the requests, at random, are long ones. It prints a line, "begin" and "end", when the measured time does,
and then one of JSON: ``requests``, answered right in it, a second; ``p50``, ``p99`` and ``longest`` of the
short ones' times in ms; ``wait``, the longest time that any request waited for its connection, as the application
says; ``failures``, of all requests, also before: another answer, none, or no connection.
"""

from __future__ import annotations

import json
import os
import random
import select
import socket
import statistics
import sys
from collections.abc import Callable
from time import perf_counter

CLIENTS = 32
KEPT = int(os.environ.get("BENCH_KEPT", "100"))
SETTLE = 3.0  # seconds of load that are not measured: every other worker comes up, pools grow
PATIENCE = 30.0  # seconds for what is still unanswered at the end
PAUSE = 0.1  # seconds after a failure
SHORT, LONG = (b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path for path in (b"/", b"/long"))
ANSWER, LENGTH = b"42 ", len(b"42 0000000\n")  # the number: microseconds that it waited for its connection


class Client:
    """One connection at a time, one request at a time.

    Attributes:
        began: when the request that is unanswered was sent; None: there is none.
        long: whether it is a long one.
        waited: seconds that the last one answered waited for its connection.
    """

    def __init__(self, port: int, poll: select.epoll, clients: dict[int, Client], chance: Callable[[], bool]) -> None:
        self._address = ("127.0.0.1", port)
        self._poll = poll
        self._clients = clients
        self._socket: socket.socket | None = None
        self._asked = 0
        self._got = b""
        self.began: float | None = None
        self.again_at = self.waited = 0.0
        self._chance = chance
        self.long = False

    def ask(self) -> bool:
        """Send the next request. False: it could not be sent."""
        self.began, self._got, self.long = perf_counter(), b"", self._chance()
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._address, PATIENCE)
                self._socket.setblocking(False)
                self._clients[self._socket.fileno()] = self
                self._poll.register(self._socket.fileno(), select.EPOLLIN)
            self._socket.sendall(LONG if self.long else SHORT)
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
        if piece and (not found or len(body) < LENGTH):
            return None
        if not head.startswith(b"HTTP/1.1 200 ") or not body.startswith(ANSWER):
            self.fail()
            return False
        self.waited = int(body[len(ANSWER) :]) / 1e6
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


class Results:
    """What came in the measured time."""

    def __init__(self, begin: float, end: float) -> None:
        self.begin, self.end = begin, end
        self.requests = self.failures = 0
        self.times: list[float] = []  # of short ones
        self.wait = 0.0

    def answered(self, client: Client, now: float) -> None:
        if self.begin <= now < self.end and client.began is not None:
            self.requests += 1
            self.wait = max(self.wait, client.waited)
            if not client.long:
                self.times.append(now - client.began)
        client.began = None

    def summary(self) -> dict[str, float]:
        cuts = statistics.quantiles(self.times, n=100) if len(self.times) > 1 else [float("nan")] * 99
        return {
            "requests": self.requests / (self.end - self.begin),
            "p50": cuts[49] * 1e3,
            "p99": cuts[98] * 1e3,
            "longest": max(self.times, default=float("nan")) * 1e3,
            "wait": self.wait * 1e3,
            "failures": self.failures,
        }


def await_a_worker(port: int) -> None:
    """Ask once, and wait for whatever is said: the server listens before any worker is there."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as asked:
        asked.sendall(SHORT)
        asked.recv(65536)


def load(port: int, seconds: float, share: float) -> dict[str, float]:
    poll, asked, rng = select.epoll(), {}, random.Random(1)  # type: ignore[var-annotated]
    clients = [Client(port, poll, asked, lambda: rng.random() < share) for _ in range(CLIENTS)]
    begin = perf_counter() + SETTLE
    results = Results(begin, begin + seconds)
    marks = [(begin, "begin"), (results.end, "end")]
    while (now := perf_counter()) < results.end + PATIENCE:
        while marks and now >= marks[0][0]:
            print(marks.pop(0)[1], flush=True)
        if now < results.end:
            results.failures += sum(
                not client.ask() for client in clients if client.began is None and now >= client.again_at
            )
        elif all(client.began is None for client in clients):
            break
        for descriptor, _ in poll.poll(0.02):
            client = asked[descriptor]
            right = client.hear()
            if right is None:
                continue
            now = perf_counter()
            if not right:
                results.failures += 1
                continue
            results.answered(client, now)
            if now < results.end:
                results.failures += not client.ask()
    results.failures += sum(client.began is not None for client in clients)
    for client in clients:
        client.hang_up()
    return results.summary()


if __name__ == "__main__":
    await_a_worker(int(sys.argv[1]))
    print(json.dumps(load(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))))
