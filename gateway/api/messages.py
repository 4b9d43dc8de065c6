"""Messages: reading a conversation's history, sending, starting, reacting, sending again.

201 means stored and queued, both durable: from then on the message survives whatever happens to this process.
What becomes of it at the platform is its `status`, pushed as it changes.
"""

from typing import Annotated, Any

from msgspec import Meta, Struct, structs

from engine.domain.conversation.messages import Retry, SendMessage, Start, Started
from engine.domain.platforms import rules_of
from engine.domain.resources import AttachmentResource, ConversationResource, MessageResource
from engine.errors import Conflicting, NotFound
from engine.reading import ConversationPlace
from gateway.api.sending import ReactionBody, SendBody, outgoing
from gateway.envelope import Answer
from gateway.idempotency import HEADER
from gateway.permissions import Permission
from gateway.phones import e164
from gateway.routing import Routes, TenantCall
from gateway.schemas import END, Id, Input, PageQuery, invalid

routes = Routes("messages")

MISSED_MAX = 50
"""Messages shown in a stale_conversation refusal; who has missed more reloads."""


class HistoryQuery(PageQuery, frozen=True, kw_only=True):
    """Newest first; with `after_seq`, those after it, oldest first."""

    after_seq: Annotated[int, Meta(ge=0)] | None = None


class StartBody(Input, frozen=True, kw_only=True):
    """`phone` in international form; `country` (ISO 3166) lets it be written the national way."""

    channel_id: Id
    phone: Annotated[str, Meta(min_length=3, max_length=32)]
    country: Annotated[str, Meta(pattern="^[A-Z]{2}" + END)] | None = None
    name: Annotated[str, Meta(min_length=1, max_length=120)] | None = None
    message: SendBody | None = None


class EmojiBody(Input, frozen=True, kw_only=True):
    """Without an emoji, the reaction is taken back."""

    emoji: Annotated[str, Meta(max_length=32)] | None = None


class StartResult(Struct, frozen=True, kw_only=True):
    conversation: ConversationResource
    message: MessageResource | None
    created: bool


@routes.get(
    "/conversations/<id:conversation_id>/messages",
    needs=Permission.CONVERSATIONS_VIEW,
    answer=MessageResource,
    paged=True,
)
async def list_messages(call: TenantCall, conversation_id: int, query: HistoryQuery) -> Answer:
    """List the messages of a conversation."""
    await call.place(conversation_id)
    return Answer(
        data=await call.deps.reads.messages(
            call.tenant.id,
            conversation_id,
            limit=query.limit,
            cursor=query.cursor,
            sign=call.sign(),
            after_seq=query.after_seq,
        )
    )


@routes.post(
    "/conversations/<id:conversation_id>/messages",
    needs=Permission.CONVERSATIONS_REPLY,
    answer=MessageResource,
    status=201,
)
async def send(call: TenantCall, conversation_id: int, body: SendBody) -> Answer:
    """Send a message. 201 when it is stored and queued."""
    return await _send(call, await call.place(conversation_id), body)


@routes.post(
    "/conversations/start",
    needs=Permission.CONVERSATIONS_START,
    answer=StartResult,
    status=201,
    also=(200,),
)
async def start(call: TenantCall, body: StartBody) -> Answer:
    """Open a conversation with a phone number, or find the open one (then 200)."""
    channel = call.config.channels.get(body.channel_id)
    if channel is None:
        raise invalid("channel_id", "There is no such channel.")
    if channel.status == "disabled":
        raise Conflicting("The channel is disabled.", code="channel_disabled")
    if not rules_of(channel.platform).by_phone:
        sentence = "On this channel only the customer can begin a conversation."
        raise Conflicting(sentence, code="not_supported")
    if body.message is not None and (body.message.type == "reaction" or body.message.reply_to is not None):
        raise invalid("message", "The first message refers to no other.")
    number = e164(body.phone, body.country)
    ready = await outgoing(call, body.message, channel) if body.message else None
    command = Start(
        by=call.by,
        recipient=number,
        name=body.name,
        platform=channel.platform,
        send=ready.send if ready else None,
        type=body.message.type if body.message else "text",
        content=ready.content if ready else {},
        text=ready.text if ready else "",
        attachments=ready.attachments if ready else (),
        client_key=_client_key(call, body.message),
        trace=call.trace,
    )
    key = number.removeprefix("+")
    started: Started = await call.deps.engine.ask_contact(call.tenant.id, channel.id, key, command)
    message = _signed(call, started.message) if started.message is not None else None
    result = StartResult(conversation=started.conversation, message=message, created=started.created)
    return Answer(
        data=result,
        status=201 if started.created else 200,
        message="Conversation started" if started.created else "The open conversation was used",
    )


@routes.post(
    "/messages/<id:message_id>/reaction",
    needs=Permission.CONVERSATIONS_REPLY,
    answer=MessageResource,
    status=201,
)
async def react(call: TenantCall, message_id: int, body: EmojiBody) -> Answer:
    """React to a message with an emoji, or take the reaction back."""
    place = await _place_of(call, message_id)
    reaction = ReactionBody(message_id=message_id, emoji=body.emoji)
    return await _send(call, place, SendBody(type="reaction", reaction=reaction))


@routes.post(
    "/messages/<id:message_id>/retry",
    needs=Permission.CONVERSATIONS_REPLY,
    answer=MessageResource,
    status=202,
)
async def retry(call: TenantCall, message_id: int) -> Answer:
    """Send a failed message again."""
    place = await _place_of(call, message_id)
    command = Retry(
        conversation_id=place.conversation_id, message_id=message_id, by=call.by, trace=call.trace
    )
    message = await call.deps.engine.ask_conversation(call.tenant.id, place, command)
    return Answer(data=_signed(call, message), status=202, message="Queued again")


async def _send(call: TenantCall, place: ConversationPlace, body: SendBody) -> Answer:
    channel = call.config.channels.get(place.channel_id)
    if channel is None:
        raise Conflicting("The channel is not connected any more.", code="channel_disabled")
    ready = await outgoing(call, body, channel, answered=place.answered)
    command = SendMessage(
        conversation_id=place.conversation_id,
        by=call.by,
        send=ready.send,
        type=body.type,
        content=ready.content,
        text=ready.text,
        attachments=ready.attachments,
        reply_to=body.reply_to,
        target_message_id=ready.target_message_id,
        client_key=_client_key(call, body),
        seen_seq=body.seen_seq,
        force=body.force,
        trace=call.trace,
    )
    try:
        message = await call.deps.engine.ask_conversation(call.tenant.id, place, command)
    except Conflicting as error:
        if error.code == "stale_conversation" and body.seen_seq is not None:
            raise await _with_missed(call, place, body.seen_seq, error) from error
        raise
    return Answer(data=_signed(call, message), status=201, message="Message queued")


async def _with_missed(
    call: TenantCall, place: ConversationPlace, seen_seq: int, error: Conflicting
) -> Conflicting:
    """The refusal names sequence numbers; the agent wants to read what was written."""
    page = await call.deps.reads.messages(
        call.tenant.id,
        place.conversation_id,
        limit=MISSED_MAX,
        cursor=None,
        sign=call.sign(),
        after_seq=seen_seq,
    )
    known = error.data if isinstance(error.data, dict) else {}
    return Conflicting(error.message, code=error.code, data={**known, "missed": page.items})


def _client_key(call: TenantCall, body: SendBody | None) -> str | None:
    """The Idempotency-Key serves as client key where there is none: should the kept answer be lost in a
    crash, the conversation still knows the message."""
    if body is not None and body.client_key is not None:
        return body.client_key
    key = call.request.headers.get(HEADER)
    return f"{call.caller.user_id}:{key}" if key else None


async def _place_of(call: TenantCall, message_id: int) -> ConversationPlace:
    found = await call.deps.reads.message_place(call.tenant.id, message_id)
    if found is None or not call.sees(found.conversation):
        raise NotFound("There is no such message.")
    return found.conversation


def _signed(call: TenantCall, message: Any) -> Any:
    """Actors know no links; readers of an answer want them."""
    if not isinstance(message, MessageResource) or not message.attachments:
        return message
    sign = call.sign()

    def linked(attachment: AttachmentResource) -> AttachmentResource:
        if attachment.state != "stored":
            return attachment
        return structs.replace(attachment, url=sign(call.tenant.id, attachment.id))

    return structs.replace(message, attachments=tuple(linked(each) for each in message.attachments))
