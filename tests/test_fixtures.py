"""The fixtures hold what they promise: the balance sheet sees every kind of leak, the judges count."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from tests import balance
from tests.balance import Sheet, describe, left_over, take
from tests.servers import Judge, LimitedRole, Server, connect


def test_nothing_new_leaves_nothing_over() -> None:
    sheet = Sheet(threads={1: "t"}, fds={(3, "/a"): "3 -> /a"})
    assert left_over(sheet, sheet) == {}
    assert left_over(sheet, Sheet()) == {}


@pytest.mark.parametrize("kind", balance.KINDS)
def test_each_kind_of_leak_is_named(kind: str) -> None:
    rest = left_over(Sheet(), Sheet(**{kind: {1: "the culprit"}}))
    assert rest == {kind: ["the culprit"]}
    assert "the culprit" in describe(rest)
    assert kind in describe(rest)


def test_the_cores_runtime_is_forgiven_once_per_runtime() -> None:
    def fds(*targets: str) -> dict[object, str]:
        return {(n, t): f"{n} -> {t}" for n, t in enumerate(targets)}

    poll, event = "anon_inode:[eventpoll]", "anon_inode:[eventfd]"
    runtime = Sheet(fds=fds(poll, poll, event), runtime_threads=2)
    assert left_over(Sheet(), runtime) == {}
    assert left_over(Sheet(runtime_threads=2), runtime)["fds"], "no runtime was started, so they are a leak"
    more = Sheet(fds=fds(poll, poll, event, event), runtime_threads=2)
    assert left_over(Sheet(), more) == {"fds": [f"3 -> {event}"]}


def test_a_leaked_thread_fd_and_file_are_seen(runtime_folder: str) -> None:
    before = take(runtime_folder)
    go = threading.Event()
    thread = threading.Thread(target=go.wait, name="leaked")
    thread.start()
    read, write = os.pipe()
    path = os.path.join(runtime_folder, "leaked")
    with open(path, "w"):
        pass
    try:
        rest = left_over(before, take(runtime_folder))
    finally:
        go.set()
        thread.join()
        os.close(read)
        os.close(write)
        os.unlink(path)
    assert {*rest} == {"threads", "fds", "files"}
    assert rest["threads"] == ["leaked (not daemon)"]
    assert len(rest["fds"]) == 2
    assert left_over(before, take(runtime_folder)) == {}


def test_a_child_is_seen_and_so_is_what_it_left_behind(runtime_folder: str) -> None:
    """An orphan in a session of its own, as a manager is: only the folder's name in its environment tells."""
    since = balance.now()
    orphans_code = "print(1, flush=True); input()"
    launcher = (
        f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {orphans_code!r}],"
        " start_new_session=True); print(p.pid, flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", launcher], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        words = [int(parent.stdout.readline()) for _ in range(2)]  # the orphan's word may come before its pid
        orphan = next((word for word in words if word != 1), 1)
        assert parent.wait() == 0
        processes = left_over(Sheet(), take(runtime_folder, since=since))["processes"]
        assert [text for text in processes if text.startswith(f"{orphan} ")]
        parent.stdin.close()  # ends the orphan; the balance sheet waits for it
        parent.stdout.read()


def test_a_forked_orphan_is_seen(runtime_folder: str) -> None:
    """Its environment is its parent's; the folder that this process holds open gives it away."""
    since = balance.now()
    report, told = os.pipe()
    hold, release = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        grandchild = os.fork()
        if grandchild == 0:
            os.close(release)
            os.write(told, b"%d\n" % os.getpid())
            os.read(hold, 1)
        os._exit(0)
    os.waitpid(child, 0)
    orphan = int(os.read(report, 100))
    processes = left_over(Sheet(), take(runtime_folder, since=since))["processes"]
    for fd in (report, told, hold, release):
        os.close(fd)
    assert [text for text in processes if text.startswith(f"{orphan} ")]


@pytest.fixture(params=["postgresql", "mysql"])
def judged(request: pytest.FixtureRequest) -> tuple[str, Judge]:
    stem = {"postgresql": "postgres", "mysql": "mysql"}[request.param]
    return request.getfixturevalue(f"{stem}_uri"), request.getfixturevalue(f"{stem}_judge")


def test_a_judge_counts_connections_and_their_maximum(judged: tuple[str, Judge]) -> None:
    uri, judge = judged
    assert judge.count() == 0
    with judge.watch() as seen:
        connections = [connect(uri) for _ in range(3)]
        assert judge.wait_for(lambda count: count == 3) == 3
        assert seen.reached(3)
        for connection in connections:
            connection.close()
        assert judge.wait_for(lambda count: count == 0) == 0
    assert seen.peak == 3
    assert seen.samples == len(seen.series) > 1


def test_a_limited_role_is_refused_and_the_log_tells(
    limited_role: Callable[[int], LimitedRole], postgres_judge: Judge
) -> None:
    role = limited_role(1)
    first = connect(role.uri)
    assert role.judge.count() == 1
    with pytest.raises(Exception, match="too many connections for role"):
        connect(role.uri)
    first.close()
    assert role.judge.wait_for(lambda count: count == 0) == 0
    if role.log is None:
        pytest.skip("this server's log cannot be found or read")
    assert role.refusals() == 1


def test_each_worker_has_a_database_of_its_own(postgres_server: Server, postgres_uri: str) -> None:
    name = postgres_uri.rpartition("/")[2]
    assert name.startswith("mppool_")
    assert postgres_server.run("SELECT count(*) FROM pg_database WHERE datname = %s", (name,)) == [(1,)]


def test_a_socket_fits_in_the_runtime_folder(runtime_folder: str) -> None:
    assert os.environ["MPPOOL_RUNTIME_DIR"] == runtime_folder
    assert len(os.path.join(runtime_folder, "n" * 64)) <= 100


def test_database_uris_open(database_uri: str) -> None:
    if database_uri.startswith("sqlite:"):
        assert not os.path.exists(database_uri.removeprefix("sqlite:"))
        return
    connect(database_uri).close()
