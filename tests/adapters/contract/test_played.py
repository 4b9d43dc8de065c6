"""Every adapter that can be played, against its played platform over real HTTP: a customer's message arrives,
an answer is accepted, trouble is told apart."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
from msgspec import Struct, structs

from adapters.guard import Guard
from adapters.port import Accepted, Account, Adapter, Declined, ErrorClass, Play, Renewed, Tools, Unanswered
from adapters.simulators.http import HttpServer, Request, Response
from engine.domain.inbound import MessageReceived
from engine.domain.outbound import MarkRead, Send, SendText
from engine.ports import Endpoint, WebhookRequest
from tests.adapters.contract.case import case_of, every_adapter
from tests.adapters.contract.files import Files
from tests.adapters.items import outbox_item
from tests.adapters.turns import AtOnce
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.real_time
PLAYED = [each for each in every_adapter() if each.stand_in() is not None]
each_played = pytest.mark.parametrize("adapter", PLAYED, ids=[each.platform.name for each in PLAYED])


class Stage(Struct, kw_only=True):
    """A played platform that is connected to `endpoint`; `events` is what came in so far."""

    adapter: Adapter
    url: str
    account: Account
    endpoint: Endpoint
    tools: Tools
    events: list[Any]
    refused: int = 0

    async def take(self, request: Request) -> Response:
        receiver = self.adapter.receiver()
        asked = WebhookRequest(
            method=request.method,
            path=request.path,
            query="&".join(f"{name}={value}" for name, value in request.query.items()),
            headers=dict(request.headers),
            body=request.body,
        )
        if receiver.is_handshake(asked):
            challenge = receiver.challenge(asked, [self.endpoint])
            return Response(403) if challenge is None else Response(200, challenge, "text/plain")
        if not receiver.verify(asked, [self.endpoint]):
            self.refused += 1
            return Response(401)
        routed = receiver.parse(request.body, asked.headers)
        assert {one.external_id for one in routed} == {self.account.external_id}
        self.events += [one.event for one in routed]
        return Response(200)

    async def call(self, method: str, path: str, body: object = None) -> Any:
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
            answer = await client.request(method, f"{self.url}/__sim/{path}", content=json.dumps(body))
            assert answer.status_code == 200, answer.text
            return answer.json()

    async def heard(self, kind: type) -> Any:
        with trio.fail_after(PATIENCE_SECONDS):
            while not (found := [each for each in self.events if isinstance(each, kind)]):  # noqa: ASYNC110
                await trio.sleep(0.02)
        return found[-1]

    async def customer_writes(self) -> MessageReceived:
        stand_in = self.adapter.stand_in()
        assert stand_in is not None
        await self.call("POST", "messages", dict(stand_in.example()))
        event: MessageReceived = await self.heard(MessageReceived)
        return event

    async def answer(self, received: MessageReceived, send: Send, account: Account | None = None) -> Any:
        return await self.send(received.contact.keys[0], send, account)

    async def send(self, key: str, send: Send, account: Account | None = None) -> Any:
        recipient = f"+{key}" if self.adapter.platform.by_phone else key
        item = outbox_item(send, recipient)
        async with self.adapter.sender(self.tools) as sender:
            return await sender.send(item, account or self.account, AtOnce())


@asynccontextmanager
async def stage(adapter: Adapter, habits: str = "calm") -> AsyncIterator[Stage]:
    stand_in = adapter.stand_in()
    assert stand_in is not None
    keys = stand_in.new_keys()
    connection = adapter.platform.connection
    secrets = {each.name: keys[each.name] for each in connection.credentials if each.name in keys}
    external_id = keys[connection.account.name]
    parent = connection.parent
    above = {parent.name: keys[parent.name]} if parent is not None and parent.name in keys else {}
    playing = stand_in.simulator(Play(accounts=[keys], habits=habits)).running()
    async with playing as played, trio.open_nursery() as nursery:
        host = played.base_url.removeprefix("http://")
        built = Stage(
            adapter=adapter,
            url=played.base_url,
            account=Account(
                tenant_id=1,
                channel_id=2,
                platform=adapter.platform.name,
                external_id=external_id,
                credentials=secrets,
                settings={**above, "base_url": played.base_url},
            ),
            endpoint=Endpoint(
                platform=adapter.platform.name,
                external_id=external_id,
                parent_id=None,
                tenant_id=1,
                channel_id=2,
                endpoint_key="k",
                secrets=secrets,
            ),
            tools=Tools(
                media=Files({}),
                guard=Guard(allowed=[host]),
                link=lambda tenant_id, key: f"{played.base_url}/{key}",
            ),
            events=[],
        )
        server = HttpServer(built.take, body_limit=lambda method, path: 3_000_000)
        callback = await nursery.start(server.run)
        await played.connect(f"{callback}/hook")
        yield built
        nursery.cancel_scope.cancel()


@each_played
async def test_a_customers_message_arrives_and_is_answered(adapter: Adapter) -> None:
    """Signed, understood, and the answer is accepted with the platform's id; so are signals."""
    async with stage(adapter) as on:
        received = await on.customer_writes()
        assert received.text == "Is this in stock?"
        assert on.refused == 0
        result = await on.answer(received, SendText(body="Yes, it is."))
        assert isinstance(result, Accepted)
        assert result.platform_id
        sends = await on.call("GET", "ledger?kind=sends")
        assert [send["id"] for send in sends["items"]] == [result.platform_id]
        if adapter.platform.capabilities.read_marks:
            signal = MarkRead(platform_message_id=received.platform_id, typing=True)
            assert isinstance(await on.answer(received, signal), Accepted)


@each_played
async def test_somebody_whose_messages_another_posts_is_answered(adapter: Adapter) -> None:
    """Where the sandbox is open: the send is taken and can be looked up; what becomes of it is the other's to
    tell."""
    stand_in = adapter.stand_in()
    assert stand_in is not None
    key = str(stand_in.example()["from"])
    async with stage(adapter, "open") as on:
        result = await on.send(key, SendText(body="Yes, it is."))
        assert isinstance(result, Accepted)
        sends = await on.call("GET", "ledger?kind=sends")
        assert [send["id"] for send in sends["items"]] == [result.platform_id]
        statistics = await on.call("GET", "statistics")
        assert statistics["untold"] == 1
        assert statistics["webhooks"]["waiting"] == statistics["webhooks"]["planned"] == 0


@each_played
async def test_the_account_can_be_checked(adapter: Adapter) -> None:
    """Good credentials and bad ones, in a sentence."""
    async with stage(adapter) as on:
        assert (await adapter.check(on.account, on.tools)).ok
        token = case_of(adapter.platform.name).token
        stranger = structs.replace(on.account, credentials={**on.account.credentials, token: "x"})
        checked = await adapter.check(stranger, on.tools)
        assert not checked.ok
        assert checked.detail.endswith(".")


@each_played
async def test_trouble_is_told_apart(adapter: Adapter) -> None:
    """A token that ended, a throttle with its time, a page instead of an answer, a connection that breaks and
    one that cannot be made."""
    async with stage(adapter) as on:
        received = await on.customer_writes()
        hello = SendText(body="Hello")
        case = case_of(adapter.platform.name)
        await on.call("POST", "faults", {"kind": "error", "times": 1, **case.expired})
        result = await on.answer(received, hello)
        assert isinstance(result, Declined)
        assert result.error_class is ErrorClass.AUTH
        throttled = {"kind": "error", "retry_after_seconds": 7, "times": 1, **case.throttled}
        await on.call("POST", "faults", throttled)
        result = await on.answer(received, hello)
        assert isinstance(result, Declined)
        assert (result.error_class, result.retry_after_seconds) == (ErrorClass.RATE_ACCOUNT, 7.0)
        for fault in ({"kind": "garbage"}, {"kind": "reset"}, {"kind": "garbage", "status": 502}):
            await on.call("POST", "faults", {**fault, "times": 1})
            assert isinstance(await on.answer(received, hello), Unanswered)
        nowhere = structs.replace(
            on.account, settings={**on.account.settings, "base_url": "http://127.0.0.1:9"}
        )
        tools = structs.replace(on.tools, guard=Guard(allowed=["127.0.0.1:9"]))
        result = await structs.replace(on, tools=tools).answer(received, hello, nowhere)
        assert isinstance(result, Declined)
        assert result.error_class is ErrorClass.UNREACHABLE


@each_played
async def test_an_address_of_our_own_network_is_not_called(adapter: Adapter) -> None:
    """Whatever an account's settings say."""
    async with stage(adapter) as on:
        received = await on.customer_writes()
        guarded = structs.replace(on.tools, guard=Guard())
        result = await structs.replace(on, tools=guarded).answer(received, SendText(body="x"))
        assert isinstance(result, Declined)
        assert result.error_class is ErrorClass.ACCOUNT


@each_played
async def test_a_nameless_customer_can_be_asked_about(adapter: Adapter) -> None:
    """Where webhooks bring no names, the platform tells; of somebody it does not know, it does not."""
    async with stage(adapter) as on:
        received = await on.customer_writes()
        profile = await adapter.profile(received.contact.keys[0], on.account, on.tools)
        if not adapter.platform.capabilities.profiles:
            assert profile is None
            assert received.contact.name or received.contact.phone
            return
        assert profile is not None
        assert profile.name
        assert await adapter.profile("999", on.account, on.tools) is None


@each_played
async def test_credentials_that_expire_are_renewed(adapter: Adapter) -> None:
    """New ones by the names in the description, good for a while, and an answer goes out with them. Where
    nothing expires, nothing is renewed."""
    renewal = adapter.platform.connection.renewal
    async with stage(adapter) as on:
        renewed = await adapter.renew(on.account, on.tools)
        if renewal is None:
            assert renewed is None
            return
        assert isinstance(renewed, Renewed)
        assert renewed.credentials.keys() <= set(renewal.names)
        now = time.time_ns() // 1_000_000
        assert renewed.expires_at is not None
        assert 0.9 <= (renewed.expires_at - now) / (renewal.lifetime_seconds * 1_000) <= 1.01
        fresh = structs.replace(on.account, credentials={**on.account.credentials, **renewed.credentials})
        assert fresh.credentials != on.account.credentials
        received = await on.customer_writes()
        assert isinstance(await on.answer(received, SendText(body="Hello"), fresh), Accepted)
