"""The manager's half of the reaper where none can be launched. What a reaper does is in `tests.crash.test_ending`."""

from __future__ import annotations

import os
from typing import Any

import pytest

from mppool.reaper.launching import PAUSE, Reaper

CONFIG = {"uri": "postgresql://db/x", "database": "postgresql://db/x", "name": "shop", "max_size": 2, "path": []}


def test_a_database_without_a_server_needs_none() -> None:
    assert Reaper({**CONFIG, "database": "sqlite:/x"}, list, print).useless
    assert not Reaper(CONFIG, list, print).useless


def test_the_pause_grows_with_each_that_cannot_be_launched(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> int:
        raise OSError("no process")

    monkeypatch.setattr(os, "posix_spawn", fail)
    reaper, pauses = Reaper(CONFIG, list, print), []
    for _ in range(7):
        assert not reaper.launch(100.0)
        assert (reaper.pid, reaper.dying) == (None, False)
        pauses.append(reaper.again_at - 100.0)
    assert pauses == [min(PAUSE[1], PAUSE[0] * 2**failed) for failed in range(7)]
    assert "cannot start a reaper" in capfd.readouterr().err
    reaper.succeeded()
    assert reaper.again_at == 0.0
