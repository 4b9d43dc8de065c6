"""What a conversation keeps of its thread, and of the automatic answers that it has had. Pure.

Both stand in the conversation's metadata, and are no part of what clients are shown.
"""

from typing import Final

from msgspec import convert, to_builtins

from engine.domain.inbound import MessageReceived
from engine.domain.outbound import Thread
from engine.domain.platforms import rules_of
from engine.domain.resources import AUTOMATIC_KEY, OPTED_OUT, THREAD_KEY, UNDELIVERABLE
from engine.domain.rows import ConversationRow

CARRIED: Final[tuple[str, ...]] = ("recipient", OPTED_OUT, UNDELIVERABLE, AUTOMATIC_KEY)
"""What a contact's next conversation takes over from the one before."""


def note_thread(conversation: ConversationRow, event: MessageReceived, *, written_by: str | None) -> None:
    """An answer continues the customer's newest message; a robot's only where no person has written yet. Who
    answers for the contact from another address (`written_by`) does not turn the answers there."""
    if event.thread is None or not (event.automated or THREAD_KEY not in conversation.metadata):
        return
    kept = to_builtins(event.thread)
    if written_by is not None:
        kept["address"] = None
    conversation.metadata = {**conversation.metadata, THREAD_KEY: kept}


def thread_of(conversation: ConversationRow) -> Thread | None:
    """What a message of ours continues; None where the platform knows no threads, or nobody has written."""
    kept = conversation.metadata.get(THREAD_KEY)
    if kept is None or not rules_of(conversation.platform).capabilities.threads:
        return None
    return convert(kept, Thread)


def may_answer_automatically(conversation: ConversationRow, now: int) -> bool:
    """Whether the platform's budget of automatic answers to one contact has room. Two robots that answer each
    other stop at it, whatever they do not tell of themselves."""
    most, times = _budget(conversation, now)
    return most is None or len(times) < most


def note_automatic(conversation: ConversationRow, now: int) -> None:
    most, times = _budget(conversation, now)
    if most is not None:
        conversation.metadata = {**conversation.metadata, AUTOMATIC_KEY: [*times, now]}


def _budget(conversation: ConversationRow, now: int) -> tuple[int | None, list[int]]:
    """The budget, and when answers went out in its time."""
    can = rules_of(conversation.platform).capabilities
    since = now - can.automatic_seconds * 1_000
    kept = conversation.metadata.get(AUTOMATIC_KEY, [])
    return can.automatic_max, [at for at in kept if at > since]
