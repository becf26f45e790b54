"""A real uvicorn with workers of its own, which it spawns: each loads the application for itself."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.live.web import free_port, load_for, served

BUDGET, WORKERS = 6, 4


@pytest.mark.parametrize("load", ["scope", "named"])
def test_uvicorn_keeps_the_budget(postgres_uri: str, postgres_judge: Any, load: str) -> None:
    port = free_port()
    before = ["-m", "mppool", "run", "--max-size", str(BUDGET), "--", sys.executable] if load == "scope" else []
    command = ["-m", "uvicorn", "--port", str(port), "--workers", str(WORKERS), "--log-level", "warning"]
    environ = {"APP_URI": postgres_uri, "APP_MAX_SIZE": "3" if load == "scope" else str(BUDGET)}
    if load == "named":
        environ["APP_NAME"] = "api"
    with (
        served(port, [*before, *command, "tests.live.asgi_apps:app"], environ),
        postgres_judge.watch() as seen,
    ):
        replies, failures = load_for(port)
    print(f"uvicorn {load}: {len(replies)} requests, greatest number of backends {seen.peak} of {BUDGET}")
    assert failures == []
    assert len({reply.split()[1] for reply in replies}) > 1, "several workers answered"
    assert {reply.split()[0] for reply in replies} == {"42"}
    assert 1 < seen.peak <= BUDGET
