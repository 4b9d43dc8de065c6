"""The played Twilio as a business sees it: what is told, signed, tried again, refused."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
from msgspec import structs

from adapters.guard import guarded_client
from adapters.port import Accepted, Account, Declined, ErrorClass, FoundMedia, Play
from adapters.simulators import Fault
from adapters.simulators.sms.people import KINDS
from adapters.simulators.sms.platform import SmsSimulator
from adapters.simulators.sms.speech import Overrides
from adapters.simulators.sms.standing import SmsStandIn
from adapters.sms import ADAPTER
from adapters.sms.account import authorization
from adapters.sms.media import TwilioMedia
from engine.domain.inbound import MessageReceived, StatusChanged
from engine.domain.outbound import SendText
from tests.patience import PATIENCE_SECONDS
from tests.simulators.business import Business
from tests.simulators.receiver import QUICK, listening

pytestmark = pytest.mark.real_time

KEYS = SmsStandIn().new_keys()
PERSON = "14155550123"


class Texting(Business):
    async def send(self, body: str = "Hello", number: int = 4) -> Any:
        return await self.call(SendText(body=body), f"+{PERSON}", number=number)

    async def get(self, address: str) -> httpx.Response:
        timeout = httpx.Timeout(5.0)
        async with guarded_client(self.tools.guard, connections_max=2, timeout=timeout) as client:
            return await client.get(address, headers=authorization(self.account), follow_redirects=True)


@asynccontextmanager
async def playing(fragment: str = "", **settings: Any) -> AsyncIterator[tuple[SmsSimulator, Texting]]:
    account = SmsStandIn().simulator(Play(accounts=[KEYS])).account()
    played = SmsSimulator([account], settings=structs.replace(QUICK, **settings))
    async with played.running() as sim:
        business = Texting(
            adapter=ADAPTER,
            accepts=204,
            account=Account(
                tenant_id=1,
                channel_id=2,
                platform="sms",
                external_id=KEYS["sender"],
                credentials={"auth_token": KEYS["auth_token"]},
                settings={"base_url": sim.base_url, "account_sid": KEYS["account_sid"]},
            ),
        )
        async with listening(business.take) as server:
            business.url = f"{server.base_url}/hook"
            await sim.connect(f"{business.url}{fragment}")
            yield sim, business


async def test_everything_that_is_said_is_found_under_the_ledgers_id() -> None:
    """Each kind, with as many files as it has; what is sent by hand too."""
    async with playing() as (sim, business):
        sids = {sim.send(sim.cast.adopt(PERSON), kind) for kind in KINDS}
        item = {"Body": "By hand", "OptOutType": "HELP"}
        customer = sim.cast.adopt(PERSON)
        sids.add(sim.tell(sim.account(), customer, sim.said_by_hand(sim.account(), customer, item)))
        await sim.wait_quiet()
        heard = [each for each in business.events if isinstance(each, MessageReceived)]
        assert {each.platform_id for each in heard} == sids
        assert {each.type for each in heard} == {"text", "image", "video", "audio", "document"}
        assert {each.opts for each in heard} == {None, "out", "in"}
        assert business.refused == 0
        assert all(fact.acknowledged_at for fact in sim.ledger.facts)


@pytest.mark.parametrize(
    ("fragment", "answers", "calls", "heard"),
    [
        ("", [500], 1, 0),
        ("", [404], 1, 0),
        ("#rc=3&rp=5xx", [500, 503], 3, 1),
        ("#rc=2&rp=5xx", [500, 500, 500], 3, 0),
        ("#rc=3&rp=5xx", [404], 1, 0),
        ("#rc=3&rp=4xx,5xx", [404, 500], 3, 1),
        ("#rc=1&rp=all", [404, 404], 2, 0),
    ],
)
async def test_a_delivery_is_tried_again_as_the_address_asks(
    fragment: str, answers: list[int], calls: int, heard: int
) -> None:
    """And else is lost; the fragment is neither sent nor signed."""
    async with playing(fragment) as (sim, business):
        business.answers.extend(answers)
        sim.say(PERSON, "Hello")
        await sim.wait_quiet()
        assert (business.calls, len(business.events), business.refused) == (calls, heard, 0)
        assert [fact.abandoned for fact in sim.ledger.facts] == [not heard]


def test_odd_fragments_ask_for_nothing() -> None:
    assert Overrides.of("https://x.example/#rc=x") == Overrides()
    assert Overrides.of("https://x.example/#rc=99").retries == 5


async def test_statuses_come_out_of_order_and_again() -> None:
    """Each with our message's id, signed with the address that carries it."""
    async with playing(status_disorder_probability=1.0, duplicate_probability=1.0) as (sim, business):
        sim.say(PERSON, "Hello")
        for number in range(5):
            assert isinstance(await business.send(number=number + 1), Accepted)
        await sim.wait_quiet()
        statuses = [each for each in business.events if isinstance(each, StatusChanged)]
        assert {each.callback for each in statuses} == {"1", "2", "3", "4", "5"}
        assert len(statuses) > 10
        first: dict[str | None, str] = {}
        for each in statuses:
            first.setdefault(each.callback, each.status)
        assert "delivered" in first.values()
        assert business.refused == 0


async def test_failures_carry_a_code() -> None:
    async with playing(failure_probability=1.0) as (sim, business):
        sim.say(PERSON, "Hello")
        await business.send()
        await sim.wait_quiet()
        failed = [each for each in business.events if isinstance(each, StatusChanged) and each.error]
        assert [each.status for each in failed] == ["failed"]


async def test_after_stop_nothing_is_taken_until_start() -> None:
    async with playing() as (sim, business):
        said = (
            ("STOP", ErrorClass.OPTED_OUT),
            ("START", None),
            ("إيقاف", ErrorClass.OPTED_OUT),
            ("Yes", None),
        )
        for word, error_class in said:
            sim.say(PERSON, word)
            result = await business.send()
            assert (result.error_class if isinstance(result, Declined) else None) is error_class


async def test_credentials_end_and_limits_are_kept() -> None:
    async with playing() as (sim, business):
        sim.expire_token()
        result = await business.send()
        assert isinstance(result, Declined)
        assert (result.platform_code, result.error_class) == ("20003", ErrorClass.AUTH)
        sim.expire_token(expired=False)
        sim.throttle(0)
        result = await business.send()
        assert isinstance(result, Declined)
        assert (result.platform_code, result.error_class) == ("20429", ErrorClass.RATE_ACCOUNT)
        sim.throttle(None)
        assert isinstance(await business.send(), Accepted)
        sim.renew_token("another")
        result = await business.send()
        assert isinstance(result, Declined)
        assert result.error_class is ErrorClass.AUTH


async def test_files_are_handed_out_to_the_account_alone_and_may_be_slow() -> None:
    async with playing() as (sim, business):
        sim.send(sim.cast.adopt(PERSON), "images")
        await sim.wait_quiet()
        (heard,) = business.events
        addresses = [each.source_url for each in heard.media]
        assert len(set(addresses)) == 2
        found = await TwilioMedia().look_up(None, addresses[0], business.account)
        assert isinstance(found, FoundMedia)
        sim.fault(Fault(kind="slow", route="media_download", seconds=0.3, times=1))
        began = trio.current_time()
        answer = await business.get(addresses[0])
        assert trio.current_time() - began >= 0.3
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
            assert (await client.get(addresses[0])).status_code == 401


async def test_what_was_sent_can_be_looked_up() -> None:
    """By recipient and day, or by its id; there is no mark of ours in it."""
    async with playing() as (sim, business):
        sim.say(PERSON, "Hello")
        sent = await business.send("One")
        base = f"{sim.base_url}/2010-04-01/Accounts/{KEYS['account_sid']}/Messages"
        listed = (await business.get(f"{base}.json?To=%2B{PERSON}")).json()["messages"]
        assert [one["sid"] for one in listed] == [sent.platform_id]
        assert (await business.get(f"{base}.json?To=%2B1")).json()["messages"] == []
        day = listed[0]["day"]
        assert len((await business.get(f"{base}.json?DateSent={day}")).json()["messages"]) == 1
        assert (await business.get(f"{base}.json?DateSent=2001-01-01")).json()["messages"] == []
        shown = (await business.get(f"{base}/{sent.platform_id}.json")).json()
        assert (shown["body"], shown["status"]) == ("One", "queued")
        assert (await business.get(f"{base}/SM0.json")).status_code == 404
