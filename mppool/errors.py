"""Every exception of mppool. All can be pickled: an error crosses processes with all its attributes.

There are two families. Errors of the database (`PySQLXError` and its kinds) keep PySQLXEngine's names, `code`,
`message` and `error()`. Errors of the pool derive from `PoolError`.
"""

from __future__ import annotations

import json
from typing import Any

from mppool.settings import LOG_CONFIG

__all__ = [
    "AlreadyConnectedError",
    "BudgetMismatchError",
    "CallTimeoutError",
    "ConnectError",
    "ExecuteError",
    "IsoLevelError",
    "LeaseReusedError",
    "ManagerFullError",
    "ManagerUnavailableError",
    "NotConnectedError",
    "ParameterInvalidJsonValueError",
    "ParameterInvalidProviderError",
    "ParameterInvalidValueError",
    "PoolAlreadyClosedError",
    "PoolAlreadyStartedError",
    "PoolClosedError",
    "PoolError",
    "PoolTimeoutError",
    "PySQLXError",
    "QueryError",
    "RawCmdError",
    "ReentrantBorrowError",
    "StartTransactionError",
    "TooManyWaitingError",
    "UnsupportedError",
    "WorkerDiedError",
]


NOTHING = "nothing"  # the type of a parameter that is missing
NOWHERE = "nowhere"  # and what one is to become that the statement has no place for


def _render(kind: str, code: str, message: str, **more: Any) -> str:
    """One line; or JSON with `LOG_CONFIG.PYSQLX_ERROR_JSON_FMT`, coloured with `PYSQLX_USE_COLOR` and pygments."""
    if not LOG_CONFIG.PYSQLX_ERROR_JSON_FMT:
        tail = "".join(f", {key}={value!r}" for key, value in more.items())
        return f"{kind}(code='{code}', message='{message}'{tail})"
    text = json.dumps({"code": code, "message": message, "error": kind, **more}, indent=2, default=str)
    if LOG_CONFIG.PYSQLX_USE_COLOR:
        try:
            from pygments import highlight
            from pygments.formatters.terminal import TerminalFormatter
            from pygments.lexers.data import JsonLexer
        except ImportError:
            pass  # it is in the extra `color`; an error must say what it knows without it
        else:
            text = highlight(text, JsonLexer(), TerminalFormatter())
    return "\n" + text


class PySQLXError(Exception):
    """An error that the database or its driver reported.

    Args:
        code: the database's own code (SQLSTATE, MySQL or SQLite number), "0" when it gave none.
        message: the database's own words.
        kind: the kind of call that failed; the class's name when empty.
    """

    def __init__(self, code: str, message: str, kind: str = "") -> None:
        super().__init__(code, message, kind or type(self).__name__)
        self.code = code
        self.message = message

    def error(self) -> str:
        """The kind of error, e.g. ``"QueryError"``."""
        return str(self.args[2])

    def __str__(self) -> str:
        return _render(self.error(), self.code, self.message)


class ConnectError(PySQLXError):
    """A connection could not be opened.

    Args:
        where: host and port, or the path of a socket or a file.
        reason: in a few words, such as "connection refused", "unknown host", "timed out", "TLS", "authentication
            failed"; empty when it is not known.
    """

    def __init__(self, code: str, message: str, kind: str = "", where: str = "", reason: str = "") -> None:
        super().__init__(code, message, kind)
        self.args = (*self.args, where, reason)
        self.where, self.reason = where, reason

    def __str__(self) -> str:
        more = {name: value for name, value in (("where", self.where), ("reason", self.reason)) if value}
        return _render(self.error(), self.code, self.message, **more)


class QueryError(PySQLXError):
    """A query failed."""


class ExecuteError(PySQLXError):
    """A statement run with ``execute`` failed."""


class RawCmdError(PySQLXError):
    """A command run with ``raw_cmd`` failed."""


class IsoLevelError(PySQLXError):
    """The isolation level is unknown, or the database does not know it."""


class StartTransactionError(PySQLXError):
    """A transaction could not be started."""


class CallTimeoutError(PySQLXError):
    """A call did not end within its ``timeout``. Its connection is of no more use; the server may still carry the
    statement out."""

    def __init__(self, message: str) -> None:
        super().__init__("PYSQLX006", message)

    def __reduce__(self) -> tuple[object, ...]:
        return CallTimeoutError, (self.message,)


class NotConnectedError(Exception):
    """The connection is not open: never connected, already closed, or made before a fork."""


class AlreadyConnectedError(Exception):
    """``connect()`` on an open connection."""

    code = "PYSQLX001"

    def __str__(self) -> str:
        return _render("AlreadyConnectedError", self.code, "Already connected to the database")


class ParameterInvalidValueError(TypeError):
    """A parameter's value would not reach the database unchanged, so nothing was sent.

    It is a `TypeError`, as PySQLXEngine raises for a value of a type that is not supported.
    """

    code = "PYSQLX004"

    def __init__(self, field: str, provider: str, typ_from: str, typ_to: str, details: str | None = None) -> None:
        super().__init__(field, provider, typ_from, typ_to, details)
        self.field, self.provider = field, provider
        self.typ_from, self.typ_to, self.details = typ_from, typ_to, details

    def __str__(self) -> str:
        if self.typ_from == NOTHING:
            message = f"parameter '{self.field}' is missing"
        elif self.typ_to == NOWHERE:
            message = f"parameter '{self.field}' is not in the statement"
        else:
            what = f"{self.provider} cannot take this value of type '{self.typ_from}' as '{self.typ_to}'"
            message = f"parameter '{self.field}': {what}"
        return _render("ParameterInvalidError", self.code, message, details=self.details)


class ParameterInvalidProviderError(ParameterInvalidValueError):
    """A parameter has a type that this database does not know (a tuple outside PostgreSQL, say)."""

    code = "PYSQLX003"

    def __init__(self, field: str, provider: str, typ: str) -> None:
        super().__init__(field, provider, typ, "parameter")
        self.type = typ

    def __reduce__(self) -> tuple[object, ...]:
        return ParameterInvalidProviderError, (self.field, self.provider, self.type)

    def __str__(self) -> str:
        message = f"parameter '{self.field}': {self.provider} does not support the type '{self.type}'"
        return _render("ParameterInvalidError", self.code, message)


class ParameterInvalidJsonValueError(Exception):
    """A value inside a dict or list parameter has no place in JSON."""

    code = "PYSQLX005"

    def __init__(self, typ_from: str, typ_to: str, details: str | None = None) -> None:
        super().__init__(typ_from, typ_to, details)
        self.typ_from, self.typ_to, self.details = typ_from, typ_to, details

    def __str__(self) -> str:
        message = f"a value of type '{self.typ_from}' cannot become {self.typ_to}"
        return _render("ParameterInvalidError", self.code, message, details=self.details)


class PoolError(Exception):
    """Base of all errors of the pool itself."""


class PoolClosedError(PoolError):
    """The handle is not started, or was stopped."""


class PoolTimeoutError(PoolError):
    """No connection was given back or could be opened within the time allowed.

    ``__cause__`` is the last failure to connect, if there was one since the wait began.
    """


class PoolAlreadyStartedError(PoolError):
    """A second ``start()``."""


class PoolAlreadyClosedError(PoolError):
    """``stop()`` of a handle that is not running."""


class LeaseReusedError(PoolError):
    """One ``pool.connection()`` was entered a second time: each ``with`` block needs one of its own."""


class ReentrantBorrowError(PoolError):
    """A signal handler or a finaliser borrowed where it would have had to wait for the very thread that it interrupted.

    Nothing was borrowed.
    """


class TooManyWaitingError(PoolError):
    """More than ``max_waiting`` callers of this process wait already."""


class BudgetMismatchError(PoolError):
    """The running budget of this name has another ``max_size`` or another database."""


class ManagerUnavailableError(PoolError):
    """There is no manager of that name, or it could not be started or reached."""


class ManagerFullError(ManagerUnavailableError):
    """The manager has no room for another process just now: try again when one has left."""


class WorkerDiedError(PoolError):
    """A worker of `PoolManager.jobs` was killed, or exited, in the middle of a job."""


class UnsupportedError(PoolError):
    """A pool cannot work in this process: gevent or eventlet has patched it, say."""
