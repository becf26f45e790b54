"""`LOG_CONFIG`: off costs no record, on shows the statement as sent, as read, and in colour."""

from __future__ import annotations

import datetime as dt
import logging
import uuid
from collections.abc import Iterator

import pytest

from mppool.database.connection.sync_connection import PySQLXEngineSync
from mppool.database.sql.sqllog import _literal
from mppool.settings import LOG_CONFIG


@pytest.fixture
def switches() -> Iterator[None]:
    before = {name: getattr(LOG_CONFIG, name) for name in LOG_CONFIG.__slots__}
    for name in before:
        setattr(LOG_CONFIG, name, False)
    yield
    for name, value in before.items():
        setattr(LOG_CONFIG, name, value)


def run(uri: str) -> None:
    with PySQLXEngineSync(uri) as conn:
        conn.query("SELECT :a AS a, :b AS b", {"a": 1.5, "b": "it's"})


@pytest.mark.usefixtures("switches")
def test_off(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    run(sqlite_uri)
    assert [record for record in caplog.records if record.name.startswith("mppool")] == []


@pytest.mark.usefixtures("switches")
def test_sql_log(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    LOG_CONFIG.PYSQLX_SQL_LOG = True
    run(sqlite_uri)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("mppool.sql", logging.INFO)
    text = record.getMessage()
    assert "SELECT ? AS a, ? AS b" in text
    assert "PARAMS" in text
    assert "it's" in text


@pytest.mark.usefixtures("switches")
def test_development_mode(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    LOG_CONFIG.PYSQLX_DEV_MODE = True
    run(sqlite_uri)
    [record] = caplog.records
    assert record.levelno == logging.DEBUG
    assert record.getMessage() == "SELECT 1.5 AS a, 'it''s' AS b"


@pytest.mark.usefixtures("switches")
def test_colour(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    LOG_CONFIG.PYSQLX_DEV_MODE = LOG_CONFIG.PYSQLX_SQL_LOG = LOG_CONFIG.PYSQLX_USE_COLOR = True
    run(sqlite_uri)
    debug, info = caplog.records
    assert "\x1b[" in debug.getMessage()
    assert "\x1b[" in info.getMessage()


@pytest.mark.parametrize(
    ("provider", "value", "text"),
    [
        ("sqlite", None, "NULL"),
        ("sqlite", True, "1"),
        ("postgresql", True, "TRUE"),
        ("postgresql", b"\x01", r"'\x01'"),
        ("mysql", b"\x01", "X'01'"),
        ("mysql", "a\\'b", r"'a\\''b'"),
        ("postgresql", "a\\b", r"'a\b'"),
        ("postgresql", (1, "a"), "ARRAY[1, 'a']"),
        ("postgresql", {"a": ["ü"]}, """'{"a": ["ü"]}'"""),
        ("sqlite", dt.date(2024, 1, 2), "'2024-01-02'"),
        ("sqlite", uuid.UUID(int=1), "'00000000-0000-0000-0000-000000000001'"),
    ],
)
def test_literals(provider: str, value: object, text: str) -> None:
    assert _literal(value, provider) == text
