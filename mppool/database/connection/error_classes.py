"""What an error of the database says about the connection it came from. Pure functions of code and message.

pysqlx-core's own "is healthy" flag is set only by some calls on some dead connections, and code "0" covers
dead connections, unsupported column types and wrong arguments alike. So there are three verdicts: fine,
suspect (ask the database before the next use), doubtful (never use again: its answers could belong to
somebody else's question).
"""

from __future__ import annotations

from enum import IntEnum

from mppool.errors import ConnectError

__all__ = ["Verdict", "is_full", "is_panic", "is_permanent", "judge"]


class Verdict(IntEnum):
    """How far to trust a connection after an error."""

    FINE = 0
    SUSPECT = 1
    DOUBTFUL = 2


# The server, or an administrator, ends connections with these.
_GOODBYES = frozenset(
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
# Code "0" is a catch-all; these of its messages are about the statement and leave the connection as it was.
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


def is_panic(error: BaseException) -> bool:
    """Is it the core's? No module exports the class, and each copy of the core has its own."""
    return type(error).__name__ == "PanicException"


def judge(provider: str, code: str, message: str) -> Verdict:
    """The verdict on a connection after a call failed with this code and message."""
    if provider == "sqlite":
        return Verdict.FINE  # a file does not hang up
    if code == "0":
        if message.startswith(_LATE):
            return Verdict.DOUBTFUL  # the statement goes on, and on MySQL its answer would come to the next question
        if message.startswith(_GONE):
            return Verdict.DOUBTFUL
        return Verdict.FINE if message.startswith(_HARMLESS) else Verdict.SUSPECT
    if code == "26000" or (code == "0A000" and "cached plan" in message):
        return Verdict.DOUBTFUL  # the driver keeps the lost statement's handle for as long as the connection lives
    if code in _GOODBYES or code.startswith("08"):
        return Verdict.SUSPECT  # a function may raise such a code of its own accord
    return Verdict.FINE


_REFUSED = frozenset(
    {
        *("28P01", "28000", "3D000", "42501", "0LP01"),  # PostgreSQL: password, role, database, privilege
        *("1045", "1698", "1049", "1044", "1251", "1862"),  # MySQL, MariaDB: the same
        "14",  # SQLite: cannot open the file
    }
)
_REFUSED_WORDS = (
    "Error parsing connection string",
    "The provided arguments are not supported",
)
_TLS = "Error opening a TLS connection"
# A handshake that the network has ended, or a server that stops or starts, says nothing of the next one.
_CUT_OFF = ("os error", "EOF", "eof while reading")
_FULL = frozenset({"53300", "1040", "1203", "1226"})


def is_permanent(error: ConnectError) -> bool:
    """Would the next try fail in the same way: wrong password, no such database, no such folder?"""
    if error.code != "0":
        return error.code in _REFUSED
    message = error.message
    if message.startswith(_TLS):
        return not any(words in message for words in _CUT_OFF)
    return message.startswith(_REFUSED_WORDS)


def is_full(error: ConnectError) -> bool:
    """Did the server refuse because of its connection limit? A slot may come free any moment: try again."""
    return error.code in _FULL
