"""Questions to the store and their answers, as handlers use them. Pure."""

from engine.domain.conversation.state import ContactState
from engine.domain.rows import ConversationRow
from engine.ports import ConversationQuery, FoundMessage, MessageQuery
from engine.runtime import Context, Lookup


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
    if row.channel_id != state.channel_id or row.contact_key != state.key:
        return None
    return state.adopt(row)


class Absent:
    """What a lookup answers for a conversation that does not exist (an answer is never None)."""


ABSENT = Absent()
