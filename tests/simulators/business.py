"""A business with one account on a played platform: it believes, reads and answers as the adapter does."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from msgspec import Struct

from adapters.guard import Guard
from adapters.port import Account, Adapter, Tools
from adapters.simulators.http import Request, Response
from engine.domain.inbound import RoutedEvent
from engine.domain.outbound import Send
from engine.ports import Endpoint, ReadsAddresses, WebhookRequest
from tests.adapters.contract.files import Files
from tests.adapters.items import outbox_item
from tests.adapters.turns import AtOnce


class Business(Struct, kw_only=True):
    """Takes what it believes into `events`, and answers `accepts` after the statuses in `answers`."""

    adapter: Adapter
    account: Account
    accepts: int
    url: str = ""
    events: list[Any] = []
    answers: list[int] = []
    calls: int = 0
    refused: int = 0

    async def take(self, request: Request) -> Response:
        self.calls += 1
        asked = WebhookRequest(
            method=request.method,
            path=request.path,
            query=urlencode(dict(request.query)),
            headers=dict(request.headers),
            body=request.body,
        )
        receiver = self.adapter.receiver()
        endpoint = Endpoint(
            platform=self.account.platform,
            external_id=self.account.external_id,
            parent_id=None,
            tenant_id=self.account.tenant_id,
            channel_id=self.account.channel_id,
            endpoint_key="k",
            secrets=self.account.credentials,
        )
        if not receiver.verify(asked, [endpoint]):
            self.refused += 1
            return Response(401)
        if self.answers:
            return Response(self.answers.pop(0))
        read = (
            receiver.parse_request(asked)
            if isinstance(receiver, ReadsAddresses)
            else receiver.parse(request.body)
        )
        return Response(await self.keep(read))

    async def keep(self, read: Sequence[RoutedEvent]) -> int:
        """Keeps what a delivery holds; the status that answers it."""
        (routed,) = read
        assert routed.external_id == self.account.external_id
        self.events.append(routed.event)
        return self.accepts

    @property
    def tools(self) -> Tools:
        base_url = str(self.account.settings["base_url"])
        return Tools(
            media=Files({}),
            guard=Guard(allowed=[base_url.removeprefix("http://")]),
            link=lambda tenant_id, key: "",
            webhook=lambda account: self.url,
        )

    async def call(
        self, send: Send, recipient: str, account: Account | None = None, *, number: int = 4
    ) -> Any:
        """One attempt, as the channel makes it."""
        item = outbox_item(send, recipient, id=number, message_id=number)
        async with self.adapter.sender(self.tools) as sender:
            return await sender.send(item, account or self.account, AtOnce())
