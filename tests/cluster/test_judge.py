"""The judge counts at the database, by tags, in a process of its own that ends with the count."""

from __future__ import annotations

import select
import sys
import time

import pytest

from mppool.cluster import judge as module
from mppool.cluster.counting import count
from mppool.cluster.judge import Judge, NotCounted
from mppool.database.contract import open_link
from mppool.shared.tags import prefix, tag
from mppool.uri import Database
from tests.servers import Judge as Server
from tests.waiting import until


def counted(judge: Judge, timeout: float = 20.0) -> dict[str, int]:
    judge.begin(time.monotonic())
    while True:
        assert select.select([judge], [], [], timeout)[0]
        if (found := judge.hear()) is not None:
            return found


def test_it_counts_by_host(postgres_uri: str, postgres_judge: Server) -> None:
    database = Database.parse(f"{postgres_uri}?application_name=till")
    links = [open_link(database.tagged(tag("shop", host), 5)) for host in ("a-1", "a-1", "b-2")]
    links.append(open_link(database.tagged(tag("other", "c-3"), 5)))
    links.append(open_link(database))
    judge = Judge(postgres_uri, sys.path, prefix("shop"))
    assert counted(judge) == count(postgres_uri, prefix("shop")) == {"a-1": 2, "b-2": 1}
    assert not judge.counts
    for link in links:
        link.drop(settled=True)
    until(lambda: postgres_judge.count() == 0)


def test_a_database_that_cannot_be_reached_is_told_without_the_password() -> None:
    judge = Judge("postgresql://user:geheim@127.0.0.1:1/shop", sys.path, prefix("shop"))
    with pytest.raises(NotCounted, match=r"127\.0\.0\.1:1") as failed:
        counted(judge)
    assert "geheim" not in str(failed.value)


def test_a_process_that_ends_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BOOT", "import os; os._exit(3)")
    judge = Judge("postgresql://127.0.0.1:1/shop", sys.path, prefix("shop"))
    with pytest.raises(NotCounted, match="without a word"):
        counted(judge)


def test_one_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BOOT", "import time; time.sleep(60)")
    judge = Judge("postgresql://127.0.0.1:1/shop", sys.path, prefix("shop"))
    judge.begin(100.0)
    assert judge.left(100.0) > 0
    assert judge.left(100.0 + module.LIFE + 1.0) == 0
    judge.end()
    assert not judge.counts
