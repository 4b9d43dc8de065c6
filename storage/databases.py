"""The PostgreSQL server, its databases, and every connection to them.

A `DatabaseServer` knows the names of Mijra's databases, creates and drops them, and owns the connections;
`server.pool(name)` is the way to one database. The landlord's database is `<prefix>landlord`, a tenant of its
own is placed in `<prefix>t_<tenant id>`, many small ones share `<prefix>pool_<n>`.

Row-level security binds nobody who is a superuser or has BYPASSRLS, so when the DSN's user is such a one, all
connections that touch tenants' rows work as the role `mijra_app`, which owns the databases and is neither.
Policies read the tenants from the setting `mijra.tenants` (ids with commas between); unset or empty, they
match nothing.

Promises   a statement sees exactly the tenants that its call names: each connection remembers what it is set
           to, and is set anew before a use that differs, outside of any transaction, so it cannot roll back;
           a read costs one crossing of the bridge, and one round trip when the connection has the tenants;
           a broken, cancelled or timed-out connection is closed, never handed on;
           no call hangs on a dead server: connecting and each statement have deadlines.
Limits     readers and writers have budgets of their own, in all and per database. A budget that is used up
           takes the least recently used idle connection of another database; when all are busy, callers wait
           in order, up to `waiters_max`. Databases nobody uses are disconnected after `idle_seconds_max`.
Leaves     schemas to `storage.migrate`, SQL to the modules that own it.

`timestamptz` is an int, milliseconds since the Unix epoch, both ways; `json` and `jsonb` are text, read as
str and written as str or UTF-8 bytes, so that msgspec parses them once, into its own types.

The server must be reached directly or through a pooler in session mode: session settings and prepared
statements do not survive a pooler that hands out connections by transaction.
"""

import re
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self, TypeVar, TypeVarTuple

import asyncpg
import structlog
import trio
from msgspec import Struct

from engine.errors import CommitFailed, Defect, MijraError, StoreUnavailable
from storage.bridge import Bridge
from storage.errors import FOREIGN_ERRORS, ServerUnsuitable, translate

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

APP_ROLE: Final = "mijra_app"
# 15 took the right to create tables in `public` from everybody but the owner; the schema counts on it.
SERVER_VERSION_MIN: Final = 150000
# Administration (create, migrate) is rare and outside of the budgets; four keep a start with many
# databases quick on two cores without crowding out the server.
ADMINISTRATION_MAX: Final = 4
CLOSE_SECONDS_MAX: Final = 1.0
_POSTGRES_EPOCH_MILLISECONDS: Final = 946_684_800_000
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_READER_SETTINGS: Final = {
    # A kept plan is as old as its first uses: one that was made for an empty table scans the full one until
    # somebody runs ANALYZE. Planning anew costs a fraction of a millisecond.
    "plan_cache_mode": "force_custom_plan",
    # A task that was stopped between BEGIN and COMMIT must not hold its locks for longer.
    "idle_in_transaction_session_timeout": "60s",
}
_WRITER_SETTINGS: Final = {
    # A generic plan, by index whatever the statistics say: the writer's statements join a batch with a table
    # by key, and a plan made while the table was empty would scan it when it no longer is.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "synchronous_commit": "on",
    # A session that lost its client must let go of its locks before the retry gives up waiting for them.
    "idle_in_transaction_session_timeout": "10s",
}
_SET_TENANTS: Final = "SELECT set_config('mijra.tenants', $1, false)"
_log = structlog.get_logger(__name__)


class ConnectionLimits(Struct, frozen=True, kw_only=True):
    """How many connections, how long they live, and how long anything may take.

    With the defaults a process holds at most 64 + 64 + 4 connections. Eight readers per database are four
    times the cores of a small machine: more only queue inside PostgreSQL. One writer per database is the
    design. A read that takes longer than 5 s has a wrong plan, and its caller has left; a batch is given 30 s
    because giving up on one makes everybody in it do its work again.
    """

    readers_max: int = 64
    readers_per_database_max: int = 8
    writers_max: int = 64
    waiters_max: int = 1024
    idle_seconds_max: float = 60.0
    connect_seconds_max: float = 5.0
    read_seconds_max: float = 5.0
    write_seconds_max: float = 30.0


class LaneStatistics(Struct, frozen=True):
    """A moment's figures of one budget."""

    limit: int
    open: int
    busy: int
    peak: int
    waiting: int
    databases: int


class ServerStatistics(Struct, frozen=True):
    """Both budgets."""

    readers: LaneStatistics
    writers: LaneStatistics


class Pool:
    """One database. Holds nothing itself; the connections belong to the server's budgets.

    Every method raises StoreUnavailable when there is no connection to be had, CommitConflict, CommitPoisoned
    or Defect for what the database refuses. When cancelled, the statement is cancelled on the server and its
    connection closed.
    """

    def __init__(self, database: str, readers: "_Lane", writers: "_Lane") -> None:
        self.database: Final = database
        self._readers = readers
        self._writers = writers

    async def fetch(self, sql: str, *args: object, tenants: Iterable[int] = ()) -> list[asyncpg.Record]:
        """All rows of one statement, which may see the rows of these tenants."""
        return await self._readers.use(self.database, _tag(tenants), _fetch, sql, args)

    async def fetchrow(self, sql: str, *args: object, tenants: Iterable[int] = ()) -> asyncpg.Record | None:
        """The first row, or None."""
        return await self._readers.use(self.database, _tag(tenants), _fetchrow, sql, args)

    async def fetchval(self, sql: str, *args: object, tenants: Iterable[int] = ()) -> Any:
        """The first column of the first row, or None."""
        row = await self.fetchrow(sql, *args, tenants=tenants)
        return None if row is None else row[0]

    async def run(
        self,
        fn: Callable[[asyncpg.Connection, *Ts], Coroutine[Any, Any, T]],
        *args: *Ts,
        tenants: Iterable[int] = (),
    ) -> T:
        """Run `fn(connection, *args)` on the asyncio side: several statements, one crossing, one reader.

        `fn` must end the transactions that it begins, and must not change the session's settings.
        """
        return await self._readers.use(self.database, _tag(tenants), fn, *args)

    async def write(
        self,
        fn: Callable[[asyncpg.Connection, *Ts], Coroutine[Any, Any, T]],
        *args: *Ts,
        tenants: Iterable[int] = (),
    ) -> T:
        """Like `run`, on the database's one writing connection, which no reader ever takes.

        Calls on one database follow each other. The same connection, with its prepared statements, serves
        them until it breaks or has been idle too long. Wrap what belongs together in `transaction`.
        """
        return await self._writers.use(self.database, _tag(tenants), fn, *args)


class DatabaseServer:
    """One PostgreSQL server, while entered as an async context manager.

    Entering connects once, checks version and role, and raises ServerUnsuitable when this server cannot serve
    (StoreUnavailable when it cannot be reached). Leaving closes every connection. `prefix` begins the name of
    every database, so that several systems, or tests, can share a server.
    """

    def __init__(
        self,
        bridge: Bridge,
        dsn: str,
        *,
        prefix: str = "mijra_",
        limits: ConnectionLimits = ConnectionLimits(),  # noqa: B008  immutable
    ) -> None:
        self._bridge = bridge
        self._dsn = dsn
        self._prefix = _checked(prefix)
        self._limits = limits
        self._role: str | None = None
        self._pools: dict[str, Pool] = {}
        self._administration = trio.CapacityLimiter(ADMINISTRATION_MAX)
        self._readers = _Lane(
            self,
            "readers",
            limits.readers_max,
            limits.readers_per_database_max,
            limits.read_seconds_max,
            _READER_SETTINGS,
        )
        self._writers = _Lane(
            self, "writers", limits.writers_max, 1, limits.write_seconds_max, _WRITER_SETTINGS
        )
        # Out of the budgets and not yet closed. Filled on the trio side, emptied on the asyncio side, where
        # the connections live; no longer than both budgets together.
        self._doomed: deque[asyncpg.Connection] = deque()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close)
            self._role = await self._bridge_call(_prepare_role, self._dsn, self._limits.connect_seconds_max)
            nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(nursery.cancel_scope.cancel)
            nursery.start_soon(self._disconnect_idle)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    @property
    def landlord_database(self) -> str:
        """The name of the landlord's database."""
        return f"{self._prefix}landlord"

    def own_database(self, tenant_id: int) -> str:
        """The name of the database of a tenant that is placed alone."""
        return f"{self._prefix}t_{tenant_id}"

    def pooled_database(self, number: int) -> str:
        """The name of a database that many tenants share."""
        return f"{self._prefix}pool_{number}"

    def pool(self, database: str) -> Pool:
        """The way to one database. Opens nothing: the first call does, and says so if there is no such."""
        found = self._pools.get(database)
        if found is None:
            found = self._pools[database] = Pool(_checked(database), self._readers, self._writers)
        return found

    async def create_database(self, database: str, *, template: str | None = None) -> bool:
        """Create a database that belongs to the application's role; False if it is there already.

        `template` is copied with all that it holds, and nobody may be connected to it meanwhile. That is done
        file by file: quicker than page by page through the WAL where there is something to copy.
        """
        owner = f'"{self._role}"' if self._role else "CURRENT_USER"
        source = "TEMPLATE template0 ENCODING 'UTF8'"
        if template:
            source = f'TEMPLATE "{_checked(template)}" STRATEGY FILE_COPY'
        try:
            await self._execute_apart(f'CREATE DATABASE "{_checked(database)}" OWNER {owner} {source}')
        except MijraError as error:
            # The second class is what the loser of a race gets.
            if isinstance(error.__cause__, (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError)):
                return False
            raise
        # Others on a shared server have no business in here.
        await self._execute_apart(f'REVOKE ALL ON DATABASE "{database}" FROM PUBLIC')
        return True

    async def drop_database(self, database: str) -> None:
        """Drop the database with all that it holds, also under those connected. Harmless if absent."""
        await self._execute_apart(f'DROP DATABASE IF EXISTS "{_checked(database)}" WITH (FORCE)')

    async def databases(self) -> list[str]:
        """The names of all databases that begin with the prefix, in order."""
        sql = "SELECT datname::text FROM pg_database WHERE starts_with(datname, $1) ORDER BY datname"
        async with self._administration:
            rows = await self._bridge_call(self._apart, None, _fetch, sql, (self._prefix,))
        return [row[0] for row in rows]

    async def administer(
        self,
        database: str,
        fn: Callable[[asyncpg.Connection, *Ts], Coroutine[Any, Any, T]],
        *args: *Ts,
    ) -> T:
        """Run `fn(connection, *args)` on a connection of its own, as the application's role, untimed.

        For migrations and other work that may take minutes. At most `ADMINISTRATION_MAX` at a time.
        """
        async with self._administration:
            return await self._bridge_call(self._apart, _checked(database), fn, *args)

    def statistics(self) -> ServerStatistics:
        """What is open, busy and waited for."""
        return ServerStatistics(self._readers.statistics(), self._writers.statistics())

    async def _execute_apart(self, sql: str) -> None:
        async with self._administration:
            await self._bridge_call(self._apart, None, _execute, sql)

    async def _bridge_call(self, fn: Callable[[*Ts], Coroutine[Any, Any, T]], *args: *Ts) -> T:
        try:
            return await self._bridge.run(fn, *args)
        except FOREIGN_ERRORS as error:
            raise translate(error) from error

    # From here on: the asyncio side.

    async def _apart(
        self,
        database: str | None,
        fn: Callable[[asyncpg.Connection, *Ts], Coroutine[Any, Any, T]],
        *args: *Ts,
    ) -> T:
        """`database` None: the DSN's own database, as the DSN's own user."""
        raw = await self._connect(database, _READER_SETTINGS, seconds_max=None)
        try:
            return await fn(raw, *args)
        finally:
            await _close_raw(raw)

    async def _connect(
        self, database: str | None, lane_settings: Mapping[str, str], *, seconds_max: float | None
    ) -> asyncpg.Connection:
        settings = {
            "application_name": "mijra",
            "TimeZone": "UTC",
            "jit": "off",  # see storage.embedded; a server of somebody else's needs it as much
            "statement_timeout": str(int((seconds_max or 0) * 1000)),
            **lane_settings,
        }
        if self._role and database is not None:
            settings["role"] = self._role
        raw = await asyncpg.connect(
            self._dsn,
            timeout=self._limits.connect_seconds_max,
            # Behind the server's own timeout, for the server that does not answer at all.
            command_timeout=None if seconds_max is None else seconds_max + 2,
            server_settings=settings,
            # Our statements are a fixed set; a plan that was paid for is kept as long as the connection.
            statement_cache_size=256,
            max_cached_statement_lifetime=0,
            **({} if database is None else {"database": database}),
        )
        await raw.set_type_codec(
            "timestamptz",
            schema="pg_catalog",
            format="tuple",
            encoder=_timestamp_to_postgres,
            decoder=_timestamp_from_postgres,
        )
        for name in ("json", "jsonb"):
            await raw.set_type_codec(name, schema="pg_catalog", encoder=_json_text, decoder=str)
        return raw

    async def _use(
        self,
        slot: "_Slot",
        tag: str,
        settings: Mapping[str, str],
        seconds_max: float,
        fn: Callable[[asyncpg.Connection, *Ts], Coroutine[Any, Any, T]],
        *args: *Ts,
    ) -> T:
        """One use of a slot. Takes its connection out, or makes one, and puts it back if it is whole."""
        await self._close_doomed()
        raw, slot.raw = slot.raw, None
        # The server may have gone and come back since the last use; nothing was sent yet, so nobody need
        # know.
        if raw is None or raw.is_closed():
            slot.tag = None
            raw = await self._connect(slot.database, settings, seconds_max=seconds_max)
        whole = False
        try:
            if slot.tag != tag:
                slot.tag = None
                await raw.fetchval(_SET_TENANTS, tag)
                slot.tag = tag
            answer = await fn(raw, *args)
            if raw.is_in_transaction():
                raise Defect("A function on a connection left its transaction open.")
            whole = True
            return answer
        except FOREIGN_ERRORS as error:
            # What the server refuses leaves the session whole. After a timeout the cancel request is still on
            # its way and would hit whoever came next; so it is with CancelledError, which is not caught here.
            whole = not isinstance(error, OSError)
            raise translate(error, connection_closed=raw.is_closed()) from error
        except CommitFailed:
            whole = True
            raise
        finally:
            if whole and not slot.discarded and not raw.is_closed() and not raw.is_in_transaction():
                slot.raw = raw
            else:
                await _close_raw(raw)

    async def _close_doomed(self) -> None:
        while self._doomed:
            await _close_raw(self._doomed.popleft())

    # And back: the trio side.

    async def _disconnect_idle(self) -> None:
        while True:
            await trio.sleep(self._limits.idle_seconds_max / 4)
            self._readers.expire(self._limits.idle_seconds_max)
            self._writers.expire(self._limits.idle_seconds_max)
            if self._doomed:
                await self._bridge.run(self._close_doomed)

    async def _close(self) -> None:
        self._readers.close()
        self._writers.close()
        # Shielded: a session left open keeps its place on the server. Bounded by CLOSE_SECONDS_MAX for each.
        with trio.CancelScope(shield=True), suppress(StoreUnavailable):
            await self._bridge.run(self._close_doomed)


class _Slot:
    """A place in a budget, and the connection in it while it is not in use."""

    __slots__ = ("database", "discarded", "idle_since", "raw", "tag")

    def __init__(self, database: str) -> None:
        self.database: Final = database
        self.raw: asyncpg.Connection | None = None
        self.tag: str | None = None  # the tenants that the session is set to; None when not known
        self.discarded = False  # the place was given up: a call that still runs must close what it holds
        self.idle_since = 0.0


class _Waiter:
    __slots__ = ("database", "granted", "tag", "woken")

    def __init__(self, database: str, tag: str) -> None:
        self.database: Final = database
        self.tag: Final = tag
        self.woken = trio.Event()
        self.granted: _Slot | None = None


class _Lane:
    """A budget of connections over all databases, and who waits for one.

    Invariant: nobody waits who could be served, because whatever frees a place serves one waiter at once.
    """

    def __init__(
        self,
        server: DatabaseServer,
        name: str,
        limit: int,
        per_database_max: int,
        seconds_max: float,
        settings: Mapping[str, str],
    ) -> None:
        self._server = server
        self._name = name
        self._limit = limit
        self._per_database_max = per_database_max
        self._seconds_max = seconds_max
        self._settings = settings
        self._open: Counter[str] = Counter()
        self._open_total = 0
        self._idle_total: OrderedDict[_Slot, None] = OrderedDict()  # least recently used first
        self._idle: dict[str, list[_Slot]] = {}
        self._waiters: deque[_Waiter] = deque()
        self._peak = 0
        self._closed = False

    async def use(
        self,
        database: str,
        tag: str,
        fn: Callable[[asyncpg.Connection, *Ts], Coroutine[Any, Any, T]],
        *args: *Ts,
    ) -> T:
        slot = await self._acquire(database, tag)
        try:
            return await self._server._bridge.run(
                self._server._use, slot, tag, self._settings, self._seconds_max, fn, *args
            )
        except FOREIGN_ERRORS as error:  # of the connecting, before there was a connection
            raise translate(error) from error
        finally:
            self._release(slot)

    async def _acquire(self, database: str, tag: str) -> _Slot:
        if self._closed:
            raise StoreUnavailable("The databases are closed.")
        if (slot := self._take(database, tag)) is not None:
            return slot
        if len(self._waiters) >= self._server._limits.waiters_max:
            raise StoreUnavailable(
                f"All {self._name} are busy and {len(self._waiters)} callers wait already.",
                retry_after_seconds=1,
            )
        waiter = _Waiter(database, tag)
        self._waiters.append(waiter)
        try:
            await waiter.woken.wait()
        except trio.Cancelled:
            if waiter.granted is not None:
                self._release(waiter.granted)
            else:
                self._waiters.remove(waiter)
            raise
        if waiter.granted is None:
            raise StoreUnavailable("The databases are closed.")
        return waiter.granted

    def _take(self, database: str, tag: str) -> _Slot | None:
        """An idle connection, best one that has these tenants; else a new place; else another database's."""
        if idle := self._idle.get(database):
            slot = next((slot for slot in reversed(idle) if slot.tag == tag), idle[-1])
            self._forget_idle(slot)
            return slot
        if self._open[database] >= self._per_database_max:
            return None
        if self._open_total >= self._limit:
            if not self._idle_total:
                return None
            self._discard_idle(next(iter(self._idle_total)))  # closed before the newcomer connects
        self._open[database] += 1
        self._open_total += 1
        self._peak = max(self._peak, self._open_total)
        return _Slot(database)

    def _release(self, slot: _Slot) -> None:
        if slot.raw is not None and not self._closed:
            slot.idle_since = trio.current_time()
            self._idle.setdefault(slot.database, []).append(slot)
            self._idle_total[slot] = None
        else:
            self._discard(slot)
        self._serve_one()

    def _serve_one(self) -> None:
        for waiter in self._waiters:
            if (slot := self._take(waiter.database, waiter.tag)) is not None:
                waiter.granted = slot
                waiter.woken.set()
                self._waiters.remove(waiter)
                return

    def _forget_idle(self, slot: _Slot) -> None:
        del self._idle_total[slot]
        idle = self._idle[slot.database]
        idle.remove(slot)
        if not idle:
            del self._idle[slot.database]

    def _discard(self, slot: _Slot) -> None:
        slot.discarded = True
        self._open_total -= 1
        self._open[slot.database] -= 1
        if not self._open[slot.database]:
            del self._open[slot.database]
        if slot.raw is not None:
            self._server._doomed.append(slot.raw)

    def _discard_idle(self, slot: _Slot) -> None:
        self._forget_idle(slot)
        self._discard(slot)

    def expire(self, idle_seconds_max: float) -> None:
        """Give up the connections that have been idle for too long."""
        cutoff = trio.current_time() - idle_seconds_max
        while self._idle_total and (slot := next(iter(self._idle_total))).idle_since <= cutoff:
            self._discard_idle(slot)
            self._serve_one()

    def close(self) -> None:
        """Refuse whoever waits or comes, and give up all idle connections; busy ones follow as they end."""
        self._closed = True
        for waiter in self._waiters:
            waiter.woken.set()
        self._waiters.clear()
        for slot in list(self._idle_total):
            self._discard_idle(slot)

    def statistics(self) -> LaneStatistics:
        return LaneStatistics(
            limit=self._limit,
            open=self._open_total,
            busy=self._open_total - len(self._idle_total),
            peak=self._peak,
            waiting=len(self._waiters),
            databases=len(self._open),
        )


@asynccontextmanager
async def transaction(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """A transaction on the asyncio side that knows the difference between failed and unknown.

    Rolls back and re-raises what its body raises. When the connection ends during the COMMIT itself, raises
    CommitOutcomeUnknown.
    """
    await connection.execute("BEGIN")
    try:
        yield
    except BaseException:
        if not connection.is_closed():
            # The body's error is the one to report; a connection that cannot roll back is closed by its
            # owner.
            with suppress(*FOREIGN_ERRORS):
                await connection.execute("ROLLBACK")
        raise
    try:
        await connection.execute("COMMIT")
    except FOREIGN_ERRORS as error:
        raise translate(error, commit_sent=True, connection_closed=connection.is_closed()) from error


async def _prepare_role(dsn: str, connect_seconds_max: float) -> str | None:
    """Check the server and find a role that row-level security binds; None if the DSN's user is one."""
    raw = await asyncpg.connect(
        dsn, timeout=connect_seconds_max, command_timeout=connect_seconds_max, statement_cache_size=0
    )
    try:
        version = int(await raw.fetchval("SHOW server_version_num"))
        if version < SERVER_VERSION_MIN:
            raise ServerUnsuitable(
                f"This PostgreSQL is version {version // 10000}; "
                f"Mijra needs {SERVER_VERSION_MIN // 10000} or later."
            )
        roles = "SELECT rolsuper OR rolbypassrls AS unbound, rolsuper FROM pg_roles WHERE rolname = "
        own = await raw.fetchrow(roles + "current_user")
        if not own["unbound"]:
            return None
        try:
            await raw.execute(
                f"CREATE ROLE {APP_ROLE} NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE"
            )
            _log.info("postgres.role_created", role=APP_ROLE)
        except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
            pass
        except asyncpg.InsufficientPrivilegeError as error:
            raise ServerUnsuitable(
                f"The database user bypasses row-level security and may not create the role {APP_ROLE}: "
                f"take BYPASSRLS from it, or create {APP_ROLE} (NOSUPERUSER NOBYPASSRLS) and grant it."
            ) from error
        if (await raw.fetchrow(roles + "$1", APP_ROLE))["unbound"]:
            raise ServerUnsuitable(
                f"The role {APP_ROLE} bypasses row-level security: "
                f"ALTER ROLE {APP_ROLE} NOSUPERUSER NOBYPASSRLS."
            )
        if not own["rolsuper"]:
            with suppress(asyncpg.InsufficientPrivilegeError):  # granted by an administrator beforehand
                await raw.execute(f"GRANT {APP_ROLE} TO CURRENT_USER")
        return APP_ROLE
    finally:
        await _close_raw(raw)


async def _fetch(raw: asyncpg.Connection, sql: str, args: tuple[object, ...]) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await raw.fetch(sql, *args)
    return rows


async def _fetchrow(raw: asyncpg.Connection, sql: str, args: tuple[object, ...]) -> asyncpg.Record | None:
    return await raw.fetchrow(sql, *args)


async def _execute(raw: asyncpg.Connection, sql: str) -> None:
    await raw.execute(sql)


async def _close_raw(raw: asyncpg.Connection) -> None:
    """Close politely (which lets a cancelled statement's cancellation arrive), or else at once."""
    try:
        await raw.close(timeout=CLOSE_SECONDS_MAX)
    except (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        OSError,
        TimeoutError,
    ):
        raw.terminate()


def _tag(tenants: Iterable[int]) -> str:
    """The value of `mijra.tenants`: sorted, so that equal sets are found equal on a connection."""
    return ",".join(map(str, sorted(tenants)))


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a name for a database: {name!r}")
    return name


def _timestamp_to_postgres(milliseconds: int) -> tuple[int]:
    return ((milliseconds - _POSTGRES_EPOCH_MILLISECONDS) * 1000,)


def _timestamp_from_postgres(value: tuple[int]) -> int:
    return value[0] // 1000 + _POSTGRES_EPOCH_MILLISECONDS


def _json_text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
