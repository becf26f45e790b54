"""The SQL of `postgres_engine`: two tables and five functions; they do what `memory.Store` does.

The functions run with their owner's rights (SECURITY DEFINER), so a role that keeps a budget here needs nothing of the
tables: USAGE of the schema, and EXECUTE of the functions. Each call locks the budget's row of ``budgets`` first.
"""

from __future__ import annotations

VERSION = 1  # of the schema; the engine refuses another

SCHEMA = """
CREATE SCHEMA IF NOT EXISTS mppool;

CREATE TABLE IF NOT EXISTS mppool.budgets (
    name text PRIMARY KEY, epoch text NOT NULL, run text NOT NULL, max_size int NOT NULL, sum int NOT NULL,
    lease float8 NOT NULL, learning bool NOT NULL, number int8 NOT NULL, declared int8 NOT NULL
);
CREATE TABLE IF NOT EXISTS mppool.hosts (
    name text REFERENCES mppool.budgets, host text, number int8 NOT NULL, seq int8 NOT NULL, credit int NOT NULL,
    ghost bool NOT NULL, in_use int NOT NULL, waiting int NOT NULL, wanted int NOT NULL, PRIMARY KEY (name, host)
);

-- The data are good on this server and its timeline: a promoted standby, or a backup that was rolled forward, may lack
-- what hosts were told.
CREATE OR REPLACE FUNCTION mppool.run() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT system_identifier || '/' ||
        pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8)
    FROM pg_catalog.pg_control_system()
$$;

CREATE OR REPLACE FUNCTION mppool.schema_version() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT {version}';

CREATE OR REPLACE FUNCTION mppool.exchange(
    a_name text, a_fresh text, a_host text, a_epoch text, a_seq int8, a_keep int, a_ask int,
    a_in_use int, a_waiting int, a_wanted int, a_max_size int, a_lease float8, a_resize bool,
    OUT refused text, OUT epoch text, OUT learning bool, OUT max_size int, OUT lease float8, OUT free int,
    OUT credit int, OUT number int8, OUT seq int8
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    b mppool.budgets; h mppool.hosts; known bool; now_run text := mppool.run(); had int; kept int;
BEGIN
    -- a credit that a host was told must not be lost with an operating system's cache
    IF current_setting('synchronous_commit') IN ('off', 'local') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    SELECT * INTO b FROM mppool.budgets t WHERE t.name = a_name FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO mppool.budgets VALUES (a_name, a_fresh, now_run, a_max_size, 0, a_lease, true, 0, 0)
            ON CONFLICT DO NOTHING;
        SELECT * INTO b FROM mppool.budgets t WHERE t.name = a_name FOR UPDATE;
    ELSIF b.run <> now_run THEN
        DELETE FROM mppool.hosts t WHERE t.name = a_name;
        UPDATE mppool.budgets t SET epoch = a_fresh, run = now_run, max_size = a_max_size, sum = 0, lease = a_lease,
            learning = true, number = 0, declared = 0 WHERE t.name = a_name RETURNING * INTO b;
    END IF;
    SELECT * INTO h FROM mppool.hosts t WHERE t.name = a_name AND t.host = a_host;
    known := FOUND;
    epoch := b.epoch; learning := b.learning; max_size := b.max_size; lease := b.lease;
    had := coalesce(h.credit, 0); seq := coalesce(h.seq, 0); credit := 0; number := 0; free := max_size - b.sum;
    refused := CASE WHEN a_epoch <> epoch THEN 'epoch' WHEN known AND a_seq <= seq THEN 'seq' ELSE '' END;
    IF refused <> '' THEN RETURN; END IF;
    IF a_resize THEN max_size := a_max_size; END IF;
    IF learning THEN
        credit := CASE WHEN known THEN least(had, a_keep) ELSE a_keep END;
    ELSE
        kept := least(had, a_keep);
        credit := kept + greatest(0, least(a_keep - kept + a_ask, max_size - b.sum + had - kept));
    END IF;
    number := b.number + 1; seq := a_seq; free := max_size - (b.sum + credit - had);
    UPDATE mppool.budgets t SET max_size = exchange.max_size, sum = exchange.max_size - exchange.free,
        number = exchange.number, declared = CASE WHEN known THEN t.declared ELSE exchange.number END
        WHERE t.name = a_name;
    INSERT INTO mppool.hosts AS t
        VALUES (a_name, a_host, number, a_seq, credit, false, a_in_use, a_waiting, a_wanted)
        ON CONFLICT ON CONSTRAINT hosts_pkey DO UPDATE SET number = excluded.number, seq = excluded.seq,
            credit = excluded.credit, ghost = false, in_use = excluded.in_use, waiting = excluded.waiting,
            wanted = excluded.wanted;
END $$;

CREATE OR REPLACE FUNCTION mppool.read(a_name text) RETURNS TABLE (
    epoch text, learning bool, max_size int, lease float8, last int8,
    host text, number int8, seq int8, credit int, ghost bool, in_use int, waiting int, wanted int
) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH b AS MATERIALIZED (  -- the run is looked up once, not for each row
        SELECT t.*, t.run = mppool.run() AS alive FROM mppool.budgets t WHERE t.name = a_name
    )
    SELECT CASE WHEN b.alive THEN b.epoch ELSE '' END, b.learning, b.max_size, b.lease, b.number,
        h.host, h.number, h.seq, h.credit, h.ghost, h.in_use, h.waiting, h.wanted
    FROM b LEFT JOIN mppool.hosts h ON h.name = b.name
$$;

CREATE OR REPLACE FUNCTION mppool.bury(a_name text, a_epoch text, a_host text, a_number int8, a_count int) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE b mppool.budgets; h mppool.hosts;
BEGIN
    IF current_setting('synchronous_commit') IN ('off', 'local') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    SELECT * INTO b FROM mppool.budgets t WHERE t.name = a_name FOR UPDATE;
    IF NOT FOUND OR b.epoch <> a_epoch OR b.learning OR b.run <> mppool.run() THEN RETURN false; END IF;
    SELECT * INTO h FROM mppool.hosts t WHERE t.name = a_name AND t.host = a_host;
    IF NOT FOUND OR h.number <> a_number THEN RETURN false; END IF;
    a_count := greatest(0, least(a_count, h.credit));
    IF a_count > 0 THEN
        UPDATE mppool.hosts t SET credit = a_count, ghost = true WHERE t.name = a_name AND t.host = a_host;
    ELSE
        DELETE FROM mppool.hosts t WHERE t.name = a_name AND t.host = a_host;
    END IF;
    UPDATE mppool.budgets t SET sum = t.sum - h.credit + a_count WHERE t.name = a_name;
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION mppool.learned(a_name text, a_epoch text, a_number int8, a_hosts text[], a_counts int[])
RETURNS bool LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE b mppool.budgets;
BEGIN
    IF current_setting('synchronous_commit') IN ('off', 'local') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    SELECT * INTO b FROM mppool.budgets t WHERE t.name = a_name FOR UPDATE;
    IF NOT FOUND OR b.epoch <> a_epoch OR NOT b.learning OR b.declared > a_number OR b.run <> mppool.run() THEN
        RETURN false;
    END IF;
    INSERT INTO mppool.hosts SELECT a_name, u.host, 0, 0, u.count, true, 0, 0, 0
        FROM unnest(a_hosts, a_counts) AS u (host, count) WHERE u.count > 0 ON CONFLICT DO NOTHING;
    UPDATE mppool.budgets t SET learning = false,
        sum = (SELECT coalesce(pg_catalog.sum(h.credit), 0) FROM mppool.hosts h WHERE h.name = a_name)
        WHERE t.name = a_name;
    RETURN true;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA mppool FROM PUBLIC;
""".replace("{version}", str(VERSION))

#: For a role, quoted: all that it needs. Such a role can call the functions for every budget in this schema.
GRANTS = """
GRANT USAGE ON SCHEMA mppool TO {role};
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA mppool TO {role};
"""
