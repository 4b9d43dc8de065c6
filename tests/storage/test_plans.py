"""The statements that grow with traffic are served by their indexes: looked up in PostgreSQL's own plans."""

from typing import Any

import msgspec
import pytest

from engine.reading import ConversationFilter
from storage.customers import customers_statement
from storage.databases import DatabaseServer, Pool
from storage.inbox import inbox_statement
from storage.statements import load_sql
from tests.storage.writing import (
    T0,
    attachment,
    conversation,
    customer,
    customer_merge,
    handle,
    message,
    outbox,
    timer,
    writing,
)

pytestmark = pytest.mark.real_time
CONTACTS, ACTORS, READS = load_sql("contacts.sql"), load_sql("actors.sql"), load_sql("reads.sql")
PEOPLE = load_sql("customers.sql")
CONVERSATIONS = 1000


@pytest.fixture
async def filled(databases: DatabaseServer, tenant_database: str) -> Pool:
    """A pool with a thousand conversations, three thousand messages, and statistics."""
    async with writing(databases, tenant_database) as bench:
        for number in range(1, CONVERSATIONS + 1):
            status = "open" if number % 10 == 0 else "resolved"
            bench.submit(
                number,
                customer(
                    1,
                    number,
                    phone=f"+2010{number:08d}",
                    email=f"C{number}@x.test",
                    merged_into=number - 1 if number % 100 == 0 else None,
                ),
                customer_merge(
                    1,
                    number,
                    survivor_id=number + 1,
                    merged_id=number,
                    undone_at=T0 if number % 100 else None,
                    settled=number % 500 != 0,
                ),
                handle(1, f"c{number}", customer_id=number),
                conversation(
                    1,
                    number,
                    customer_id=number,
                    last_message_at=T0 + number,
                    status=status,
                    assigned_to=number % 50,
                ),
                *[message(1, number, seq, platform_message_id=f"{number}.{seq}") for seq in (1, 2, 3)],
                attachment(1, number, state="stored", message_id=number),
                outbox(1, number, state="queued" if number % 100 == 0 else "done", message_id=number),
                timer(1, number, T0 + number * 1000),
            )
        await bench.writers.flush()
        assert {error for _, error in bench.verdicts.all} == {None}
    await databases.administer(tenant_database, analyze)
    return databases.pool(tenant_database)


async def analyze(connection: Any) -> None:
    # ANALYZE samples through row-level security's owner, so no tenant has to be set.
    await connection.execute("ANALYZE")


async def nodes(pool: Pool, sql: str, *arguments: object) -> list[dict[str, Any]]:
    text = await pool.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *arguments, tenants=(1,))
    found: list[dict[str, Any]] = []

    def walk(node: dict[str, Any]) -> None:
        found.append(node)
        for child in node.get("Plans", ()):
            walk(child)

    walk(msgspec.json.decode(text)[0]["Plan"])
    return found


CASES = {
    "inbox": (
        *inbox_statement(1, ConversationFilter(), limit=21, before=(T0 + 500, 500)),
        "conversations_inbox",
    ),
    "inbox by status": (
        *inbox_statement(1, ConversationFilter(status=("open",)), limit=21, before=None),
        "conversations_inbox_status",
    ),
    "inbox of an agent": (
        *inbox_statement(1, ConversationFilter(visible_to=5), limit=21, before=None),
        "conversations_inbox_agent",
    ),
    "inbox of nobody": (
        *inbox_statement(1, ConversationFilter(assigned_to=0), limit=21, before=None),
        "conversations_inbox_nobody",
    ),
    "history": (READS["messages_before"], [1, 5, 10, 21], "messages_pkey"),
    "missed messages": (READS["messages_after"], [1, 5, 1, 21], "messages_pkey"),
    "status lookup": (
        CONTACTS["messages_by_platform_id"],
        [(0, 1), (1, 1), (7, 7), ("5.1", "6.1")],
        "messages_platform_id",
    ),
    "contacts": (CONTACTS["handles"], [(0,), (0,), (1,), (7,), ("c5",)], "customer_handles_pkey"),
    "conversation of a contact": (
        CONTACTS["newest_conversations"],
        [(0,), (1,), (7,), ("c5",), 51],
        "conversations_contact",
    ),
    "messages of a contact": (
        CONTACTS["newest_messages"],
        [(0,), (1,), (7,), ("c5",), 50, 33],
        "messages_pkey",
    ),
    "outbox": (ACTORS["open_outbox"], [1, 7, 0, 100], "outbox_open"),
    "due timers": (ACTORS["due_timers"], [1, T0 + 5000, 100], "timers_due"),
    "customers": (CONTACTS["customers"], [(0,), (1,), (100,)], "customers_merged"),
    "persons": (PEOPLE["persons"], [1, [99, 200], 50], "customer_merges_one"),
    "unsettled merges": (PEOPLE["unsettled_merges"], [1, 100], "customer_merges_unsettled"),
    "customers' list": (*customers_statement(1, None, before=500, limit=21), "customers_pkey"),
    "members": (PEOPLE["members"], [1, 99, 50], "customers_merged"),
    "handles of customers": (PEOPLE["handles_of"], [1, [5, 99]], "customer_handles_customer"),
    "conversations of customers": (
        PEOPLE["conversations_of"],
        [1, [5, 99], None, 20],
        "conversations_contact",
    ),
    "candidates by phone": (
        PEOPLE["candidates"],
        [1, 5, ["+201000000006", "+201000000007"], ["c6@x.test"], 40],
        "customers_phone",
    ),
    "candidates by e-mail": (
        PEOPLE["candidates"],
        [1, 5, ["+201000000006"], ["c6@x.test"], 40],
        "customers_email",
    ),
    "merges of a customer": (PEOPLE["merges_of"], [1, 500, 21, 99], "customer_merges_survivor"),
    "waiting": (ACTORS["waiting_conversations"], [1, 10], "conversations_waiting"),
}


async def test_what_grows_with_traffic_is_never_scanned(filled: Pool) -> None:
    """Each statement uses the index that was made for it, and no plan reads a whole table or sorts one."""
    for name, (sql, arguments, index) in CASES.items():
        found = await nodes(filled, sql, *arguments)
        assert "Seq Scan" not in {node["Node Type"] for node in found}, (name, found)
        assert index in {node.get("Index Name") for node in found}, (
            name,
            [n.get("Index Name") for n in found],
        )
