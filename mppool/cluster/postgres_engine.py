"""A budget's data in PostgreSQL: each call is one SQL function, in a transaction of its own; rings are NOTIFY.

One connection a host, for calls and rings. PgBouncer must pool sessions, not transactions: LISTEN needs its own.
The extra ``mppool[postgres]`` brings the client, psycopg 3. Its asynchronous protocol calls are used directly, since
each call here has a deadline of its own: a server that is stopped, or a cut link, must not hold the agent.
"""

from __future__ import annotations

import hashlib
import secrets
import select
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from mppool.cluster.contract import (
    Answer,
    EngineRefused,
    EngineUnreachable,
    Report,
    Request,
    Ring,
    Row,
    State,
    check_host,
    check_name,
)
from mppool.cluster.postgres_schema import GRANTS, SCHEMA, VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_EXCHANGE = "SELECT * FROM mppool.exchange($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13)"
#: For each connection: a call that was given up ends at the server, too; each statement sees what is committed.
_SESSION = (
    "SELECT set_config('statement_timeout', $1, false), "
    "set_config('default_transaction_isolation', 'read committed', false)"
)
_CREATION = 10.0  # seconds that making the schema may take
_CREATING = 0x6D70706F6F6C  # an advisory lock: two hosts that come first do not both make the schema
#: What ends by itself: no room for one more connection, a server that starts, stops or is promoted, a statement that
#: took too long. All else that a server says needs a person.
_PASSING = ("08", "53", "55P03", "57", "40", "25006", "58")


def schema_sql(role: str | None = None) -> str:
    """What an administrator runs where the engine may not make its schema.

    Args:
        role: that keeps budgets there; None: without the grants.
    """
    quoted = '"' + role.replace('"', '""') + '"' if role else ""
    return SCHEMA.strip() + "\n" + (GRANTS.format(role=quoted) if role else "")


class PostgresEngine:
    """One budget in PostgreSQL.

    Args:
        uri: ``postgresql://host/database``, with libpq's options: several hosts, ``sslmode=verify-full``,
            ``sslrootcert`` and so on. ``target_session_attrs`` is ``read-write`` unless it says otherwise.
        name: the budget's: 1 to 64 letters, digits, ``.``, ``_`` or ``-``.
        credentials: returns user (or None) and password; called for each new connection. None: those of the uri.
        timeout: seconds that a call may take; libpq gives a connect 2 s at least.
        create: make the schema where there is none; the role must be allowed to.

    Raises:
        ValueError: a bad name.
        ImportError: psycopg is not installed.
    """

    def __init__(
        self,
        uri: str,
        name: str,
        credentials: Callable[[], tuple[str | None, str]] | None = None,
        timeout: float = 1.0,
        create: bool = True,
    ) -> None:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict

        check_name(name)
        self.name, self._timeout, self._create = name, timeout, create
        try:
            self._options = conninfo_to_dict(uri)
        except ProgrammingError:
            raise ValueError("the uri of a PostgreSQL engine is postgresql://host/database") from None
        self._credentials = credentials
        self._connection: Any = None
        self._checked = False
        self._listeners: dict[str, list[PostgresListener]] = {}  # by channel

    def __repr__(self) -> str:
        host, port = self._options.get("host", "localhost"), self._options.get("port", 5432)
        return f"PostgresEngine({host}:{port}/{self._options.get('dbname', '')}, {self.name!r})"

    # -- the contract ----------------------------------------------------------------------------------------

    def exchange(self, request: Request) -> Answer:
        """See `Engine`."""
        row = self._call(
            _EXCHANGE,
            *(
                self.name,
                secrets.token_hex(8),
                check_host(request.host),
                request.epoch,
                request.seq,
                request.keep,
                request.ask,
            ),
            *(*request.report, request.max_size, request.lease, request.resize),
        )[0]
        refused, epoch, learning, max_size, lease, free, credit, number, seq = row
        return Answer(
            *(refused, epoch, learning == "t", int(max_size), float(lease)),
            *(int(free), int(credit), int(number), int(seq)),
        )

    def read(self) -> State:
        """See `Engine`."""
        found = self._call("SELECT * FROM mppool.read($1)", self.name)
        if not found:
            return State("", False, 0, 0.0, 0, {})
        epoch, learning, max_size, lease, number = found[0][:5]
        rows = {}
        for *_, host, last, seq, credit, ghost, in_use, waiting, wanted in found if epoch else ():
            if host:
                report = Report(int(in_use), int(waiting), int(wanted))
                rows[host] = Row(int(last), int(seq), int(credit), ghost == "t", report)
        return State(epoch, learning == "t", int(max_size), float(lease), int(number), rows)

    def bury(self, epoch: str, host: str, number: int, count: int) -> bool:
        """See `Engine`."""
        return self._call("SELECT mppool.bury($1,$2,$3,$4,$5)", self.name, epoch, host, number, count) == [["t"]]

    def learned(self, epoch: str, number: int, ghosts: Mapping[str, int]) -> bool:
        """See `Engine`."""
        hosts, counts = "{%s}" % ",".join(map(check_host, ghosts)), "{%s}" % ",".join(map(str, ghosts.values()))  # noqa: UP031
        return self._call("SELECT mppool.learned($1,$2,$3,$4,$5)", self.name, epoch, number, hosts, counts) == [["t"]]

    def ring(self, sender: str, targets: Mapping[str, int]) -> None:
        """See `Engine`."""
        if targets:
            channels = "{%s}" % ",".join(map(self.channel, targets))  # noqa: UP031
            payloads = "{%s}" % ",".join(f'"{check_host(sender)} {target}"' for target in targets.values())  # noqa: UP031
            self._call("SELECT pg_notify(c, p) FROM unnest($1::text[], $2::text[]) AS u (c, p)", channels, payloads)

    def listen(self, host: str) -> PostgresListener:
        """See `Engine`."""
        channel = self.channel(host)
        self._call(f'LISTEN "{channel}"')
        listener = PostgresListener(self, channel)
        self._listeners.setdefault(channel, []).append(listener)
        return listener

    def channel(self, host: str) -> str:
        """Where a host's rings come; PostgreSQL's names have 63 bytes at most."""
        return "mppool_" + hashlib.sha256(f"{self.name} {check_host(host)}".encode()).hexdigest()[:32]

    def forget(self, listener: PostgresListener) -> None:
        """A listener is closed. The server goes on notifying until the connection ends; nobody is told."""
        for listeners in self._listeners.values():
            if listener in listeners:
                listeners.remove(listener)

    def close(self) -> None:
        """See `Engine`."""
        self._listeners = {}
        self._disconnect()

    # -- the connection --------------------------------------------------------------------------------------

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connected(self) -> Any:
        if self._connection is None:
            self._connect()
        return self._connection

    def _connect(self) -> None:
        import psycopg

        options: dict[str, Any] = {
            "connect_timeout": max(2, round(self._timeout)),
            "application_name": "mppool cluster",
            "target_session_attrs": "read-write",
            "tcp_user_timeout": max(1000, int(self._timeout * 2000)),
            **self._options,
        }
        if self._credentials is not None:
            user, options["password"] = self._credentials()
            options |= {"user": user} if user else {}
        try:
            self._connection = psycopg.connect(**options, autocommit=True)
        except psycopg.OperationalError as error:
            wrong = any(word in str(error) for word in ("authentication failed", "no password supplied", "pg_hba.conf"))
            raise (EngineRefused if wrong else EngineUnreachable)(f"{self!r}: {_plain(error)}") from None
        self._call(_SESSION, str(int(self._timeout * 1000)))
        if not self._checked:
            self._check()
        for channel, listeners in self._listeners.items():
            if listeners:
                self._call(f'LISTEN "{channel}"')

    def _check(self) -> None:
        """Make the schema, if it is not there and may be made; refuse one of another version."""
        found = self._call("SELECT to_regprocedure('mppool.schema_version()') IS NOT NULL")
        if found == [["f"]] and self._create:
            self._run(
                f"BEGIN; SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock({_CREATING}); {SCHEMA} COMMIT"
            )
        elif found == [["f"]]:
            self._disconnect()
            raise EngineRefused(f"{self!r}: no schema mppool; make it with the SQL of mppool cluster init --print")
        version = self._call("SELECT mppool.schema_version()")[0][0]
        if version != str(VERSION):
            self._disconnect()
            raise EngineRefused(f"{self!r}: the schema mppool has version {version}, and this mppool needs {VERSION}")
        self._checked = True

    def _call(self, sql: str, *arguments: object) -> list[list[str]]:
        """The rows of one statement, as text. After any error that leaves its outcome open, the connection goes."""
        parameters = [_text(each).encode() for each in arguments]
        return self._send(lambda pg: pg.send_query_params(sql.encode(), parameters))

    def _run(self, sql: str) -> None:
        """Several statements, without parameters."""
        self._send(lambda pg: pg.send_query(sql.encode()), _CREATION)

    def _send(self, send: Callable[[Any], None], timeout: float = 0.0) -> list[list[str]]:
        import psycopg

        pg, deadline = self._connected().pgconn, time.monotonic() + max(timeout, self._timeout)
        try:
            pg.nonblocking = 1
            send(pg)
            results = self._results(pg, deadline)
        except (psycopg.Error, OSError) as error:
            self._disconnect()
            raise EngineUnreachable(f"{self!r}: {_plain(error)}") from None
        except BaseException:
            self._disconnect()
            raise
        for result in results:
            if result.status == psycopg.pq.ExecStatus.FATAL_ERROR:
                self._fail(result)
        last = results[-1]
        return [[_field(last, row, column) for column in range(last.nfields)] for row in range(last.ntuples)]

    def _results(self, pg: Any, deadline: float) -> Sequence[Any]:
        results: list[Any] = []
        while True:
            unsent = pg.flush()
            while not unsent and not pg.is_busy():
                result = pg.get_result()
                if result is None:
                    return results
                results.append(result)
            left = deadline - time.monotonic()
            ready = left > 0 and any(select.select([pg.socket], [pg.socket] if unsent else [], [], left))
            if not ready:
                raise EngineUnreachable(f"{self!r}: no answer in time")
            pg.consume_input()

    def _fail(self, result: Any) -> None:
        from psycopg import pq

        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        text = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")
        self._disconnect()
        raise (EngineUnreachable if state.startswith(_PASSING) else EngineRefused)(f"{self!r}: {text} ({state})")

    # -- rings -----------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """The connection's socket; connects if need be."""
        number: int = self._connected().pgconn.socket
        return number

    def take(self, timeout: float) -> None:
        """Give the rings that have come to their listeners."""
        import psycopg

        pg = self._connected().pgconn
        try:
            if not self._collect(pg) and timeout > 0:
                select.select([pg.socket], [], [], timeout)
                self._collect(pg)
        except (psycopg.Error, OSError) as error:
            self._disconnect()
            raise EngineUnreachable(f"{self!r}: {_plain(error)}") from None

    def _collect(self, pg: Any) -> bool:
        pg.consume_input()
        found = False
        while (note := pg.notifies()) is not None:
            sender, _, target = note.extra.decode().rpartition(" ")
            for listener in self._listeners.get(note.relname.decode(), ()):
                listener.rings.append(Ring(sender, int(target)))
            found = True
        return found


class PostgresListener:
    """Rings for one host, over the engine's connection. See `Listener`."""

    def __init__(self, engine: PostgresEngine, channel: str) -> None:
        self._engine, self._channel = engine, channel
        self.rings: deque[Ring] = deque()

    def fileno(self) -> int:
        """See `Listener`. What has come along with an answer does not make it readable: call `heard` after calls."""
        return self._engine.fileno()

    def heard(self, timeout: float = 0.0) -> list[Ring]:
        """See `Listener`."""
        self._engine.take(0.0 if self.rings else timeout)
        heard = list(self.rings)
        self.rings.clear()
        return heard

    def close(self) -> None:
        """See `Listener`."""
        self._engine.forget(self)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _field(result: Any, row: int, column: int) -> str:
    value = result.get_value(row, column)
    return value.decode() if value is not None else ""


def _plain(error: BaseException) -> str:
    return " ".join(str(error).split())
