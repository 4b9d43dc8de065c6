"""The `send` body: what an agent writes, turned into what the conversation is asked to send.

The body is one Struct with a member per kind, as clients know it; exactly the members that go with `type`
must be there. What the platform itself would refuse (lengths, numbers of buttons, media types) is checked by
the adapter through `fit_send`, so that the agent hears it at once and not from a failed message. What the
platform can only carry otherwise (buttons as a numbered list) is noted in the message's content, `sent_as`.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from engine.domain.config import Channel
from engine.domain.content import compact
from engine.domain.conversation.messages import NewAttachment
from engine.domain.outbound import (
    MediaRef,
    Option,
    Send,
    SendInteractive,
    SendLocation,
    SendMedia,
    SendReaction,
    SendTemplate,
    SendText,
)
from gateway.routing import TenantCall
from gateway.schemas import END, Id, Input, invalid

MEDIA_TYPES = ("image", "video", "audio", "voice", "document", "sticker")

SendType = Literal[
    "text",
    "image",
    "video",
    "audio",
    "voice",
    "document",
    "sticker",
    "location",
    "interactive",
    "template",
    "reaction",
]
Url = Annotated[str, Meta(pattern=r"^https?://[^\s\x00-\x1f\x7f]+" + END, max_length=2048)]


class ContentBody(Input, frozen=True, kw_only=True):
    """`body` for texts, `caption` for media."""

    body: Annotated[str, Meta(max_length=65_536)] | None = None
    caption: Annotated[str, Meta(max_length=4096)] | None = None
    preview_url: bool = False


class AttachmentBody(Input, frozen=True, kw_only=True):
    """A file that was uploaded here, or a public link: one of the two."""

    file_id: Id | None = None
    url: Url | None = None
    caption: Annotated[str, Meta(max_length=4096)] | None = None
    filename: Annotated[str, Meta(min_length=1, max_length=240)] | None = None


class TemplateBody(Input, frozen=True, kw_only=True):
    """`variables`: parameters by component (`header`, `body`, `button:<index>`)."""

    name: Annotated[str, Meta(min_length=1, max_length=512)]
    language: Annotated[str, Meta(min_length=2, max_length=20)]
    variables: Annotated[dict[str, list[Any]] | None, Meta(description="By component.")] = None


class OptionBody(Input, frozen=True, kw_only=True):
    id: Annotated[str, Meta(min_length=1, max_length=256)]
    title: Annotated[str, Meta(min_length=1, max_length=100)]
    description: Annotated[str, Meta(max_length=256)] | None = None
    section: Annotated[str, Meta(max_length=100)] | None = None


class InteractiveBody(Input, frozen=True, kw_only=True):
    """`button` is the label that opens a list."""

    kind: Literal["buttons", "list", "quick_replies"]
    body: Annotated[str, Meta(min_length=1, max_length=4096)]
    options: Annotated[list[OptionBody], Meta(min_length=1, max_length=20)]
    header: Annotated[str, Meta(max_length=256)] | None = None
    footer: Annotated[str, Meta(max_length=256)] | None = None
    button: Annotated[str, Meta(max_length=100)] | None = None


class LocationBody(Input, frozen=True, kw_only=True):
    latitude: Annotated[float, Meta(ge=-90, le=90)]
    longitude: Annotated[float, Meta(ge=-180, le=180)]
    name: Annotated[str, Meta(max_length=1000)] | None = None
    address: Annotated[str, Meta(max_length=1000)] | None = None


class ReactionBody(Input, frozen=True, kw_only=True):
    """Without an emoji, the reaction is taken back."""

    message_id: Id
    emoji: Annotated[str, Meta(max_length=32)] | None = None


class SendBody(Input, frozen=True, kw_only=True):
    """`content` may be just the text. `client_key` makes a double click one message. `seen_seq` is the last
    sequence number on the agent's screen: when others wrote since, the answer is 409 unless `force`."""

    type: SendType
    content: str | ContentBody | None = None
    attachments: Annotated[tuple[AttachmentBody, ...], Meta(max_length=1)] = ()
    template: TemplateBody | None = None
    interactive: InteractiveBody | None = None
    location: LocationBody | None = None
    reaction: ReactionBody | None = None
    reply_to: Id | None = None
    client_key: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    seen_seq: Annotated[int, Meta(ge=0)] | None = None
    force: bool = False


class Outgoing(Struct, kw_only=True):
    """A send body in the domain's terms: what goes to the platform, and what the message will show."""

    send: Send
    content: dict[str, Any]
    text: str
    attachments: tuple[NewAttachment, ...] = ()
    target_message_id: int | None = None


async def outgoing(call: TenantCall, body: SendBody, channel: Channel, *, answered: bool = False) -> Outgoing:
    """For this channel, in a conversation that was `answered` before or not. Raises InvalidInput with the
    field that is missing, does not belong, or that the platform would refuse."""
    _check_members(body)
    result = await _built(call, body)
    said = call.deps.fit_send(channel, result.send, answered)
    result.content = {**result.content, **said}
    return result


async def _built(call: TenantCall, body: SendBody) -> Outgoing:
    if body.type in MEDIA_TYPES:
        return await _media(call, body)
    if body.type == "location":
        return _location(_required(body.location, "location"))
    if body.type == "interactive":
        return _interactive(_required(body.interactive, "interactive"))
    if body.type == "template":
        return _template(_required(body.template, "template"))
    if body.type == "reaction":
        return _reaction(_required(body.reaction, "reaction"))
    return _text(body)


def _required(value: Any, member: str) -> Any:
    if value is None:
        raise invalid(member, f"Is required for the type {member}.")
    return value


def _check_members(body: SendBody) -> None:
    """Members of another type would be dropped in silence, and the agent would believe them sent."""
    belongs = {
        "attachments": body.type in MEDIA_TYPES,
        "content": body.type == "text" or body.type in MEDIA_TYPES,
        "template": body.type == "template",
        "interactive": body.type == "interactive",
        "location": body.type == "location",
        "reaction": body.type == "reaction",
    }
    for member, fits in belongs.items():
        if getattr(body, member) and not fits:
            raise invalid(member, f"Does not go with the type {body.type}.")
    if body.type == "reaction" and body.reply_to is not None:
        raise invalid("reply_to", "A reaction names its message itself.")


def _text(body: SendBody) -> Outgoing:
    content = ContentBody(body=body.content) if isinstance(body.content, str) else body.content
    text = content.body if content else None
    if not text or not text.strip():
        raise invalid("content", "A text message needs a text that is not empty.")
    preview = bool(content and content.preview_url)
    return Outgoing(send=SendText(body=text, preview_url=preview), content={"body": text}, text=text)


async def _media(call: TenantCall, body: SendBody) -> Outgoing:
    if not body.attachments:
        raise invalid("attachments", f"A message of type {body.type} needs one.")
    attachment = body.attachments[0]
    if (attachment.file_id is None) == (attachment.url is None):
        raise invalid("attachments", "Needs either file_id or url.")
    caption = attachment.caption or (body.content if isinstance(body.content, str) else None)
    if isinstance(body.content, ContentBody):
        caption = caption or body.content.caption or body.content.body
    new = await _attachment(call, body.type, attachment)
    media = MediaRef(
        kind=body.type,
        storage_key=new.storage_key,
        link=new.link,
        media_type=new.media_type,
        filename=new.filename,
        caption=caption,
    )
    content = compact(caption=caption, filename=new.filename)
    return Outgoing(send=SendMedia(media=media), content=content, text=caption or "", attachments=(new,))


async def _attachment(call: TenantCall, kind: str, attachment: AttachmentBody) -> NewAttachment:
    if attachment.url is not None:
        return NewAttachment(kind=kind, link=attachment.url, filename=attachment.filename)
    assert attachment.file_id is not None
    file = await call.deps.reads.file(call.tenant.id, attachment.file_id)
    if file is None:
        raise invalid("attachments", f"There is no file {attachment.file_id}.")
    return NewAttachment(
        kind=kind,
        storage_key=file.storage_key,
        media_type=file.media_type,
        filename=attachment.filename or file.filename,
        size=file.size,
        sha256=file.sha256,
    )


def _location(body: LocationBody) -> Outgoing:
    return Outgoing(
        send=SendLocation(
            latitude=body.latitude, longitude=body.longitude, name=body.name, address=body.address
        ),
        content=compact(
            latitude=body.latitude, longitude=body.longitude, name=body.name, address=body.address
        ),
        text=" ".join(part for part in (body.name, body.address) if part),
    )


def _interactive(body: InteractiveBody) -> Outgoing:
    options = tuple(
        Option(id=each.id, title=each.title, description=each.description, section=each.section)
        for each in body.options
    )
    send = SendInteractive(
        kind=body.kind,
        body=body.body,
        options=options,
        header=body.header,
        footer=body.footer,
        button=body.button,
    )
    shown = [
        compact(id=each.id, title=each.title, description=each.description, section=each.section)
        for each in options
    ]
    content = compact(
        kind=body.kind,
        body=body.body,
        header=body.header,
        footer=body.footer,
        button=body.button,
        options=shown,
    )
    return Outgoing(send=send, content=content, text=body.body)


def _template(body: TemplateBody) -> Outgoing:
    variables = body.variables or {}
    send = SendTemplate(name=body.name, language=body.language, variables=variables)
    words = [each for values in variables.values() for each in values if isinstance(each, str)]
    content = {"name": body.name, "language": body.language, "variables": variables}
    return Outgoing(send=send, content=content, text=" ".join(words))


def _reaction(body: ReactionBody) -> Outgoing:
    """The platform's id of the message is put in by the conversation, which knows it."""
    return Outgoing(
        send=SendReaction(platform_message_id="", emoji=body.emoji or None),
        content={"emoji": body.emoji or None},
        text=body.emoji or "",
        target_message_id=body.message_id,
    )
