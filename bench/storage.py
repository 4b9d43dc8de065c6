"""Storage (P7): durable messages per second through the batching writer, beside what one would write by hand.

A message is three rows: itself, its conversation's new state, its event. All contestants write the same rows
into the same tables of one embedded PostgreSQL with synchronous_commit on, with every index (the full-text
one too), through the same bridge to asyncpg. Making the rows is outside of the measured time, encoding them
inside.

writer            ours: write sets of three rows, submitted as long as there is room; the tables have forced
                  row-level security, and each batch checks the owner's epoch and moves the cursor
commit per row    asyncpg, one transaction for each message (three statements) on 8 connections
executemany       asyncpg, one transaction for 500 messages, `executemany` for each table
COPY              the limit: asyncpg, one transaction for 500 messages, COPY into tables without
                  row-level security (PostgreSQL refuses it otherwise), conversations are added

The writer folds several states of one conversation in a batch into one; with 500 conversations written in
turn that is what a busy inbox looks like. It is part of what is measured; row by row nobody can do it.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import trio
from rich.console import Console

from bench.harness import Contest, as_json, plot, run_rounds, show
from engine.domain import rows
from engine.ports import LoggedEvent
from engine.runtime.address import Address
from storage.bridge import Bridge
from storage.databases import DatabaseServer, Pool, transaction
from storage.embedded import embedded_postgres
from storage.migrate import load_migrations, migrate
from storage.upkeep import upkeep
from storage.writers import Writers

TENANT = 1
CONVERSATIONS = 500
BATCH = 500
CONNECTIONS = 8
TEXT = "Hello, I would like to know when my order will arrive. Thank you and have a nice day."

_ids = count(1)
_seqs = [count(1) for _ in range(CONVERSATIONS)]
Message = tuple[rows.MessageRow, rows.ConversationRow, rows.EventRow]


def messages(number: int) -> list[Message]:
    """The next `number` messages, to one conversation after the other."""
    now = time.time_ns() // 1_000_000
    made = []
    for index in range(number):
        place = index % CONVERSATIONS
        made.append(_message(place + 1, next(_seqs[place]), now))
    return made


def _message(conversation_id: int, seq: int, now: int) -> Message:
    number = next(_ids)
    key = f"9665{conversation_id:08d}"
    message = rows.MessageRow(
        tenant_id=TENANT,
        conversation_id=conversation_id,
        seq=seq,
        id=number,
        channel_id=7,
        contact_key=key,
        direction="inbound",
        type="text",
        sender_type="customer",
        sender_id=None,
        sender_name="Amal",
        content={"body": TEXT},
        text=TEXT,
        reply_to_id=None,
        reply_to_seq=None,
        status="received",
        platform_message_id=f"wamid.{number:032x}",
        client_key=None,
        platform_at=now,
        sent_at=None,
        delivered_at=None,
        read_at=None,
        failed_at=None,
        error=None,
        edited_at=None,
        deleted_at=None,
        metadata={},
        trace=f"{number:032x}",
        created_at=now,
    )
    conversation = rows.ConversationRow(
        tenant_id=TENANT,
        id=conversation_id,
        channel_id=7,
        platform="whatsapp",
        contact_key=key,
        customer_id=conversation_id,
        channel_type="direct",
        status="open",
        assigned_to=None,
        department_id=None,
        last_seq=seq,
        message_count=seq,
        unread_count=seq,
        last_message_at=now,
        last_inbound_at=now,
        last_message={"seq": seq, "direction": "inbound", "type": "text", "preview": TEXT[:80], "at": now},
        first_response_at=None,
        resolved_at=None,
        reply_window_ends_at=now + 86_400_000,
        snoozed_until=None,
        tag_ids=[],
        auto_replied={},
        metadata={},
        created_at=now,
        updated_at=now,
    )
    data = msgspec.json.encode({"message": message.content, "id": number, "conversation_id": conversation_id})
    event = rows.EventRow(
        tenant_id=TENANT,
        name="message.received",
        channels=("inbox", f"conversations.{conversation_id}"),
        data_json=data,
        trace=message.trace,
        at=now,
    )
    return message, conversation, event


class Nobody:
    """An event sink without listeners."""

    def committed(self, events: Sequence[LoggedEvent]) -> None:
        pass


class Bench:
    """The contestants, on one database."""

    def __init__(self, server: DatabaseServer, database: str, scale: float) -> None:
        self._pool: Pool = server.pool(database)
        self._server = server
        self._database = database
        self._scale = scale
        self._cursors = count(1_000_000_000)  # above the writer's own

    def measures(self) -> dict[str, Callable[[], float]]:
        contestants: dict[str, tuple[int, Callable[[list[Message]], Coroutine[Any, Any, None]]]] = {
            "writer": (40_000, self._writer),
            "commit per row": (1_500, self._commit_per_row),
            "executemany": (10_000, self._executemany),
            "COPY": (40_000, self._copy),
        }
        return {
            name: partial(trio.from_thread.run, self._measure, int(size * self._scale), run)
            for name, (size, run) in contestants.items()
        }

    async def _measure(self, size: int, run: Callable[[list[Message]], Coroutine[Any, Any, None]]) -> float:
        batch = messages(size)
        started = time.perf_counter()
        await run(batch)
        return size / (time.perf_counter() - started)

    async def _writer(self, batch: list[Message]) -> None:
        writers = Writers(lambda name: self._pool, lambda tenant: self._database, node="bench", sink=Nobody())
        left = len(batch)
        refused: list[object] = []
        finished = trio.Event()

        def done(error: object) -> None:
            nonlocal left
            left -= 1
            if error is not None:
                refused.append(error)
            if not left:
                finished.set()

        async with trio.open_nursery() as nursery:
            await nursery.start(writers.run)
            for message, conversation, event in batch:
                if not writers.has_room(TENANT):
                    room = trio.Event()
                    writers.when_room(room.set)
                    await room.wait()
                address = Address("conversation", TENANT, (7, conversation.contact_key))
                writers.submit(address, 1, (message, conversation, event), done)
            await finished.wait()
            writers.stop()
        if refused:
            raise RuntimeError(f"{len(refused)} write sets were refused, such as {refused[0]!r}")

    async def _commit_per_row(self, batch: list[Message]) -> None:
        left = iter(batch)

        async def connection_task(connection: Any) -> None:
            for message in left:
                async with transaction(connection):
                    for sql, values in zip(STATEMENTS, self._values(message), strict=True):
                        await connection.execute(sql, *values)

        async with trio.open_nursery() as nursery:
            for _ in range(CONNECTIONS):
                nursery.start_soon(partial(self._pool.run, connection_task, tenants=(TENANT,)))

    async def _executemany(self, batch: list[Message]) -> None:
        async def write(connection: Any, part: list[Message]) -> None:
            async with transaction(connection):
                for sql, values in zip(STATEMENTS, self._columns(part), strict=True):
                    await connection.executemany(sql, values)

        for part in _parts(batch):
            await self._pool.write(write, part, tenants=(TENANT,))

    async def _copy(self, batch: list[Message]) -> None:
        async def write(connection: Any) -> None:
            # COPY is binary in asyncpg; json and jsonb have no binary form of asyncpg's own.
            for name, version in (("json", b""), ("jsonb", b"\x01")):
                await connection.set_type_codec(
                    name,
                    schema="pg_catalog",
                    format="binary",
                    encoder=lambda json, version=version: (
                        version + (json if isinstance(json, bytes) else json.encode())
                    ),
                    decoder=bytes,
                )
            for part in _parts(batch):
                async with transaction(connection):
                    for table, columns, values in zip(TABLES, COLUMNS, self._columns(part), strict=True):
                        await connection.copy_records_to_table(
                            f"bare_{table}", records=values, columns=columns
                        )

        await self._server.administer(self._database, write)

    def _columns(self, part: list[Message]) -> list[list[Any]]:
        return [list(values) for values in zip(*(self._values(message) for message in part), strict=True)]

    def _values(self, message: Message) -> list[list[Any]]:
        values = [[_plain(value) for value in msgspec.structs.astuple(row)] for row in message]
        values[2][EVENT_CURSOR] = next(self._cursors)
        return values


def _plain(value: Any) -> Any:
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else value


def _parts(batch: list[Message]) -> Iterator[list[Message]]:
    for start in range(0, len(batch), BATCH):
        yield batch[start : start + BATCH]


EVENT_CURSOR = rows.EventRow.__struct_fields__.index("local")
TABLES = ("messages", "conversations", "events")
COLUMNS = (
    rows.MessageRow.__struct_fields__,
    rows.ConversationRow.__struct_fields__,
    ("name", "channels", "data", "trace", "at", "cursor", "tenant_id"),
)


def _insert(table: str, columns: Sequence[str]) -> str:
    values = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})"
    if table == "conversations":
        changes = ", ".join(
            f"{name} = excluded.{name}" for name in columns if name not in ("id", "tenant_id")
        )
        sql += f" ON CONFLICT (tenant_id, id) DO UPDATE SET {changes}"
    return sql


STATEMENTS = tuple(_insert(table, columns) for table, columns in zip(TABLES, COLUMNS, strict=True))


async def _bare_tables(connection: Any) -> None:
    """What COPY may write to: the same columns and indexes, no row-level security."""
    for table in TABLES:
        await connection.execute(f"CREATE TABLE bare_{table} (LIKE {table} INCLUDING ALL)")
    # One row is added for each state of a conversation, so its keys must not refuse the second.
    await connection.execute(
        "ALTER TABLE bare_conversations DROP CONSTRAINT bare_conversations_pkey;"
        "DROP INDEX bare_conversations_tenant_id_channel_id_contact_key_idx"
    )


async def bench(rounds: int, scale: float, console: Console) -> Contest:
    # Not in memory: fsync has to mean something.
    with tempfile.TemporaryDirectory(prefix="mijra-bench-", dir="/var/tmp") as directory:
        async with (
            embedded_postgres(Path(directory)) as dsn,
            Bridge() as bridge,
            DatabaseServer(bridge, dsn) as server,
        ):
            database = server.own_database(TENANT)
            await server.create_database(database)
            await migrate(server, database, load_migrations(files("storage") / "sql" / "tenant"))
            await upkeep(server, {database: [TENANT]}, now=time.time_ns() // 1_000_000)
            await server.administer(database, _bare_tables)
            contest = Contest(
                name="storage",
                unit="durable messages/s",
                ours="writer",
                contestants=Bench(server, database, scale).measures(),
                goal=20_000,
                limit="COPY",
            )
            await trio.to_thread.run_sync(run_rounds, [contest], rounds, console)
            return contest


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.storage", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--quick", action="store_true", help="within 45 s: a quarter of the size, five rounds"
    )
    parser.add_argument("--rounds", type=int, default=0, help="default 7, with --quick 5")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    chosen = parser.parse_args()
    console = Console(stderr=chosen.json)
    rounds = chosen.rounds or (5 if chosen.quick else 7)
    contest = trio.run(bench, rounds, 0.25 if chosen.quick else 1.0, console)
    show([contest], console)
    if chosen.plot:
        plot([contest], chosen.plot)
    if chosen.json:
        print(as_json("storage", [contest]))


if __name__ == "__main__":
    main()
