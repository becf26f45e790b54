"""What only the PostgreSQL engine has: its schema and rights, credentials, a promotion, a server that is gone."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator

import psycopg
import pytest

from mppool.cluster.contract import EPOCH, EngineRefused, EngineUnreachable, Ring
from mppool.cluster.postgres_engine import PostgresEngine, schema_sql
from tests import private_servers, servers
from tests.cluster.engines import PATIENCE, InPostgres, Says, ready


def everything(engine: PostgresEngine) -> None:
    a = Says(engine, "a")
    a.says(1)
    state = engine.read()
    assert engine.learned(state.epoch, state.number, {"x": 2})
    assert engine.bury(state.epoch, "x", 0, 0)
    listener = engine.listen("a")
    engine.ring("b", {"a": 1})
    assert listener.heard(PATIENCE) == [Ring("b", 1)]
    listener.close()


def run(uri: str, *statements: str) -> list[tuple[object, ...]]:
    with psycopg.connect(uri, autocommit=True) as connection:
        found = [connection.execute(statement.encode()) for statement in statements]
        return found[-1].fetchall() if found[-1].description else []


@pytest.fixture
def role(in_postgres: InPostgres, limited_role: Callable[[int], servers.LimitedRole]) -> Iterator[servers.LimitedRole]:
    """A role with no rights in the database but those of PUBLIC, and the schema made by another."""
    in_postgres.engine().read()
    role = limited_role(3)
    yield role
    run(in_postgres.uri, f"DROP OWNED BY {role.name}")


def test_a_role_with_the_least_rights_can_do_all_and_nothing_else(
    in_postgres: InPostgres, role: servers.LimitedRole
) -> None:
    engine = PostgresEngine(role.uri, in_postgres.name, timeout=PATIENCE)
    with pytest.raises(EngineRefused, match="permission denied"):
        engine.read()
    granted = schema_sql(role.name)
    run(in_postgres.uri, granted)  # an administrator may run it twice
    everything(engine)
    for table in ("budgets", "hosts"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run(role.uri, f"SELECT * FROM mppool.{table}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run(role.uri, "CREATE FUNCTION mppool.f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    engine.close()


def test_a_shadowing_table_of_the_roles_own_deceives_nobody(in_postgres: InPostgres, role: servers.LimitedRole) -> None:
    run(in_postgres.uri, schema_sql(role.name))
    engine = PostgresEngine(role.uri, in_postgres.name, timeout=PATIENCE)
    engine._run("CREATE TEMP TABLE budgets (name text); CREATE TEMP TABLE hosts (name text)")
    everything(engine)
    engine.close()


def test_without_a_schema_it_says_how_to_make_one(postgres_server: servers.Server) -> None:
    name = postgres_server.create_database(f"mppool_bare_{secrets.token_hex(3)}")
    try:
        uri = postgres_server.uri_of(name)
        engine = PostgresEngine(uri, "n", timeout=PATIENCE, create=False)
        for _ in range(2):
            with pytest.raises(EngineRefused, match="mppool cluster init --print"):
                engine.read()
        run(uri, schema_sql())
        assert engine.read().epoch == ""
        run(uri, "CREATE OR REPLACE FUNCTION mppool.schema_version() RETURNS int LANGUAGE sql AS 'SELECT 99'")
        other = PostgresEngine(uri, "n", timeout=PATIENCE)
        with pytest.raises(EngineRefused, match="version 99"):
            other.read()
        engine.close()
        other.close()
    finally:
        postgres_server.drop_database(name)


def test_credentials_are_called_for_each_connection_and_no_password_is_shown(
    in_postgres: InPostgres, role: servers.LimitedRole
) -> None:
    run(in_postgres.uri, schema_sql(role.name))
    asked: list[int] = []

    def credentials() -> tuple[str, str]:
        asked.append(1)
        return role.name, "secret"

    uri = in_postgres.uri.replace("postgres@", "postgres:wr0ng@")
    engine = PostgresEngine(uri, in_postgres.name, credentials, PATIENCE)
    engine.read()
    engine.close()
    engine.read()
    engine.close()
    assert len(asked) == 2
    assert "wr0ng" not in repr(engine)


def test_isolation_and_commit_do_not_depend_on_the_roles_settings(
    in_postgres: InPostgres, role: servers.LimitedRole
) -> None:
    run(
        in_postgres.uri,
        schema_sql(role.name),
        f"ALTER ROLE {role.name} SET default_transaction_isolation = 'serializable'",
        f"ALTER ROLE {role.name} SET synchronous_commit = off",
    )
    engine = PostgresEngine(role.uri, in_postgres.name, timeout=PATIENCE)
    everything(engine)
    assert engine._call("SELECT current_setting('transaction_isolation')") == [["read committed"]]
    engine.close()


def test_a_connection_that_is_ended_is_made_again_and_listens(in_postgres: InPostgres) -> None:
    (a,) = ready(in_postgres, "a")
    listener = a.engine.listen("a")
    assert isinstance(a.engine, PostgresEngine)
    (pid,) = a.engine._call("SELECT pg_backend_pid()")[0]
    run(in_postgres.uri, f"SELECT pg_terminate_backend({pid}, 5000)")
    with pytest.raises(EngineUnreachable):
        a.engine.exchange(a.request(0, 3))
    assert a.engine.exchange(a.request(0, 3)).credit == 3
    a.engine.ring("b", {"a": 2})
    assert listener.heard(PATIENCE) == [Ring("b", 2)]
    listener.close()


def test_nobody_answers() -> None:
    engine = PostgresEngine("postgresql://127.0.0.1:1/x", "n")
    with pytest.raises(EngineUnreachable, match="/x,"):
        engine.read()


@pytest.mark.parametrize(("uri", "name"), [("postgresql://h/x?nonsense=1", "n"), ("postgresql://h/x", "a b")])
def test_a_bad_uri_or_name_is_refused(uri: str, name: str) -> None:
    with pytest.raises(ValueError, match=r"uri|name"):
        PostgresEngine(uri, name)


@pytest.mark.slow
def test_a_restart_keeps_the_epoch_and_a_promotion_begins_one() -> None:
    folder = tempfile.mkdtemp(prefix="mpp-promoted-")
    try:
        server = private_servers.Postgres(os.path.join(folder, "pg"), lambda uri: servers.connect(uri).close())
    except private_servers.NoServer as error:
        pytest.skip(str(error))
    server.start()
    try:
        engine = PostgresEngine(server.uri, "n", timeout=PATIENCE)
        a = Says(engine, "a")
        a.says(2)
        state = engine.read()
        server.stop()
        with pytest.raises(EngineUnreachable):
            engine.read()
        server.start()
        assert engine.read() == state
        assert a.says(2).refused == ""
        server.stop()
        open(os.path.join(server.data, "standby.signal"), "w").close()
        server.start()
        with pytest.raises(EngineUnreachable):  # a standby takes no writes
            a.says(2)
        run(server.uri, "SELECT pg_promote()")
        assert engine.read().epoch == ""
        assert engine.exchange(a.request(2)).refused == EPOCH
        engine.close()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_call_that_takes_too_long_is_given_up_here_and_at_the_server(
    in_postgres: InPostgres, postgres_judge: servers.Judge
) -> None:
    (a,) = ready(in_postgres, "a")
    number = a.engine.read().number
    engine = PostgresEngine(in_postgres.uri, in_postgres.name, timeout=0.3)
    engine.read()
    others = postgres_judge.count()
    with psycopg.connect(in_postgres.uri) as holder:
        holder.execute("SELECT * FROM mppool.budgets FOR UPDATE")
        with pytest.raises(EngineUnreachable, match=r"no answer|timeout"):
            engine.exchange(a.request(0, 3))
        assert postgres_judge.wait_for(lambda count: count == others) == others  # the holder came, the engine's went
    engine.close()
    assert a.engine.read().number == number
