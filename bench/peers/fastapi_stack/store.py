"""The peer's SQL: one transaction per message."""

from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson

_CONVERSATION = """
WITH customer AS (
    INSERT INTO customers (channel_id, phone, name) VALUES ($1, $2, $3)
    ON CONFLICT (channel_id, phone) DO UPDATE SET name = excluded.name, last_seen_at = now()
    RETURNING id
)
INSERT INTO conversations (channel_id, customer_id, last_message)
SELECT $1, customer.id, $4 FROM customer
ON CONFLICT (channel_id, customer_id) WHERE status <> 'closed' DO UPDATE SET
    last_seq = conversations.last_seq + 1,
    message_count = conversations.message_count + 1,
    unread_count = conversations.unread_count + 1,
    last_message = excluded.last_message,
    last_message_at = now(),
    reply_window_ends_at = now() + interval '24 hours',
    updated_at = now()
RETURNING id, last_seq, unread_count
"""

_MESSAGE = """
INSERT INTO messages
    (conversation_id, seq, channel_id, platform_message_id, direction, type, content, platform_at)
VALUES ($1, $2, $3, $4, 'inbound', $5, $6, $7)
ON CONFLICT (channel_id, platform_message_id) DO NOTHING
RETURNING id
"""

_EVENT = "INSERT INTO events (channel, name, data) VALUES ('inbox', 'message.received', $1) RETURNING cursor"


class Duplicate(Exception):
    """The message is stored already; its transaction is rolled back."""


async def create_pool(database_url: str, size: int) -> asyncpg.Pool:
    """Open all connections at once: opening them under load would show as latency."""
    return await asyncpg.create_pool(database_url, min_size=size, max_size=size)


async def channels(pool: asyncpg.Pool) -> dict[str, int]:
    """Channel ids by the platform's account id."""
    rows = await pool.fetch("SELECT id, phone_number_id FROM channels")
    return {row["phone_number_id"]: row["id"] for row in rows}


async def store_message(
    pool: asyncpg.Pool, channel_id: int, name: str, message: dict[str, Any]
) -> dict[str, Any] | None:
    """Store one inbound message; the event to publish, or None when it was there already."""
    kind = message["type"]
    text = message[kind].get("body", "") if isinstance(message.get(kind), dict) else ""
    try:
        async with pool.acquire() as connection, connection.transaction():
            conversation = await connection.fetchrow(
                _CONVERSATION, channel_id, message["from"], name, text[:100] or f"[{kind}]"
            )
            message_id = await connection.fetchval(
                _MESSAGE,
                conversation["id"],
                conversation["last_seq"],
                channel_id,
                message["id"],
                kind,
                orjson.dumps({kind: message.get(kind)}).decode(),
                datetime.fromtimestamp(int(message["timestamp"]), UTC),
            )
            if message_id is None:
                raise Duplicate
            data = {
                "id": message_id,
                "conversation_id": conversation["id"],
                "seq": conversation["last_seq"],
                "unread_count": conversation["unread_count"],
                "direction": "inbound",
                "type": kind,
                "content": message.get(kind),
                "sender": {"type": "customer", "name": name},
                "platform_message_id": message["id"],
            }
            cursor = await connection.fetchval(_EVENT, orjson.dumps(data).decode())
    except Duplicate:
        return None
    return {"type": "event", "cursor": cursor, "channel": "inbox", "name": "message.received", "data": data}
