"""A budget's data in Redis or Valkey: each call is one Lua script, which the server runs atomically.

Keys and channels begin with ``mppool:{name}:``; a cluster keeps them on one node. Two keys a budget:

    mppool:{name}:head   a hash: epoch, run, max_size, sum, lease, learning, number, declared, count
    mppool:{name}:rows   a hash, by host: "number seq credit ghost in_use waiting wanted"

``run`` is the server's ``run_id``: after a restart or a failover the data may be older than what hosts were told, so a
new epoch begins. It also does if keys are gone, as after FLUSHALL, or if the server has evicted one.

The least rights, as an ACL rule: see `LEAST_RIGHTS`. The extra ``mppool[redis]`` brings the client.
"""

from __future__ import annotations

import secrets
import select
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

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
from mppool.cluster.redis_scripts import BURY, EXCHANGE, LEARNED, READ

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Result = TypeVar("Result")

#: For ``ACL SETUSER``, with a budget's name, after the user's name and password.
LEAST_RIGHTS = (
    "on resetkeys ~mppool:{{{name}}}:* resetchannels &mppool:{{{name}}}:* "
    "-@all +evalsha +eval +script|load +info +hmget +hset +hsetnx +hget +hgetall +hdel +hlen +del "
    "+publish +subscribe +unsubscribe +ping +hello +auth +select"
)


class RedisEngine:
    """One budget in Redis.

    Args:
        url: ``redis://host:6379/0``, ``rediss://`` with TLS, ``unix://``, or for Sentinel
            ``redis+sentinel://host:26379,host:26379/service/0`` (``rediss+sentinel://`` with TLS).
        name: the budget's: 1 to 64 letters, digits, ``.``, ``_`` or ``-``.
        credentials: returns user (or None) and password; called for each new connection. None: those of the url.
        timeout: seconds that a connect, and a call, may take.
        options: more for redis-py's connections, such as ``ssl_ca_certs``, ``ssl_certfile`` and ``ssl_keyfile``.

    Raises:
        ValueError: a bad name or url.
        ImportError: redis-py is not installed.
    """

    def __init__(
        self,
        url: str,
        name: str,
        credentials: Callable[[], tuple[str | None, str]] | None = None,
        timeout: float = 1.0,
        **options: Any,
    ) -> None:
        check_name(name)
        self.name, self._timeout = name, timeout
        self._client = _client(url, credentials, timeout, options)
        self._where = _without_password(url)
        self._keys = [f"mppool:{{{name}}}:head", f"mppool:{{{name}}}:rows"]
        self._exchange, self._read = self._script(EXCHANGE), self._script(READ)
        self._bury, self._learned = self._script(BURY), self._script(LEARNED)
        self._listeners: list[RedisListener] = []

    def __repr__(self) -> str:
        return f"RedisEngine({self._where}, {self.name!r})"

    def _script(self, source: str) -> Callable[..., Any]:
        script = self._client.register_script(source)
        return lambda *arguments: self.guard(lambda: script(keys=self._keys, args=arguments))

    def guard(self, call: Callable[[], Result]) -> Result:
        """Do a call; redis-py's errors become the contract's, without a password."""
        import redis
        from redis.exceptions import ClusterDownError, NoPermissionError

        try:
            return call()
        except (redis.AuthenticationError, NoPermissionError) as error:
            raise EngineRefused(f"{self!r}: {error}") from None
        except (redis.ConnectionError, redis.TimeoutError, ClusterDownError, OSError) as error:
            raise EngineUnreachable(f"{self!r}: {error}") from None
        except redis.ResponseError as error:
            refused = str(error).startswith(("NOPERM", "WRONGPASS", "NOAUTH", "unknown command"))
            raise (EngineRefused if refused else EngineUnreachable)(f"{self!r}: {error}") from None

    # -- the contract ----------------------------------------------------------------------------------------

    def exchange(self, request: Request) -> Answer:
        """See `Engine`."""
        answer = self._exchange(
            *(secrets.token_hex(8), check_host(request.host), request.epoch, request.seq, request.keep, request.ask),
            *(*request.report, request.max_size, request.lease, int(request.resize)),
        )
        refused, epoch, learning, max_size, lease, free, credit, number, seq = answer
        return Answer(
            *(_text(refused), _text(epoch), learning == 1, int(max_size), float(lease)),
            *(int(free), int(credit), int(number), int(seq)),
        )

    def read(self) -> State:
        """See `Engine`."""
        epoch, learning, max_size, lease, number, packed = self._read()
        rows = {_text(host): _row(packed[place + 1]) for place, host in enumerate(packed) if place % 2 == 0}
        return State(_text(epoch), learning == 1, int(max_size), float(lease), int(number), rows)

    def bury(self, epoch: str, host: str, number: int, count: int) -> bool:
        """See `Engine`."""
        return bool(self._bury(epoch, host, number, count))

    def learned(self, epoch: str, number: int, ghosts: Mapping[str, int]) -> bool:
        """See `Engine`."""
        pairs = [part for host, count in ghosts.items() if count > 0 for part in (check_host(host), count)]
        return bool(self._learned(epoch, number, *pairs))

    def ring(self, sender: str, targets: Mapping[str, int]) -> None:
        """See `Engine`."""

        def publish() -> None:
            with self._client.pipeline(transaction=False) as pipeline:
                for host, target in targets.items():
                    pipeline.publish(self.channel(host), f"{check_host(sender)} {target}")
                pipeline.execute()

        if targets:
            self.guard(publish)

    def listen(self, host: str) -> RedisListener:
        """See `Engine`."""
        listener = RedisListener(self, self._client.pubsub(), host, self._timeout)
        self._listeners.append(listener)
        return listener

    def channel(self, host: str) -> str:
        """Where a host's rings come."""
        return f"mppool:{{{self.name}}}:ring:{check_host(host)}"

    def forget(self, listener: RedisListener) -> None:
        """A listener is closed."""
        self._listeners = [each for each in self._listeners if each is not listener]

    def close(self) -> None:
        """See `Engine`."""
        for listener in list(self._listeners):
            listener.close()
        self._client.close()
        pool = self._client.connection_pool
        pool.disconnect()
        for sentinel in pool.sentinel_manager.sentinels if hasattr(pool, "sentinel_manager") else ():
            sentinel.connection_pool.disconnect()


class RedisListener:
    """Rings for one host, over a connection of their own. See `Listener`."""

    def __init__(self, engine: RedisEngine, pubsub: Any, host: str, timeout: float) -> None:
        self._engine, self._pubsub, self._timeout = engine, pubsub, timeout
        self._channel = engine.channel(host)
        self._heard: deque[Ring] = deque()
        self._subscribe()

    def _subscribe(self) -> None:
        """Returns when the server has confirmed it: rings from now on are heard."""

        def subscribe() -> None:
            self._pubsub.subscribe(self._channel)
            deadline = time.monotonic() + self._timeout
            while not self._take(max(0.0, deadline - time.monotonic())):
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"no answer to SUBSCRIBE in {self._timeout:g} s")

        try:
            self._engine.guard(subscribe)
        except BaseException:
            self._pubsub.close()
            raise

    def _take(self, timeout: float) -> bool:
        """Read one message, if one comes in time; whether it confirms the subscription."""
        message = self._pubsub.get_message(timeout=timeout)
        if message is not None and message["type"] == "message":
            sender, _, target = _text(message["data"]).rpartition(" ")
            self._heard.append(Ring(sender, int(target)))
        return message is not None and message["type"] == "subscribe"

    def fileno(self) -> int:
        """See `Listener`."""
        number: int = self._socket().fileno()
        return number

    def _socket(self) -> Any:
        connection = self._pubsub.connection
        if connection is None or connection._sock is None:
            raise EngineUnreachable(f"{self._engine!r}: not listening")
        return connection._sock

    def heard(self, timeout: float = 0.0) -> list[Ring]:
        """See `Listener`."""

        def take() -> None:
            if timeout > 0 and not self._pubsub.connection.can_read(0):
                select.select([self._socket()], [], [], timeout)
            while self._pubsub.connection.can_read(0):
                self._take(0.0)

        if self._pubsub.connection is None:
            self._subscribe()
        try:
            self._engine.guard(take)
        except EngineUnreachable:
            self._pubsub.close()
            raise
        heard = list(self._heard)
        self._heard.clear()
        return heard

    def close(self) -> None:
        """See `Listener`."""
        self._engine.forget(self)
        self._pubsub.close()


#: Seconds until a silent connection is probed, seconds between probes, and their number; where the system has these.
_KEEPALIVE = {
    getattr(socket, name): value
    for name, value in {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}.items()
    if hasattr(socket, name)
}


def _row(packed: bytes) -> Row:
    number, seq, credit, ghost, *report = map(int, packed.split())
    return Row(number, seq, credit, ghost == 1, Report(*report))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _without_password(url: str) -> str:
    """For errors and `repr`: scheme, hosts and path; no user, no password, no options."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _client(url: str, credentials: Callable[[], tuple[str | None, str]] | None, timeout: float, more: Any) -> Any:
    """A client that tries nothing twice: what was sent again would have to be another request."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    options = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": Retry(NoBackoff(), 0), **more}
    if credentials is not None:
        options["credential_provider"] = _provider(credentials)
    scheme = urlsplit(url).scheme
    if scheme in {"redis+sentinel", "rediss+sentinel"}:
        return _by_sentinel(url, options)
    if scheme in {"redis", "rediss"}:  # a subscription says nothing for hours: it must notice that its way is cut
        options |= {"socket_keepalive": True, "socket_keepalive_options": _KEEPALIVE}
    if scheme not in {"redis", "rediss", "unix"}:
        raise ValueError(f"the url of a Redis engine begins with redis://, rediss:// or unix://, not {scheme}://")
    return redis.Redis.from_url(url, **options)


def _by_sentinel(url: str, options: dict[str, Any]) -> Any:
    from redis.sentinel import Sentinel

    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    if not service or not hosts:
        raise ValueError("the url of a Sentinel engine is redis+sentinel://host:26379,host:26379/service/0")
    if login and "credential_provider" not in options:
        user, _, password = login.partition(":")
        options |= {"username": unquote(user) or None, "password": unquote(password)}
    if parts.scheme == "rediss+sentinel":
        options["ssl"] = True
    places = [_place(each) for each in hosts.split(",")]
    seconds = {key: value for key, value in options.items() if key.startswith("socket_")}
    untyped: Any = Sentinel
    sentinel = untyped(places, sentinel_kwargs=seconds)
    return sentinel.master_for(service, db=int(database or 0), **options)


def _place(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "localhost", parts.port or 26379


def _provider(credentials: Callable[[], tuple[str | None, str]]) -> Any:
    from redis.credentials import CredentialProvider

    class Provider(CredentialProvider):
        def get_credentials(self) -> Any:
            user, password = credentials()
            return (user, password) if user else (password,)

    return Provider()
