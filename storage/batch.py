"""What a batch is made of: rows as PostgreSQL takes them, and the order in which they go.

Pure: no connection, no clock. `encode` turns a row into plain values at the moment it is submitted, so the
caller may change its objects afterwards; `gather` folds the rows of many write sets into one statement per
kind, in an order that holds whatever the rows are.

Promises   of several whole rows with one key the last one counts, also when it removes the row;
           patches of one key are merged column by column; new rows keep the order they came in; changes are
           calls of their own, in their order;
           conversations that close go before those that are open, so that closing one and opening the next
           of the same contact in one batch never trips over the index that allows one open one.
Text       PostgreSQL's text and jsonb hold neither NUL nor lone surrogates, and customers' phones send both.
           Each becomes U+FFFD, so that an authentic message is never refused for a character. Lookups of
           such text must pass through `clean` too.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from operator import itemgetter
from typing import Any, Final, Protocol, TypeAlias, get_args, get_origin, get_type_hints

import msgspec
from msgspec.structs import astuple

from engine.domain import rows
from engine.errors import CommitFailed, CommitPoisoned
from storage.fused import Call
from storage.statements import load_statements

Values: TypeAlias = list[Any]
Encoder: TypeAlias = Callable[[Any], Any]
Done: TypeAlias = Callable[[CommitFailed | None], None]

STATEMENTS: Final = load_statements("writer.sql")
REPLACEMENT: Final = "\ufffd"
ROW_BYTES: Final = 200
"""What a row costs in memory beside its text: about twenty values and the list that holds them."""

_OPEN: Final = frozenset({"new", "open", "pending"})
_PATCHED: Final = frozenset({"messages", "attachments", "outbox"})
_encode_json: Final = msgspec.json.Encoder(enc_hook=repr).encode
"""What has no JSON form (an exception's argument in a dead letter) is kept as its repr."""


class Addressed(Hashable, Protocol):
    """What the writer needs to know of an actor's address: its tenant, and that it can be compared."""

    @property
    def tenant(self) -> int: ...


class Plan:
    """How the rows of one class become arguments of one statement."""

    __slots__ = ("encoders", "id_at", "kind", "row_type", "statement", "table", "text_of", "texts")

    def __init__(self, row_type: type[rows.Row], table: str) -> None:
        self.row_type: Final = row_type
        self.table: Final = table
        self.kind = _kind(row_type)
        self.statement: Final = STATEMENTS[f"{self.kind}_{table}"]
        fields = row_type.__struct_fields__
        # Asked for only where a patch could meet a new row.
        self.id_at = fields.index("id") if table in _PATCHED and self.kind != "upsert" else None
        encoders = _encoders(row_type)
        self.encoders: Final = [(index, encoder) for index, encoder in encoders if encoder is not clean]
        self.texts: Final = [index for index, encoder in encoders if encoder is clean]
        # One index alone would give a bare value, so the first one is there twice.
        self.text_of: Final = itemgetter(*self.texts[:1], *self.texts) if self.texts else None

    def keys(self, columns: Sequence[Sequence[Any]]) -> frozenset[tuple[int, int]] | None:
        """Which rows these are, for `storage.fused`."""
        if self.id_at is None:
            return None
        return frozenset(zip(columns[-1], columns[self.id_at], strict=True))

    def encode(self, row: rows.Row) -> tuple[Values, int]:
        """The row's values in the order of its fields, and the bytes that they take."""
        values = list(astuple(row))
        size = ROW_BYTES
        if self.text_of is not None:
            # All of a row's text at once: one look in C instead of a call for each of twenty columns.
            text = "".join(filter(None, self.text_of(values)))
            size += len(text)
            if clean(text) is not text:
                for index in self.texts:
                    if values[index] is not None:
                        values[index] = clean(values[index])
        for index, encoder in self.encoders:
            value = values[index]
            if value is not None:
                value = values[index] = encoder(value)
                size += len(value)
        return values, size


class Removal:
    """How a row that removes another one finds it."""

    __slots__ = ("statement", "table")

    def __init__(self, table: str) -> None:
        self.table: Final = table
        self.statement: Final = STATEMENTS[f"delete_{table}"]


class WriteSet:
    """The rows of one decision: durable all together or not at all.

    `refused` is set when they cannot even be encoded; the set then fails when its turn comes, as if the
    database had refused it. `number` counts the sets of a writer in the order of their submission.
    """

    __slots__ = (
        "address",
        "bytes",
        "done",
        "encoded",
        "events",
        "generation",
        "number",
        "refused",
        "tenant_id",
    )

    def __init__(
        self,
        tenant_id: int,
        address: Hashable,
        generation: int,
        new_rows: Sequence[object],
        done: Done,
    ) -> None:
        self.tenant_id = tenant_id
        self.address = address
        self.generation = generation
        self.done = done
        self.number = 0
        self.encoded: list[tuple[Plan | Removal, Values]] = []
        self.events: list[rows.EventRow] = []
        self.bytes = 0
        self.refused: CommitFailed | None = None
        try:
            for row in new_rows:
                self._add(row)
        except (TypeError, ValueError, KeyError, RecursionError, AttributeError) as error:
            self.refused = CommitPoisoned(f"A row cannot be encoded: {type(error).__name__}.")
            self.refused.__cause__ = error
            self.encoded, self.events = [], []

    def _add(self, row: object) -> None:
        plan = PLANS.get(type(row))  # type: ignore[arg-type]
        if not isinstance(row, rows.Row) or row.tenant_id != self.tenant_id:
            raise TypeError("not a row of this tenant")
        if plan is not None:
            values, size = plan.encode(row)
            self.bytes += size
            self.encoded.append((plan, values))
            if plan is _EVENTS:
                assert isinstance(row, rows.EventRow)
                self.events.append(row)
        elif isinstance(row, rows.TimerDone):
            self.encoded.append((_REMOVALS["timers"], [row.id, row.tenant_id]))
            self.bytes += ROW_BYTES
        elif isinstance(row, rows.ConfigDelete):
            self.encoded.append((_CONFIG_REMOVALS[row.table], [row.id, row.tenant_id]))
            self.bytes += ROW_BYTES
        else:
            raise TypeError("nobody planned for this type of row")


def gather(sets: Iterable[WriteSet], cursors: dict[int, int]) -> list[Call]:
    """One call for each kind of row, in the order in which they have to run.

    `cursors` holds each tenant's last event position; the events get those that follow.
    """
    inserts: dict[Plan, list[Values]] = {}
    kept: dict[str, dict[tuple[int, Any], Values | None]] = {}
    patches: dict[Plan, dict[tuple[int, Any], Values]] = {}
    next_cursor = dict(cursors)
    for write_set in sets:
        for plan, values in write_set.encoded:
            if isinstance(plan, Removal):
                kept.setdefault(plan.table, {})[values[-1], values[0]] = None
            elif plan.kind == "upsert":
                kept.setdefault(plan.table, {})[values[-1], values[0]] = values
            elif plan.kind in ("insert", "change"):
                if plan is _EVENTS:
                    next_cursor[values[-1]] += 1
                    # A copy: the set is encoded once and may be tried again in another batch.
                    values = [*values[:_CURSOR], next_cursor[values[-1]], *values[_CURSOR + 1 :]]
                inserts.setdefault(plan, []).append(values)
            else:
                merged = patches.setdefault(plan, {})
                key = (values[-1], values[0])
                earlier = merged.get(key)
                merged[key] = values if earlier is None else _merge(plan, earlier, values)
    return _in_order(inserts, kept, patches)


def _in_order(
    inserts: dict[Plan, list[Values]],
    kept: dict[str, dict[tuple[int, Any], Values | None]],
    patches: dict[Plan, dict[tuple[int, Any], Values]],
) -> list[Call]:
    calls: list[Call] = []
    for removal in _REMOVALS.values():
        gone = [key for key, values in kept.get(removal.table, {}).items() if values is None]
        if gone:
            tenants, ids = zip(*gone, strict=True)
            calls.append(Call(removal.statement, removal.table, (tenants, ids)))
    for plan in PLANS.values():
        if plan.kind == "upsert":
            whole = [values for values in kept.get(plan.table, {}).values() if values is not None]
            if plan is _CONVERSATIONS:
                whole.sort(key=_is_open)
        elif plan.kind == "change":
            for values in inserts.get(plan, ()):
                calls.append(Call(plan.statement, plan.table, [(value,) for value in values]))
            continue
        elif plan.kind == "insert":
            whole = inserts.get(plan, [])
        else:
            whole = list(patches.get(plan, {}).values())
        if whole:
            columns = list(zip(*whole, strict=True))
            calls.append(Call(plan.statement, plan.table, columns, plan.keys(columns)))
    return calls


def _merge(plan: Plan, earlier: Values, later: Values) -> Values:
    merged = [old if new is None else new for old, new in zip(earlier, later, strict=True)]
    if plan is _MESSAGE_PATCHES:
        if later[_CLEAR]:
            # The failure that an earlier patch brought goes too.
            for index in _FAILURE:
                merged[index] = later[index]
        merged[_CLEAR] = earlier[_CLEAR] or later[_CLEAR]
        if earlier[_METADATA] is not None and later[_METADATA] is not None:
            # Metadata is merged where it is stored, so it is merged here too.
            together = msgspec.json.decode(earlier[_METADATA]) | msgspec.json.decode(later[_METADATA])
            merged[_METADATA] = _encode_json(together).decode()
    return merged


def clean(text: str) -> str:
    """`text` as PostgreSQL can hold it: U+FFFD for NUL and for surrogates that form no pair."""
    if "\0" in text:
        text = text.replace("\0", REPLACEMENT)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def clean_json(value: Any) -> str:
    """`value` as JSON text that jsonb takes. Most of the time one look is all there is to do."""
    if value == {}:
        return "{}"
    try:
        encoded = _encode_json(value)
        # msgspec writes \u only for control characters; rare enough to look twice.
        if b"\\u" not in encoded:
            return encoded.decode()
    except UnicodeEncodeError:
        pass
    return _encode_json(_cleaned(msgspec.to_builtins(value, enc_hook=repr, str_keys=True))).decode()


def clean_raw_json(encoded: bytes) -> str:
    """JSON that was encoded elsewhere, as PostgreSQL takes it."""
    if b"\\u" not in encoded:
        return encoded.decode()
    return _encode_json(_cleaned(msgspec.json.decode(encoded))).decode()


def _cleaned(value: Any) -> Any:
    match value:
        case str():
            return clean(value)
        case dict():
            return {clean(str(name)): _cleaned(member) for name, member in value.items()}
        case list() | tuple():
            return [_cleaned(member) for member in value]
        case _:
            return value


def _integer_array(values: Iterable[int]) -> str:
    return "{" + ",".join(map(str, values)) + "}"


def _text_array(values: Iterable[str]) -> str:
    quoted = (clean(value).replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join([f'"{value}"' for value in quoted]) + "}"


def _kind(row_type: type[rows.Row]) -> str:
    if issubclass(row_type, rows.Insert):
        return "insert"
    if issubclass(row_type, rows.Change):
        return "change"
    return "upsert" if issubclass(row_type, rows.Upsert) else "patch"


def _encoders(row_type: type[rows.Row]) -> tuple[tuple[int, Encoder], ...]:
    """Field number and encoder for each field whose value PostgreSQL does not take as it is."""
    found = []
    hints = get_type_hints(row_type)
    for index, name in enumerate(row_type.__struct_fields__):
        hint = hints[name]
        alternatives = [part for part in get_args(hint) if part is not type(None)]
        if get_origin(hint) in (list, tuple, dict):
            alternatives = [hint]
        kind = alternatives[0] if alternatives else hint
        encoder = _ENCODERS.get(kind)
        if name == "data_json":
            encoder = clean_raw_json
        elif row_type is rows.EventRow and name == "local":
            continue  # its place is the cursor's
        elif encoder is None and (kind is Any or get_origin(kind) is dict):
            encoder = clean_json
        elif encoder is None and kind not in (int, float, bool):
            raise TypeError(f"{row_type.__name__}.{name}: no encoder for {hint}")
        if encoder is not None:
            found.append((index, encoder))
    return tuple(found)


def _same_bytes(value: bytes) -> bytes:
    return value


_ENCODERS: Final[dict[Any, Encoder]] = {
    str: clean,
    bytes: _same_bytes,  # here for its length
    list[int]: _integer_array,
    list[str]: _text_array,
    tuple[str, ...]: _text_array,
}

PLANS: Final[dict[type[rows.Row], Plan]] = {
    row_type: Plan(row_type, table)
    for row_type, table in (
        # Parents before children; patches after the rows they may meet; the event log last.
        (rows.UserRow, "users"),
        (rows.ChannelRow, "channels"),
        (rows.TagRow, "tags"),
        (rows.ReplyRuleRow, "automated_replies"),
        (rows.SettingRow, "settings"),
        (rows.CustomerRow, "customers"),
        (rows.MergeRow, "customer_merges"),
        (rows.HandleRow, "customer_handles"),
        (rows.ContactMove, "customer_handles"),
        (rows.ConversationRow, "conversations"),
        (rows.MessageRow, "messages"),
        (rows.AttachmentRow, "attachments"),
        (rows.StatusRow, "message_statuses"),
        (rows.OutboxRow, "outbox"),
        (rows.NoteRow, "notes"),
        (rows.TagHistoryRow, "conversation_tags"),
        (rows.AssignmentRow, "assignments"),
        (rows.TimerRow, "timers"),
        (rows.ChannelCursorRow, "channel_cursors"),
        (rows.DeliveryRow, "deliveries"),
        (rows.FileRow, "files"),
        (rows.DeadLetterRow, "dead_letters"),
        (rows.AuditRow, "audit_log"),
        (rows.MessagePatch, "messages"),
        (rows.AttachmentPatch, "attachments"),
        (rows.OutboxPatch, "outbox"),
        (rows.EventRow, "events"),
    )
}
_REMOVALS: Final = {
    table: Removal(table) for table in ("users", "channels", "tags", "automated_replies", "timers")
}
_CONFIG_REMOVALS: Final = {table: removal for table, removal in _REMOVALS.items() if table != "timers"}

_EVENTS: Final = PLANS[rows.EventRow]
_CURSOR: Final = rows.EventRow.__struct_fields__.index("local")
_DATA: Final = rows.EventRow.__struct_fields__.index("data_json")
_CONVERSATIONS: Final = PLANS[rows.ConversationRow]
_STATUS: Final = rows.ConversationRow.__struct_fields__.index("status")
_MESSAGE_PATCHES: Final = PLANS[rows.MessagePatch]
_CLEAR: Final = rows.MessagePatch.__struct_fields__.index("clear_failure")
_METADATA: Final = rows.MessagePatch.__struct_fields__.index("metadata")
_FAILURE: Final = tuple(rows.MessagePatch.__struct_fields__.index(name) for name in ("failed_at", "error"))


def _is_open(values: Values) -> bool:
    return values[_STATUS] in _OPEN


def event_data(write_set: WriteSet) -> Iterable[tuple[rows.EventRow, bytes]]:
    """The set's events with their JSON as it is stored: what is pushed and what is read again are equal."""
    stored = (values[_DATA] for plan, values in write_set.encoded if plan is _EVENTS)
    for row, data in zip(write_set.events, stored, strict=True):
        yield row, data.encode() if b"\\u" in row.data_json else row.data_json


def tenants_of(sets: Iterable[WriteSet]) -> list[int]:
    """Each once, in ascending order: two batches then lock the owners' rows in the same order."""
    return sorted({write_set.tenant_id for write_set in sets})
