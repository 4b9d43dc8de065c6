"""The played TikTok as a business sees it: what is told, signed, refused, counted, renewed."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
from msgspec import structs

from adapters.port import Accepted, Account, Declined, ErrorClass, FoundMedia, Play, Renewed
from adapters.simulators import Fault
from adapters.simulators.tiktok.api import WINDOW_MESSAGES_MAX
from adapters.simulators.tiktok.people import KINDS
from adapters.simulators.tiktok.platform import RETRY_SECONDS_MAX, WINDOW_SECONDS, Signed, TikTokSimulator
from adapters.simulators.tiktok.standing import TikTokStandIn
from adapters.tiktok import ADAPTER
from adapters.tiktok.receiver import REPLAY_SECONDS_MAX
from engine.domain.inbound import (
    AccessWithdrawn,
    Announced,
    MessageEchoed,
    MessageReceived,
    RoutedEvent,
    StatusesReached,
    Unsupported,
)
from engine.domain.outbound import Send, SendText
from tests.patience import PATIENCE_SECONDS
from tests.simulators.business import Business
from tests.simulators.receiver import QUICK, listening

pytestmark = pytest.mark.real_time

KEYS = TikTokStandIn().new_keys()
KEY = "c0NvErSaTiOn+7=="


class Talking(Business):
    async def keep(self, read: Sequence[RoutedEvent]) -> int:
        """What is only announced is read first, and what is known already is not kept again."""
        (routed,) = read
        if not isinstance(routed.event, Announced):
            return await super().keep(read)
        reader = self.adapter.reader(self.tools)
        assert reader is not None
        async with reader:
            found = await reader.read(routed.event, self.account)
        if isinstance(found, Declined):
            return 503
        known = {each.platform_id for each in self.events if isinstance(each, MessageReceived | Unsupported)}
        for each in found:
            assert isinstance(each, MessageReceived | Unsupported)
            if each.platform_id not in known:
                self.events.append(each)
        return self.accepts

    async def send(self, send: Send, token: str | None = None) -> Any:
        return await self.call(send, KEY, self.account if token is None else self.with_token(token))

    def with_token(self, token: str) -> Account:
        return structs.replace(self.account, credentials={**self.account.credentials, "access_token": token})


@asynccontextmanager
async def playing(**settings: Any) -> AsyncIterator[tuple[TikTokSimulator, Talking]]:
    account = TikTokStandIn().simulator(Play(accounts=[KEYS])).account()
    played = TikTokSimulator([account], settings=structs.replace(QUICK, **settings))
    async with played.running() as sim:
        business = Talking(
            adapter=ADAPTER,
            accepts=200,
            account=Account(
                tenant_id=1,
                channel_id=2,
                platform="tiktok",
                external_id=KEYS["open_id"],
                credentials={name: KEYS[name] for name in ("access_token", "refresh_token", "client_secret")},
                settings={"base_url": sim.base_url, "client_key": KEYS["client_key"]},
            ),
        )
        async with listening(business.take) as server:
            await sim.connect(f"{server.base_url}/hook")
            yield sim, business


async def test_everything_that_is_said_is_found_under_the_ledgers_id() -> None:
    """Each kind, by a reader who follows the adapter's rules; each is one delivery that is believed."""
    async with playing() as (sim, business):
        customer = sim.cast.adopt(KEY)
        told = {sim.send(customer, kind): kind for kind in KINDS}
        await sim.wait_quiet()
        found = {each.platform_id for each in business.events}
        assert found == set(told)
        assert business.refused == 0
        assert all(each.contact.keys == (KEY,) for each in business.events)
        assert len(sim.ledger.attempts) == len(KINDS)


async def test_a_delivery_is_repeated_until_it_is_taken_and_signed_anew_each_time() -> None:
    """A signature grows old; the platform repeats for three days."""
    async with playing() as (sim, business):
        business.answers = [500, 503, 404]
        sim.say(KEY, "Hello")
        await sim.wait_quiet()
        assert [each.outcome for each in sim.ledger.attempts] == ["500", "503", "404", "200"]
        assert len(business.events) == 1
        assert (sim.settings.retry_seconds_max, sim.settings.window_seconds) == (
            RETRY_SECONDS_MAX,
            WINDOW_SECONDS,
        )


def test_a_repetition_carries_the_time_of_its_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the same bytes."""
    account = TikTokStandIn().simulator(Play(accounts=[KEYS])).account()
    first = Signed().post_of(account, "http://business.example/hook", b"{}")
    later = time.time() + 2 * REPLAY_SECONDS_MAX
    monkeypatch.setattr(time, "time", lambda: later)
    assert first.again is not None
    again = first.again()
    assert again.body == first.body
    assert again.headers["TikTok-Signature"].startswith(f"t={int(later)},")
    assert again.headers != first.headers


async def test_ten_messages_are_taken_after_each_of_the_customers() -> None:
    """The eleventh is refused for good; a closed window refuses the first."""
    async with playing() as (sim, business):
        sim.say(KEY, "Hello")
        sim.throttle(1_000)  # so that ten calls are not all that a second holds
        for _ in range(WINDOW_MESSAGES_MAX):
            assert isinstance(await business.send(SendText(body="Hi")), Accepted)
        refused = await business.send(SendText(body="Hi"))
        assert isinstance(refused, Declined)
        assert refused.error_class is ErrorClass.BAD_REQUEST
        assert "used up" in refused.message
        await trio.sleep(0.002)
        sim.say(KEY, "And?")
        assert isinstance(await business.send(SendText(body="Hi")), Accepted)
        sim.set_window(KEY, opened=False)
        closed = await business.send(SendText(body="Hi"))
        assert isinstance(closed, Declined)
        assert "window" in closed.message


async def test_what_is_sent_is_echoed_and_read() -> None:
    """The echo says that the API wrote it; the mark is about everything before it."""
    async with playing(read_probability=1.0) as (sim, business):
        sim.say(KEY, "Hello")
        sent = await business.send(SendText(body="Hi"))
        await sim.wait_quiet()
        (echo,) = [each for each in business.events if isinstance(each, MessageEchoed)]
        assert (echo.platform_id, echo.text, echo.maybe_ours) == (sent.platform_id, "Hi", True)
        (mark,) = [each for each in business.events if isinstance(each, StatusesReached)]
        assert mark.up_to is not None
        assert mark.up_to >= sim.ledger.sends[0].accepted_at


async def test_ten_calls_a_second_and_no_more() -> None:
    """Signals are calls too; refused with the code for it."""
    async with playing(window_enforced=False) as (sim, business):
        sim.say(KEY, "Hello")
        sim.throttle(0)
        refused = await business.send(SendText(body="Hi"))
        assert isinstance(refused, Declined)
        assert (refused.error_class, refused.platform_code) == (ErrorClass.RATE_ACCOUNT, "40100")


async def test_a_file_wants_the_token_and_comes_slowly_where_a_script_says_so() -> None:
    """Its address lives a day; without the token it is of no use."""
    async with playing() as (sim, business):
        sim.send(sim.cast.adopt(KEY), "image")
        await sim.wait_quiet()
        (received,) = business.events
        assert isinstance(received, MessageReceived)
        source = ADAPTER.media_source(business.tools)
        assert source is not None
        async with source, httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
            found = await source.look_up(received.media[0].source_id, None, business.account)
            assert isinstance(found, FoundMedia)
            assert (await client.get(found.url)).status_code == 403
            sim.fault(Fault(kind="drip", route="media_download", bytes_per_second=500, times=1))
            began = trio.current_time()
            answer = await client.get(found.url, headers=found.headers)
            assert answer.content.startswith(b"\x89PNG")
            assert trio.current_time() - began > len(answer.content) / 1_000
            gone = await source.look_up('["image","c","m","0"]', None, business.account)
            assert isinstance(gone, Declined)
            assert gone.error_class is ErrorClass.RECIPIENT


async def test_a_token_is_renewed_once_with_each_refresh_token() -> None:
    """The old access token is worth nothing then."""
    async with playing() as (sim, business):
        sim.say(KEY, "Hello")
        sim.expire_token()
        assert (await business.send(SendText(body="Hi"))).error_class is ErrorClass.AUTH
        renewed = await ADAPTER.renew(business.account, business.tools)
        assert isinstance(renewed, Renewed)
        again = await ADAPTER.renew(business.account, business.tools)
        assert isinstance(again, Declined)
        assert again.error_class is ErrorClass.AUTH
        assert (await business.send(SendText(body="Hi"))).error_class is ErrorClass.AUTH
        token = renewed.credentials["access_token"]
        assert isinstance(await business.send(SendText(body="Hi"), token), Accepted)


async def test_access_that_is_taken_away_is_told_and_ends_both_tokens() -> None:
    """By a script or over the control API; another token gives it back."""
    async with playing() as (sim, business):
        sim.say(KEY, "Hello")
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
            told = await client.post(f"{sim.base_url}/__sim/authorization", json={"reason": 4})
            assert told.json() == {"removed": True}
        await sim.wait_quiet()
        (withdrawn,) = [each for each in business.events if isinstance(each, AccessWithdrawn)]
        assert "banned" in withdrawn.note
        assert (await business.send(SendText(body="Hi"))).error_class is ErrorClass.AUTH
        refused = await ADAPTER.renew(business.account, business.tools)
        assert isinstance(refused, Declined)
        sim.renew_token("act.new")
        assert isinstance(await business.send(SendText(body="Hi"), "act.new"), Accepted)
