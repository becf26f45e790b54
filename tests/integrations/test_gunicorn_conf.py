"""What two lines in a gunicorn.conf.py do; with a real gunicorn it is in tests/live."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

from mppool import PoolManager, PySQLXEnginePoolSync, errors
from mppool.integrations import gunicorn


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(gunicorn, "_managers", {})
    for name in ("MPPOOL_SCOPE", "MPPOOL_MAX_SIZE"):
        monkeypatch.setenv(name, "")  # what is put there is taken away again
        monkeypatch.delenv(name)
    yield
    for manager in gunicorn._managers.values():
        with contextlib.suppress(errors.PoolAlreadyClosedError):
            manager.stop()


def test_the_master_owns_what_the_workers_pools_find(sqlite_uri: str) -> None:
    calls: list[Any] = []
    config: dict[str, Any] = {"on_starting": calls.append}
    gunicorn.one_budget(config, sqlite_uri, 3, name="web")
    config["on_starting"]("the server")
    assert calls == ["the server"], "a hook of the user's is called, too"
    with PySQLXEnginePoolSync(sqlite_uri, 1, 10) as pool:  # whatever the application says
        assert pool.stats().pool_max == 3
        assert pool.stats().name.startswith("web-")
        assert PoolManager.attach(pool.stats().name).stats().open == 1


def test_a_reload_reads_it_again(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    gunicorn.one_budget({}, sqlite_uri, 3, name="web")
    with caplog.at_level(logging.WARNING):
        gunicorn.one_budget({}, sqlite_uri, 3, name="web")
        assert caplog.text == ""
        gunicorn.one_budget({}, sqlite_uri, 5, name="web")
    assert "goes on with max_size=3: a reload cannot make it 5, restart gunicorn for that" in caplog.text
    assert os.environ["MPPOOL_MAX_SIZE"] == "3", "workers started from now on mean the same"


@pytest.mark.parametrize(("max_size", "name"), [(0, "web"), (3, "no such name!"), (3, "x" * 64)])
def test_bad_input_is_refused_before_anything_is_begun(sqlite_uri: str, max_size: int, name: str) -> None:
    with pytest.raises(ValueError, match=r"max_size|name"):
        gunicorn.one_budget({}, sqlite_uri, max_size, name=name)
    assert not {"MPPOOL_SCOPE", "MPPOOL_MAX_SIZE"} & os.environ.keys()
