"""Who loses a conversation loses its channel: agents see their own conversations and those of nobody, so each
assignment and transfer is a change of rights.

Listens to the event log after the hub, so that the agent still gets the event that says why.
"""

from collections.abc import Sequence
from typing import Final

from engine.ports import LoggedEvent
from gateway.push.hub import Hub

_NAMES: Final = frozenset({"conversation.assigned", "conversation.transferred"})


class Reassigned:
    """Asks those who listen to the conversation, or look at it, whether they still may."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def committed(self, events: Sequence[LoggedEvent]) -> None:
        for event in events:
            if event.name not in _NAMES:
                continue
            for channel in event.channels:
                if channel.startswith("conversations."):
                    self._hub.recheck_channel(event.tenant_id, channel)
                    self._hub.recheck_channel(event.tenant_id, f"presence-{channel}")
