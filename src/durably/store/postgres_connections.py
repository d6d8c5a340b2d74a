"""Connections to PostgreSQL: how they are opened, what breaks them, and when to try again.

Rule 1: connections come back by themselves, after pauses that grow and differ; who waits longer than
        `postgres_unavailable_s` is told so.
Rule 2: who waits for a database to come back holds no connection meanwhile: what goes to the other
        databases of Citus needs it.
Rule 3: an address may name several hosts. The one is taken that answers and can be written to, wherever
        that is now: a standby that was promoted, never one that still follows.
Rule 4: nothing needs a session of its own but listening: everything else goes through PgBouncer in
        transaction mode (`postgres_prepared_statements=0` where that does not keep statements).
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from durably.config import Config
from durably.errors import Unavailable
from durably.logs import without_password
from durably.store.store import StoreForbidden

Connection = Any
"""An asyncpg.Connection, or what its pool lends: asyncpg has no types."""

NO_ADDRESS = (
    "is no address of PostgreSQL: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, and in a password"
    " %40 for @, %2F for /, %3A for :"
)
FIRST_PAUSE_S = 0.05
LAST_PAUSE_S = 2.0

# What says that a connection, or its server, is gone or of no use now, and that another may do.
BROKEN = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
# What a server that is there cannot or may not do, until somebody sees to it: what to say of that.
IMPEDED = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
)
_ADVICE: tuple[tuple[type[BaseException], str], ...] = (
    (asyncpg.InsufficientPrivilegeError, "grant its role what docs/operations.md says"),
    (asyncpg.TooManyConnectionsError, "raise max_connections, or put PgBouncer before it"),
    (asyncpg.DiskFullError, "free some space on its disk"),
    (asyncpg.InsufficientResourcesError, "see to its memory and its limits"),
    (asyncpg.PostgresSystemError, "see to its disk"),
    (asyncpg.InternalServerError, "see PostgreSQL's log"),
    (asyncpg.InvalidAuthorizationSpecificationError, "see to the role and its password"),
    (asyncpg.ReadOnlySQLTransactionError, "see that a server is there which can be written to"),
)
# What the server has undone whole, and may well do if it is asked again.
UNDONE = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError)
# What concerns one unit of a group, which then has to be found.
OF_ONE_UNIT = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
)


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that leaves nothing to clean up: giving it back to its pool costs no round trip."""

    def get_reset_query(self) -> str:
        return ""


class NoHost(OSError):
    """None of the hosts of an address can be used, each for its reason."""


class Connector:
    """Opens connections, again and again if need be; `first` is what is said on each before all else."""

    def __init__(self, url: str, config: Config, first: str = "") -> None:
        self._url = url
        self._config = config
        self._first = first
        self._hosts: dict[str, list[str]] = {}
        """Address -> the same with one host each; the one that served last comes first."""

    def arguments(self) -> dict[str, Any]:
        prepared = self._config.postgres_prepared_statements
        arguments: dict[str, Any] = {
            "dsn": self._url,
            "connection_class": _Connection,
            "statement_cache_size": prepared,
            "command_timeout": self._config.postgres_statement_timeout_s,
            "timeout": self._config.postgres_connect_timeout_s,
            "target_session_attrs": "read-write",
        }
        if prepared:
            arguments["server_settings"] = {"application_name": "durably"}
        return arguments

    async def connect(self, url: str = "") -> Connection:
        """To the store; to `url` if one is given."""
        arguments = self.arguments()
        connection = await self._open(**(arguments | {"dsn": url} if url else arguments))
        await self._begin(connection)
        return connection

    async def _open(self, dsn: str, **arguments: Any) -> Connection:
        """To the first host that answers in time and can be written to. asyncpg alone would go no further
        than a host that does not answer, or that starts up."""
        hosts = self._hosts.setdefault(dsn, one_host_each(dsn))
        failed = []
        for host in list(hosts):
            try:
                connection = await asyncpg.connect(dsn=host, **arguments)
            except asyncpg.TargetServerAttributeNotMatched as error:
                error.args = ("this server cannot be written to",)
                failed.append((host, error))
            except (*BROKEN, asyncpg.PostgresError) as error:
                failed.append((host, error))
            else:
                hosts.remove(host)
                hosts.insert(0, host)
                return connection
        if len(failed) == 1:
            raise failed[0][1]
        raise NoHost("; ".join(f"{_host(each)}: {said(error)}" for each, error in failed))

    async def _begin(self, connection: Connection) -> None:
        if not self._first:
            return
        try:
            await connection.execute(self._first)
        except BaseException:
            connection.terminate()
            raise

    def pool(self, connections_max: int) -> Any:
        arguments = self.arguments()
        return asyncpg.create_pool(
            arguments.pop("dsn"),
            **arguments,
            connect=self._open,
            init=self._begin,
            min_size=0,
            max_size=connections_max,
            max_inactive_connection_lifetime=60.0,
        )


class Turn:
    """Of one who writes: it begins and ends, and in between there is a connection."""

    def __init__(self, connections: "WritingConnections") -> None:
        self._connections = connections
        self._connection: Connection = None
        self._again = False

    async def begin(self, *, again: bool = False) -> None:
        """`again`: for what could not be written the last time. That takes half of the connections at
        most, so that a database which does not even refuse holds up only itself."""
        if again:
            await self._connections.again.acquire()
        self._again = again
        await self._connections.free.acquire()

    def end(self) -> None:
        if self._connection is not None:
            self._connections.idle.append(self._connection)
            self._connection = None
        self._connections.free.release()
        if self._again:
            self._connections.again.release()

    async def connection(self) -> Connection:
        """Raises what BROKEN lists."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connections.taken()
        return self._connection

    def broken(self, error: BaseException) -> None:
        """The connection is no more; unless it is the coordinator's word that a worker's is broken."""
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError) or not isinstance(
            error, asyncpg.PostgresError
        ):
            self.discard()

    def discard(self) -> None:
        """The connection is not used any more."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


class WritingConnections:
    """So many at most, for whoever has a turn."""

    def __init__(self, connector: Connector, connections_max: int) -> None:
        self._connector = connector
        self.free = asyncio.Semaphore(connections_max)
        self.again = asyncio.Semaphore(max(1, connections_max // 2))
        self.idle: list[Connection] = []

    async def taken(self) -> Connection:
        """One that was used before, if there is one that still stands."""
        while self.idle:
            connection = self.idle.pop()
            if not connection.is_closed():
                return connection
        return await self._connector.connect()

    async def close(self) -> None:
        """When nobody has a turn any more."""
        for connection in self.idle:
            await close(connection)


def one_host_each(url: str) -> list[str]:
    """The addresses of all hosts that `postgresql://USER@HOST:PORT,HOST:PORT/DATABASE` names."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return [url]
    return [urlunsplit(parts._replace(netloc=f"{user}{at}{each}")) for each in hosts.split(",")]


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def said(error: BaseException) -> str:
    """The reason as one sentence. What PostgreSQL says in detail may quote a row."""
    if isinstance(error, asyncpg.PostgresError):
        return str(error.args[0])
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else repr(error))


def unavailable(what: str, error: BaseException) -> Unavailable:
    """The store cannot do `what`, for this reason; with what is to be done about it."""
    advice = next((text for kind, text in _ADVICE if isinstance(error, kind)), "")
    return Unavailable(
        f"the store cannot {what} ({said(error)}):"
        f" {advice or 'see that PostgreSQL is running'}, then try again"
    )


def cannot_open(url: str, error: BaseException) -> Unavailable:
    return Unavailable(f"cannot open {without_password(url)}: {said(error)}")


def pauses() -> Iterable[float]:
    """How long to wait before each new try, in seconds: longer and longer, and never the same."""
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s * random.uniform(0.5, 1.0)
        pause_s = min(2 * pause_s, LAST_PAUSE_S)


@contextlib.asynccontextmanager
async def opened(url: str, config: Config) -> AsyncIterator[Connection]:
    """A connection for a while. Raises Unavailable; StoreForbidden for what the role may not do."""
    try:
        connection = await Connector(url, config).connect()
    except (*BROKEN, asyncpg.PostgresError) as error:
        raise cannot_open(url, error) from error
    except ValueError:
        raise ValueError(f"{without_password(url)} {NO_ADDRESS}") from None
    try:
        yield connection
    except (*BROKEN, *UNDONE) as error:
        raise cannot_open(url, error) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise StoreForbidden(
            f"{without_password(url)}: {error}: let the owner of the tables run `durably migrate`, and"
            " grant this role what docs/operations.md says"
        ) from error
    finally:
        await close(connection)


async def close(connection: Connection) -> None:
    try:
        await connection.close(timeout=5)
    except (*BROKEN, asyncpg.PostgresError):
        connection.terminate()
