"""One open connection of the driver, with what is known about it: how far it can be trusted, and its transaction.

A pool owns `Link`s; a borrower uses one through a `PySQLXEngineSync` or `PySQLXEngine`. Every call to the database
passes through `Link.call`. That is the only place where the driver's errors become ours and where trust is
withdrawn. The facts are in `link_state`, which alone writes them.

Dropping the last reference closes the connection; the driver has no other way. A link is not a lock: the driver
serves two callers on one link one after the other, but both share its transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from socket import SHUT_WR
from typing import TYPE_CHECKING, Any, TypeVar

from mppool import errors
from mppool.database.connection.driver_uri import scrub
from mppool.database.connection.error_classes import Trust, classify
from mppool.database.connection.link_state import LinkState
from mppool.database.runtime import drivers, sockets
from mppool.database.runtime.drivers import is_panic
from mppool.database.runtime.loop_stand_in import drive
from mppool.shared.descriptors import is_short, never_close

if TYPE_CHECKING:
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
# Seconds that a server needs to notice a closed connection whose socket is unknown (95th percentile, local PostgreSQL).
UNWATCHED = 0.0017
# Any answer shows that the server is there. This is the answer inside a failed PostgreSQL transaction.
_ABORTED_TRANSACTION = "25P02"


class Link(LinkState):
    """One open connection; see also `LinkState`.

    Attributes:
        database: the address, as parsed from the uri.
        provider: "postgresql", "mysql", "sqlserver" or "sqlite".
        conn: the driver's connection; None once closed.
        reason: why ``conn`` is None, for error messages.
        busy: the number of calls in flight.
        since: monotonic time in seconds when the connection had been opened.
        twin: a second descriptor of the socket; see `prepare_close`.
    """

    __slots__ = ("__weakref__", "busy", "conn", "database", "driver", "provider", "reason", "since", "twin")

    def __init__(self, driver: Driver, conn: Any, database: Database) -> None:
        super().__init__()
        self.driver = driver
        self.conn: Any = conn
        self.database = database
        self.provider = database.provider
        self.busy = 0
        self.reason = CLOSED
        self.since = time.monotonic()
        self.twin: sockets.Twin | None = None
        drivers.state.links.add(self)

    def __repr__(self) -> str:
        words = [word for word in ("in_transaction", "busy") if getattr(self, word)]
        if self.trust:
            words.insert(0, self.trust.name.lower())
        if self.conn is None:
            words.append(self.reason)
        return f"<Link {self.database.key}{': ' if words else ''}{', '.join(words)}>"

    async def call(self, method: str, *arguments: object) -> Any:
        """Await one of the driver connection's methods; its errors are raised as ours.

        The method is passed by name, so that no frame has the driver's connection in a variable: an error that the
        caller keeps holds the frames it passed through, and would keep the connection open long after `drop`.

        Raises:
            PySQLXError: the database refused, or the connection broke; the kind depends on the method.
            NotConnectedError: the connection is closed, or of no more use.
        """
        if self.conn is None:
            raise errors.NotConnectedError(self.reason)
        if self.trust is Trust.UNANSWERED:
            raise errors.NotConnectedError(UNANSWERED)
        if drivers.state.stopped:
            raise errors.NotConnectedError("the interpreter is exiting")
        if lost := self.taken():
            self.distrust()
            raise errors.NotConnectedError(lost)
        self.busy += 1
        try:
            return await getattr(self.conn, method)(*arguments)
        except BaseException as error:
            # None for a cancellation, an interrupt, or the close of the coroutine: the database raised none of these
            ours = self._judge(error)
            if ours is None:
                raise
            raise ours from None
        finally:
            self.busy -= 1

    async def call_tolerating(self, code: str, method: str, *arguments: object) -> None:
        """As `call`; an error with this code is no error, and costs the connection no more than a check."""
        before = self.trust
        try:
            await self.call(method, *arguments)
        except errors.PySQLXError as error:
            if error.code != code:
                raise
            self.error_was_harmless(before)

    def _judge(self, error: BaseException) -> errors.PySQLXError | None:
        if isinstance(error, self.driver.Error):
            code, message, kind = error.code(), error.message(), error.error()  # type: ignore[attr-defined]
            self.call_failed(classify(self.provider, code, message))
            if self.conn is not None and not self.conn.is_healthy():
                self.distrust()
            return _KINDS.get(kind, errors.QueryError)(code, scrub(message, self.database))
        self.distrust()
        if is_panic(error):
            return self._panicked(error)
        self.distrust(Trust.UNANSWERED)
        if not self._closes_before_rollback():
            self.hang_up()
        return None

    def _panicked(self, error: BaseException) -> errors.QueryError:
        return errors.QueryError("PANIC", scrub(f"the driver panicked: {error}", self.database))

    def read(self, getter: Callable[[], T]) -> T:
        """Call one of a response's getters. They convert to Python on the calling thread, and may fail at it."""
        try:
            return getter()
        except self.driver.Error as error:
            raise self._judge(error) or error from None
        except BaseException as error:
            if is_panic(error):
                self.distrust()
                raise self._panicked(error) from None
            raise

    def _closes_before_rollback(self) -> bool:
        """Does the server close the conversation first, roll back afterwards, and count the connection until then?

        MySQL does, and the rollback takes as long as the transaction did: send ROLLBACK before it sees the end.
        """
        return self.provider == "mysql" and (self.in_transaction or self.unclear)

    def statement(self, sql: str) -> Any:
        """A statement of our own, without parameters, as the driver takes it."""
        return self.driver.Statement(provider=self.provider, sql=sql, params=None)

    async def answers(self) -> bool:
        """Does the database answer? Waits until all earlier calls on the connection have ended."""
        try:  # another thread may close the connection at any moment: ``conn`` is None then
            if self.conn is None or self.taken() or not self.conn.is_healthy():
                return False
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

        A suspect link is GOOD again when the database answers. It is DOUBTFUL when there is no good answer within
        ``timeout`` seconds. A doubtful link stays doubtful, and nothing is asked.
        """
        if self.trust >= Trust.DOUBTFUL or self.conn is None or drivers.state.stopped:
            return False
        try:
            alive = drive(self.answers(), timeout)
        except TimeoutError:
            alive = False
        if alive:
            self.passed_check()
        else:
            self.distrust()
        return alive

    def reset(self, timeout: float = 5.0) -> bool:
        """Roll back an open transaction. Blocks; any thread; never raises.

        Returns whether the link is fit to be lent to another borrower; True at once when no transaction is open.

        Args:
            timeout: seconds to wait for the answer; the link is doubtful afterwards.
        """
        if self.trust >= Trust.DOUBTFUL or self.conn is None or drivers.state.stopped:
            return False
        if not self.in_transaction and not self.unclear:
            return True
        try:
            drive(self._roll_back(), timeout)
        except (errors.PySQLXError, TimeoutError):
            self.distrust()
            return False
        return self.trust < Trust.DOUBTFUL

    async def _roll_back(self) -> None:
        sql = "ROLLBACK TRANSACTION" if self.provider == "sqlserver" else "ROLLBACK"
        if self.unclear:
            sql += "; SET autocommit = DEFAULT"
        try:
            await self.call("raw_cmd", self.statement(sql))
        except errors.PySQLXError as error:
            if not (self.provider == "sqlite" and "no transaction is active" in error.message):
                raise
        self.transaction_reset()

    def wait_for_end(self, timeout: float) -> bool:
        """Wait until the calls that may still run on this connection have ended; False: not within ``timeout`` seconds.

        The driver serves calls on one connection in turn, so a trivial call returns only after the earlier ones.
        """
        may_run = self.busy or self.trust >= Trust.DOUBTFUL or self._closes_before_rollback()
        if self.conn is None or not may_run or self.taken():
            return True
        try:
            drive(self._last_words(), timeout)
        except TimeoutError:
            return False
        return True

    async def _last_words(self) -> None:
        # Twice: the driver prepares and executes on MySQL in two turns, and another call may come between the two. A
        # rollback at that point would leave the statement to be committed by itself.
        if not (await self.answers() and await self.answers() and self._closes_before_rollback()):
            return
        try:
            await self.conn.raw_cmd(self.statement("ROLLBACK"))
        except self.driver.Error:
            pass  # the connection is broken: nothing more can be sent

    def hang_up(self) -> None:
        """Tell the server that nobody waits for an answer any more. The server may continue the statement.

        PostgreSQL notices this during a statement when ``client_connection_check_interval`` is set, MariaDB from time
        to time, and both at the statement's end.
        """
        self.prepare_close()
        if self.twin is not None:
            self.twin.hang_up()
        elif self.socket is not None and self.conn is not None:
            sockets.shut_down(self.socket, SHUT_WR)

    def break_off(self) -> None:
        """End a call in flight at once, by shutting its socket down. SQLite has no socket: its calls continue."""
        if self.socket is not None:
            sockets.shut_down(self.socket)

    def live_socket(self) -> sockets.Descriptor | None:
        """The connection's socket if it is known and still open. A closed one's number may belong to another file."""
        return self.socket if self.socket is not None and sockets.is_open(self.socket) else None

    def taken(self) -> str:
        """Why the connection is of no use, if other code has closed, or may have closed, the descriptors that it needs;
        "" if none has. One system call when none has."""
        if self.socket is None:
            return TAKEN if self.driver.watch.gone() else ""
        if sockets.is_open(self.socket):
            return ""
        try:
            return TAKEN if self.driver.watch.took_away(self.socket) else ""
        except OSError as error:  # no free descriptor to find out with
            return f"this connection was closed, and this process cannot find out by whom ({error}): borrow another one"

    # -- the end ---------------------------------------------------------------------------------------------

    def prepare_close(self) -> bool:
        """Keep a second descriptor of the socket from now on, so that `await_close` can tell when the server has ended
        its side. Returns False where no descriptor is free just now."""
        socket = self.live_socket() if self.conn is not None and self.twin is None else None
        if socket is not None:
            try:
                self.twin = sockets.Twin(socket)
            except OSError as error:
                return not is_short(error)
            drivers.state.twins.add(self.twin)
        return True

    def await_close(self, timeout: float) -> bool:
        """After `close`: wait until the server no longer counts the connection. Blocks; any thread.

        Needs `prepare_close` before the close. Otherwise it waits 1.7 ms, and on SQLite not at all.

        Returns:
            False when the server still counts the connection after ``timeout`` seconds: it has not finished its last
            statement, or cannot be reached.
        """
        if self.twin is None:
            if self.provider != "sqlite":
                time.sleep(UNWATCHED)
            return True
        if self.provider != "postgresql" or self.trust >= Trust.DOUBTFUL:
            self.twin.hang_up()  # on PostgreSQL the driver sends a message that ends the session
        ended = self.twin.ended(timeout)
        if ended:
            self.forget_twin()
        return ended

    def forget_twin(self) -> None:
        """Close the second descriptor: `await_close` will not be called again."""
        twin, self.twin = self.twin, None
        if twin is not None:
            drivers.state.twins.discard(twin)
            twin.close()

    def close(self, timeout: float = 5.0) -> bool:
        """Close the connection once all calls on it have ended. Blocks; any thread; may be called again.

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
            settled: the caller knows that no call runs on it any more.
        """
        if self.conn is not None and (lost := self.taken()):
            self.abandon(lost)
        conn, self.conn = self.conn, None
        self.transaction_is_open(False)
        if conn is not None and not settled and (self.trust >= Trust.DOUBTFUL or self.busy):
            own = drivers.state
            if not own.stopped:
                own.leave(self.driver, self.provider, conn)

    def __del__(self) -> None:
        self.forget_twin()
        if self.conn is not None:  # its owner forgot it, perhaps with a cancelled call still running
            self.drop()

    def abandon(self, reason: str = INHERITED) -> None:
        """Keep the driver's connection for ever and never touch it.

        In a forked child the connection is the parent's: dropping it would take the parent's socket off the epoll
        instance that both processes share, and the parent would wait for its next answer for ever. Where other code
        closed the descriptors, dropping it would close the files that have these numbers now.
        """
        if self.conn is None:
            return
        never_close(self.conn)
        self.conn = None
        self.transaction_is_open(False)
        self.reason = reason
