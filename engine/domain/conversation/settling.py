"""The end of outbox items from the conversation's side. Pure."""

from engine.domain.conversation.changes import Change
from engine.domain.conversation.state import Tracked
from engine.domain.outbox import Settled, channel_address
from engine.domain.rows import OutboxPatch
from engine.runtime import Lane, Tell


def settle(change: Change, target: Tracked) -> None:
    """Ends the outbox item of a message that is decided, and lets the channel go of it."""
    state = change.state
    change.add(outbox_patch(change, target.id, ended(target)))
    change.tell(Tell(channel_address(state.tenant_id, state.channel_id), Settled(target.id), Lane.REALTIME))


def ended(target: Tracked) -> str:
    return "dead" if target.status == "failed" else "done"


def outbox_patch(change: Change, outbox_id: int, state: str) -> OutboxPatch:
    return OutboxPatch(tenant_id=change.state.tenant_id, id=outbox_id, state=state, updated_at=change.now)
