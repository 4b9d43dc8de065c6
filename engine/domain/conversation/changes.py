"""A step in the making: collects what one message changes in a contact's state.

Handlers write `change.…` lines in the order of the story; `done()` turns them into Effects. It knows the
rows that always go together: a conversation touched twice is committed once, with its last standing, and
events carry the resources as they are when the step ends.
"""

from typing import Any

from msgspec import UNSET

from engine.domain.config import TenantConfig
from engine.domain.conversation.state import ContactState, Tracked, snapshot
from engine.domain.resources import (
    ConversationResource,
    CustomerResource,
    HandleRef,
    MessageResource,
    conversation_resource,
    customer_resource,
    encode,
    message_resource,
    rfc3339,
)
from engine.domain.rows import AttachmentRow, ConversationRow, EventRow, MessageRow, Row
from engine.runtime import Context, Effects, Tell

INBOX = "inbox"


class Change:
    """One message's effects on one contact. Used once."""

    def __init__(self, state: ContactState, ctx: Context, trace: str) -> None:
        self.state = state
        self.ctx = ctx
        self.now = ctx.now
        self.config: TenantConfig = ctx.config
        self.trace = trace
        self.rows: list[Row] = []
        self.tells: list[Tell] = []
        self._touched: dict[int, ConversationRow] = {}
        self._events: list[tuple[str, ConversationRow, dict[str, Any]]] = []
        self._customer_event: str | None = None

    def add(self, row: Row) -> None:
        self.rows.append(row)

    def tell(self, tell: Tell) -> None:
        self.tells.append(tell)

    def touch(self, conversation: ConversationRow) -> None:
        """The conversation's row is part of this commit, as it stands at the end of the step."""
        conversation.updated_at = self.now
        self._touched[conversation.id] = conversation

    def event(self, name: str, conversation: ConversationRow, **data: Any) -> None:
        """An event about this conversation. Members of `data` must be encodable; `conversation` is
        added at the end of the step, so that all events of one step show the same standing."""
        self._events.append((name, conversation, data))

    def customer_event(self, name: str = "customer.updated") -> None:
        """The customer changed; once for each step, and a merge or its end says more than a change."""
        if self._customer_event in (None, "customer.updated"):
            self._customer_event = name

    def message_event(
        self,
        name: str,
        conversation: ConversationRow,
        row: MessageRow,
        attachments: tuple[AttachmentRow, ...] = (),
    ) -> MessageResource:
        resource = message_resource(row, attachments)
        self.event(name, conversation, message=resource)
        return resource

    def status_event(self, conversation_id: int, message: Tracked, error: Any = UNSET) -> None:
        """A status is about one message: it goes out without the conversation, which did not change,
        and also where that conversation is not resident. Without `error` that stays as it was told."""
        data = {
            "id": message.id,
            "conversation_id": conversation_id,
            "seq": message.seq,
            "status": message.status,
            "platform_message_id": message.platform_id,
            "sent_at": rfc3339(message.sent_at),
            "delivered_at": rfc3339(message.delivered_at),
            "read_at": rfc3339(message.read_at),
            "failed_at": rfc3339(message.failed_at),
        }
        if error is not UNSET:
            data["error"] = error
        self.plain_event("message.status.updated", conversation_id, data, caused_by=message.trace)

    def plain_event(
        self, name: str, conversation_id: int, data: dict[str, Any], *, caused_by: str = ""
    ) -> None:
        """An event that carries no conversation. `caused_by`: the trace of what the event is about, for
        this process' log, so that a message's life can be told from its webhook to its receipt."""
        row = self._event_row(name, (INBOX, f"conversations.{conversation_id}"), encode(data))
        row.local = caused_by or None
        self.rows.append(row)

    def resource(self, conversation: ConversationRow) -> ConversationResource:
        return conversation_resource(conversation, self.state.customer_ref(), self.config, self.now)

    def customer_resource(self) -> CustomerResource:
        state = self.state
        assert state.customer is not None
        channel = self.config.channels.get(state.channel_id)
        handles = (
            HandleRef(
                platform=channel.platform if channel is not None else "unknown",
                channel_id=state.channel_id,
                external_id=key,
                display=display,
            )
            for key, display in state.handles.items()
        )
        return customer_resource(state.customer, handles)

    def done(self, reply: object = None) -> Effects:
        """The effects of all that was collected."""
        for conversation in self._touched.values():
            self.rows.append(snapshot(conversation))
        shown: dict[int, ConversationResource] = {}
        for name, conversation, data in self._events:
            resource = shown.get(conversation.id)
            if resource is None:
                resource = shown[conversation.id] = self.resource(conversation)
            channels: tuple[str, ...] = (INBOX, f"conversations.{conversation.id}")
            if conversation.assigned_to is not None:
                channels = (*channels, f"users.{conversation.assigned_to}")
            self.rows.append(self._event_row(name, channels, encode({**data, "conversation": resource})))
        if self._customer_event is not None:
            data = {"customer": self.customer_resource()}
            self.rows.append(self._event_row(self._customer_event, (INBOX,), encode(data)))
        return Effects(commit=self.rows, tell=self.tells, reply=reply)

    def _event_row(self, name: str, channels: tuple[str, ...], data: bytes) -> EventRow:
        return EventRow(
            tenant_id=self.state.tenant_id,
            name=name,
            channels=channels,
            data_json=data,
            trace=self.trace,
            at=self.now,
        )
