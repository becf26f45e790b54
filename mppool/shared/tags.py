"""How a connection says which host's it is: by a tag at the beginning of its ``application_name``.

The judge counts by it. PostgreSQL keeps 63 bytes of an application_name, and shows it to every role.
"""

from __future__ import annotations

import re
import zlib

__all__ = ["host_name", "prefix", "tag"]

MOST = 63  # bytes of an application_name
_PLACE = 16  # letters of the machine's name in a host's


def host_name(machine: str, number: int) -> str:
    """The name of a host incarnation: never used by another.

    Args:
        machine: its name, for people.
        number: by chance, 48 bits.
    """
    readable = re.sub(r"[^A-Za-z0-9._-]", "", machine.partition(".")[0])[:_PLACE]
    return f"{readable or 'host'}-{number:012x}"


def prefix(budget: str) -> str:
    """What all tags of a budget begin with."""
    return f"mppool:{zlib.crc32(budget.encode()):08x}:"


def tag(budget: str, host: str) -> str:
    """The tag of a host's connections. What the user calls the application comes behind it, after a space."""
    return prefix(budget) + host
