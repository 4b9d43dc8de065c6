"""Items of an outbox for senders that are tested without a channel."""

from typing import Any

from engine.domain.outbound import MarkRead, OutboxItem, Send


def outbox_item(send: Send, recipient: str, **changes: Any) -> OutboxItem:
    """Ready to be sent; `changes` are other members. A signal has no message."""
    members: dict[str, Any] = {
        "id": 1,
        "tenant_id": 1,
        "channel_id": 2,
        "conversation_id": 3,
        "contact_key": recipient.removeprefix("+"),
        "message_id": None if isinstance(send, MarkRead) else 4242,
        "recipient": recipient,
        "lane": 0,
        "state": "queued",
        "attempts": 0,
        "not_before": 0,
        "send": send,
        "reply_to": None,
        "trace": "t",
        "created_at": 0,
    }
    return OutboxItem(**{**members, **changes})
