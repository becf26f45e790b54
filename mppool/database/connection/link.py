"""One open connection of the core with what is known about it: in a transaction, suspect, doubtful.

A `Link` is what a pool owns; a borrower sees it through a face (`connection.py`). Every call to the database
goes through `Link.call`, which is the only place where the core's errors become ours and where trust is
withdrawn: a call that did not end (cancelled, timed out, interrupted, panicked) leaves the link doubtful for
good, because the database goes on with the statement.

Dropping the last reference closes the connection; the core has no other way. A link is not a lock: two
callers at once on one link are served one after the other by the core, but share its transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from socket import SHUT_WR
from typing import TYPE_CHECKING, Any, TypeVar

from mppool import errors
from mppool.database.connection.driver_uri import scrub
from mppool.database.connection.error_classes import Verdict, is_panic, judge
from mppool.database.runtime import drivers, sockets
from mppool.database.runtime.loop_stand_in import drive
from mppool.shared.descriptors import is_short, never_close

if TYPE_CHECKING:
    from mppool.database.connection.backends import Name
    from mppool.database.runtime.drivers import Driver
    from mppool.uri import Database

__all__ = ["Link"]

T = TypeVar("T")

CLOSED = "the connection is closed"
INHERITED = "the connection was opened before a fork, in the parent process"
TAKEN = "other code of this process has closed the descriptors that this connection needs: borrow another one"
UNANSWERED = (
    "a call on this connection was cancelled, timed out or interrupted, so there are no more calls on it: "
    "a pool replaces it when it is given back; a connection of your own must be closed and connected again"
)
_KINDS: dict[str, type[errors.PySQLXError]] = {
    kind.__name__: kind
    for kind in (
        errors.QueryError,
        errors.ExecuteError,
        errors.RawCmdError,
        errors.IsoLevelError,
        errors.StartTransactionError,
        errors.ConnectError,
    )
}
# Seconds that a server needs to notice a closed connection whose socket is not known (95 % on a local PostgreSQL).
UNWATCHED = 0.0017
# An answer, any answer, shows that the server is there: this one comes inside a failed PostgreSQL
# transaction.
_ABORTED_TRANSACTION = "25P02"


class Link:
    """One open connection and its state.

    Attributes:
        provider: "postgresql", "mysql", "sqlserver" or "sqlite".
        in_transaction: a transaction was begun through this link and has not been ended.
        failed: since the transaction began, a call has failed; on PostgreSQL it may have aborted the transaction.
        savepoints: how many blocks inside the transaction's block are open.
        unclear: on MySQL, a transaction may be open or autocommit off without our knowledge.
        unanswered: a call was given up (cancelled, timed out, interrupted): its answer is still to come, and there are
            no more calls. Implies ``doubtful``.
        suspect: a call failed in a way that may have broken the connection; ask `check` before the next use.
        doubtful: a call did not end, or what it left behind cannot be trusted: never use it again.
        busy: calls in flight.
        conn: the core's connection; None once closed.
        reason: what a caller is told when ``conn`` is None.
        since: monotonic time when it had been opened.
        name: what the server calls it, where it does not see the address and port that we have here.
    """

    __slots__ = (
        "__weakref__",
        "busy",
        "conn",
        "database",
        "doubtful",
        "driver",
        "failed",
        "in_transaction",
        "name",
        "provider",
        "reason",
        "savepoints",
        "since",
        "socket",
        "suspect",
        "twin",
        "unanswered",
        "unclear",
    )

    def __init__(self, driver: Driver, conn: Any, database: Database) -> None:
        self.driver = driver
        self.conn: Any = conn
        self.database = database
        self.provider = database.provider
        self.in_transaction = False
        self.failed = False
        self.savepoints = 0
        self.suspect = False
        self.doubtful = False
        self.unanswered = False
        self.unclear = False
        self.busy = 0
        self.reason = CLOSED
        self.since = time.monotonic()
        self.name: Name | None = None
        self.socket: sockets.Descriptor | None = None
        self.twin: sockets.Twin | None = None
        drivers.state.links.add(self)

    def __repr__(self) -> str:
        words = [word for word in ("in_transaction", "suspect", "doubtful", "busy") if getattr(self, word)]
        if self.conn is None:
            words.append(self.reason)
        return f"<Link {self.database.key}{': ' if words else ''}{', '.join(words)}>"

    async def call(self, method: str, *arguments: object) -> Any:
        """Await one of the core connection's methods; what it raises is ours.

        The method comes by name, so that no frame has the core's connection in a variable: an error that somebody
        keeps holds the frames it went through, and would hold the connection open long after `drop`.
        """
        if self.conn is None:
            raise errors.NotConnectedError(self.reason)
        if self.unanswered:
            raise errors.NotConnectedError(UNANSWERED)
        if drivers.state.stopped:
            raise errors.NotConnectedError("the interpreter is exiting")
        if self.taken():
            self.doubtful = True
            raise errors.NotConnectedError(TAKEN)
        self.busy += 1
        try:
            return await getattr(self.conn, method)(*arguments)
        except BaseException as error:
            # None for what is not the database's: a cancellation, an interrupt, the close of the coroutine
            ours = self._judge(error)
            if ours is None:
                raise
            raise ours from None
        finally:
            self.busy -= 1

    def _judge(self, error: BaseException) -> errors.PySQLXError | None:
        if isinstance(error, self.driver.Error):
            code, message, kind = error.code(), error.message(), error.error()  # type: ignore[attr-defined]
            verdict = judge(self.provider, code, message)
            self.failed = True
            if verdict is not Verdict.FINE:
                self.suspect = True
            if verdict is Verdict.DOUBTFUL or (self.conn is not None and not self.conn.is_healthy()):
                self.doubtful = True
            return _KINDS.get(kind, errors.QueryError)(code, scrub(message, self.database))
        self.doubtful = True
        if is_panic(error):
            return self._panicked(error)
        self.unanswered = True
        if not self._closes_before_rollback():
            self.hang_up()
        return None

    def _panicked(self, error: BaseException) -> errors.QueryError:
        return errors.QueryError("PANIC", scrub(f"the driver panicked: {error}", self.database))

    def read(self, getter: Callable[[], T]) -> T:
        """One of a response's getters, which convert to Python on the calling thread and may fail at it."""
        try:
            return getter()
        except self.driver.Error as error:
            raise self._judge(error) or error from None
        except BaseException as error:
            if is_panic(error):
                self.doubtful = True
                raise self._panicked(error) from None
            raise

    def _closes_before_rollback(self) -> bool:
        """Would the server close the conversation first and only then roll back, and count until that is done? MySQL
        does, for as long as the transaction was: it must be told to roll back before it sees an end."""
        return self.provider == "mysql" and (self.in_transaction or self.unclear)

    def statement(self, sql: str) -> Any:
        """A statement of our own, without parameters, as the core takes it."""
        return self.driver.Statement(provider=self.provider, sql=sql, params=None)

    async def answers(self) -> bool:
        """Does the database answer? Waits behind whatever still runs on the connection."""
        if self.conn is None or self.taken() or not self.conn.is_healthy():
            return False
        try:
            await self.conn.query_typed(self.statement("SELECT 1"))
        except self.driver.Error as error:
            return bool(error.code() == _ABORTED_TRANSACTION)  # type: ignore[attr-defined]
        except BaseException as error:
            if isinstance(error, Exception) or is_panic(error):
                return False
            raise
        return True

    async def aborted(self) -> bool:
        """Is this a PostgreSQL transaction in which a statement has failed? Its COMMIT would be a silent ROLLBACK."""
        if self.provider != "postgresql":
            return False
        try:
            await self.call("query_typed", self.statement("SELECT 1"))
        except errors.PySQLXError as error:
            return error.code == _ABORTED_TRANSACTION
        return False

    def check(self, timeout: float = 5.0) -> bool:
        """Ask the database whether this connection is alive and well. Blocks; any thread; never raises.

        Clears `suspect` when it is; makes the link doubtful when it is not, or has not answered in
        ``timeout`` seconds.
        """
        if self.doubtful or self.conn is None or drivers.state.stopped:
            return False
        try:
            alive = drive(self.answers(), timeout)
        except TimeoutError:
            alive = False
        if alive:
            self.suspect = False
        else:
            self.doubtful = True
        return alive

    def reset(self, timeout: float = 5.0) -> bool:
        """Roll back an open transaction. Blocks; any thread; never raises.

        Returns whether the link is fit to be lent to somebody else; True at once when no transaction is open.
        """
        if self.doubtful or self.conn is None or drivers.state.stopped:
            return False
        if not self.in_transaction and not self.unclear:
            return True
        try:
            drive(self._roll_back(), timeout)
        except (errors.PySQLXError, TimeoutError):
            self.doubtful = True
            return False
        return not self.doubtful

    async def _roll_back(self) -> None:
        sql = "ROLLBACK TRANSACTION" if self.provider == "sqlserver" else "ROLLBACK"
        if self.unclear:
            sql += "; SET autocommit = DEFAULT"
        try:
            await self.call("raw_cmd", self.statement(sql))
        except errors.PySQLXError as error:
            if not (self.provider == "sqlite" and "no transaction is active" in error.message):
                raise
        self.in_transaction = self.unclear = False

    def wait_for_end(self, timeout: float) -> bool:
        """Wait until calls that may still run on this connection have ended; False when they have not in
        time.

        Calls on one connection are served in turn, so a trivial one comes back only after those before it.
        """
        if self.conn is None or not (self.busy or self.doubtful or self._closes_before_rollback()) or self.taken():
            return True
        try:
            drive(self._last_words(), timeout)
        except TimeoutError:
            return False
        return True

    async def _last_words(self) -> None:
        # Twice: MySQL's driver prepares and executes in two turns, and another's call may come between them. A rollback
        # there would leave the statement to be committed by itself.
        if not (await self.answers() and await self.answers() and self._closes_before_rollback()):
            return
        try:
            await self.conn.raw_cmd(self.statement("ROLLBACK"))
        except self.driver.Error:
            pass  # it is dead: nothing more can be said

    def hang_up(self) -> None:
        """Tell the server that nobody waits for an answer any more; it may go on with the statement all the same.

        PostgreSQL looks for it while a statement runs when ``client_connection_check_interval`` is set, MariaDB now
        and then, both at the statement's end.
        """
        self.attend()
        if self.twin is not None:
            self.twin.hang_up()
        elif self.socket is not None and self.conn is not None:
            sockets.shut_down(self.socket, SHUT_WR)

    def break_off(self) -> None:
        """End a call in flight at once, by ending the conversation; SQLite has none, its calls go on."""
        if self.socket is not None:
            sockets.shut_down(self.socket)

    def live_socket(self) -> sockets.Descriptor | None:
        """The connection's socket, if it is known and still open; its number may be somebody else's by now."""
        return self.socket if self.socket is not None and sockets.is_open(self.socket) else None

    def taken(self) -> bool:
        """Whether the descriptors that this connection needs were closed from outside. One system call if not."""
        if self.socket is None:
            return self.driver.watch.gone()
        if sockets.is_open(self.socket):
            return False
        try:
            return self.driver.watch.took_away(self.socket)
        except OSError:
            return True  # it cannot be looked at just now; nothing is lost but the connection, which is of no use

    def attend(self) -> bool:
        """From now on, keep what it takes to know when the server has ended its side; see `buried`. False: there is
        no free descriptor for it just now."""
        socket = self.live_socket() if self.conn is not None and self.twin is None else None
        if socket is not None:
            try:
                self.twin = sockets.Twin(socket)
            except OSError as error:
                return not is_short(error)
            drivers.state.twins.add(self.twin)
        return True

    def buried(self, timeout: float) -> bool:
        """After `close`: wait until the connection no longer counts on the server. Blocks; any thread.

        Needs `attend` before the close; else it waits a moment, with SQLite not at all.

        Returns:
            False when it still counts after ``timeout`` seconds: the server has not finished its last statement, or
            cannot be reached.
        """
        if self.twin is None:
            if self.provider != "sqlite":
                time.sleep(UNWATCHED)
            return True
        if self.provider != "postgresql" or self.doubtful:
            self.twin.hang_up()  # PostgreSQL is told in words, by the driver
        ended = self.twin.ended(timeout)
        if ended:
            self.forget_twin()
        return ended

    def forget_twin(self) -> None:
        """Nobody will ask whether it is buried."""
        twin, self.twin = self.twin, None
        if twin is not None:
            drivers.state.twins.discard(twin)
            twin.close()

    def close(self, timeout: float = 5.0) -> bool:
        """Close the connection, after the end of whatever may still run on it. Blocks; any thread; may be
        called again.

        Args:
            timeout: seconds to wait for a call that was cancelled, timed out or interrupted.

        Returns:
            False when such a call still runs: nothing was closed, call again.
        """
        if not self.wait_for_end(timeout):
            return False
        self.drop(settled=True)
        return True

    def drop(self, *, settled: bool = False) -> None:
        """Let go of the connection without waiting for anything.

        Args:
            settled: it is known that no call runs on it any more.
        """
        if self.conn is not None and self.taken():
            self.abandon(TAKEN)
        conn, self.conn = self.conn, None
        self.in_transaction = False
        if conn is not None and not settled and (self.doubtful or self.busy):
            own = drivers.state
            if not own.stopped:
                own.leave(self.driver, self.provider, conn)

    def __del__(self) -> None:
        self.forget_twin()
        if self.conn is not None:  # forgotten by its owner, perhaps with a call that was cancelled
            self.drop()

    def abandon(self, reason: str = INHERITED) -> None:
        """In a forked child this connection is the parent's; where its descriptors were closed from outside, their
        numbers are somebody else's. Keep it for ever and never touch it.

        Dropping it would take the parent's socket off the epoll instance that both processes share, and the
        parent would wait for its next answer for ever; or it would close what has its socket's number now.
        """
        if self.conn is None:
            return
        never_close(self.conn)
        self.conn = None
        self.in_transaction = False
        self.reason = reason
