"""Questions to the store and their answers, as handlers use them. Pure."""

from collections.abc import Callable
from functools import wraps
from typing import Protocol, TypeVar

from engine.domain.conversation.state import ContactState
from engine.domain.rows import ConversationRow
from engine.errors import NotFound
from engine.ports import ConversationQuery, FoundMessage, MessageQuery
from engine.runtime import Context, Effects, Lookup


def by_platform(state: ContactState, platform_id: str) -> MessageQuery:
    return MessageQuery(
        tenant_id=state.tenant_id, channel_id=state.channel_id, platform_message_id=platform_id
    )


def by_id(state: ContactState, message_id: int) -> MessageQuery:
    return MessageQuery(tenant_id=state.tenant_id, channel_id=state.channel_id, message_id=message_id)


def found_message(ctx: Context) -> FoundMessage | None:
    """The answer to a single MessageQuery; None before it was asked."""
    return ctx.found if isinstance(ctx.found, FoundMessage) else None


def conversation_of(
    state: ContactState, conversation_id: int, ctx: Context
) -> ConversationRow | Lookup | None:
    """The conversation a command means: resident, to be looked up, or not this contact's (None)."""
    resident = state.resident(conversation_id)
    if resident is not None:
        return resident
    if ctx.found is None:
        return Lookup(ConversationQuery(tenant_id=state.tenant_id, conversation_id=conversation_id))
    row = ctx.found
    if not isinstance(row, ConversationRow):
        return None
    if row.channel_id != state.channel_id or not state.owns(row.contact_key):
        return None
    return state.adopt(row)


class OnConversation(Protocol):
    """A command that names its conversation."""

    @property
    def conversation_id(self) -> int: ...


M = TypeVar("M", bound=OnConversation)


def on_conversation(
    handler: Callable[[ContactState, ConversationRow, M, Context], Effects],
) -> Callable[[ContactState, M, Context], Effects | Lookup]:
    """Finds the conversation that a command names before `handler` decides on it; refuses where there is
    none of this contact."""

    @wraps(handler)
    def decide(state: ContactState, message: M, ctx: Context) -> Effects | Lookup:
        conversation = conversation_of(state, message.conversation_id, ctx)
        if isinstance(conversation, Lookup):
            return conversation
        if conversation is None:
            return no_conversation()
        return handler(state, conversation, message, ctx)

    return decide


def no_conversation() -> Effects:
    return Effects(refuse=NotFound("There is no such conversation."))


class Absent:
    """What a lookup answers for a conversation that does not exist (an answer is never None)."""


ABSENT = Absent()
