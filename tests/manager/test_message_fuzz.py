"""Random messages to a running manager: nobody who sends them gets anything, and the members do not notice.

``MPPOOL_TEST_REPEAT=1000000 pytest -s tests/manager/test_message_fuzz.py`` sends a million.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import time
from typing import Any

import psutil

from mppool.membership.member import Member
from mppool.shared.messages import encode
from tests.manager import seats
from tests.manager.seats import get, manager_of, sit
from tests.waiting import until

MESSAGES = int(os.environ.get("MPPOOL_TEST_REPEAT", "20000"))
VERBS = ["attach", "own", "describe", "declare", "opened", "closed", "dance", "", None, 7]
KEYS = ["do", "max_size", "database", "warm", "token", "returning", "held", "socket", "ok", "\ud83d\ude00", ""]
ODD = [
    None,
    True,
    -1,
    0,
    1,
    4,
    2**62,
    2**64,
    -(2**70),
    10**400,
    1.5,
    "x",
    "",
    "4",
    [],
    {},
    [[]],
    {"do": "own"},
    "\0",
    "é" * 50,
]


def message(chance: random.Random) -> bytes:
    """Anything between a right request and noise. "stop" is left out: who says that may."""
    kind = chance.random()
    if kind < 0.1:
        return bytes(chance.getrandbits(8) for _ in range(chance.randrange(60))) + b"\n" * chance.randrange(2)
    if kind < 0.15:
        return b"\n" * chance.randrange(1, 20)
    said: dict[str, Any] = {"do": chance.choice(VERBS)}
    for key in chance.sample(KEYS, chance.randrange(len(KEYS))):
        said.setdefault(key, chance.choice(ODD))
    if said["do"] == "attach" and chance.random() < 0.9:
        said["max_size"] = 9  # is refused, or seats would run out
    if said["do"] in ("own", "attach") and chance.random() < 0.5:
        said["database"] = "another"
    line = json.dumps(said).encode() + b"\n"
    if kind < 0.3:
        spot = chance.randrange(len(line))
        line = line[:spot] + bytes([chance.getrandbits(8)]) * chance.randrange(3) + line[spot + chance.randrange(3) :]
    return line


def test_random_messages() -> None:
    chance = random.Random(int(os.environ.get("MPPOOL_TEST_SEED", "1")))
    member: Member = sit(4)
    pid = manager_of(member)
    get(member, 1)
    before = psutil.Process(pid)
    rss, fds = before.memory_info().rss, before.num_fds()
    sent = cut = 0
    slowest = 0.0
    while sent < MESSAGES:
        with seats.call() as sock:
            sock.settimeout(20)
            batch = [message(chance) for _ in range(chance.randrange(1, 40))]
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for line in batch:
                    if chance.random() < 0.01:
                        with open(os.devnull) as null:
                            socket.send_fds(sock, [line or b"\n"], [null.fileno()] * chance.randrange(1, 4))
                    else:
                        sock.sendall(line)
                sock.sendall(encode({"do": "describe"}))
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
                cut += 1
            sent += len(batch)
        if chance.random() < 0.02:
            began = time.perf_counter()
            with seats.call() as sock:
                sock.sendall(encode({"do": "describe"}))
                assert json.loads(sock.recv(65536))["manager"] == pid
            slowest = max(slowest, time.perf_counter() - began)
    after = psutil.Process(pid)
    assert after.is_running()
    assert manager_of(member) == pid
    get(member, 4)
    until(lambda: after.num_fds() <= fds + 2)
    print(f"{sent} messages, {cut} connections read to their end; slowest answer to others {slowest * 1e3:.1f} ms")
    assert after.memory_info().rss < rss + 8 * 2**20
    member.leave()
