"""Who is this? Names and pictures of customers whom webhooks bring by an id alone.

Why         Some platforms' webhooks say who wrote by an opaque id, and an inbox of numbers helps nobody. The
            name is decoration: no message waits for it, and nothing is lost without it.
Owns        the contacts that wait to be asked about, `WAITING_MAX` at most; more are left nameless until
            their next conversation begins.
Promises    One look-up for each new conversation of a contact that nobody has named, `AT_ONCE` at a time,
            after the commit of what they wrote; the conversation writes the answer. A platform that refuses
            or is away is not asked again for this contact.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import structlog
import trio

from adapters.port import Account, AccountOf, Adapter, Tools
from adapters.reporting import Ask
from engine.domain.conversation.messages import KnowProfile, address_of
from engine.errors import MijraError
from engine.ports import LoggedEvent

WAITING_MAX: Final = 1_000
AT_ONCE: Final = 4
_ASK_SECONDS_MAX: Final = 10.0
_EVENT: Final = "conversation.created"

log = structlog.get_logger()


class Profiles:
    """Implements `engine.ports.EventSink`; `run` in a nursery."""

    def __init__(
        self,
        *,
        ask: Ask,
        adapters: Mapping[str, Adapter],
        accounts: AccountOf,
        tools: Callable[[], Tools],
    ) -> None:
        self._ask = ask
        self._adapters = {
            name: each for name, each in adapters.items() if each.platform.capabilities.profiles
        }
        self._accounts = accounts
        self._tools = tools
        self._send, self._receive = trio.open_memory_channel[tuple[int, int, str]](WAITING_MAX)

    def committed(self, events: Sequence[LoggedEvent]) -> None:
        """Never blocks."""
        for event in events:
            if event.name != _EVENT or not self._adapters:
                continue
            conversation: dict[str, Any] = msgspec.json.decode(event.data)["conversation"]
            # Whom nobody has named is shown by the id, which is the contact's key.
            key = conversation["customer"]["name"]
            if conversation["platform"] in self._adapters and conversation["channel_type"] == "direct":
                try:
                    self._send.send_nowait((event.tenant_id, conversation["channel"]["id"], key))
                except trio.WouldBlock:
                    return

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(self._work)

    async def _work(self) -> None:
        async for tenant_id, channel_id, key in self._receive:
            account = self._accounts(tenant_id, channel_id)
            if account is None or not account.active:
                continue
            try:
                await self._look_up(account, key)
            except MijraError as error:
                log.info("profile.not_found", tenant=tenant_id, channel_id=channel_id, code=error.code)
            except Exception:  # an adapter's bug costs a name, nothing else
                log.exception("profile.crashed", tenant=tenant_id, channel_id=channel_id)

    async def _look_up(self, account: Account, key: str) -> None:
        profile = await self._adapters[account.platform].profile(key, account, self._tools())
        if profile is None:
            return
        command = KnowProfile(name=profile.name, avatar_url=profile.avatar_url)
        address = address_of(account.tenant_id, account.channel_id, key)
        await self._ask(address, command, timeout_seconds=_ASK_SECONDS_MAX)
