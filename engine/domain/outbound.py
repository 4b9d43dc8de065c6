"""Outbound sends: what a conversation puts into the outbox and an adapter turns into a platform call.

Platform-neutral. A send is stored in `outbox.payload` as its JSON (tagged), so adding a member is
safe and renaming one is not.
"""

from typing import Any

from msgspec import Struct

Json = dict[str, Any]


class MediaRef(Struct, frozen=True, kw_only=True):
    """A stored file (`storage_key`) or a public link, to go with a media send."""

    kind: str  # image | video | audio | voice | document | sticker
    storage_key: str | None = None
    link: str | None = None
    media_type: str | None = None
    filename: str | None = None
    caption: str | None = None


class SendText(Struct, frozen=True, tag=True, kw_only=True):
    body: str
    preview_url: bool = False


class SendMedia(Struct, frozen=True, tag=True, kw_only=True):
    media: MediaRef


class SendTemplate(Struct, frozen=True, tag=True, kw_only=True):
    """`variables` maps component (`header` | `body` | `button:<index>`) to its list of parameters,
    each a string (text) or an object in the platform's parameter form."""

    name: str
    language: str
    variables: dict[str, list[Any]] = {}


class Option(Struct, frozen=True, kw_only=True):
    id: str
    title: str
    description: str | None = None
    section: str | None = None


class SendInteractive(Struct, frozen=True, tag=True, kw_only=True):
    kind: str  # buttons | list | quick_replies
    body: str
    options: tuple[Option, ...]
    header: str | None = None
    footer: str | None = None
    button: str | None = None  # label that opens a list


class SendLocation(Struct, frozen=True, tag=True, kw_only=True):
    latitude: float
    longitude: float
    name: str | None = None
    address: str | None = None


class SendReaction(Struct, frozen=True, tag=True, kw_only=True):
    platform_message_id: str
    emoji: str | None  # None removes the reaction


class MarkRead(Struct, frozen=True, tag=True, kw_only=True):
    """A signal, not a message: earlier messages count as read too. With `typing`, shows typing."""

    platform_message_id: str
    typing: bool = False


Send = SendText | SendMedia | SendTemplate | SendInteractive | SendLocation | SendReaction | MarkRead


THREAD_REFERENCES_MAX = 20
"""Enough for any program to find the thread; without an end the header would grow with each answer."""


class Thread(Struct, frozen=True, kw_only=True):
    """Where an answer belongs, on platforms that thread by message ids: the customer's newest message and,
    oldest first, those before it (at most `THREAD_REFERENCES_MAX`). `address` is where the customer wants
    answers, if that is not where they wrote from. `message_id` is None where theirs had none."""

    message_id: str | None
    subject: str | None = None
    references: tuple[str, ...] = ()
    address: str | None = None


class OutboxItem(Struct, frozen=True, kw_only=True):
    """One row of the outbox, as the channel actor works on it. `lane`: 0 realtime, 1 normal, 2 bulk.

    `window_ends_at` is the end of the reply window as it was when the message was queued, `by_person` whether
    a person wrote it: what waits past the end may need the platform's mark for people's late answers.
    `thread` is what the message continues, where the platform's capabilities say `threads`."""

    id: int
    tenant_id: int
    channel_id: int
    conversation_id: int
    contact_key: str
    message_id: int | None
    recipient: str
    lane: int
    state: str
    attempts: int
    not_before: int
    send: Send
    reply_to: str | None  # platform id of the quoted message
    trace: str
    created_at: int
    window_ends_at: int | None = None
    by_person: bool = False
    thread: Thread | None = None


# What the channel actor tells the conversation about an item, inside an OutboxVerdict
# (engine/domain/conversation/messages.py). What it is told itself: engine/domain/outbox.py.


class Sent(Struct, frozen=True, tag=True, kw_only=True):
    """The platform took it and named it `platform_id`."""

    platform_id: str
    at: int


class Refused(Struct, frozen=True, tag=True, kw_only=True):
    """It will not be sent: a permanent error, or the last retry is used up. `opted_out`: the platform says
    that the customer wants no messages; `undeliverable`: that nothing sent to this address will arrive."""

    platform_code: str
    message: str
    retryable: bool
    at: int
    opted_out: bool = False
    undeliverable: bool = False


class OutcomeUnknown(Struct, frozen=True, tag=True, kw_only=True):
    """The request went out and no answer came back. It may or may not have been taken."""

    at: int


class Resending(Struct, frozen=True, tag=True, kw_only=True):
    """An unknown outcome stayed unknown for the waiting time: it is sent again, flagged."""

    at: int


SendOutcome = Sent | Refused | OutcomeUnknown | Resending


class OutboxPayload(Struct, frozen=True, kw_only=True):
    """The JSON in `outbox.payload`. `resent` marks a send whose first outcome stayed unknown; the rest is as
    in OutboxItem."""

    send: Send
    reply_to: str | None = None
    resent: bool = False
    window_ends_at: int | None = None
    by_person: bool = False
    thread: Thread | None = None
