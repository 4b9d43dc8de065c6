"""Pigeon, an invented platform of texts, as an adapter in a package of its own.

Its deliveries are `{"loft": "77", "messages": [{"id", "from", "name", "at", "text"}]}`, signed with
`X-Pigeon-Signature`: HMAC-SHA256 of the body in hex. `POST /lofts/{loft}/messages` sends.
"""

import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from adapters.calling import token_problem
from adapters.checking import SECONDS_MAX, lasting
from adapters.client import Connected, PlatformClient
from adapters.degrading import LOCATED, NUMBERED, located, numbered
from adapters.fitting import Problems, unfit
from adapters.port import (
    Accepted,
    Account,
    Adapter,
    Checked,
    Declined,
    ErrorClass,
    Fitted,
    Limits,
    SendResult,
    Tools,
    Turn,
    Unanswered,
)
from engine.domain.inbound import Contact, MessageReceived, RoutedEvent, Unsupported
from engine.domain.outbound import MarkRead, OutboxItem, Send, SendInteractive, SendLocation, SendText
from engine.domain.platforms import BASE_URL, Capabilities, Connection, Field, Platform
from engine.errors import InvalidInput
from engine.ports import NO_HEADERS, Endpoint, WebhookRequest

PIGEON = Platform(
    name="pigeon",
    label="Pigeon",
    capabilities=Capabilities(
        receives=("text",),
        sends=("text",),
        degrades={"interactive": NUMBERED, "location": LOCATED},
        limits="10/s",
    ),
    connection=Connection(
        account=Field(name="loft", label="The loft's number.", pattern="^[0-9]{1,20}$"),
        credentials=(
            Field(name="access_token", label="Sends.", required=True),
            Field(name="webhook_secret", label="Signs webhooks.", required=True, signs=True),
        ),
        settings=(BASE_URL,),
        guide="Enter it as the loft's webhook.",
    ),
)


class PigeonReceiver:
    platform, aliases = PIGEON.name, PIGEON.aliases

    def is_handshake(self, request: WebhookRequest) -> bool:
        return False

    def challenge(self, request: WebhookRequest, endpoints: Sequence[Endpoint]) -> bytes | None:
        return None

    def account_hint(self, body: bytes) -> str | None:
        return None

    def verify(self, request: WebhookRequest, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        given = request.headers.get("x-pigeon-signature", "").encode()

        def signed(secret: str) -> bytes:
            return hmac.digest(secret.encode(), request.body, "sha256").hex().encode()

        secrets = ((each, each.secrets["webhook_secret"]) for each in endpoints)
        return [each for each, secret in secrets if hmac.compare_digest(given, signed(secret))]

    def parse(self, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> Sequence[RoutedEvent]:
        try:
            delivery = json.loads(body)
            loft, items = str(delivery["loft"]), delivery["messages"]
            return [RoutedEvent(external_id=loft, parent_id=None, event=_event(each)) for each in items]
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InvalidInput("not a delivery of Pigeon's", code="not_understood") from error


def _event(item: dict[str, Any]) -> MessageReceived | Unsupported:
    contact, at = (
        Contact(keys=(str(item["from"]),), name=str(item.get("name") or "") or None),
        int(item["at"]),
    )
    if "text" not in item:
        return Unsupported(contact=contact, platform_id=str(item["id"]), at=at, reason="no text", raw=item)
    text = str(item["text"])
    return MessageReceived(
        contact=contact,
        platform_id=str(item["id"]),
        at=at,
        type="text",
        content={"body": text},
        text=text,
    )


class PigeonSender(Connected[PlatformClient]):
    platform = PIGEON.name

    def __init__(self, tools: Tools) -> None:
        super().__init__(PlatformClient(tools.guard, PIGEON.label, connections_max=64))

    def limits(self, account: Account) -> Limits:
        return Limits(messages_per_second=10, pair_seconds=0, pair_burst=1, concurrency=8)

    def fit(self, send: Send) -> Fitted:
        problems = Problems(PIGEON.label)
        match send:
            case SendText():
                problems.text("body", send.body, 1_000)
            case SendInteractive():
                return Fitted(send=self.fit(numbered(send)).send, note=NUMBERED)
            case SendLocation():
                return Fitted(send=self.fit(located(send)).send, note=LOCATED)
            case MarkRead():
                pass
            case _:
                problems.add("type", "Pigeons carry texts.")
        problems.refuse()
        return Fitted(send=send)

    async def send(self, item: OutboxItem, account: Account, turn: Turn) -> SendResult:
        if isinstance(item.send, MarkRead):
            return Accepted(platform_id="")
        try:
            send = self.fit(item.send).send
        except InvalidInput as error:
            return unfit(error)
        if (problem := token_problem(account)) is not None:
            return problem
        assert isinstance(send, SendText)
        answer = await self._client.call(
            "POST",
            _url(account, "messages"),
            json={"to": item.recipient, "text": send.body, "reference": item.message_id},
            headers=_authorization(account),
            turn=turn,
        )
        if not isinstance(answer, httpx.Response):
            return answer
        try:
            return Accepted(platform_id=str(answer.json()["id"]))
        except (ValueError, LookupError, TypeError):
            return Unanswered(reason="a success that cannot be read")


class Pigeon(Adapter):
    platform = PIGEON

    def receiver(self) -> PigeonReceiver:
        return PigeonReceiver()

    def sender(self, tools: Tools) -> PigeonSender:
        return PigeonSender(tools)

    def media_source(self, tools: Tools) -> None:
        return None

    async def check(self, account: Account, tools: Tools) -> Checked:
        async with PlatformClient(
            tools.guard, PIGEON.label, connections_max=1, seconds_max=SECONDS_MAX
        ) as client:
            answer = await client.ask("GET", _url(account), headers=_authorization(account))
        if isinstance(answer, Declined):
            return Checked(ok=False, detail=lasting(answer).message)
        return Checked(ok=True, detail="Pigeon accepts the token.")

    def classify(self, code: str) -> ErrorClass:
        return ErrorClass.AUTH if code in ("http_401", "http_403") else ErrorClass.BAD_REQUEST


def _url(account: Account, *path: str) -> str:
    base = account.base_url("https://api.pigeon.example")
    return "/".join((base, "lofts", account.external_id, *path))


def _authorization(account: Account) -> dict[str, str]:
    return {"Authorization": f"Bearer {account.credentials.get('access_token', '')}"}


ADAPTER = Pigeon()
