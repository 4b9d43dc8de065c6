"""What a conversation's actor can be told or asked: its whole vocabulary.

The actor's address is (kind "conversation", tenant, (channel id, contact key)): one mailbox per contact
on a channel account, so that two deliveries of one burst can never open two conversations. It owns all
conversations of that contact; commands name the one they mean by id.
"""

from typing import Any

from msgspec import Struct

from engine.domain.inbound import InboundEvent
from engine.domain.outbound import Send, SendOutcome
from engine.runtime import Address

Json = dict[str, Any]

KIND = "conversation"


def address_of(tenant_id: int, channel_id: int, contact_key: str) -> Address:
    return Address(KIND, tenant_id, (channel_id, contact_key))


class By(Struct, frozen=True, kw_only=True):
    """Who acts. `kind`: user (an agent), bot (an automated reply) or system (the assigner, a timer)."""

    kind: str
    id: int | None = None
    name: str | None = None


SYSTEM = By(kind="system")


class Receive(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """From the intake: one event of a verified delivery. Answer: Received."""

    event: InboundEvent
    trace: str
    received_at: int


class Received(Struct, frozen=True, kw_only=True):
    """`outcome`: stored | duplicate | applied | ignored. Ids where something was stored."""

    outcome: str
    conversation_id: int | None = None
    message_id: int | None = None
    seq: int | None = None


class NewAttachment(Struct, frozen=True, kw_only=True):
    """A file of ours (`storage_key`) or a link that goes with a message to be sent."""

    kind: str
    storage_key: str | None = None
    link: str | None = None
    media_type: str | None = None
    filename: str | None = None
    size: int | None = None
    sha256: str | None = None


class KnowProfile(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """The platform's word on who the contact is. Counts where nobody has named the customer yet. No
    answer."""

    name: str
    avatar_url: str | None = None
    trace: str = ""


class NamedBeside(Struct, frozen=True, tag=True, tag_field="message"):
    """From another contact on the channel, which the platform has named in one breath with this one, after
    each had come by a name of its own: they become one contact (`joining`). No answer."""

    contact_key: str
    customer_id: int
    trace: str = ""


class Joined(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """From a contact that has moved into this one: its customer, and the names that lead here now. No
    answer."""

    customer_id: int
    handles: dict[str, str | None]
    phone: str | None
    email: str | None
    trace: str = ""


class SendMessage(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """From the API. Answer: MessageResource (also for a repeated `client_key`: the first message).

    Refusals: Conflicting code window_closed | window_used_up (data: {"messages_max"}) | stale_conversation
    (data: {"last_seq", "missed": […]}) | conversation_closed | opted_out | undeliverable | one_way; NotFound
    for reply_to or a reaction's message.
    `send` of a reaction names our message id in `target_message_id`; the actor puts the platform id in.
    """

    conversation_id: int
    by: By
    send: Send
    type: str
    content: Json
    text: str
    attachments: tuple[NewAttachment, ...] = ()
    reply_to: int | None = None
    target_message_id: int | None = None
    client_key: str | None = None
    seen_seq: int | None = None
    force: bool = False
    lane: int = 0
    trace: str = ""


class Start(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """From the API: the business opens the conversation (needs a template where there is a window).
    Answer: Started. An open conversation with this contact is used, never doubled. `recipient` is the
    address to send to (WhatsApp: E.164 with '+'); the contact key is in the actor's address."""

    by: By
    recipient: str
    name: str | None
    platform: str
    send: Send | None
    type: str = "text"
    content: Json = {}
    text: str = ""
    attachments: tuple[NewAttachment, ...] = ()
    client_key: str | None = None
    trace: str = ""


class Started(Struct, frozen=True, kw_only=True):
    conversation: Any  # ConversationResource
    message: Any | None  # MessageResource
    created: bool


class ChangeCustomer(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """From the API, by way of the customers actor: `values` are members of CustomerRow, checked already. A
    name that is set here stays, whatever the platform says. Answer: CustomerResource."""

    customer_id: int
    values: dict[str, Any]
    by: By
    trace: str = ""


class Link(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """From the customers actor, who alone decides on it: this customer is shown as `into`, or as himself
    (None). Counts when its `version` is the newest. `confirm`: Linked is told when it is durable. Answer:
    None, durable; asked twice, it is done once."""

    customer_id: int
    into: Any | None  # CustomerRef
    version: int
    confirm: bool
    trace: str = ""


class Shared(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """From the customers actor: other customers are shown as this one, under the name and picture here. From
    now on they must hear of new ones. No answer."""

    customer_id: int
    name: str
    avatar_url: str | None
    trace: str = ""


class Assign(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """Answer: ConversationResource. `from_pool`: by the assigner, who must not overrule a person:
    ignored when someone is assigned already or the conversation is closed."""

    conversation_id: int
    user_id: int
    by: By
    from_pool: bool = False
    trace: str = ""


class Unassign(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    conversation_id: int
    by: By
    trace: str = ""


class Transfer(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """Answer: ConversationResource. Refused when it is assigned to that agent already."""

    conversation_id: int
    to_user_id: int
    note: str | None
    by: By
    trace: str = ""


class SetStatus(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """Answer: ConversationResource. `pending` may carry `until` (wakes up by a durable timer).
    Reopening is refused (conflict) while the contact has another open conversation here."""

    conversation_id: int
    status: str
    by: By
    until: int | None = None
    trace: str = ""


class MarkConversationRead(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """The agent has read up to `up_to_seq` (None: all). Tells the platform too where it can.
    Answer: ConversationResource."""

    conversation_id: int
    by: By
    up_to_seq: int | None = None
    trace: str = ""


class LiftUndeliverable(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """A person says that messages arrive again. Answer: ConversationResource."""

    conversation_id: int
    by: By
    trace: str = ""


class ShowTyping(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """Shows the customer that somebody types, where the platform can. Stored nowhere but the outbox
    (best effort: not retried). Answer: None."""

    conversation_id: int
    by: By
    trace: str = ""


class AddNote(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """Answer: the NoteRow."""

    conversation_id: int
    body: str
    by: By
    trace: str = ""


class EditNote(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """`note` is the row as it was read; body None deletes it. Answer: the NoteRow."""

    conversation_id: int
    note: Any  # NoteRow
    body: str | None
    by: By
    trace: str = ""


class ChangeTags(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """Answer: ConversationResource."""

    conversation_id: int
    by: By
    add: tuple[int, ...] = ()
    remove: tuple[int, ...] = ()
    trace: str = ""


class Retry(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """Sends a failed (or unknown) message again. Answer: MessageResource; conflict otherwise."""

    conversation_id: int
    message_id: int
    by: By
    trace: str = ""


class OutboxVerdict(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """From the channel actor: what became of an outbox item. Answer: None, when durable.
    The conversation commits the outbox row's end together with the message's status."""

    outbox_id: int
    conversation_id: int
    message_id: int | None
    outcome: SendOutcome
    trace: str = ""


class MediaVerdict(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """From the media fetcher: a download ended. Answer: None, when durable."""

    attachment_id: int
    conversation_id: int
    message_id: int
    stored: bool
    attempts: int
    storage_key: str | None = None
    media_type: str | None = None
    size: int | None = None
    sha256: str | None = None
    error: str | None = None
    trace: str = ""


class TimerFired(Struct, frozen=True, tag=True, tag_field="message", kw_only=True):
    """From the timers actor: a durable deadline has come."""

    timer_id: int
    timer: str  # 'snooze', 'join'
    conversation_id: int
    due_at: int


ConversationCommand = (
    Receive
    | SendMessage
    | Start
    | Assign
    | Unassign
    | Transfer
    | SetStatus
    | MarkConversationRead
    | ShowTyping
    | AddNote
    | EditNote
    | ChangeTags
    | Retry
    | OutboxVerdict
    | MediaVerdict
    | KnowProfile
    | NamedBeside
    | Joined
    | ChangeCustomer
    | Link
    | Shared
    | TimerFired
)
