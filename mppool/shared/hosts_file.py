"""What a host's agent knows of all hosts of a budget, in a file beside the ledger: for people, and for the next agent.

The agent writes it in place, since its folder may be removed at any time; a checksum tells a reader what is whole.
"""

from __future__ import annotations

import json
import os
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["read", "write"]

_TRIES = 5


def write(fd: int, known: dict[str, Any]) -> None:
    """Raises: OSError."""
    text = json.dumps(known, separators=(",", ":")).encode()
    line = b"%08x %s" % (zlib.crc32(text), text)
    os.pwrite(fd, line.ljust(os.fstat(fd).st_size), 0)


def read(place: str | int) -> dict[str, Any]:
    """What was written last; empty: nothing yet. ``place``: the file's path, or its descriptor, which stays open."""
    for _ in range(_TRIES):
        try:
            with open(place, "rb", closefd=isinstance(place, str)) as file:
                file.seek(0)
                checksum, _, text = file.read().rstrip().partition(b" ")
        except OSError:
            return {}
        if text and checksum == b"%08x" % zlib.crc32(text):
            known: dict[str, Any] = json.loads(text)
            return known
    return {}
