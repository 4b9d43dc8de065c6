"""A database as a model: tables in memory behind the statements that the real writer sends.

The real writer, batches and transactions of `storage` run against it: `ModelPool` stands where
`storage.databases.Pool` would, and its connections understand the writer's own statements, by the statement
they are and not by their SQL. Unique keys, checks, ownership, batch ids, row-level security and the
transaction's all or nothing are as in the schema; errors are asyncpg's own. Reads are in `store`.

The contract suite in tests/storage/test_contract.py runs over this and over PostgreSQL.
"""

import copy
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Protocol, get_args, get_origin, get_type_hints

import asyncpg
import msgspec
import trio

from engine.domain import rows
from engine.domain.conversation.state import OPEN_STATUSES
from engine.errors import Defect
from engine.ports import LoggedEvent
from storage.batch import PLANS, STATEMENTS, WriteSet
from storage.errors import FOREIGN_ERRORS, translate
from storage.statements import Statement

Undo = list[Callable[[], object]]

POISON: Final = "poison"
"""A message with this text is refused whenever it comes."""

_PART: Final = re.compile(r"(?:^|\n\)), (\w+) AS \(\n")
_HOUSEKEEPING: Final = frozenset({STATEMENTS["forget_batches"].sql, STATEMENTS["analyze"].sql})
_REMOVALS: Final = {
    STATEMENTS[f"delete_{table}"].sql: table
    for table in ("users", "channels", "tags", "automated_replies", "timers")
}
_PLANS: Final = {plan.statement.sql: plan for plan in PLANS.values()}
_STATUSES: Final = frozenset(
    {"received", "pending", "sent", "delivered", "read", "failed", "unknown", "deleted"}
)


class Troubles(Protocol):
    """What may happen to a transaction."""

    async def reach(self) -> None:
        """Before anything: takes time; raises OSError when the server is away."""
        ...

    def victim(self, sets: Sequence[WriteSet]) -> tuple[WriteSet, Exception] | None:
        """A write set of the batch that is refused this time, and how."""
        ...

    def breaks(self) -> bool:
        """Whether the connection ends in the middle of the statements."""
        ...

    async def commit(self, apply: Callable[[], None], later: Callable[[float], None]) -> Exception | None:
        """Calls `apply` when the transaction becomes durable, or `later(seconds)` if it does so by itself
        after the connection is gone. Returns how the commit is answered; None: well."""
        ...


class NoTroubles:
    """Everything works at once."""

    async def reach(self) -> None:
        await trio.lowlevel.checkpoint()

    def victim(self, sets: Sequence[WriteSet]) -> tuple[WriteSet, Exception] | None:
        return None

    def breaks(self) -> bool:
        return False

    async def commit(self, apply: Callable[[], None], later: Callable[[float], None]) -> Exception | None:
        apply()
        return None


class Owner(msgspec.Struct):
    node: str
    epoch: int
    cursor: int


class Database:
    """Tables by name, each from key to row. A key begins with the tenant's id."""

    def __init__(
        self,
        name: str,
        *,
        troubles: Troubles | None = None,
        committed: Callable[[str, Sequence[object]], None] = lambda name, calls: None,
        spawn: Callable[[Callable[[], Awaitable[None]]], None] | None = None,
    ) -> None:
        self.name = name
        self.troubles = troubles or NoTroubles()
        self.committed = committed
        self.spawn = spawn
        self.tables: dict[str, dict[tuple[Any, ...], Any]] = defaultdict(dict)
        self.unique: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self.owners: dict[int, Owner] = {}
        self.batches: set[object] = set()
        self.log: dict[int, list[LoggedEvent]] = defaultdict(list)
        self.trimmed: dict[int, int] = defaultdict(int)
        """Events up to this cursor are no longer held."""
        self.status_moves: list[tuple[rows.MessagePatch, str]] = []
        """Each committed status patch with the status before it, for the checkers."""
        self.transacting = trio.Semaphore(1)

    def pool(self) -> "ModelPool":
        return ModelPool(self)

    # ---------------------------------------------------------------- statements

    def apply(self, sql: str, columns: Sequence[Sequence[Any]], tenants: frozenset[int], undo: Undo) -> None:
        """One of the writer's statements. Raises as PostgreSQL does; the caller undoes then."""
        table = _REMOVALS.get(sql)
        if table is not None:
            for tenant_id, key in zip(*columns, strict=True):
                _announced(tenant_id, tenants)
                self._remove(table, (tenant_id, key), undo)
            return
        plan = _PLANS.get(sql)
        if plan is None:
            raise Defect("The model does not know this statement.")
        read = _reader(plan.row_type)
        for values in zip(*columns, strict=True):
            row = read(values)
            _announced(row.tenant_id, tenants)
            self._apply(plan.table, plan.kind, row, undo)

    def _apply(self, table: str, kind: str, row: Any, undo: Undo) -> None:
        match row:
            case rows.EventRow():
                self._log(row, undo)
            case rows.MessagePatch():
                self._patch_message(row, undo)
            case rows.ContactMove():
                self._move_contact(row, undo)
            case _ if kind == "patch":
                self._patch(table, row, undo)
            case _:
                _check(row)
                self._put(table, _key(table, row), row, undo, insert=kind == "insert")

    def _put(self, table: str, key: tuple[Any, ...], row: Any, undo: Undo, *, insert: bool = False) -> None:
        held = self.tables[table]
        before = held.get(key)
        if before is not None and insert:
            raise _taken(_FIRST_KEY.get(table, f"{table}_pkey"), key)
        wanted, had = _unique_keys(row), _unique_keys(before) if before is not None else []
        for unique in had:
            if unique not in wanted and self.unique.get(unique) == key:
                del self.unique[unique]
                undo.append(lambda unique=unique: self.unique.__setitem__(unique, key))  # type: ignore[misc]
        for unique in wanted:
            owner = self.unique.get(unique)
            if owner is not None and owner != key:
                raise _taken(unique[0], unique[1:])
            if owner is None:
                self.unique[unique] = key
                undo.append(lambda unique=unique: self.unique.pop(unique))  # type: ignore[misc]
        held[key] = row
        undo.append(lambda: held.pop(key) if before is None else held.__setitem__(key, before))

    def _remove(self, table: str, key: tuple[Any, ...], undo: Undo) -> None:
        held = self.tables[table]
        before = held.pop(key, None)
        if before is None:
            return
        undo.append(lambda: held.__setitem__(key, before))
        for unique in _unique_keys(before):
            if self.unique.pop(unique, None) is not None:
                undo.append(lambda unique=unique: self.unique.__setitem__(unique, key))  # type: ignore[misc]

    def _patch(self, table: str, patch: Any, undo: Undo) -> None:
        key = (patch.tenant_id, patch.id)
        before = self.tables[table].get(key)
        if before is None:
            return
        after = copy.copy(before)
        for name in patch.__struct_fields__:
            value = getattr(patch, name)
            if name not in ("tenant_id", "id") and value is not None:
                setattr(after, name, value)
        _check(after)
        self._put(table, key, after, undo)

    def _patch_message(self, patch: rows.MessagePatch, undo: Undo) -> None:
        key = (patch.tenant_id, patch.id)
        before = self.tables["messages"].get(key)
        if before is None:
            return
        after = copy.copy(before)
        if patch.clear_failure:
            after.failed_at = after.error = None
        for name in patch.__struct_fields__:
            value = getattr(patch, name)
            if name in ("tenant_id", "id", "clear_failure") or value is None:
                continue
            setattr(after, name, {**before.metadata, **value} if name == "metadata" else value)
        _check(after)
        self._put("messages", key, after, undo)
        if patch.status is not None:
            self.status_moves.append((patch, before.status))
            undo.append(self.status_moves.pop)

    def _move_contact(self, row: rows.ContactMove, undo: Undo) -> None:
        held = self.tables["customer_handles"]
        owner = held.get((row.tenant_id, row.channel_id, row.into_key))
        if owner is None:
            return
        for key, handle in list(held.items()):
            if key[:2] == (row.tenant_id, row.channel_id) and handle.contact_key == row.from_key:
                moved = msgspec.structs.replace(
                    handle,
                    contact_key=owner.contact_key,
                    customer_id=owner.customer_id,
                    moved_at=row.at,
                )
                self._put("customer_handles", key, moved, undo)

    def _log(self, row: Any, undo: Undo) -> None:
        cursor = row.local
        log = self.log[row.tenant_id]
        if log and cursor <= log[-1].cursor:
            raise _taken("events_pkey", (row.tenant_id, cursor))
        log.append(
            LoggedEvent(
                tenant_id=row.tenant_id,
                cursor=cursor,
                name=row.name,
                channels=tuple(row.channels),
                data=row.data_json,
                trace=row.trace,
                at=row.at,
            )
        )
        undo.append(log.pop)

    def put(self, *new: rows.Row) -> None:
        """Rows that are there before the day begins, or that somebody else writes. All or nothing."""
        undo: Undo = []
        try:
            for row in new:
                plan = PLANS[type(row)]
                self._apply(plan.table, plan.kind, row, undo)
        except Exception:
            for step in reversed(undo):
                step()
            raise


class ModelPool:
    """What the writer uses of `storage.databases.Pool`."""

    def __init__(self, database: Database) -> None:
        self.database = database.name
        self._model = database
        self.dead = False
        """The process that held it is gone: nothing comes back any more."""

    async def write(self, fn: Callable[..., Awaitable[Any]], *args: Any, tenants: Iterable[int] = ()) -> Any:
        """Runs `fn(connection, *args)`; see `Pool.write`."""
        model = self._model
        connection = ModelConnection(model, frozenset(tenants))
        try:
            await model.troubles.reach()
            await self._unless_dead()
            sets = getattr(args[0], "sets", None) if args else None
            connection.victim = model.troubles.victim(sets) if sets else None
            answer = await fn(connection, *args)
            await self._unless_dead()
            if connection.open:
                raise Defect("A function on a connection left its transaction open.")
            return answer
        except FOREIGN_ERRORS as error:
            raise translate(error, connection_closed=connection.is_closed()) from error
        finally:
            connection.close()

    async def _unless_dead(self) -> None:
        if self.dead:
            await trio.sleep_forever()

    async def run(self, fn: Callable[..., Awaitable[Any]], *args: Any, tenants: Iterable[int] = ()) -> Any:
        return await self.write(fn, *args, tenants=tenants)


class TakenOver(asyncpg.PostgresError):  # type: ignore[misc]
    """What mijra_kept raises (storage/sql/tenant/0002_one_statement.sql)."""

    sqlstate = "MJ001"


class ModelConnection:
    """A session: at most one transaction, which holds the whole database while it is open."""

    def __init__(self, model: Database, tenants: frozenset[int] = frozenset()) -> None:
        self._model = model
        self._tenants = tenants
        self._undo: Undo = []
        self._calls: list[tuple[str, Sequence[Any]]] = []
        self._closed = False
        self.open = False
        self.victim: tuple[WriteSet, Exception] | None = None

    def is_closed(self) -> bool:
        return self._closed

    async def execute(self, sql: str, *args: Any) -> str:
        if sql == "BEGIN":
            await self._begin()
        elif sql == "ROLLBACK":
            self._roll_back()
        elif sql == "COMMIT":
            await self._commit()
        elif sql not in _HOUSEKEEPING:
            await self.fetch(sql, *args)
        return sql.split(maxsplit=1)[0]

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Outside of a transaction, a statement is one of its own."""
        if self.open:
            return self._statement(sql, args)
        await self._begin()
        try:
            answer = self._statement(sql, args)
        except BaseException:
            self._roll_back()
            raise
        await self._commit()
        return answer

    def _statement(self, sql: str, args: Sequence[Any]) -> list[Any]:
        if sql == STATEMENTS["take_ownership"].sql:
            return self._take(*args)
        gate, calls = _parts(sql, args)
        if gate is not None:
            self._open_batch(*gate)
        if self.victim is not None:
            raise self.victim[1]
        if self._model.troubles.breaks():
            self.close()
            raise asyncpg.ConnectionDoesNotExistError("the model's connection broke in the middle")
        for statement, columns in calls:
            self._model.apply(statement.sql, columns, self._tenants, self._undo)
            self._calls.append((statement.name, columns))
        return []

    def _take(self, tenants: Sequence[int], node: str) -> list[tuple[int, int, int]]:
        model, taken = self._model, []
        for tenant_id in tenants:
            _announced(tenant_id, self._tenants)
            before = model.owners.get(tenant_id)
            after = Owner(node, 1, 0) if before is None else Owner(node, before.epoch + 1, before.cursor)
            self._own(tenant_id, after)
            taken.append((tenant_id, after.epoch, after.cursor))
        self._calls.append(("take_ownership", (list(tenants), node)))
        return taken

    def _open_batch(
        self,
        tenants: Sequence[int],
        epochs: Sequence[int],
        before: Sequence[int],
        after: Sequence[int],
        batch: object,
    ) -> None:
        model = self._model
        if batch in model.batches:
            raise _taken("batches_pkey", (batch,))
        model.batches.add(batch)
        self._undo.append(lambda: model.batches.discard(batch))
        lost = []
        for tenant_id, epoch, old, new in zip(tenants, epochs, before, after, strict=True):
            owner = model.owners.get(tenant_id)
            if owner is not None and (owner.epoch, owner.cursor) == (epoch, old):
                self._own(tenant_id, Owner(owner.node, epoch, new))
            else:
                lost.append(str(tenant_id))
        if lost:
            error = TakenOver("tenants were taken over by another node")
            error.detail = ",".join(lost)
            raise error
        self._calls.append(("open_batch", (tenants, epochs, before, after, batch)))

    def _own(self, tenant_id: int, after: Owner) -> None:
        owners = self._model.owners
        before = owners.get(tenant_id)
        owners[tenant_id] = after
        self._undo.append(
            lambda: owners.pop(tenant_id) if before is None else owners.__setitem__(tenant_id, before)
        )

    # ---------------------------------------------------------------- transactions

    async def _begin(self) -> None:
        await self._model.transacting.acquire()
        self.open = True

    async def _commit(self) -> None:
        """From BEGIN to here there was no checkpoint, so nobody has seen what is not committed yet."""
        model, calls = self._model, self._calls
        undo, self._undo = self._undo, []
        done = False

        def apply() -> None:
            nonlocal done
            done = True
            model.committed(model.name, calls)

        def later(seconds: float) -> None:
            """The server goes on with it although the client is gone: it holds its locks until then."""
            nonlocal done
            done = True
            for step in reversed(undo):
                step()
            self.open = False

            async def by_itself() -> None:
                await trio.sleep(seconds)
                self._again(calls)
                model.transacting.release()

            assert model.spawn is not None
            model.spawn(by_itself)

        try:
            error = await model.troubles.commit(apply, later)
        finally:
            if not done:
                for step in reversed(undo):
                    step()
            if self.open:
                self.open = False
                model.transacting.release()
        if error is not None:
            self._closed = isinstance(error, (asyncpg.ConnectionDoesNotExistError, OSError))
            raise error

    def _again(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """Plays the statements once more and makes them durable."""
        model = self._model
        played = ModelConnection(model, self._tenants)
        for name, args in calls:
            if name == "take_ownership":
                played._take(*args)
            elif name == "open_batch":
                played._open_batch(*args)
            else:
                model.apply(STATEMENTS[name].sql, args, self._tenants, played._undo)
        model.committed(model.name, calls)

    def _roll_back(self) -> None:
        if self.open:
            undo, self._undo = self._undo, []
            for step in reversed(undo):
                step()
            self.open = False
            self._model.transacting.release()

    def close(self) -> None:
        """The session ends; what it had not committed is gone."""
        self._roll_back()
        self._closed = True


# -------------------------------------------------------------------- statements and rows


def _parts(
    sql: str, args: Sequence[Any]
) -> tuple[Sequence[Any] | None, list[tuple[Statement, Sequence[Any]]]]:
    """What `storage.fused` has put into one: the gate's arguments if it opens a batch, and the statements."""
    gate = (
        STATEMENTS["open_batch"]
        if sql.startswith(STATEMENTS["open_batch"].sql)
        else STATEMENTS["opened_batch"]
    )
    calls, offset = [], gate.parameters
    for name in _PART.findall(sql[len(gate.sql) :]):
        statement = STATEMENTS[name]
        calls.append((statement, args[offset : offset + statement.parameters]))
        offset += statement.parameters
    if not sql.startswith(gate.sql) or offset != len(args):
        raise Defect("The model does not know this statement.")
    return (args[: gate.parameters] if gate.parameters else None), calls


_READERS: dict[type, Callable[[Sequence[Any]], Any]] = {}


def _reader(row_type: type[rows.Row]) -> Callable[[Sequence[Any]], Any]:
    """Turns the values that the writer sends back into a row."""
    found = _READERS.get(row_type)
    if found is None:
        hints = get_type_hints(row_type)
        decoders = [_decoder(row_type, name, hints[name]) for name in row_type.__struct_fields__]
        names = row_type.__struct_fields__

        def found(values: Sequence[Any]) -> Any:
            members = {
                name: value if value is None or decode is None else decode(value)
                for name, decode, value in zip(names, decoders, values, strict=True)
            }
            return row_type(**members)

        _READERS[row_type] = found
    return found


def _decoder(row_type: type[rows.Row], name: str, hint: Any) -> Callable[[Any], Any] | None:
    alternatives = [part for part in get_args(hint) if part is not type(None)]
    kind = hint if get_origin(hint) in (list, tuple, dict) or not alternatives else alternatives[0]
    if name == "data_json":
        return str.encode
    if row_type is rows.EventRow and name == "local":
        return None
    if kind is Any or get_origin(kind) is dict:
        return msgspec.json.decode
    if kind == list[int]:
        return lambda text: [int(part) for part in text.strip("{}").split(",") if part]
    if kind in (list[str], tuple[str, ...]):
        return _texts
    return None


_TEXT: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')


def _texts(text: str) -> list[str]:
    return [re.sub(r"\\(.)", r"\1", one) for one in _TEXT.findall(text)]


# -------------------------------------------------------------------- keys and checks

_FIRST_KEY: Final = {"messages": "messages_id"}


def _key(table: str, row: Any) -> tuple[Any, ...]:
    match table:
        case "customer_handles":
            return (row.tenant_id, row.channel_id, row.external_id)
        case "settings":
            return (row.tenant_id, row.name)
        case "channel_cursors":
            return (row.tenant_id, row.channel_id)
        case _:
            return (row.tenant_id, row.id)


def _unique_keys(row: Any) -> list[tuple[Any, ...]]:
    """The row's entries in unique indexes, the index's name first."""
    tenant = row.tenant_id
    match row:
        case rows.MessageRow():
            keys: list[tuple[Any, ...]] = [("messages_pkey", tenant, row.conversation_id, row.seq)]
            if row.platform_message_id is not None:
                keys.append(("messages_platform_id", tenant, row.channel_id, row.platform_message_id))
            if row.client_key is not None:
                keys.append(("messages_client_key", tenant, row.conversation_id, row.client_key))
            return keys
        case rows.ConversationRow() if row.status in OPEN_STATUSES:
            return [("conversations_one_open", tenant, row.channel_id, row.contact_key)]
        case rows.MergeRow() if row.undone_at is None:
            return [("customer_merges_one", tenant, row.merged_id)]
        case rows.UserRow():
            return [("users_email", tenant, row.email.lower())]
        case rows.ChannelRow():
            return [("channels_account", tenant, row.platform, row.external_id)]
        case rows.TagRow():
            return [("tags_name", tenant, row.name.lower())]
        case _:
            return []


def _taken(constraint: str, key: object) -> Exception:
    error = asyncpg.UniqueViolationError(f"duplicate key value violates unique constraint {constraint!r}")
    error.constraint_name = constraint
    return error  # type: ignore[no-any-return]


def _check(row: Any) -> None:
    """The schema's checks that tests make use of."""
    if isinstance(row, rows.MessageRow) and (row.text == POISON or row.status not in _STATUSES):
        error = asyncpg.CheckViolationError("a message violates a check constraint")
        error.constraint_name = "messages_status_check"
        raise error


def _announced(tenant_id: int, tenants: frozenset[int]) -> None:
    """Row-level security: a session touches the tenants that it is set to."""
    if tenant_id not in tenants:
        raise asyncpg.InsufficientPrivilegeError("new row violates row-level security policy")
