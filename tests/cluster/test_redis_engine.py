"""What only the Redis engine has: keys, rights, credentials, TLS, Sentinel, a server that is gone."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from mppool.cluster.contract import EPOCH, EngineRefused, EngineUnreachable, Ring
from mppool.cluster.redis_engine import LEAST_RIGHTS, RedisEngine
from tests import private_servers
from tests.cluster.engines import PATIENCE, InRedis, Says, ready

pytestmark = pytest.mark.slow


def test_all_keys_of_a_budget_are_tagged_alike(in_redis: InRedis) -> None:
    ready(in_redis, "a")
    keys = [key.decode() for key in in_redis.run("KEYS", "*")]
    assert sorted(keys) == [f"mppool:{{{in_redis.name}}}:head", f"mppool:{{{in_redis.name}}}:rows"]


def test_an_evicted_key_begins_an_epoch(in_redis: InRedis) -> None:
    (a,) = ready(in_redis, "a")
    in_redis.run("DEL", f"mppool:{{{in_redis.name}}}:rows")
    assert a.engine.read().epoch == ""
    assert a.engine.exchange(a.request(3)).refused == EPOCH
    assert a.engine.read().learning


def everything(engine: RedisEngine) -> None:
    a = Says(engine, "a")
    a.says(1)
    state = engine.read()
    assert engine.learned(state.epoch, state.number, {"x": 2})
    assert engine.bury(state.epoch, "x", 0, 0)
    listener = engine.listen("a")
    engine.ring("b", {"a": 1})
    assert listener.heard(PATIENCE) == [Ring("b", 1)]
    listener.close()


def test_a_user_with_the_least_rights_can_do_all(in_redis: InRedis) -> None:
    rules = LEAST_RIGHTS.format(name=in_redis.name).split()
    in_redis.run("ACL", "SETUSER", "least", ">secret", *rules)
    asked = []

    def credentials() -> tuple[str, str]:
        asked.append(1)
        return "least", "secret"

    engine = RedisEngine(in_redis.server.url, in_redis.name, credentials, PATIENCE)
    everything(engine)
    assert len(asked) >= 2  # for each connection
    other = RedisEngine(in_redis.server.url, "another", credentials, PATIENCE)
    with pytest.raises(EngineRefused):
        other.read()
    with pytest.raises(EngineRefused):
        other.listen("a")
    engine.close()
    other.close()


def test_no_password_is_shown(in_redis: InRedis) -> None:
    in_redis.run("ACL", "SETUSER", "least", ">s3cret", *LEAST_RIGHTS.format(name=in_redis.name).split())
    url = in_redis.server.url.replace("redis://", "redis://least:wr0ng@")
    engine = RedisEngine(url, in_redis.name, timeout=PATIENCE)
    with pytest.raises(EngineRefused) as caught:
        engine.read()
    for text in (repr(engine), str(caught.value), repr(caught.value.__context__ or ""), repr(vars(engine))):
        assert "wr0ng" not in text
    engine.close()


def test_a_server_that_is_gone_and_comes_back(in_redis: InRedis) -> None:
    (a,) = ready(in_redis, "a")
    listener = a.engine.listen("a")
    in_redis.server.stop(signal.SIGKILL)
    with pytest.raises(EngineUnreachable):
        a.engine.exchange(a.request(0, 3))
    with pytest.raises(EngineUnreachable):
        listener.heard(5.0)
    with pytest.raises(EngineUnreachable):
        listener.heard()
    in_redis.server.start()
    assert a.engine.exchange(a.request(0, 3)).refused == EPOCH  # another run
    assert listener.heard() == []
    a.engine.ring("b", {"a": 2})
    assert listener.heard(PATIENCE) == [Ring("b", 2)]


def scripts_run(budget: InRedis) -> int:
    return sum(int(each["calls"]) for name, each in budget.run("INFO", "commandstats").items() if "eval" in name)


def test_a_server_that_does_not_answer_costs_the_timeout_once(in_redis: InRedis) -> None:
    (a,) = ready(in_redis, "a")
    engine = RedisEngine(in_redis.server.url, in_redis.name, timeout=0.2)
    engine.read()
    before = scripts_run(in_redis)
    in_redis.server.pause()
    try:
        with pytest.raises(EngineUnreachable):
            engine.exchange(a.request(0, 3))
    finally:
        in_redis.server.resume()
    engine.close()
    assert scripts_run(in_redis) == before + 1  # it was not sent twice


@pytest.fixture
def certificate(tmp_path: os.PathLike[str]) -> str:
    folder = os.fspath(tmp_path)
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost"
    try:
        subprocess.run(
            [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1"], cwd=folder, check=True, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("no openssl")
    return folder


@pytest.fixture
def over_tls(runtime_folder: str, certificate: str) -> Iterator[private_servers.Redis]:
    files: list[str] = []
    for what, name in (("cert-file", "cert"), ("key-file", "key"), ("ca-cert-file", "cert")):
        files += [f"--tls-{what}", f"{certificate}/{name}.pem"]
    try:
        server = private_servers.Redis(f"{certificate}/tls", *files, "--tls-auth-clients", "no", tls=True)
        server.start()
    except private_servers.NoServer as error:
        pytest.skip(f"no redis server with TLS: {error}")
    yield server
    server.stop()


def test_tls(over_tls: private_servers.Redis, certificate: str) -> None:
    url = over_tls.url.replace("redis://", "rediss://")
    engine = RedisEngine(url, "tls", timeout=PATIENCE, ssl_ca_certs=f"{certificate}/cert.pem")
    everything(engine)
    engine.close()
    engine = RedisEngine(url, "tls", timeout=PATIENCE)
    with pytest.raises(EngineUnreachable, match="certificate"):
        engine.read()
    engine.close()


def test_sentinel(in_redis: InRedis, tmp_path: os.PathLike[str]) -> None:
    file = os.path.join(tmp_path, "sentinel.conf")
    with open(file, "w") as out:
        out.write(f"sentinel monitor main 127.0.0.1 {in_redis.server.port} 1\n")
    sentinel = private_servers.Redis(os.path.join(tmp_path, "sentinel"), file, "--sentinel")
    sentinel.start()
    try:
        engine = RedisEngine(f"redis+sentinel://127.0.0.1:{sentinel.port}/main/0", in_redis.name, timeout=PATIENCE)
        everything(engine)
        engine.close()
        engine = RedisEngine(f"redis+sentinel://127.0.0.1:{sentinel.port}/other", in_redis.name, timeout=PATIENCE)
        with pytest.raises(EngineUnreachable, match="other"):
            engine.read()
        engine.close()
    finally:
        sentinel.stop()


@pytest.mark.parametrize("url", ["http://h", "redis+sentinel://h", "redis+sentinel:///main"])
def test_a_bad_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        RedisEngine(url, "name")


def test_a_bad_name_is_refused() -> None:
    with pytest.raises(ValueError, match="name"):
        RedisEngine("redis://h", "a}b")
