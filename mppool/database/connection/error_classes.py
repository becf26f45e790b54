"""What an error of the database says about the connection it came from. Pure functions of code and message.

The driver's own "is healthy" flag is set only by some calls on some broken connections, and its code "0" covers
broken connections, unsupported column types and wrong arguments alike. So errors are classed here, by how far the
connection can be trusted afterwards.
"""

from __future__ import annotations

from enum import IntEnum

from mppool.errors import ConnectError

__all__ = ["CANNOT_OPEN", "Trust", "classify", "is_full", "is_permanent"]


class Trust(IntEnum):
    """How far a connection can be trusted. Trust only falls; a check restores it from SUSPECT to GOOD."""

    GOOD = 0
    SUSPECT = 1  # a call failed in a way that may have broken the connection: check it before the next use
    DOUBTFUL = 2  # broken, or the answer to another call may still arrive on it: never lend it again
    UNANSWERED = 3  # a call was given up (cancelled, timed out, interrupted): no more calls at all


# The server, or an administrator, ends connections with these codes.
_ENDED = frozenset(
    {
        *("57P01", "57P02", "57P03", "57P05", "25P03", "25P04"),  # PostgreSQL: shutdown, crash, timeouts
        *(
            "1053",
            "1927",
            "2006",
            "2013",
            "4031",
        ),  # MySQL, MariaDB: shutdown, killed, gone away, idle too long
    }
)
_GONE = "The server terminated the connection"
_LATE = "Timed out during query execution"
# Code "0" covers many things; these of its messages are about the statement, and the connection stays good.
_HARMLESS = (
    "Invalid isolation level",
    "Incorrect number of parameters",
    "Execute returned results",
    "Error serializing",
    "Error deserializing",
    "Couldn't deserialize",
    "The column type",
    "Unsupported column type",
    "Conversion failed",
    "Value out of range",
    "Unique constraint failed",
    "Foreign key constraint failed",
    "Null constraint failed",
)


def classify(provider: str, code: str, message: str) -> Trust:
    """How far to trust a connection after a call has failed with this code and message."""
    if provider == "sqlite":
        return Trust.GOOD  # there is no server that could end the connection
    if code == "0":
        if message.startswith(_LATE):
            return Trust.DOUBTFUL  # the statement continues, and on MySQL its answer would be taken for the next call's
        if message.startswith(_GONE):
            return Trust.DOUBTFUL
        return Trust.GOOD if message.startswith(_HARMLESS) else Trust.SUSPECT
    if code == "26000" or (code == "0A000" and "cached plan" in message):
        return Trust.DOUBTFUL  # the driver keeps the lost statement's handle for as long as the connection lives
    if code in _ENDED or code.startswith("08"):
        return Trust.SUSPECT  # a function of the user's may raise such a code, too
    return Trust.GOOD


CANNOT_OPEN = "14"  # SQLite: the file
_REFUSED = frozenset(
    {
        *("28P01", "28000", "3D000", "42501", "0LP01"),  # PostgreSQL: password, role, database, privilege
        *("1045", "1698", "1049", "1044", "1251", "1862"),  # MySQL, MariaDB: the same
        CANNOT_OPEN,
    }
)
_REFUSED_WORDS = (
    "Error parsing connection string",
    "The provided arguments are not supported",
)
_TLS = "Error opening a TLS connection"
# The network, or a server that stops or starts, ended this handshake: the next one may succeed.
_CUT_OFF = ("os error", "EOF", "eof while reading")
_FULL = frozenset({"53300", "1040", "1203", "1226"})


def is_permanent(error: ConnectError) -> bool:
    """Would the next attempt fail in the same way: wrong password, no such database, no such folder?"""
    if error.code != "0":
        return error.code in _REFUSED
    message = error.message
    if message.startswith(_TLS):
        return not any(words in message for words in _CUT_OFF)
    return message.startswith(_REFUSED_WORDS)


def is_full(error: ConnectError) -> bool:
    """Did the server refuse because of its connection limit? One may be closed any moment: try again."""
    return error.code in _FULL
