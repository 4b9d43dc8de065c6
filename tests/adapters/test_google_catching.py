"""Reviews that no notification told of, with a cursor that moves after what it covers is durable."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from adapters.google_business import GoogleBusiness
from adapters.google_business.calling import GoogleCalls
from adapters.google_business.catching import Catching
from adapters.google_business.services import keys_url
from adapters.guard import Guard
from adapters.port import Account, Play, Tools
from adapters.service import AccountService, ServiceTools
from adapters.simulators import Fault
from adapters.simulators.google.reviews import ReviewsSimulator
from adapters.simulators.google.standing import MessagesStandIn, ReviewsStandIn
from adapters.simulators.google.times import micros
from engine.domain.inbound import MessageReceived
from engine.domain.intake import Delivery, DeliveryReceipt
from engine.errors import StoreUnavailable
from engine.ports import Endpoint
from tests.adapters.contract.files import Files

pytestmark = pytest.mark.real_time


class House:
    """What the root lends, in memory."""

    def __init__(self) -> None:
        self.cursor: str | None = None
        self.delivered: list[Delivery] = []
        self.away = False
        self.notes: list[str] = []

    async def get(self, account: Account) -> str | None:
        return self.cursor

    async def put(self, account: Account, text: str) -> None:
        self.cursor = text

    async def deliver(self, delivery: Delivery) -> DeliveryReceipt:
        if self.away:
            raise StoreUnavailable("Away.")
        self.delivered.append(delivery)
        return DeliveryReceipt()

    def ids(self) -> list[str]:
        """What was delivered since the last time, in its order."""
        found = [
            event.platform_id
            for delivery in self.delivered
            for _, events in delivery.groups
            for event in events
            if isinstance(event, MessageReceived)
        ]
        self.delivered.clear()
        return found


class Looking:
    def __init__(self, house: House, played: ReviewsSimulator, account: Account, catching: Catching) -> None:
        self.house = house
        self.played = played
        self.account = account
        self.catching = catching
        self.seen: set[tuple[str, int]] = set()

    async def look(self) -> None:
        guard = Guard(allowed=[self.played.base_url.removeprefix("http://")])
        async with GoogleCalls(guard, connections_max=1, seconds_max=5.0) as calls:
            self.seen = await self.catching.look(calls, self.account, self.seen)

    def write(self, number: int) -> int:
        """A review that nobody is told of; its time."""
        at = self.played.now()
        name = f"{self.account.external_id}/reviews/r{number}"
        self.played.reviews[name] = {
            "name": name,
            "starRating": "FIVE",
            "createTime": at,
            "updateTime": at,
        }
        return micros(at)


@asynccontextmanager
async def looking() -> AsyncIterator[Looking]:
    stand_in, house = ReviewsStandIn(), House()
    keys = stand_in.new_keys()
    played = stand_in.simulator(Play(accounts=[keys]))
    async with played.running():
        account = profile_at(played.base_url, keys)
        yield Looking(house, played, account, Catching("google-business", lent(house, account)))


def profile_at(base_url: str, keys: dict[str, str]) -> Account:
    return Account(
        tenant_id=1,
        channel_id=2,
        platform="google-business",
        external_id=keys["resource_name"],
        credentials={name: value for name, value in keys.items() if name != "resource_name"},
        settings={"base_url": base_url},
    )


def lent(house: House, account: Account) -> ServiceTools:
    endpoint = Endpoint(
        platform="google-business",
        external_id=account.external_id,
        parent_id=None,
        tenant_id=1,
        channel_id=2,
        endpoint_key="k",
        secrets={},
    )

    async def of(_: Endpoint) -> Account | None:
        return account

    return ServiceTools(
        tools=Tools(media=Files({}), guard=Guard(), link=lambda tenant_id, key: key),
        deliver=house.deliver,
        endpoint=lambda external_id: endpoint if external_id == account.external_id else None,
        account=of,
        cursors=house,
        attention=lambda _, note: house.notes.append(note),
        new_trace=lambda: "t",
        wall_ms=lambda: 1_000,
        serve_asyncio=nobody_listens,
    )


async def nobody_listens(
    protocol: object,
    host: str,
    port: int,
    *,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    raise OSError("this service listens nowhere")


async def test_a_profile_begins_with_its_connection() -> None:
    """What is older stays where it is."""
    async with looking() as on:
        on.write(1)
        await on.look()
        assert (on.house.ids(), on.house.cursor) == ([], "1000000")


async def test_what_nobody_told_of_is_found_once() -> None:
    """The oldest first; again after the process was started again, where ids settle it."""
    async with looking() as on:
        on.house.cursor = "0"
        times = [on.write(number) for number in range(60)]
        await on.look()
        assert on.house.ids() == [f"reviews/r{number}" for number in range(60)]
        assert on.house.cursor == str(times[-1])
        await on.look()
        assert on.house.ids() == []
        times.append(on.write(60))
        await on.look()
        assert (on.house.ids(), on.house.cursor) == (["reviews/r60"], str(times[-1]))
        on.seen = set()
        await on.look()
        assert len(on.house.ids()) == 61


async def test_the_cursor_stays_while_nothing_is_durable() -> None:
    async with looking() as on:
        on.house.cursor = "0"
        on.write(1)
        on.house.away = True
        with pytest.raises(StoreUnavailable):
            await on.look()
        assert on.house.cursor == "0"
        on.house.away = False
        await on.look()
        assert on.house.ids() == ["reviews/r1"]


async def test_an_outage_is_waited_for_and_a_grant_asked_for() -> None:
    async with looking() as on:
        on.house.cursor = "0"
        on.write(1)
        on.played.fault(Fault(kind="error", code=503, route="management", times=2))
        await on.look()
        assert (on.house.ids(), on.house.cursor, on.house.notes) == ([], "0", [])
        on.played.clear_faults()
        on.played.expire_token()
        await on.look()
        assert (on.house.ids(), on.house.cursor) == ([], "0")
        assert len(on.house.notes) == 1


async def test_the_services_are_those_of_profiles() -> None:
    """Keys are used while the account's service runs, from where its settings say."""
    adapter = GoogleBusiness()
    profile = profile_at("http://127.0.0.1:9", ReviewsStandIn().new_keys())
    agent = profile_at("http://127.0.0.1:9", MessagesStandIn().new_keys())
    services = adapter.services(lent(House(), profile))
    of_accounts = [each for each in services if isinstance(each, AccountService)]
    assert [each.wants(profile) for each in of_accounts] == [True, True]
    assert [each.wants(agent) for each in of_accounts] == [False, False]
    urls = {
        "": "https://www.googleapis.com/oauth2/v3/certs",
        "base_url": "https://played.example/oauth2/v3/certs",
        "keys_url": "https://keys.example/set",
    }
    settings: dict[str, Any] = {"base_url": "https://played.example/", "keys_url": "https://keys.example/set"}
    for name, url in urls.items():
        given = {each: settings[each] for each in settings if name and (each == "base_url" or name == each)}
        assert keys_url(Account(**{**_members(profile), "settings": given})) == url
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(of_accounts[0].run, profile, stopping)
        await trio.testing.wait_all_tasks_blocked()
        assert adapter.keys.uses((1, 2)) == "http://127.0.0.1:9/oauth2/v3/certs"
        stopping.set()
    assert adapter.keys.uses((1, 2)) is None


def _members(account: Account) -> dict[str, Any]:
    return {name: getattr(account, name) for name in account.__struct_fields__}
