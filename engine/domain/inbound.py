"""Inbound events: what adapters make of a webhook. The closed set that conversations decide on.

One delivery becomes a list of these, one per item, nothing dropped: what an adapter does not know
becomes `Unsupported` with the raw JSON. Times are the platform's own, in milliseconds; `NO_TIME` where it
tells none, and then the time of receipt counts. `content` is already in the public shape of a message's
content (engine/domain/content.py).
"""

from typing import Any, Final

from msgspec import Struct

from engine.domain.outbound import Thread

Json = dict[str, Any]

NO_TIME: Final = 0


class Contact(Struct, frozen=True, kw_only=True):
    """Who wrote. `keys` are the person's ids on this channel account, the preferred one first
    (WhatsApp: wa_id, then the business-scoped user id and its parent). At least one."""

    keys: tuple[str, ...]
    name: str | None = None
    phone: str | None = None  # E.164 with '+'
    email: str | None = None
    group: str | None = None  # the platform's group id when written in a group


class Media(Struct, frozen=True, kw_only=True):
    """A file to fetch later. `sha256` is lower-case hex. `in_delivery`: it came in the delivery itself, which
    is then kept in the object store, and `source_id` says where in it."""

    kind: str  # image | video | audio | voice | document | sticker
    source_id: str | None = None
    source_url: str | None = None
    media_type: str | None = None
    sha256: str | None = None
    filename: str | None = None
    in_delivery: bool = False


class PlatformError(Struct, frozen=True, kw_only=True):
    """Why a platform refused, in its code and in a sentence a person understands. `opted_out`: because the
    customer wants no messages. `undeliverable`: nothing that is sent to this address will arrive."""

    platform_code: str
    message: str
    retryable: bool = False
    opted_out: bool = False
    undeliverable: bool = False


class MessageReceived(Struct, frozen=True, tag=True, tag_field="event", kw_only=True):
    """A customer wrote. `at` is 0 where nobody says when. `answers`: the id of the message of ours that this
    one proves to answer; it belongs to that message's contact, whoever wrote it. `thread`: what an answer to
    it continues, on platforms whose capabilities say `threads`."""

    contact: Contact
    platform_id: str
    at: int
    type: str
    content: Json
    text: str
    media: tuple[Media, ...] = ()
    reply_to: str | None = None  # platform id of the quoted message
    metadata: Json = {}
    opens_window: bool = False  # also where the type alone would not (Messenger: reactions, referrals)
    automated: bool = (
        True  # whether rules may answer; not a robot, nor while another app has the conversation
    )
    answers: int | None = None
    thread: Thread | None = None
    opts: str | None = None  # out | in: the customer wants no more messages here, or wants them again


class MessageEchoed(Struct, frozen=True, tag=True, tag_field="event", kw_only=True):
    """The business wrote from the platform's own app. Stored as outbound, never answered. `maybe_ours`: the
    platform echoes our own sends too, and cannot say which these are; the echo may come before the answer to
    the send."""

    contact: Contact
    platform_id: str
    at: int
    type: str
    content: Json
    text: str
    media: tuple[Media, ...] = ()
    reply_to: str | None = None
    metadata: Json = {}
    maybe_ours: bool = False


class MessageEdited(Struct, frozen=True, tag=True, tag_field="event", kw_only=True):
    contact: Contact
    platform_id: str  # the edit's own id
    original_id: str
    at: int
    type: str
    content: Json
    text: str
    media: tuple[Media, ...] = ()
    by_business: bool = False


class MessageDeleted(Struct, frozen=True, tag=True, tag_field="event", kw_only=True):
    contact: Contact
    platform_id: str
    original_id: str
    at: int
    by_business: bool = False


class StatusChanged(Struct, frozen=True, tag=True, tag_field="event", kw_only=True):
    """What became of a message of ours. `callback` is our message id, where the platform echoes it."""

    contact: Contact
    platform_id: str
    status: str  # sent | delivered | read | failed
    at: int
    raw_status: str
    callback: str | None = None
    error: PlatformError | None = None
    detail: Json = {}


class StatusesReached(Struct, frozen=True, tag=True, tag_field="event", kw_only=True):
    """A watermark: our messages to this contact up to a moment, or up to the message `platform_id` and with
    it, are delivered or read. `up_to` is in ms; exactly one of the two is given."""

    contact: Contact
    status: str  # delivered | read
    at: int
    raw_status: str
    up_to: int | None = None
    platform_id: str | None = None


class ContactRenumbered(Struct, frozen=True, tag=True, tag_field="event", kw_only=True):
    """The person goes by another id from now on (WhatsApp: user_changed_number)."""

    contact: Contact
    platform_id: str
    at: int
    new_key: str
    new_phone: str | None
    content: Json
    text: str


class StandingChanged(Struct, frozen=True, tag=True, tag_field="event", kw_only=True):
    """The platform tells, beside any message, that it sends the contact nothing more, or that it does again.
    `error` says why not, by its marks `opted_out` and `undeliverable`; None: it sends again."""

    contact: Contact
    at: int
    error: PlatformError | None
    raw: Json


class Unsupported(Struct, frozen=True, tag=True, tag_field="event", kw_only=True):
    """Authentic, and not understood. With a contact and an id it is stored in the conversation as a
    message of type `unsupported`; without, only the raw delivery keeps it."""

    contact: Contact | None
    platform_id: str | None
    at: int | None
    raw: Json
    reason: str


class Announced(Struct, frozen=True, tag=True, tag_field="event", kw_only=True):
    """The platform names something that is new and does not say what it is. Its adapter reads it, and what it
    reads takes this event's place, before the delivery is answered. `raw` is all that was told; `contact` is
    None where not even who it is about was."""

    contact: Contact | None
    kind: str
    at: int | None
    raw: Json


class AccountNotice(Struct, frozen=True, tag=True, tag_field="event", kw_only=True):
    """About the account, not about a conversation: template status, quality, account alerts, errors.

    `attention` is a sentence for people where they have to act: the channel is marked with it. Sending goes
    on."""

    kind: str
    at: int | None
    raw: Json
    attention: str | None = None


class AccessWithdrawn(Struct, frozen=True, tag=True, tag_field="event", kw_only=True):
    """The platform lets us act for the account no more: its owner removed the app, or the account is gone.

    The channel is marked with `note`, a sentence for people; what is to be sent waits until new credentials
    come, as after a refusal of class AUTH. `at` is when it happened: news that is older than the present
    credentials is about earlier ones, and ignored."""

    note: str
    at: int | None
    raw: Json


InboundEvent = (
    MessageReceived
    | MessageEchoed
    | MessageEdited
    | MessageDeleted
    | StatusChanged
    | StatusesReached
    | ContactRenumbered
    | StandingChanged
    | Unsupported
    | Announced
    | AccountNotice
    | AccessWithdrawn
)


class RoutedEvent(Struct, frozen=True, kw_only=True):
    """An event with the account it came in on (`external_id`: WhatsApp's phone_number_id; `parent_id`:
    its WABA). One delivery may hold several accounts, of several tenants. `or_addressed`: the id is where the
    sender aimed, which need not be an account's (forwarded mail); what is for nobody who is connected and
    believed is for the account to whose own URL the delivery came. `also_known_as`: other ids that the
    account may be connected by, tried in order where nobody has the first (SMS: the service of a number)."""

    external_id: str | None
    parent_id: str | None
    event: InboundEvent
    or_addressed: bool = False
    also_known_as: tuple[str, ...] = ()
