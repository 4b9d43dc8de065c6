"""The platforms: every adapter with its sender, sources and reader, and what the edge and API ask of them."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from adapters.guard import Guard
from adapters.port import Account, Declined, ErrorClass, Outlet, Tools
from adapters.registry import adapters, describe_all
from engine.domain.config import Channel
from engine.domain.inbound import Announced, InboundEvent
from engine.domain.outbound import Send
from engine.errors import InvalidInput, Unavailable
from engine.ports import Endpoint
from gateway.boot.accounts import account_of
from gateway.dependencies import AccountCheck
from gateway.settings import Settings
from storage.objects import Objects


class Platforms:
    def __init__(
        self,
        settings: Settings,
        objects: Objects,
        *,
        link: Callable[[int, str], str],
        webhook: Callable[[Account], str | None],
        account_at: Callable[[Endpoint], Awaitable[Account | None]],
        attention: Callable[[Account, str], None],
    ) -> None:
        """`link`, `webhook`: as `Tools`. `account_at`: the account behind an endpoint, opened. `attention`
        marks the account's channel with a sentence."""
        self.guard = Guard(
            allowed=settings.allow_private_media_hosts,
            plain_http=bool(settings.allow_private_media_hosts),
            ports=settings.allow_server_ports,
        )
        describe_all()
        self.adapters = adapters()
        self.tools = Tools(media=objects, guard=self.guard, link=link, webhook=webhook)
        self.senders = {name: each.sender(self.tools) for name, each in self.adapters.items()}
        sources = ((name, each.media_source(self.tools)) for name, each in self.adapters.items())
        self.media_sources = {name: source for name, source in sources if source is not None}
        readers = ((name, each.reader(self.tools)) for name, each in self.adapters.items())
        self.readers = {name: reader for name, reader in readers if reader is not None}
        self._account_at = account_at
        self._attention = attention

    async def enter(self, stack: AsyncExitStack) -> None:
        """Open what calls the platforms, until the stack ends."""
        for part in (*self.senders.values(), *self.media_sources.values(), *self.readers.values()):
            await stack.enter_async_context(part)

    def fit_send(self, channel: Channel, send: Send, answered: bool) -> dict[str, Any]:
        sender = self.senders.get(channel.platform)
        if sender is None:
            raise InvalidInput(
                "Nothing can be sent on this platform: its adapter is not installed.", code="not_supported"
            )
        outlet = Outlet(external_id=channel.external_id, settings=channel.settings, answered=answered)
        fitted = self.adapters[channel.platform].fit(sender, send, outlet)
        return {**fitted.facts, **({} if fitted.note is None else {"sent_as": fitted.note})}

    async def read_announced(self, endpoint: Endpoint, announced: Announced) -> Sequence[InboundEvent]:
        """What the endpoint's platform has only named. Raises Unavailable while it cannot be read."""
        reader = self.readers.get(endpoint.platform)
        account = await self._account_at(endpoint)
        if reader is None or account is None:
            raise Unavailable("The channel's account cannot be used.", code="account_unusable")
        found = await reader.read(announced, account)
        if not isinstance(found, Declined):
            return found
        if found.error_class is ErrorClass.AUTH:
            self._attention(account, found.message)
        raise Unavailable(
            found.message, code="not_readable_now", retry_after_seconds=found.retry_after_seconds or 10.0
        )

    async def verify_account(self, channel: Channel, credentials: dict[str, str]) -> AccountCheck:
        adapter = self.adapters.get(channel.platform)
        if adapter is None:
            return AccountCheck(ok=False, detail="The platform's adapter is not installed here.")
        checked = await adapter.check(account_of(0, channel, credentials), self.tools)
        return AccountCheck(ok=checked.ok, detail=checked.detail, facts=checked.facts)
