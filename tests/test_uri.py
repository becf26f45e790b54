"""What a uri means, what is refused, and that no refusal shows a part of a password."""

from __future__ import annotations

import os
import traceback
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mppool import PoolManager, PySQLXEngine, PySQLXEnginePool, PySQLXEnginePoolSync, PySQLXEngineSync
from mppool.uri import Database, options

MAKERS = [
    Database.parse,
    PySQLXEngine,
    PySQLXEngineSync,
    PoolManager,
    lambda uri: PySQLXEnginePool(uri, 1),
    lambda uri: PySQLXEnginePoolSync(uri, 1),
]
SECRET = "s3cr3t"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "mysql"])
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "password",
    [
        *(f"{SECRET}{char}{SECRET}" for char in "/#?[]"),
        *(f"{SECRET}@{SECRET}{char}{SECRET}" for char in "/#?"),
        *(f"{char}{SECRET}" for char in "/#?"),
        f"12/{SECRET}",
        f"12?{SECRET}",
        f"12?a={SECRET}",
        f"12#{SECRET}",
        f"@/{SECRET}",
        f"@?a={SECRET}",
    ],
)
def test_a_password_that_is_not_encoded_is_not_shown(scheme: str, make: Any, password: str) -> None:
    uri = f"{scheme}://alice:{password}@db.example/shop"
    if "[" in password or "]" in password:  # there is no doubt about these
        shown = repr(make(uri))
    else:
        with pytest.raises(ValueError, match="must be percent-encoded") as caught:
            make(uri)
        shown = "".join(traceback.format_exception_only(caught.value))
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
    assert "s3cr" not in shown
    assert "alice" not in shown


@pytest.mark.parametrize(
    "uri",
    [f"alice:{SECRET}@db/shop", f"{SECRET}@db:5432/shop", f"{SECRET}", f"sqlserver://alice:{SECRET}@db;database=x"],
)
def test_nor_where_the_scheme_is_missing(uri: str) -> None:
    with pytest.raises(ValueError, match="invalid uri") as caught:
        Database.parse(uri)
    assert "s3cr" not in str(caught.value)
    assert "alice" not in str(caught.value)


def test_characters_that_unicode_would_change_are_no_reason_to_show_it() -> None:
    assert Database.parse(f"postgresql://u:{SECRET}\u2100@db/shop").key == "postgresql://db:5432/shop"


@given(password=st.text(st.characters(codec="utf-8", min_codepoint=33), min_size=8))
def test_any_password_is_encoded_or_stays_unseen(password: str) -> None:
    encoded = Database.parse(f"postgresql://u:{quote(password, safe='')}@db/shop")
    assert encoded.key == "postgresql://db:5432/shop"
    try:
        shown = repr(Database.parse(f"postgresql://u:{password}@db/shop"))
    except ValueError as error:
        shown = str(error)
    assert password not in shown


@pytest.mark.parametrize(
    ("uri", "key"),
    [
        ("postgres://u:p@DB/shop", "postgresql://db:5432/shop"),
        ("postgresql://u:p@ss@db:5433/shop", "postgresql://db:5433/shop"),
        ("postgresql://u@[::1]:5433/shop", "postgresql://::1:5433/shop"),
        ("postgresql://u@h/shop?host=/run/pg&application_name=me@here", "postgresql:///run/pg:5432/shop"),
        ("mysql://u:p@h", "mysql://h:3306/"),
    ],
)
def test_where_a_uri_leads(uri: str, key: str) -> None:
    assert Database.parse(uri).key == key


def test_what_is_known_is_passed_on_as_it_is() -> None:
    uri = "postgresql://u:p%40@h:1/d?schema=a%20b&options=-c%20a%3Db&application_name=x"
    assert Database.parse(uri).uri == uri
    assert Database.parse("postgres://u:p@h/d").uri == "postgresql://u:p@h/d"


# --- TLS ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "driver"),
    [
        ("sslmode=verify-full", {"sslmode": "require", "sslaccept": "strict"}),
        ("sslmode=verify-ca", {"sslmode": "require", "sslaccept": "strict"}),
        ("sslmode=verify%2Dfull&sslcert=/ca", {"sslmode": "require", "sslaccept": "strict", "sslcert": "/ca"}),
        ("sslaccept=strict", {"sslmode": "require", "sslaccept": "strict"}),
        ("sslaccept=strict&host=/run", {"sslaccept": "strict", "host": "/run"}),
        ("sslmode=require&sslaccept=strict", {"sslmode": "require", "sslaccept": "strict"}),
        ("sslmode=require", {"sslmode": "require"}),
        ("sslmode=allow", {"sslmode": "prefer"}),
        ("sslaccept=accept_invalid_certs&schema=x", {"sslaccept": "accept_invalid_certs", "schema": "x"}),
    ],
)
def test_what_the_driver_is_told(query: str, driver: dict[str, str]) -> None:
    made = Database.parse(f"postgresql://u@h/d?{query}")
    assert options(made.uri) == driver
    assert Database.parse(made.uri) == made


@pytest.mark.parametrize(
    ("scheme", "query", "says"),
    [
        ("postgresql", "sslmode=bogus", "disable, allow, prefer, require, verify-ca, verify-full, not 'bogus'"),
        ("postgresql", "sslmode=VERIFY-FULL", "sslmode must be one of"),
        ("postgresql", "sslmode=", "sslmode must be one of"),
        ("postgresql", "sslaccept=Strict", "strict, accept_invalid_certs, not 'Strict'"),
        ("postgresql", "channel_binding=requite", "disable, prefer, require, not 'requite'"),
        ("postgresql", "sslmode=require&sslmode=prefer", "more than once"),
        ("postgresql", "sslmode=verify-full&sslaccept=accept_invalid_certs", "contradict"),
        ("postgresql", "sslmode=prefer&sslaccept=strict", "write sslmode=verify-full"),
        ("postgresql", "sslmode=disable&sslaccept=strict", "write sslmode=verify-full"),
        ("postgresql", "sslrootcert=/ca.pem", "ignores sslrootcert; .*sslcert=FILE"),
        ("postgresql", "SSLMODE=verify-full", "ignores SSLMODE"),
        ("postgresql", "ssl=true", "ignores ssl;"),
        ("mysql", "sslmode=verify-full", "ignores sslmode; write sslaccept=strict"),
        ("mysql", "ssl-mode=VERIFY_IDENTITY", "ignores ssl-mode"),
        ("mysql", "ssl_ca=/ca.pem", "ignores ssl_ca"),
        ("mysql", "useSSL=true", "ignores useSSL"),
        ("mysql", "sslaccept=verify", "strict, accept_invalid_certs, not 'verify'"),
        ("mysql", "a=b&socket_timeout=3", "socket_timeout is not supported on MySQL"),
    ],
)
def test_what_the_driver_would_ignore_is_refused(scheme: str, query: str, says: str) -> None:
    for make in MAKERS:
        with pytest.raises(ValueError, match=says):
            make(f"{scheme}://u:hunter2@h/d?{query}")


# --- SQLite -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:x.db", "x.db"),
        ("sqlite:./x.db", "x.db"),
        ("sqlite://x.db", "x.db"),
        ("sqlite://./x.db", "x.db"),
        ("sqlite:///./x.db", "x.db"),
        ("sqlite:///../x.db", "../x.db"),
        ("sqlite:///tmp/x.db", "/tmp/x.db"),
        ("sqlite:////tmp/x.db", "/tmp/x.db"),
        ("file:/tmp/x.db", "/tmp/x.db"),
    ],
)
def test_where_a_file_is(uri: str, path: str) -> None:
    assert Database.parse(uri).key == f"sqlite:{os.path.abspath(path)}"


@pytest.mark.parametrize("option", ["mode=ro", "mode=memory", "cache=shared", "immutable=1"])
def test_sqlites_own_options_are_not_passed_on(option: str) -> None:
    with pytest.raises(ValueError, match="does not pass it on"):
        Database.parse(f"sqlite:x.db?{option}")
