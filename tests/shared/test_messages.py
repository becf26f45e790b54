"""Lines of JSON and descriptors over a socket, from peers that cut them anywhere or send something else."""

from __future__ import annotations

import json
import os
import random
import socket
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mppool.shared import messages
from mppool.shared.messages import LONGEST, NOTIFICATION, Channel, Garbled, encode
from tests.waiting import forked, until


class Line:
    """A channel and the raw socket at its other end."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        self.channel = Channel(ours)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        self.peer.close()

    def hear(self, data: bytes) -> tuple[list[dict[str, Any]], bool] | None:
        self.peer.sendall(data)
        return self.channel.receive()


@pytest.fixture
def line() -> Iterator[Line]:
    with Line() as made:
        yield made


def repeat(times: int, act: Callable[[], object]) -> None:
    for _ in range(times):
        act()


objects = st.dictionaries(
    st.text(max_size=5),
    st.one_of(st.none(), st.integers(-(2**63), 2**63), st.text(max_size=20), st.lists(st.integers(), max_size=3)),
    max_size=4,
)


# -- framing -------------------------------------------------------------------------------------------------


@given(sent=st.lists(st.one_of(st.none(), objects), max_size=12), data=st.data())
def test_messages_and_bells_come_whole_however_the_bytes_are_cut(
    sent: list[dict[str, Any] | None], data: st.DataObject
) -> None:
    """None stands for a bell. Messages keep their order; a bell is heard no later than what was sent after it."""
    stream = b"".join(NOTIFICATION if each is None else encode(each) for each in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    heard: list[dict[str, Any]] = []
    bells = False
    with Line() as line:
        for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            got = line.hear(stream[begin:end])
            assert got is not None
            heard += got[0]
            bells = bells or got[1]
        assert heard == [each for each in sent if each is not None]
        assert bells is (None in sent)
        assert line.channel.receive() == ([], False), "nothing is told twice"


@pytest.mark.parametrize(
    ("data", "messages_", "bell"),
    [
        (b"", [], False),
        (NOTIFICATION, [], True),
        (NOTIFICATION * 1000, [], True),
        (NOTIFICATION * 9000, [], True),  # more than is read at a time
        (NOTIFICATION + encode({"a": 1}), [{"a": 1}], True),
        (encode({"a": 1}) + NOTIFICATION + encode({"b": 2}), [{"a": 1}, {"b": 2}], True),
        (encode({"a": 1}) + encode({"b": 2}), [{"a": 1}, {"b": 2}], False),
        (encode({"a": "\n"}), [{"a": "\n"}], False),
        (b' {"a" : 1} \r\n', [{"a": 1}], False),
    ],
)
def test_what_is_heard(line: Line, data: bytes, messages_: list[dict[str, Any]], bell: bool) -> None:
    assert line.hear(data) == (messages_, bell)


def test_the_end_of_a_message_is_not_a_bell(line: Line) -> None:
    """Its newline may come alone."""
    assert line.hear(b'{"a":1}') == ([], False)
    assert line.hear(b"\n") == ([{"a": 1}], False)


def test_a_message_of_the_longest_kind_passes(line: Line) -> None:
    text = "x" * (LONGEST - 9)
    with forked(lambda: line.peer.sendall(encode({"a": text}))) as child:
        heard: list[dict[str, Any]] = []
        until(lambda: heard.extend((line.channel.receive() or ([], False))[0]) or heard)
        assert child.join() == 0
    assert heard == [{"a": text}]


@given(value=objects)
def test_a_message_is_one_line(value: dict[str, Any]) -> None:
    assert encode(value).count(b"\n") == 1
    assert json.loads(encode(value)) == value


# -- the end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [b"", NOTIFICATION, b'{"half":'])
def test_the_end_comes_after_the_last_message(line: Line, tail: bytes) -> None:
    line.peer.sendall(encode({"last": 1}) + tail)
    line.peer.close()
    assert line.channel.receive() == ([{"last": 1}], tail == NOTIFICATION)
    assert [line.channel.receive() for _ in range(2)] == [None, None]


@pytest.mark.parametrize("tail", [b"", NOTIFICATION, b'{"half":'])
def test_nothing_but_the_end(line: Line, tail: bytes) -> None:
    line.peer.sendall(tail)
    line.peer.close()
    assert line.channel.receive() is None


def test_a_reset_is_an_end_too(line: Line) -> None:
    """A peer that closes with our words unread resets the connection."""
    line.channel.send({"never": "read"})
    line.peer.close()
    assert line.channel.receive() is None


def test_ringing_never_fails(line: Line) -> None:
    repeat(100_000, line.channel.notify)  # the peer reads nothing: its socket is full long before
    assert line.peer.recv(1) == NOTIFICATION
    line.peer.close()
    line.channel.notify()


@pytest.mark.parametrize("fds", [[], [0]])
def test_sending_to_who_does_not_read_or_is_gone_is_an_error(line: Line, fds: list[int]) -> None:
    with pytest.raises(BlockingIOError):
        line.channel.send({"a": "x" * 10_000_000}, fds)
    line.peer.close()
    with pytest.raises(OSError):
        line.channel.send({"a": 1})


# -- what is not our language --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"[]\n",
        b" \n",
        b'{"a":"\xff"}\n',
        b"[" * 60_000 + b"\n",
        b'{"a":' * 12_000 + b"\n",
        b'{"a":' + b"9" * 5000 + b"}\n",  # more digits than an int may have
        b'{"a":1}\n{"a":1}{"b":2}\n',
    ],
    ids=lambda data: repr(data[:12]),
)
def test_anything_else_is_garbled(line: Line, data: bytes) -> None:
    with forked(line.peer.sendall, data), pytest.raises(Garbled):
        until(lambda: line.channel.receive() is None)


@pytest.mark.parametrize("end", [b"", b"\n"], ids=["no end", "an end"])
@pytest.mark.parametrize("excess", [1, 5000])
def test_a_line_that_is_too_long_is_garbled(line: Line, end: bytes, excess: int) -> None:
    data = b'{"a":"' + b"x" * (LONGEST + excess - 8) + b'"}' + end
    with forked(line.peer.sendall, data), pytest.raises(Garbled, match=str(LONGEST)):
        until(lambda: line.channel.receive() is None)


@given(data=st.binary(min_size=1, max_size=200))
def test_noise_is_heard_or_garbled_and_never_anything_else(data: bytes) -> None:
    with Line() as line:
        line.peer.sendall(data)
        line.peer.close()
        try:
            while (heard := line.channel.receive()) is not None:
                assert all(isinstance(message, dict) for message in heard[0])
        except Garbled:
            pass


def test_a_damaged_message_is_heard_or_garbled_and_never_anything_else() -> None:
    whole = encode(
        {"do": "attach", "database": "sqlite:/x", "max_size": 3, "warm": [{"deep": [1.5e3, None, "\\u00e9"]}]}
    )
    chance = random.Random(5)
    for _ in range(3000):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        with Line() as line:
            try:
                line.hear(bytes(damaged))
            except Garbled:
                pass


def test_who_talks_without_end_does_not_hold_the_listener(line: Line) -> None:
    """One look returns although more is coming in all the time: others have a turn, and memory has a limit."""

    def talk() -> None:
        while True:
            line.peer.sendall(b"{}\n" * 20_000)

    with forked(talk):
        until(lambda: line.channel.receive() != ([], False))
        assert max(len((line.channel.receive() or ([], False))[0]) for _ in range(10)) <= LONGEST


# -- descriptors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", [messages._CLOEXEC, 0], ids=["as here", "where the kernel cannot"])
def test_descriptors_arrive_beside_their_message(line: Line, monkeypatch: pytest.MonkeyPatch, flag: int) -> None:
    monkeypatch.setattr(messages, "_CLOEXEC", flag)
    other = Channel(line.peer)
    read, write = os.pipe()
    other.send({"fds": 2}, [read, write])
    assert line.channel.receive() == ([{"fds": 2}], False)
    got_read, got_write = line.channel.claim_fds(2)
    os.write(got_write, b"!")
    assert os.read(read, 1) == b"!"
    assert not os.get_inheritable(got_read), "it must not pass an exec"
    for fd in (read, write, got_read, got_write):
        os.close(fd)


def test_unclaimed_descriptors_are_closed_with_the_channel(line: Line) -> None:
    read, write = os.pipe()
    Channel(line.peer).send({"fds": 1}, [write])
    os.close(write)
    line.channel.receive()
    line.channel.close()
    assert os.read(read, 1) == b"", "somebody still holds the writing end"
    os.close(read)


def test_claiming_more_than_came_is_garbled_and_leaks_nothing(line: Line) -> None:
    read, write = os.pipe()
    Channel(line.peer).send({"fds": 2}, [write])
    os.close(write)
    line.channel.receive()
    with pytest.raises(Garbled):
        line.channel.claim_fds(2)
    assert os.read(read, 1) == b""
    os.close(read)


@pytest.mark.parametrize("at_once", [1, 4, 40])
def test_who_sends_descriptors_without_end_is_cut_off(line: Line, at_once: int) -> None:
    """Each costs us one of our own, and we have not so many."""
    null = os.open(os.devnull, os.O_RDONLY)
    gift = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [null] * at_once))]
    with pytest.raises(Garbled):
        repeat(100, lambda: line.peer.sendmsg([NOTIFICATION], gift) and line.channel.receive())
    os.close(null)


# -- who is there --------------------------------------------------------------------------------------------


def test_peer_is_whoever_connected_not_who_inherited(runtime_folder: str) -> None:
    path = os.path.join(runtime_folder, "s")

    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            sock.recv(1)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with forked(connect) as child:
            sock, _ = listener.accept()
            with sock:
                assert messages.peer(sock) == (child.pid, os.getuid())
    os.unlink(path)
