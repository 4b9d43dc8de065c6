"""A profile against played Google, over real HTTP: pushes with tokens, reviews that are read, and answers
that are found again."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
from msgspec import structs

from adapters.google_business import GoogleBusiness
from adapters.google_business.keys import ASK_SECONDS, PublicKeys
from adapters.guard import Guard
from adapters.port import Accepted, Account, Declined, ErrorClass, Play, Tools
from adapters.simulators.google.reviews import ReviewsSimulator
from adapters.simulators.google.standing import ReviewsStandIn
from adapters.simulators.http import HttpServer, Request, Response
from adapters.simulators.settings import Settings
from engine.domain.inbound import (
    Announced,
    MessageDeleted,
    MessageEchoed,
    MessageEdited,
    MessageReceived,
    Unsupported,
)
from engine.domain.outbound import SendText
from engine.errors import Unavailable
from engine.ports import Endpoint, WebhookRequest
from tests.adapters.contract.files import Files
from tests.adapters.items import outbox_item
from tests.adapters.turns import AtOnce
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.real_time
SOON = Settings(time_factor=0.004)
"""Pub/Sub's first repetition after 20 ms instead of 5 s."""


class Clock:
    """Real time, and what is added to it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return trio.current_time() + self.ahead


class Profile:
    """A connected profile: `events` is what was acknowledged, `turned_away` counts the rest by reason."""

    def __init__(
        self, adapter: GoogleBusiness, played: ReviewsSimulator, account: Account, tools: Tools
    ) -> None:
        self.adapter = adapter
        self.played = played
        self.account = account
        self.tools = tools
        self.clock = Clock()
        adapter.keys = PublicKeys(self.clock)
        self.events: list[Any] = []
        self.turned_away: list[str] = []
        self.endpoint = Endpoint(
            platform="google-business",
            external_id=account.external_id,
            parent_id=None,
            tenant_id=1,
            channel_id=2,
            endpoint_key="k",
            secrets=account.credentials,
        )

    async def take(self, request: Request) -> Response:
        """As the edge does."""
        receiver = self.adapter.receiver()
        asked = WebhookRequest(
            method=request.method, path=request.path, query="", headers=request.headers, body=request.body
        )
        try:
            if not receiver.verify(asked, [self.endpoint]):
                self.turned_away.append("signature")
                return Response(401)
        except Unavailable as error:
            self.turned_away.append(error.code)
            return Response(503)
        found: list[Any] = []
        async with self.adapter.reader(self.tools) as reader:
            for one in receiver.parse(request.body):
                assert one.external_id == self.account.external_id
                if not isinstance(one.event, Announced):
                    found.append(one.event)
                    continue
                read = await reader.read(one.event, self.account)
                if isinstance(read, Declined):
                    self.turned_away.append(read.platform_code)
                    return Response(503)
                found += read
        self.events += found
        return Response(204)

    async def answer(self, text: str, key: str) -> Any:
        item = outbox_item(SendText(body=text), key, message_id=1)
        async with self.adapter.sender(self.tools) as sender:
            return await sender.send(item, self.account, AtOnce())

    async def quiet(self) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            await self.played.wait_quiet()

    def take_events(self) -> list[Any]:
        events, self.events = self.events, []
        return events


@asynccontextmanager
async def profile(*, keys_run: bool = True) -> AsyncIterator[Profile]:
    stand_in, adapter = ReviewsStandIn(), GoogleBusiness()
    keys = stand_in.new_keys()
    played = stand_in.simulator(Play(accounts=[keys]))
    played.settings = SOON
    async with played.running(), trio.open_nursery() as nursery:
        credentials = {
            each.name: keys[each.name]
            for each in adapter.platform.connection.credentials
            if each.name in keys
        }
        account = Account(
            tenant_id=1,
            channel_id=2,
            platform="google-business",
            external_id=keys["resource_name"],
            credentials=credentials,
            settings={"base_url": played.base_url},
        )
        guard = Guard(allowed=[played.base_url.removeprefix("http://")])
        tools = Tools(media=Files({}), guard=guard, link=lambda tenant_id, key: key)
        built = Profile(adapter, played, account, tools)
        adapter.keys.use((1, 2), f"{played.base_url}/oauth2/v3/certs")
        if keys_run:
            nursery.start_soon(adapter.keys.run, guard, trio.Event())
            await until(lambda: adapter.keys.find((1, 2), played.keys.kid))
        server = HttpServer(built.take, body_limit=lambda method, path: 100_000)
        await played.connect(await nursery.start(server.run))
        yield built
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def control(on: Profile, path: str, body: dict[str, Any]) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
        answer = await client.post(f"{on.played.base_url}/__sim/{path}", json=body)
        assert answer.status_code == 200, answer.text


def said(events: Sequence[Any]) -> list[type]:
    return [type(each) for each in events]


async def test_a_review_comes_in_is_changed_answered_and_changed_again() -> None:
    """The whole life of one; each read tells what the one before did not."""
    async with profile() as on:
        await control(on, "messages", dict(ReviewsStandIn().example()))
        await on.quiet()
        (first,) = on.take_events()
        assert isinstance(first, MessageReceived)
        key = first.contact.keys[0]
        assert first.text.endswith("\nIt came late.")
        await control(on, "messages", {"from": key, "kind": "changed", "text": "It came."})
        await on.quiet()
        again, edit = on.take_events()
        assert again.platform_id == first.platform_id
        assert isinstance(edit, MessageEdited)
        assert edit.text.endswith("\nIt came.")
        result = await on.answer("Sorry for the wait.", key)
        assert isinstance(result, Accepted)
        await control(on, "messages", {"from": key, "kind": "changed", "text": "Fine now."})
        await on.quiet()
        echo, newer = on.take_events()
        assert isinstance(echo, MessageEchoed)
        assert (echo.platform_id, echo.text) == (result.platform_id, "Sorry for the wait.")
        assert isinstance(newer, MessageReceived)
        assert newer.reply_to == key
        second = await on.answer("Glad to hear it.", key)
        assert isinstance(second, Accepted)
        assert second.platform_id != result.platform_id
        review = on.played.reviews[f"{on.account.external_id}/{key}"]
        assert review["reviewReply"]["comment"] == "Glad to hear it."
        assert [send.id for send in on.played.ledger.sends] == [result.platform_id, second.platform_id]


async def test_a_review_that_is_taken_back_cannot_be_answered() -> None:
    async with profile() as on:
        key = on.played.say("reviews/r1", "Hm.")
        await on.quiet()
        await control(on, "reviews", {"from": key})
        result = await on.answer("Thanks.", key)
        assert isinstance(result, Declined)
        assert result.error_class is ErrorClass.RECIPIENT
        # Nobody is told of that; a late notification of it finds nothing, and soon after it is waited for.
        announced = Announced(contact=on.take_events()[0].contact, kind="updated_review", at=1, raw={})
        async with on.adapter.reader(on.tools) as reader:
            found = await reader.read(announced, on.account)
        assert not isinstance(found, Declined)
        assert said(found) == [MessageDeleted]


async def test_a_question_is_seen() -> None:
    """With a sentence that says where it can be read."""
    async with profile() as on:
        await control(on, "messages", {"from": "reviews/r1", "kind": "question"})
        await on.quiet()
        (event,) = on.take_events()
        assert isinstance(event, Unsupported)
        assert event.contact is not None
        assert event.contact.keys[0].startswith("questions/")
        assert event.reason.endswith("look at the profile.")


async def test_an_outage_of_the_api_loses_no_review() -> None:
    """Nothing is acknowledged that was not read; when it is back, all of it comes."""
    async with profile() as on:
        await control(on, "faults", {"kind": "error", "code": 503, "route": "management", "times": 9})
        for number in range(3):
            on.played.say(f"reviews/r{number}", "Hello")
        await until(lambda: len(on.turned_away) >= 6)
        assert on.events == []
        assert not on.played.ledger.acknowledged()
        await control(on, "faults", {"kind": "reset", "route": "management", "times": 2})
        await on.quiet()
        assert {each.platform_id for each in on.events} == {f"reviews/r{number}" for number in range(3)}
        assert len(on.played.ledger.acknowledged()) == 3


async def test_a_grant_that_was_revoked_keeps_reviews_waiting() -> None:
    """Until somebody connects the account again."""
    async with profile() as on:
        on.played.expire_token()
        on.played.say("reviews/r1", "Hello")
        await until(lambda: "invalid_grant" in on.turned_away)
        on.played.expire_token(expired=False)
        await on.quiet()
        assert [each.platform_id for each in on.events] == ["reviews/r1"]


async def test_google_may_change_its_keys() -> None:
    """A push with a new key waits for the next refresh."""
    async with profile() as on:
        on.played.say("reviews/r1", "Hello")
        await on.quiet()
        await control(on, "keys", {})
        on.played.say("reviews/r2", "Hello")
        await until(lambda: "keys_unknown" in on.turned_away)
        on.clock.ahead += ASK_SECONDS
        on.adapter.keys.use((1, 2), f"{on.played.base_url}/oauth2/v3/certs")
        await on.quiet()
        assert [each.platform_id for each in on.events] == ["reviews/r1", "reviews/r2"]


async def test_a_push_of_somebody_else_is_refused() -> None:
    """Signed by Google, for another subscription."""
    async with profile() as on:
        account = on.played.account()
        on.played.accounts[account.account_id] = structs.replace(account, push_email="someone@else.example")
        assert await on.played.post_raw(b"{}") == "401"
        assert await on.played.post_raw(b"{}", signed=False) == "401"
        assert on.turned_away == ["signature", "signature"]


async def test_the_account_can_be_checked() -> None:
    """With what is known of the profile."""
    async with profile() as on:
        checked = await on.adapter.check(on.account, on.tools)
        assert checked.ok
        assert checked.facts == {"totalReviewCount": 0}
        wrong = {**on.account.credentials, "refresh_token": "x"}
        checked = await on.adapter.check(structs.replace(on.account, credentials=wrong), on.tools)
        assert not checked.ok
        assert checked.detail.endswith(".")
