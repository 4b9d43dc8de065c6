"""The client's side of the account: what Mijra promised, compared with what it has.

Why         "Nothing acknowledged is lost, nothing is stored twice" can only be checked by somebody outside
            who wrote down every acknowledgement.
Holds       the webhooks that were answered 200 (the played platform's own ledger), the messages that were
            answered 201 (`accepted`), and what screens were pushed.
Promises    `settle` and the checks read the database itself, under the server's role, and not the API. Each
            check names the first rows that contradict it.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct, field

from adapters.simulators import Simulator
from adapters.simulators.ledger import Fact
from storage.databases import DatabaseServer, Pool
from tests.fixtures.system import Business, Screen, until
from tests.patience import PATIENCE_SECONDS

Json = dict[str, Any]

_RANK = {"pending": 0, "sending": 0, "unknown": 0, "sent": 1, "delivered": 2, "read": 3}
_SHOWN = 5


class Books(Struct, kw_only=True):
    """The accounts of one number of one business. `accepted`: message id -> what was answered with 201;
    `posted`: platform ids of webhooks that the test posted itself, which may be stored or not."""

    business: Business
    sim: Simulator
    channel_id: int
    pool: Pool
    accepted: dict[int, Json] = field(default_factory=dict)
    posted: set[str] = field(default_factory=set)

    def note(self, message: Json) -> None:
        """A send that was answered 201."""
        self.accepted[message["id"]] = message

    async def rows(self, sql: str, *args: object) -> list[Json]:
        found = await self.pool.fetch(sql, *args, tenants=[self.business.id])
        return [dict(row) for row in found]

    async def messages(self) -> list[Json]:
        return await self.rows(
            "SELECT * FROM messages WHERE tenant_id = $1 AND channel_id = $2 ORDER BY conversation_id, seq",
            self.business.id,
            self.channel_id,
        )

    # ---------------------------------------------------------------- when all is done

    async def settle(self, seconds_max: float = 2 * PATIENCE_SECONDS) -> None:
        """Until the platform has told everything, and nothing waits to be sent or to be learnt."""

        async def quiet() -> bool:
            await self.sim.wait_quiet()
            waiting = await self.rows(
                "SELECT id FROM outbox WHERE tenant_id = $1 AND channel_id = $2"
                " AND state IN ('queued', 'sending', 'unknown') LIMIT 1",
                self.business.id,
                self.channel_id,
            )
            return not waiting and self.sim.webhooks.statistics()["waiting"] == 0

        await until("the outbox is empty and the platform quiet", quiet, seconds_max)
        await self.sim.wait_quiet()

    async def check(self, screens: Sequence[Screen] = ()) -> None:
        """Everything below."""
        rows = await self.messages()
        self.check_inbound(rows)
        self.check_outbound(rows)
        await self.check_conversations(rows)
        await self.check_events(rows)
        for screen in screens:
            check_pushed(screen, rows)

    def check_inbound(self, rows: Sequence[Json]) -> None:
        """Each acknowledged message is there once; nothing is there that no customer said."""
        stored = Counter(row["platform_message_id"] for row in rows if row["direction"] == "inbound")
        by_id = {row["platform_message_id"]: row for row in rows}
        lost = [fact.id for fact in self.sim.ledger.acknowledged() if not _kept(fact, by_id)]
        assert not lost, f"{len(lost)} acknowledged messages are not stored: {lost[:_SHOWN]}"
        doubled = [name for name, times in stored.items() if times > 1]
        assert not doubled, f"{len(doubled)} messages are stored twice: {doubled[:_SHOWN]}"
        said = {fact.id for fact in self.sim.ledger.facts} | self.posted
        invented = [name for name in stored if name not in said]
        assert not invented, f"{len(invented)} messages were never said: {invented[:_SHOWN]}"

    def check_outbound(self, rows: Sequence[Json]) -> None:
        """Each message answered 201 is there and reached the platform once, or is shown as failed; it was
        sent more than once only where the outcome was unknown, and then it is flagged."""
        outbound = {row["id"]: row for row in rows if row["direction"] == "outbound"}
        lost = [message_id for message_id in self.accepted if message_id not in outbound]
        assert not lost, f"{len(lost)} accepted replies are not stored: {lost[:_SHOWN]}"
        for message_id, row in outbound.items():
            sends = self.sim.ledger.sends_with(str(message_id))
            metadata = json.loads(row["metadata"]) if isinstance(row["metadata"], str) else row["metadata"]
            if metadata.get("echo"):
                continue
            if row["status"] == "failed":
                continue
            assert sends, f"message {message_id} is {row['status']} and never reached the platform"
            assert len(sends) == 1 or metadata.get("resent"), (
                f"message {message_id} was sent {len(sends)} times and is not flagged: {row}"
            )
            told = [
                fact.status
                for one in sends
                for fact in self.sim.ledger.statuses_of(one)
                if fact.acknowledged_at is not None and fact.status in _RANK
            ]
            best = max((_RANK[status] for status in told), default=0)
            assert _RANK[row["status"]] >= best, (
                f"message {message_id} is {row['status']} although the platform told {told}"
            )
        known = {str(message_id) for message_id in outbound}
        phantom = [
            send.id
            for send in self.sim.ledger.sends
            if send.callback_data is not None and send.callback_data not in known
        ]
        assert not phantom, (
            f"the platform has {len(phantom)} sends that no message stands for: {phantom[:_SHOWN]}"
        )

    async def check_conversations(self, rows: Sequence[Json]) -> None:
        """Sequence numbers have no gap; a contact has one open conversation."""
        conversations = await self.rows(
            "SELECT * FROM conversations WHERE tenant_id = $1 AND channel_id = $2",
            self.business.id,
            self.channel_id,
        )
        numbers: dict[int, list[int]] = {}
        for row in rows:
            numbers.setdefault(row["conversation_id"], []).append(row["seq"])
        for conversation in conversations:
            seqs = numbers.get(conversation["id"], [])
            assert seqs == list(range(1, len(seqs) + 1)), f"conversation {conversation['id']} has {seqs}"
            assert conversation["last_seq"] == len(seqs), conversation
            assert conversation["message_count"] == len(seqs), conversation
        opened = Counter(
            one["contact_key"] for one in conversations if one["status"] in ("new", "open", "pending")
        )
        assert max(opened.values(), default=1) == 1, opened.most_common(_SHOWN)

    async def check_events(self, rows: Sequence[Json]) -> None:
        """The log has no gap, and one event for the arrival of each message."""
        events = await self.rows(
            "SELECT cursor, name, data FROM events WHERE tenant_id = $1 ORDER BY cursor", self.business.id
        )
        cursors = [event["cursor"] for event in events]
        assert cursors == list(range(cursors[0], cursors[0] + len(cursors))) if cursors else True
        arrivals = Counter(
            message_id
            for event in events
            if event["name"] in ("message.received", "message.sent")
            and (message_id := _message_id(event["data"])) is not None
        )
        wrong = {row["id"]: arrivals[row["id"]] for row in rows if arrivals[row["id"]] != 1}
        assert not wrong, f"arrivals in the event log: {dict(list(wrong.items())[:_SHOWN])}"


def check_pushed(screen: Screen, rows: Iterable[Json]) -> None:
    """A screen that listened to the inbox all along was pushed each message once, in the order of the log."""
    inbox = [event for event in screen.events if event["channel"] == "inbox"]
    cursors = [event["cursor"] for event in inbox]
    assert cursors == sorted(set(cursors)), "cursors repeat or go back"
    pushed = Counter(
        event["data"]["message"]["id"]
        for event in inbox
        if event["name"] in ("message.received", "message.sent")
    )
    wrong = {row["id"]: pushed[row["id"]] for row in rows if pushed[row["id"]] != 1}
    assert not wrong, f"pushed so often: {dict(list(wrong.items())[:_SHOWN])}"


async def books_of(business: Business, sim: Simulator, channel_id: int, database: DatabaseServer) -> Books:
    """Opens the books on a business's own tables."""
    name = await database.pool(database.landlord_database).fetchval(
        "SELECT database FROM placements WHERE tenant_id = $1", business.id
    )
    return Books(business=business, sim=sim, channel_id=channel_id, pool=database.pool(name))


def _kept(fact: Fact, by_id: dict[str, Json]) -> bool:
    """An edit or a deletion is kept in the message that it is about, or as one of its own."""
    if fact.id in by_id:
        return True
    original = by_id.get(fact.original_id or "")
    if original is None:
        return False
    return original["edited_at" if fact.type == "edit" else "deleted_at"] is not None


def _message_id(data: str | Json) -> int | None:
    """From an event's data, which the driver may give as text."""
    decoded: Json = json.loads(data) if isinstance(data, str) else data
    message_id: int | None = decoded.get("message", {}).get("id")
    return message_id
