"""What was written lately, as the message lists show it: for what webhooks do not say.

Limits      The newest 20 messages of each conversation and the 100 conversations of each account that changed
            last, as the platform lists them.
"""

from collections import OrderedDict, deque
from typing import Final

from adapters.simulators.playing.cast import Json

MESSAGES_MAX: Final = 20
CONVERSATIONS_MAX: Final = 100
_RENAMED: Final = {"from": "sender", "to": "recipient", "type": "message_type"}
_LEFT_OUT: Final = frozenset({"is_follower", "unique_identifier"})


class History:
    def __init__(self) -> None:
        self._messages: dict[str, OrderedDict[str, deque[Json]]] = {}

    def add(self, account_id: str, conversation_id: str, content: Json) -> None:
        """`content` as a webhook has it."""
        mine = self._messages.setdefault(account_id, OrderedDict())
        mine.setdefault(conversation_id, deque(maxlen=MESSAGES_MAX)).append(_listed(content))
        mine.move_to_end(conversation_id)
        if len(mine) > CONVERSATIONS_MAX:
            mine.popitem(last=False)

    def conversations(self, account_id: str, *, answered: bool) -> list[Json]:
        """Those that the business has written in, or the others."""
        found = []
        for key, messages in reversed(self._messages.get(account_id, OrderedDict()).items()):
            ours = any(each["from_user"]["id"] == account_id for each in messages)
            if ours == answered:
                found.append({"conversation_id": key, "update_time": messages[-1]["timestamp"]})
        return found

    def messages(self, account_id: str, conversation_id: str) -> list[Json]:
        """The newest first."""
        return list(reversed(self._messages.get(account_id, OrderedDict()).get(conversation_id, ())))

    def has(self, account_id: str, message_id: str) -> bool:
        """Whether it is still listed."""
        conversations = self._messages.get(account_id, OrderedDict()).values()
        return any(each["message_id"] == message_id for listed in conversations for each in listed)


def _listed(content: Json) -> Json:
    shown = {_RENAMED.get(name, name): value for name, value in content.items() if name not in _LEFT_OUT}
    shown["message_type"] = str(content["type"]).upper()
    for side in ("from_user", "to_user"):
        shown[side] = {**content[side], "role": content[side]["role"].upper()}
    return shown
