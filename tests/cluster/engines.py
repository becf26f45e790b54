"""The three engines under test, each with what a test does to its data from outside."""

from __future__ import annotations

import os
import secrets
import shutil
from typing import Any

import psycopg
import redis

from mppool.cluster.contract import EPOCH, Answer, Engine, Report, Request
from mppool.cluster.memory import MemoryEngine
from mppool.cluster.postgres_engine import PostgresEngine
from mppool.cluster.redis_engine import RedisEngine
from tests import private_servers

MAX, LEASE = 10, 10.0
PATIENCE = 20.0  # seconds that a call may take on a busy machine


class Budget:
    """One budget on some engine."""

    max_size = MAX

    def __init__(self) -> None:
        self.name = f"test-{secrets.token_hex(4)}"
        self._made: list[Engine] = []

    def engine(self) -> Engine:
        """One more engine object, as another host has it."""
        engine = self._make()
        self._made.append(engine)
        return engine

    def _make(self) -> Engine:
        raise NotImplementedError

    def lose(self) -> None:
        """All data are gone."""
        raise NotImplementedError

    def restart(self) -> None:
        """The data are those of another run."""
        raise NotImplementedError

    def end(self) -> None:
        for engine in self._made:
            engine.close()


class InMemory(Budget):
    def __init__(self) -> None:
        super().__init__()
        self._engine = MemoryEngine()

    def _make(self) -> MemoryEngine:
        return self._engine

    def lose(self) -> None:
        self._engine.lose()

    def restart(self) -> None:
        self._engine.restart()


class InRedis(Budget):
    """A server of the test's own, with everything on disk."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder
        self.server = private_servers.Redis(
            os.path.join(folder, "redis"), "--appendonly", "yes", "--appendfsync", "always"
        )
        self.server.start()

    def _make(self) -> RedisEngine:
        return RedisEngine(self.server.url, self.name, timeout=PATIENCE)

    def run(self, *command: str) -> Any:
        with redis.Redis.from_url(self.server.url) as client:
            return client.execute_command(*command)

    def lose(self) -> None:
        self.run("FLUSHALL")

    def lose_files(self) -> None:
        """While the server is stopped: what it saved is gone."""
        shutil.rmtree(os.path.join(self._folder, "redis", "appendonlydir"), ignore_errors=True)

    def restart(self) -> None:
        self.server.stop()
        self.server.start()

    def end(self) -> None:
        super().end()
        self.server.stop()


class InPostgres(Budget):
    """The worker's database. What a restart with another timeline does is done to the row here, and with a real
    promotion in `test_postgres_engine`."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self.uri = uri

    def _make(self) -> PostgresEngine:
        return PostgresEngine(self.uri, self.name, timeout=PATIENCE)

    def run(self, *statements: str) -> None:
        with psycopg.connect(self.uri, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode(), (self.name,))

    def lose(self) -> None:
        self.run("DELETE FROM mppool.hosts WHERE name = %s", "DELETE FROM mppool.budgets WHERE name = %s")

    def restart(self) -> None:
        self.run("UPDATE mppool.budgets SET run = run || '!' WHERE name = %s")

    def end(self) -> None:
        used = bool(self._made)
        super().end()
        if used:
            try:
                self.lose()
            except psycopg.errors.UndefinedTable:
                pass  # no call was made: the schema is made with the first


class Says:
    """A host that says what it is told to say, in the right epoch and with the next seq."""

    def __init__(self, engine: Engine, host: str, max_size: int = MAX) -> None:
        self.engine, self.host, self.max_size = engine, host, max_size
        self.epoch, self.seq = "", 0

    def request(self, keep: int = 0, ask: int = 0, **more: Any) -> Request:
        self.seq += 1
        usual = Request(self.host, self.epoch, self.seq, keep, ask, Report(), self.max_size, LEASE)
        return usual._replace(**more)

    def says(self, keep: int = 0, ask: int = 0, **more: Any) -> Answer:
        """One exchange; learns the epoch from a refusal, and says it again."""
        answer = self.engine.exchange(self.request(keep, ask, **more))
        if answer.refused == EPOCH and "epoch" not in more:
            self.epoch = answer.epoch
            answer = self.engine.exchange(self.request(keep, ask, **more))
        return answer


def ready(budget: Budget, *hosts: str) -> list[Says]:
    """Hosts with nothing in an epoch that has ended learning."""
    engine = budget.engine()
    found = [Says(engine, host) for host in hosts]
    for host in found:
        host.says()
    state = engine.read()
    assert engine.learned(state.epoch, state.number, {})
    return found
