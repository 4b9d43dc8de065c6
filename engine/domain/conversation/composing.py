"""New rows of a conversation's history, whole: every column has its beginning here. Pure."""

from typing import Any

from engine.domain.conversation.changes import Change
from engine.domain.conversation.state import Tracked
from engine.domain.rows import AttachmentRow, ConversationRow, MessageRow


def next_message(
    change: Change,
    conversation: ConversationRow,
    *,
    direction: str,
    type_: str,
    content: dict[str, Any],
    text: str,
    sender: tuple[str, int | None, str | None],
    status: str,
    reply_to: Tracked | None,
    metadata: dict[str, Any],
    platform_id: str | None = None,
    platform_at: int | None = None,
    sent_at: int | None = None,
    client_key: str | None = None,
) -> MessageRow:
    """The message that follows the conversation's last one. `sender` is (type, id, name)."""
    sender_type, sender_id, sender_name = sender
    return MessageRow(
        tenant_id=conversation.tenant_id,
        conversation_id=conversation.id,
        seq=conversation.last_seq + 1,
        id=change.ctx.new_id(),
        channel_id=conversation.channel_id,
        contact_key=conversation.contact_key,
        direction=direction,
        type=type_,
        sender_type=sender_type,
        sender_id=sender_id,
        sender_name=sender_name,
        content=content,
        text=text,
        reply_to_id=reply_to.id if reply_to is not None else None,
        reply_to_seq=reply_to.seq if reply_to is not None else None,
        status=status,
        platform_message_id=platform_id,
        client_key=client_key,
        platform_at=platform_at,
        sent_at=sent_at,
        delivered_at=None,
        read_at=None,
        failed_at=None,
        error=None,
        edited_at=None,
        deleted_at=None,
        metadata=metadata,
        trace=change.trace,
        created_at=change.now,
    )


def attachment_of(
    change: Change,
    message: MessageRow,
    *,
    kind: str,
    state: str,
    source_id: str | None = None,
    source_url: str | None = None,
    sha256: str | None = None,
    filename: str | None = None,
    media_type: str | None = None,
    size: int | None = None,
    storage_key: str | None = None,
) -> AttachmentRow:
    """A file of this message: `pending` while it is to be fetched, `stored` when we have or need no copy."""
    return AttachmentRow(
        tenant_id=message.tenant_id,
        id=change.ctx.new_id(),
        conversation_id=message.conversation_id,
        message_id=message.id,
        channel_id=message.channel_id,
        contact_key=message.contact_key,
        type=kind,
        state=state,
        source_id=source_id,
        source_url=source_url,
        sha256=sha256,
        filename=filename,
        media_type=media_type,
        size=size,
        width=None,
        height=None,
        duration=None,
        storage_key=storage_key,
        attempts=0,
        next_try_at=change.now if state == "pending" else None,
        error=None,
        created_at=change.now,
    )
