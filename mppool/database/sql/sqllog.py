"""The log of statements, as `LOG_CONFIG` says. It costs nothing while both switches are off.

Logger ``mppool.sql``: at INFO, the statement and its parameters as sent; at DEBUG, the statement with its parameters
written into the text, which is easier to read and is not what is sent.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import logging
import uuid
from functools import lru_cache
from typing import Any

from mppool.database.sql.statements import Parsed
from mppool.settings import LOG_CONFIG

__all__ = ["log"]

_logger = logging.getLogger("mppool.sql")


def log(provider: str, parsed: Parsed, statement: Any, parameters: dict[str, Any] | None) -> None:
    """Log one statement, as far as the switches say."""
    if LOG_CONFIG.PYSQLX_DEV_MODE and _logger.isEnabledFor(logging.DEBUG):
        values = parameters or {}
        sql = parsed.written_out(lambda name: _literal(values[name], provider) if name in values else f":{name}")
        _logger.debug("%s", _shown(sql))
    if LOG_CONFIG.PYSQLX_SQL_LOG and _logger.isEnabledFor(logging.INFO):
        _logger.info("SQL: %s PARAMS: %s", _shown(statement.sql()), statement.params())


def _shown(sql: str) -> str:
    return _coloured(sql) if LOG_CONFIG.PYSQLX_USE_COLOR else sql


@lru_cache(maxsize=256)
def _coloured(sql: str) -> str:
    try:
        from pygments import highlight
    except ImportError:
        return sql  # it is in the extra `color`
    lexer, formatter = _painters()
    return str(highlight(sql, lexer, formatter)).rstrip("\n")


@lru_cache(maxsize=1)
def _painters() -> tuple[Any, Any]:
    # By their own modules: the packages' lazy attributes fail when two threads ask first.
    from pygments.formatters.terminal import TerminalFormatter
    from pygments.lexers.sql import SqlLexer

    return SqlLexer(), TerminalFormatter()


def _literal(value: Any, provider: str) -> str:
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return ("TRUE" if value else "FALSE") if provider in ("postgresql", "mysql") else str(int(value))
    if isinstance(value, (int, float, decimal.Decimal)):
        return str(value)
    if isinstance(value, bytes):
        return rf"'\x{value.hex()}'" if provider == "postgresql" else f"X'{value.hex()}'"
    if isinstance(value, tuple):
        return f"ARRAY[{', '.join(_literal(item, provider) for item in value)}]"
    if isinstance(value, (dict, list)):
        return _quoted(json.dumps(value, ensure_ascii=False), provider)
    if isinstance(value, (datetime.date, datetime.time, uuid.UUID)):
        return _quoted(str(value), provider)
    return _quoted(str(value), provider)


def _quoted(text: str, provider: str) -> str:
    if provider == "mysql":
        text = text.replace("\\", "\\\\")
    return "'" + text.replace("'", "''") + "'"
