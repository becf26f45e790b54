"""Error classes: what each error of the databases says about the connection."""

from __future__ import annotations

import pytest

from mppool.database.connection.error_classes import Trust, classify, is_full, is_permanent
from mppool.errors import ConnectError

GOOD, SUSPECT, DOUBTFUL = Trust.GOOD, Trust.SUSPECT, Trust.DOUBTFUL


@pytest.mark.parametrize(
    ("provider", "code", "message", "trust"),
    [
        ("postgresql", "42P01", 'relation "x" does not exist', GOOD),
        ("postgresql", "57014", "canceling statement due to statement timeout", GOOD),
        ("postgresql", "55P03", "canceling statement due to lock timeout", GOOD),
        ("postgresql", "25P02", "current transaction is aborted", GOOD),
        ("postgresql", "57P01", "FATAL: terminating connection due to administrator command", SUSPECT),
        ("postgresql", "08006", "connection failure", SUSPECT),
        ("postgresql", "0", "The server terminated the connection.", DOUBTFUL),
        ("postgresql", "0", "Error querying the database: unexpected message from server", SUSPECT),
        ("postgresql", "0", "Error creating a database connection.", SUSPECT),
        ("postgresql", "0", "something nobody has seen", SUSPECT),
        ("postgresql", "0", "Invalid isolation level: SNAPSHOT", GOOD),
        ("postgresql", "0", "Timed out during query execution.", DOUBTFUL),
        ("postgresql", "26000", 'prepared statement "s5" does not exist', DOUBTFUL),
        ("postgresql", "0A000", "cached plan must not change result type", DOUBTFUL),
        ("postgresql", "0A000", "cannot insert multiple commands", GOOD),
        ("mysql", "1317", "Query execution was interrupted", GOOD),
        ("mysql", "1969", "max_statement_time exceeded", GOOD),
        ("mysql", "1205", "Lock wait timeout exceeded", GOOD),
        ("mysql", "1927", "Connection was killed", SUSPECT),
        ("mysql", "0", "Error creating a database connection.", SUSPECT),
        ("mysql", "0", "Statement takes 1 parameters but 0 was supplied", SUSPECT),
        ("mysql", "0", "Timed out during query execution.", DOUBTFUL),
        ("sqlite", "5", "database is locked", GOOD),
        ("sqlite", "0", "Execute returned results", GOOD),
    ],
)
def test_classify(provider: str, code: str, message: str, trust: Trust) -> None:
    assert classify(provider, code, message) is trust


@pytest.mark.parametrize(
    ("code", "message", "permanent", "full"),
    [
        ("28P01", "password authentication failed", True, False),
        ("28000", "no pg_hba.conf entry", True, False),
        ("3D000", "database does not exist", True, False),
        ("1045", "Access denied", True, False),
        ("1698", "Access denied", True, False),
        ("1049", "Unknown database", True, False),
        ("14", "unable to open database file", True, False),
        ("0", "Error parsing connection string: x", True, False),
        ("0", "Error opening a TLS connection. x", True, False),
        ("0", "Error opening a TLS connection. error:14094410:SSL routines:alert handshake failure:", True, False),
        ("0", "Error opening a TLS connection. Connection reset by peer (os error 104)", False, False),
        ("0", "Error opening a TLS connection. Broken pipe (os error 32)", False, False),
        ("0", "Error opening a TLS connection. unexpected EOF", False, False),
        (
            "0",
            "Error opening a TLS connection. error:0A000126:SSL routines::unexpected eof while reading:",
            False,
            False,
        ),
        ("0", "The provided arguments are not supported", True, False),
        ("0", "Error creating a database connection.", False, False),
        ("0", "Timed out when connecting to the database.", False, False),
        ("57P03", "the database system is starting up", False, False),
        ("53300", "too many connections", False, True),
        ("1040", "Too many connections", False, True),
        ("1203", "max_user_connections", False, True),
        ("1226", "max_user_connections", False, True),
    ],
)
def test_connect_errors(code: str, message: str, permanent: bool, full: bool) -> None:
    error = ConnectError(code, message)
    assert (is_permanent(error), is_full(error)) == (permanent, full)
