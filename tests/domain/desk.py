"""A contact's handler run by hand: decides messages one after the other on one state and keeps what they
wrote, so that a test reads like the story it tells. Time and ids are the test's own."""

from collections.abc import Iterator
from itertools import count
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from engine.domain.config import (
    Agent,
    AssignmentSettings,
    Channel,
    ConversationSettings,
    ReplyRule,
    Tag,
    TenantConfig,
)
from engine.domain.conversation.actor import decide
from engine.domain.conversation.messages import By, Receive, SendMessage
from engine.domain.conversation.state import ContactState, from_snapshot
from engine.domain.inbound import Contact, MessageReceived, StatusChanged
from engine.domain.outbound import SendText
from engine.domain.rows import EventRow, Row
from engine.ports import FoundMessage
from engine.runtime import Address, Context, Effects, Lookup

TENANT, CHANNEL, KEY = 7, 71, "15550001111"
NOON = 1_767_441_600_000  # Saturday 2026-01-03 12:00:00 UTC
HOUR = 3_600_000
ANN = By(kind="user", id=501, name="Ann")
BOB = By(kind="user", id=502, name="Bob")


def agent(user: By, **changes: Any) -> Agent:
    members = {
        "id": user.id,
        "name": user.name,
        "email": f"{user.name}@shop.example",
        "role": "agent",
        "active": True,
        "availability": "online",
        "week": None,
        "capacity": None,
        "created_at": NOON,
        "updated_at": NOON,
    }
    return (
        msgspec.convert({**members, **changes}, Agent)
        if "week" not in changes
        else Agent(**{**members, **changes})
    )


def rule(rule_id: int, kind: str, **changes: Any) -> ReplyRule:
    members: dict[str, Any] = {
        "id": rule_id,
        "kind": kind,
        "name": f"rule {rule_id}",
        "active": True,
        "priority": 10,
        "channel_ids": (),
        "match": "contains" if kind == "keyword" else None,
        "patterns": (),
        "reply": {"type": "text", "body": f"reply {rule_id}"},
        "cooldown_seconds": 3600,
        "created_at": NOON,
        "updated_at": NOON,
    }
    return ReplyRule(**{**members, **changes})


def config(**changes: Any) -> TenantConfig:
    channel = Channel(
        id=CHANNEL,
        platform="whatsapp",
        name="Shop line",
        external_id="1066",
        credentials=b"",
        settings={},
        status="active",
        status_note=None,
        created_at=NOON,
        updated_at=NOON,
    )
    members: dict[str, Any] = {
        "tenant_id": TENANT,
        "slug": "shop",
        "name": "The Shop",
        "timezone": ZoneInfo("UTC"),
        "agents": {501: agent(ANN), 502: agent(BOB)},
        "channels": {CHANNEL: channel},
        "tags": {9: Tag(id=9, name="vip", color="#f00", created_at=NOON, updated_at=NOON)},
        "rules": {},
        "assignment": AssignmentSettings(),
        "week": None,
        "conversations": ConversationSettings(),
    }
    return TenantConfig(**{**members, **changes})


class Story:
    """`tell` decides a message and returns its effects; rows pile up in `rows` as if all were committed."""

    def __init__(self, configuration: TenantConfig | None = None, key: str = KEY) -> None:
        self.state: ContactState = from_snapshot(TENANT, CHANNEL, key, None)
        ids: Iterator[int] = count(1000)
        self.ctx = Context(lambda: next(ids))
        self.ctx.now = NOON
        self.ctx.address = Address("conversation", TENANT, (CHANNEL, key))
        self.ctx.config = configuration or config()
        self.rows: list[Row] = []
        self._platform_ids = count(1)

    def tell(self, message: Any, *, found: object = None, suspect: bool = False) -> Any:
        """The effects; typed loosely because replies are as various as the messages."""
        outcome = self.raw(message, found=found, suspect=suspect)
        assert isinstance(outcome, Effects), f"asks for {outcome}"
        if outcome.refuse is None:
            self.rows.extend(outcome.commit)  # type: ignore[arg-type]
        return outcome

    def raw(self, message: Any, *, found: object = None, suspect: bool = False) -> Effects | Lookup:
        self.ctx.found, self.ctx.suspect = found, suspect
        return decide(self.state, message, self.ctx)

    def later(self, ms: int) -> None:
        self.ctx.now += ms

    def written(self, kind: type[Row]) -> list[Any]:
        return [row for row in self.rows if isinstance(row, kind)]

    def events(self) -> list[str]:
        return [row.name for row in self.written(EventRow)]

    def event(self, name: str) -> dict[str, Any]:
        """The newest event of that name, as JSON clients see it."""
        rows = [row for row in self.written(EventRow) if row.name == name]
        decoded: dict[str, Any] = msgspec.json.decode(rows[-1].data_json)
        return decoded

    # ------------------------------------------------------- what tests mostly say

    def customer_writes(self, text: str = "Hello", **changes: Any) -> Any:
        return self.tell(self.written_by_customer(text, **changes))

    def written_by_customer(self, text: str = "Hello", **changes: Any) -> Receive:
        members: dict[str, Any] = {
            "contact": Contact(keys=(KEY,), name="Zoe Doe", phone="+15550001111"),
            "platform_id": f"wamid.in{next(self._platform_ids)}",
            "at": self.ctx.now,
            "type": "text",
            "content": {"body": text},
            "text": text,
        }
        return self.receive(MessageReceived(**{**members, **changes}))

    def receive(self, event: Any) -> Receive:
        return Receive(event=event, trace="t1", received_at=self.ctx.now)

    def reply(self, text: str = "Hi", by: By = ANN, **changes: Any) -> SendMessage:
        assert self.state.conversation is not None
        members: dict[str, Any] = {
            "conversation_id": self.state.conversation.id,
            "by": by,
            "send": SendText(body=text),
            "type": "text",
            "content": {"body": text},
            "text": text,
            "trace": "t2",
        }
        return SendMessage(**{**members, **changes})

    def status(
        self, status: str, platform_id: str, *, callback: int | None = None, **changes: Any
    ) -> Receive:
        members: dict[str, Any] = {
            "contact": Contact(keys=(KEY,)),
            "platform_id": platform_id,
            "status": status,
            "raw_status": status,
            "at": self.ctx.now,
            "callback": str(callback) if callback is not None else None,
        }
        return self.receive(StatusChanged(**{**members, **changes}))


NOTHING_FOUND = FoundMessage(message=None)
