"""A TCP proxy in front of a server, which does what networks do: it refuses, resets, stalls, cuts, corrupts, delays.

It runs in a process of its own, forked when it is made, so that no process that is forked later has its sockets:
what it closes is closed. Make it before any pool. Times are `time.monotonic`, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tests.waiting import Child

__all__ = ["MODES", "Proxy", "Seen"]

MODES = (
    "pass",
    "refuse",  # nobody listens: connections are refused
    "reset",  # accepts and hangs up at once; those that are open go on
    "stall",  # accepts, and forwards nothing in either direction until the mode is another
    "corrupt",  # turns every bit of what the server says, but for the length of a MySQL packet: see `_corrupted`
)
_PORTS = {"postgresql": 5432, "mysql": 3306}
_TURNED = bytes(255 - byte for byte in range(256))
_READY = b"Z\0\0\0\5"  # PostgreSQL: the end of the login, and of every answer


@dataclass
class Seen:
    """What came to the proxy since it was last told to `forget`.

    Attributes:
        attempts: when each connection was accepted.
        logins: when each login was complete.
        peak: the most connections at once that were accepted and whose login was not complete.
        connecting: those now.
        open: connections now, logged in or not.
    """

    attempts: list[float] = field(default_factory=list)
    logins: list[float] = field(default_factory=list)
    peak: int = 0
    connecting: int = 0
    open: int = 0


class Proxy:
    """Stands in front of the server of ``uri``; ``with Proxy(uri) as proxy``, then connect to ``proxy.uri``."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        server = parts.hostname or "localhost", parts.port or _PORTS[parts.scheme]
        with socket.socket() as bound:
            # Bound for as long as the proxy lives, and never listening: nobody else gets the port while it refuses.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(("127.0.0.1", 0))
            self.port = int(bound.getsockname()[1])
            self._pipe, theirs = Pipe()
            pid = os.fork()
            if not pid:
                _live(self._pipe, theirs, server, parts.scheme, self.port)
        theirs.close()
        self._child = Child(pid)
        self.uri = self.through(uri)
        self._ask("mode", "pass")

    def through(self, uri: str) -> str:
        """The same uri by way of the proxy."""
        parts = urlsplit(uri)
        user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        return urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{self.port}"))

    def mode(self, mode: str) -> float:
        """Be like that from now on; when it began."""
        assert mode in MODES
        self._ask("mode", mode)
        return time.monotonic()

    def delay(self, seconds: float) -> None:
        """Let everything the server says, and every reset, come so much later."""
        self._ask("delay", seconds)

    def cut(self, how: str = "reset") -> int:
        """End all connections on both sides, with a "reset" or an "end" of file; how many there were."""
        return int(self._ask("cut", how))

    def silence(self) -> int:
        """From now on nothing passes on the connections that there are, in neither direction, and neither side hears of
        the other's end; new ones pass. How many there were."""
        return int(self._ask("silence"))

    def seen(self) -> Seen:
        found: Seen = self._ask("seen")
        return found

    def forget(self) -> Seen:
        """What has been seen so far; count anew."""
        found: Seen = self._ask("forget")
        return found

    def _ask(self, name: str, *args: Any) -> Any:
        self._pipe.send((name, args))
        assert self._pipe.poll(10), f"the proxy did not do {name}"
        return self._pipe.recv()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        if self._child.status is None:
            self._child.kill(signal.SIGKILL)


# -- in the proxy's process -----------------------------------------------------------------------------------------


def _live(theirs: Connection, pipe: Connection, server: tuple[str, int], scheme: str, port: int) -> None:
    try:
        theirs.close()
        asyncio.run(_Switch(server, scheme, port).serve(pipe))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


class _Switch:
    """All connections, and what becomes of them."""

    def __init__(self, server: tuple[str, int], scheme: str, port: int) -> None:
        self.server, self.scheme, self._port = server, scheme, port
        self.flow = asyncio.Event()
        self.now, self.pause = "refuse", 0.0
        self.counts = Seen()
        self.lines: set[_Line] = set()
        self._listener: asyncio.AbstractServer | None = None

    async def serve(self, pipe: Connection) -> None:
        heard = asyncio.Event()
        asyncio.get_running_loop().add_reader(pipe.fileno(), heard.set)
        while True:
            await heard.wait()
            heard.clear()
            while pipe.poll():
                try:
                    name, args = pipe.recv()
                except EOFError:
                    return
                pipe.send(await getattr(self, name)(*args))

    async def mode(self, mode: str) -> None:
        self.now = mode
        (self.flow.clear if mode == "stall" else self.flow.set)()
        if mode == "refuse" and self._listener is not None:
            self._listener.close()
            self._listener = None
        elif mode != "refuse" and self._listener is None:
            self._listener = await asyncio.start_server(
                self._accepted, "127.0.0.1", self._port, reuse_address=True, backlog=512
            )

    async def delay(self, seconds: float) -> None:
        self.pause = seconds

    async def cut(self, how: str) -> int:
        lines = list(self.lines)
        for line in lines:
            line.end(how == "reset")
        return len(lines)

    async def silence(self) -> int:
        lines = list(self.lines)
        for line in lines:
            line.silent = True
        return len(lines)

    async def seen(self) -> Seen:
        self.counts.open = len(self.lines)
        return self.counts

    async def forget(self) -> Seen:
        before = await self.seen()
        self.counts = Seen(peak=before.connecting, connecting=before.connecting)
        return before

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, counts = _Line(self, reader, writer), self.counts
        counts.attempts.append(time.monotonic())
        counts.connecting += 1
        counts.peak = max(counts.peak, counts.connecting)
        self.lines.add(line)
        try:
            await line.run()
        except OSError:
            line.end(True)  # the server refused, or went away with a bang
        finally:
            line.end(False)
            line.no_longer_connecting()
            self.lines.discard(line)


class _Line:
    """One connection, and its other half to the server."""

    def __init__(self, switch: _Switch, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._switch, self._reader = switch, reader
        self._writers = [writer]
        self._connecting = True
        self._tail = b""
        self._over = asyncio.Event()
        self.silent = False

    async def run(self) -> None:
        switch = self._switch
        if switch.now == "reset":
            await asyncio.sleep(switch.pause)
            self.end(True)
            return
        first = await self._while_stalled()
        if first is None:
            return
        from_server, to_server = await asyncio.open_connection(*switch.server)
        self._writers.append(to_server)
        to_server.write(first)
        halves = [
            asyncio.ensure_future(self._pump(self._reader, to_server, False)),
            asyncio.ensure_future(self._pump(from_server, self._writers[0], True)),
        ]
        # Neither protocol goes on with one half: whoever ends it, ends it all.
        await asyncio.wait(halves, return_when=asyncio.FIRST_COMPLETED)
        for half in halves:
            half.cancel()
        for ended in await asyncio.gather(*halves, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    async def _while_stalled(self) -> bytes | None:
        """What the client said before the server was asked for the first time; None: it left."""
        said, flow = b"", self._switch.flow
        while not flow.is_set():
            waits = {asyncio.ensure_future(self._reader.read(65536)), asyncio.ensure_future(flow.wait())}
            done, rest = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for each in rest:
                each.cancel()
            for chunk in (each.result() for each in done):
                if chunk == b"":
                    return None
                said += chunk if isinstance(chunk, bytes) else b""
        return said

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, from_server: bool) -> None:
        switch = self._switch
        while chunk := await self._heard(source):
            await switch.flow.wait()
            if from_server:
                await asyncio.sleep(switch.pause)
                if self._connecting and self._completes(chunk):
                    self.no_longer_connecting()
                    switch.counts.logins.append(time.monotonic())
                if switch.now == "corrupt":
                    chunk = self._corrupted(chunk)
            target.write(chunk)
            await target.drain()

    async def _heard(self, source: asyncio.StreamReader) -> bytes:
        chunk = await source.read(65536)
        if self.silent:
            await self._over.wait()
            return b""
        return chunk

    def _completes(self, chunk: bytes) -> bool:
        """Whether the server says with this that the client is in."""
        if self._switch.scheme == "postgresql":
            found, self._tail = _READY in self._tail + chunk, chunk[-len(_READY) :]
            return found
        # MySQL's packets: length (3), number, and then 0 for OK; the greeting is number 0, its answer number 1.
        return len(chunk) > 4 and chunk[3] >= 2 and chunk[4] == 0

    def _corrupted(self, chunk: bytes) -> bytes:
        """PostgreSQL's lengths become negative; MySQL's would become 16 MB, for which a client may well wait."""
        kept = 0 if self._switch.scheme == "postgresql" else 3
        return chunk[:kept] + chunk[kept:].translate(_TURNED)

    def no_longer_connecting(self) -> None:
        if self._connecting:
            self._connecting = False
            self._switch.counts.connecting -= 1

    def end(self, with_a_reset: bool) -> None:
        self._over.set()
        for writer in self._writers:
            if with_a_reset and not writer.is_closing():
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            writer.close()
