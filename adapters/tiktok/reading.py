"""What somebody of the EEA, Switzerland or the UK wrote: read when a webhook says that there is something.

Why         Webhooks about people there name the account and the time, and neither the person nor the words.
            The message lists have both, so they are read before the delivery is answered: while they cannot
            be, the platform keeps the delivery and repeats it for three days.
Promises    Every message of a person since a minute before the told time, from the newest 20 of the
            conversations that changed since then. A repeated delivery reads the same, and what is stored
            already is recognised by its id. Nothing found ten minutes after it was told is an `Unsupported`.
Limits      `CONVERSATIONS_MAX` conversations for each delivery, those that changed last; each costs a call.
Source      The TikTok sheet, sections 4 and 8; that conversations have `update_time` and lists `messages` is
            unconfirmed there.
"""

from collections.abc import Callable, Sequence
from typing import Final

import trio

from adapters.calling import declined, not_understood, token_problem
from adapters.client import Connected
from adapters.clock import wall_ms
from adapters.guard import Guard
from adapters.port import Account, Declined, ErrorClass
from adapters.tiktok.calling import TikTokClient, api_url, token_header
from adapters.tiktok.limits import LABEL
from adapters.tiktok.receiver import message_of
from adapters.wire import Json, decode_json, moment, usable_id
from engine.domain.inbound import Announced, InboundEvent, MessageReceived, Unsupported
from engine.errors import InvalidInput

READ_SECONDS_MAX: Final = 8.0
"""Less than the ten seconds that a delivery may wait."""
CONVERSATIONS_MAX: Final = 10
"""At ten calls a second more would not be read in time."""
SLACK_MS: Final = 60_000
"""The told time may be a little off the message's own."""
MISSING_MS: Final = 600_000
"""So long a message that is not in the lists is believed to be on its way there."""
_CONNECTIONS_MAX: Final = 64
_LIST_BYTES_MAX: Final = 1_000_000
"""Twenty texts of 6,000 characters in a script of three bytes each, with room."""


class TikTokReader(Connected[TikTokClient]):
    """Implements `adapters.port.OpenReader`. `now_ms` is the wall clock."""

    platform = "tiktok"

    def __init__(self, guard: Guard, now_ms: Callable[[], int] = wall_ms) -> None:
        self._wall_ms = now_ms
        super().__init__(TikTokClient(guard, connections_max=_CONNECTIONS_MAX, seconds_max=READ_SECONDS_MAX))

    async def read(self, announced: Announced, account: Account) -> Sequence[InboundEvent] | Declined:
        if (problem := token_problem(account)) is not None:
            return problem
        with trio.move_on_after(READ_SECONDS_MAX):
            return await self._read(announced, account)
        return declined(ErrorClass.TRANSIENT, "too_late", "TikTok took too long to say what was written.")

    async def _read(self, announced: Announced, account: Account) -> Sequence[InboundEvent] | Declined:
        now = self._wall_ms()
        told_at = announced.at if announced.at is not None else now
        since = told_at - SLACK_MS
        changed = await self._changed(account, since)
        if isinstance(changed, Declined):
            return changed
        found: list[MessageReceived | Unsupported] = []
        for conversation_id in changed:
            messages = await self._list(account, "content/list", "messages", conversation_id=conversation_id)
            if isinstance(messages, Declined):
                return messages
            found += _of_people(messages, account, since)
        if found:
            return sorted(found, key=lambda each: each.at or 0)
        if now - told_at < MISSING_MS:
            sentence = "The message that TikTok told of cannot be found yet."
            return declined(ErrorClass.TRANSIENT, "not_found_yet", sentence)
        reason = "a message that the platform tells nothing of and does not list"
        return [Unsupported(contact=None, platform_id=None, at=told_at, raw=announced.raw, reason=reason)]

    async def _changed(self, account: Account, since: int) -> list[str] | Declined:
        """The conversations that changed since then, the last ones first."""
        changed: dict[str, int] = {}
        for kind in ("STRANGER", "SINGLE"):
            listed = await self._list(
                account, "conversation/list", "conversations", conversation_type=kind, limit="100"
            )
            if isinstance(listed, Declined):
                return listed
            for each in listed:
                key, at = usable_id(each.get("conversation_id")), moment(each.get("update_time"))
                if key is not None and at is not None and at >= since:
                    changed[key] = at
        return sorted(changed, key=lambda key: -changed[key])[:CONVERSATIONS_MAX]

    async def _list(self, account: Account, path: str, member: str, **query: str) -> list[Json] | Declined:
        answer = await self._client.ask_data(
            "GET",
            api_url(account, f"business/message/{path}"),
            params={"business_id": account.external_id, **query},
            headers=token_header(account),
            answer_bytes_max=_LIST_BYTES_MAX,
        )
        if isinstance(answer, Declined):
            return answer
        try:
            data = decode_json(bytes(answer))
        except InvalidInput:
            data = None
        items = data.get(member) if isinstance(data, dict) else None
        if not isinstance(items, list):
            return not_understood(LABEL)
        return [each for each in items if isinstance(each, dict)]


def _of_people(messages: Sequence[Json], account: Account, since: int) -> list[MessageReceived | Unsupported]:
    events = [message_of(each, account.external_id) for each in messages]
    return [
        each
        for each in events
        if isinstance(each, MessageReceived | Unsupported)
        and each.contact is not None
        and (each.at or 0) >= since
    ]
