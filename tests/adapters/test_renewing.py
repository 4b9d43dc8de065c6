"""Renewing over months of virtual time: when, how often, and what refusals, outages and races come to."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from random import Random
from typing import Any, cast

import pytest
import trio
from msgspec import structs
from trio.testing import MockClock

from adapters.channel import Trouble
from adapters.port import Account, Adapter, Checked, Declined, ErrorClass, Renewed, Tools
from adapters.renewing import AT_ONCE, Expiring, RenewalState, Renewer
from engine.domain.platforms import Capabilities, Connection, Field, Platform, Renewal
from engine.errors import MijraError, NotFound, StoreUnavailable, Unavailable

TENANT, CHANNEL = 7, 70
HOUR, DAY = 3_600, 86_400
LIFE = 60 * DAY

Answer = Renewed | Declined | MijraError | Exception | None


def away() -> Unavailable:
    return Unavailable("The platform cannot be reached.", code="platform_unavailable")


def declined(error_class: ErrorClass, wait: float | None = None) -> Declined:
    return Declined(
        error_class=error_class, platform_code="190", message="a sentence", retry_after_seconds=wait
    )


class Model(Adapter):
    """A platform whose tokens live 60 days; `answers` are used up first, then it renews."""

    def __init__(self, renewal: Renewal | None = None) -> None:
        self.platform = Platform(  # type: ignore[misc]
            name="model",
            label="Model",
            capabilities=Capabilities(receives=(), sends=()),
            connection=Connection(
                account=Field(name="id", label="The id."),
                renewal=renewal
                or Renewal(names=("access_token",), lifetime_seconds=LIFE, age_seconds_min=DAY),
            ),
        )
        self.calls: list[tuple[float, int, str]] = []
        self.answers: deque[Answer] = deque()
        self.seconds = 0.5
        self.under_way = 0
        self.most = 0

    async def renew(self, account: Account, tools: Tools) -> Renewed | Declined | None:
        self.calls.append((trio.current_time(), account.channel_id, account.credentials["access_token"]))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await trio.sleep(self.seconds)
        finally:
            self.under_way -= 1
        if self.answers:
            answer = self.answers.popleft()
            if isinstance(answer, Exception):
                raise answer
            return answer
        number = int(account.credentials["access_token"].partition("-")[2]) + 1
        return Renewed(credentials={"access_token": f"token-{number}"}, expires_at=now_ms() + LIFE * 1000)

    def receiver(self) -> Any: ...
    def sender(self, tools: Tools) -> Any: ...
    def media_source(self, tools: Tools) -> Any: ...
    async def check(self, account: Account, tools: Tools) -> Checked: ...  # type: ignore[empty-body]
    def classify(self, code: str) -> ErrorClass:
        return ErrorClass.AUTH


def now_ms() -> int:
    return round(trio.current_time() * 1000)


class House:
    """Accounts as the store has them, and a renewer over them."""

    def __init__(self, adapter: Model) -> None:
        self.adapter = adapter
        self.accounts: dict[int, Account] = {}
        self.troubles: list[Trouble] = []
        self.store_errors: deque[MijraError] = deque()
        self.room = True
        self.renewer = Renewer(
            adapters={"model": adapter},
            tools=lambda: cast("Tools", None),
            account=self._account,
            begin=self._begin,
            keep=self._keep,
            on_trouble=self.troubles.append,
            wall_ms=now_ms,
            random=Random(1),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator["House"]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.renewer.run)
            yield self
            nursery.cancel_scope.cancel()

    def connect(self, number: int = CHANNEL, *, lives: float | None = LIFE) -> None:
        expires_at = None if lives is None else now_ms() + round(lives * 1000)
        self.put(
            Account(
                tenant_id=TENANT,
                channel_id=number,
                platform="model",
                external_id=str(number),
                credentials={"access_token": "token-1"},
                settings={},
                credentials_at=now_ms(),
                credentials_expire_at=expires_at,
            )
        )

    def put(self, account: Account) -> None:
        self.accounts[account.channel_id] = account
        self.renewer.see(
            Expiring(
                tenant_id=account.tenant_id,
                channel_id=account.channel_id,
                platform=account.platform,
                credentials_at=account.credentials_at,
                expires_at=account.credentials_expire_at,
            )
        )

    def token(self, number: int = CHANNEL) -> str:
        return self.accounts[number].credentials["access_token"]

    def state(self) -> RenewalState:
        state = self.renewer.state(TENANT, CHANNEL)
        assert state is not None
        return state

    @property
    def called_at(self) -> list[float]:
        return [at for at, _, _ in self.adapter.calls]

    async def _account(self, tenant_id: int, channel_id: int) -> Account | None:
        await trio.lowlevel.checkpoint()
        return self.accounts.get(channel_id)

    async def _begin(self, account: Account) -> None:
        await trio.lowlevel.checkpoint()
        if not self.room:
            raise StoreUnavailable("The store takes nothing.")

    async def _keep(self, account: Account, renewed: Renewed) -> bool:
        await trio.sleep(0.01)
        if self.store_errors:
            raise self.store_errors.popleft()
        present = self.accounts.get(account.channel_id)
        if present is None:
            raise NotFound("There is no such channel.")
        if present.credentials_at != account.credentials_at:
            return False
        self.put(
            structs.replace(
                present,
                credentials={**present.credentials, **renewed.credentials},
                credentials_at=max(now_ms(), present.credentials_at + 1),
                credentials_expire_at=renewed.expires_at,
            )
        )
        return True


@pytest.fixture
def house() -> House:
    return House(Model())


async def test_a_token_is_renewed_between_half_and_two_thirds_of_its_life(
    house: House, autojump_clock: MockClock
) -> None:
    """Again and again; each account at another moment."""
    async with house.running():
        for number in range(40):
            house.connect(number)
        await trio.sleep(LIFE)
        times = {number: at for at, number, _ in reversed(house.adapter.calls)}
        assert all(LIFE / 2 <= at <= LIFE * 2 / 3 for at in times.values())
        assert len({round(at / HOUR) for at in times.values()}) > 20
        await trio.sleep(5 * LIFE)
        assert all(8 <= int(house.token(number).partition("-")[2]) <= 13 for number in range(40))
    assert house.troubles == []


async def test_what_nobody_knows_the_expiry_of_is_renewed_when_it_is_old_enough(
    house: House, autojump_clock: MockClock
) -> None:
    """A day here, since the platform renews nothing younger; afterwards the expiry is known."""
    async with house.running():
        house.connect(lives=None)
        await trio.sleep(DAY - 1)
        assert house.adapter.calls == []
        await trio.sleep(DAY / 4)
        assert house.token() == "token-2"
        assert house.accounts[CHANNEL].credentials_expire_at is not None


async def test_a_day_long_token_of_unknown_age_is_renewed_within_hours(autojump_clock: MockClock) -> None:
    house = House(Model(Renewal(names=("access_token", "refresh_token"), lifetime_seconds=DAY)))
    async with house.running():
        house.connect(lives=None)
        await trio.sleep(4 * HOUR)
        assert [3 * HOUR <= at <= 4 * HOUR for at in house.called_at] == [True]


async def test_a_start_renews_at_once_what_fell_due_meanwhile_and_not_all_together(
    house: House, autojump_clock: MockClock
) -> None:
    """Bounded: `AT_ONCE` calls at a time."""
    await trio.sleep(LIFE)
    for number in range(50):
        account_at = now_ms() - round(LIFE * 900)
        house.put(
            Account(
                tenant_id=TENANT,
                channel_id=number,
                platform="model",
                external_id="1",
                credentials={"access_token": "token-1"},
                settings={},
                credentials_at=account_at,
                credentials_expire_at=account_at + LIFE * 1000,
            )
        )
    async with house.running():
        await trio.sleep(60)
    assert {house.token(number) for number in range(50)} == {"token-2"}
    assert house.adapter.most == AT_ONCE


@pytest.mark.parametrize("error_class", [ErrorClass.AUTH, ErrorClass.ACCOUNT])
async def test_a_refusal_is_told_once_and_not_repeated(
    house: House, error_class: ErrorClass, autojump_clock: MockClock
) -> None:
    """Until there are other credentials, which are renewed like any."""
    house.adapter.answers.append(declined(error_class))
    async with house.running():
        house.connect()
        first = house.accounts[CHANNEL].credentials_at
        await trio.sleep(2 * LIFE)
        assert len(house.adapter.calls) == 1
        (trouble,) = house.troubles
        assert (trouble.note, trouble.code, trouble.halted) == ("a sentence", "190", False)
        assert trouble.credentials_at == first
        house.renewer.hurry(TENANT, CHANNEL, first)
        await trio.sleep(DAY)
        assert len(house.adapter.calls) == 1
        house.connect()
        await trio.sleep(LIFE)
        assert house.token() == "token-2"


async def test_an_outage_is_outlived(house: House, autojump_clock: MockClock) -> None:
    """Tried again with growing pauses, an hour at most; nobody is told, because the token still holds."""
    troubles: list[Answer] = [away(), declined(ErrorClass.TRANSIENT)]
    house.adapter.answers.extend([RuntimeError("a bug"), *troubles * 29, away()])
    async with house.running():
        house.connect()
        await trio.sleep(LIFE)
        pauses = [b - a for a, b in zip(house.called_at, house.called_at[1:], strict=False)][:60]
        assert pauses == sorted(pauses) or max(pauses) <= 1.2 * HOUR + 1
        assert 30 <= pauses[0] <= 37
        assert max(pauses) >= HOUR
        assert house.token() == "token-2"
    assert house.troubles == []
    assert house.renewer.outcomes["model", "failed"] == 60


async def test_at_the_expiry_people_are_told_and_it_is_tried_on(
    house: House, autojump_clock: MockClock
) -> None:
    """Once; and a platform that is back after the expiry, and renews all the same, ends the trouble."""
    async with house.running():
        house.connect()
        house.adapter.answers.extend([away()] * 2_000)
        await trio.sleep(LIFE - 60)
        assert house.troubles == []
        await trio.sleep(DAY)
        (trouble,) = house.troubles
        assert trouble.code == "expired"
        assert trouble.note.endswith("could not be renewed: The platform cannot be reached.")
        tried = len(house.adapter.calls)
        assert LIFE - 120 < max(at for at in house.called_at if at < LIFE) < LIFE
        await trio.sleep(DAY)
        assert len(house.adapter.calls) - tried >= 20
        house.adapter.answers.clear()
        await trio.sleep(2 * HOUR)
        assert house.token() == "token-2"
        assert house.state().error is None
    assert len(house.troubles) == 1


async def test_a_pause_that_the_platform_asks_for_is_kept(house: House, autojump_clock: MockClock) -> None:
    house.adapter.answers.append(declined(ErrorClass.RATE_ACCOUNT, 5 * HOUR))
    async with house.running():
        house.connect()
        await trio.sleep(LIFE)
    assert house.called_at[1] - house.called_at[0] >= 5 * HOUR


async def test_a_refused_send_renews_at_once_and_once(house: House, autojump_clock: MockClock) -> None:
    """A token that died early. One that is refused fresh from the platform is not renewed again and again."""
    async with house.running():
        house.connect()
        house.renewer.hurry(TENANT, CHANNEL, house.accounts[CHANNEL].credentials_at)
        await trio.sleep(5)
        assert house.token() == "token-2"
        for _ in range(10):
            house.renewer.hurry(TENANT, CHANNEL, house.accounts[CHANNEL].credentials_at)
            await trio.sleep(60)
        assert house.token() == "token-2"
        house.renewer.hurry(TENANT, CHANNEL, 1)
        await trio.sleep(2 * HOUR)
        house.renewer.hurry(TENANT, CHANNEL, house.accounts[CHANNEL].credentials_at)
        await trio.sleep(5)
        assert house.token() == "token-3"


async def test_an_answer_is_held_until_the_store_takes_it(house: House, autojump_clock: MockClock) -> None:
    """A refresh token that can be used once is not used twice because the database was away."""
    house.store_errors.extend([StoreUnavailable("The store is away.")] * 50)
    async with house.running():
        house.connect()
        await trio.sleep(LIFE)
    assert len(house.adapter.calls) == 1
    assert house.token() == "token-2"


async def test_answers_that_wait_for_the_store_hold_up_nobody_else(
    house: House, autojump_clock: MockClock
) -> None:
    """As many as may be asked at once, for a tenant that takes nothing for an hour."""
    house.store_errors.extend([StoreUnavailable("The store is away.")] * 100 * AT_ONCE)
    async with house.running():
        for number in range(AT_ONCE):
            house.connect(number)
            house.renewer.hurry(TENANT, number, house.accounts[number].credentials_at)
        await trio.sleep(5)
        asked = len(house.adapter.calls)
        house.connect(99)
        house.renewer.hurry(TENANT, 99, house.accounts[99].credentials_at)
        await trio.sleep(5)
        assert len(house.adapter.calls) == asked + 1


async def test_nothing_is_asked_for_while_the_store_takes_nothing(
    house: House, autojump_clock: MockClock
) -> None:
    """What the platform would give could not be kept."""
    house.room = False
    async with house.running():
        house.connect()
        await trio.sleep(LIFE * 3 / 4)
        assert house.adapter.calls == []
        house.room = True
        await trio.sleep(2 * HOUR)
        assert house.token() == "token-2"


async def test_a_person_who_connects_anew_meanwhile_is_not_overwritten(
    house: House, autojump_clock: MockClock
) -> None:
    """The answer to the old token is dropped, and so is a refusal of it."""
    house.adapter.seconds = 30
    async with house.running():
        for last in (False, True):
            house.connect()
            house.renewer.hurry(TENANT, CHANNEL, house.accounts[CHANNEL].credentials_at)
            await trio.sleep(10)
            if last:
                house.adapter.answers.append(declined(ErrorClass.AUTH))
            house.put(
                structs.replace(
                    house.accounts[CHANNEL], credentials={"access_token": "token-90"}, credentials_at=now_ms()
                )
            )
            await trio.sleep(60)
            assert house.token() == "token-90"
    assert house.troubles == []
    assert house.renewer.outcomes["model", "replaced"] == 1


async def test_an_account_that_is_gone_is_forgotten(house: House, autojump_clock: MockClock) -> None:
    """Before the call, and while it is under way."""
    house.adapter.seconds = 30
    async with house.running():
        house.connect(1)
        house.connect(2)
        del house.accounts[1]
        house.renewer.hurry(TENANT, 1, now_ms())
        house.renewer.hurry(TENANT, 2, now_ms())
        await trio.sleep(10)
        del house.accounts[2]
        await trio.sleep(2 * LIFE)
    assert [number for _, number, _ in house.adapter.calls] == [2]
    assert house.renewer.state(TENANT, 2) is None


async def test_an_account_that_needs_no_renewal_is_asked_once(
    house: House, autojump_clock: MockClock
) -> None:
    house.adapter.answers.append(None)
    async with house.running():
        house.connect(lives=None)
        await trio.sleep(3 * LIFE)
    assert len(house.adapter.calls) == 1
    assert house.troubles == []


async def test_a_directory_that_was_not_told_does_not_renew_too_early(
    house: House, autojump_clock: MockClock
) -> None:
    """A crash between the two writes of a renewal: the row has the new credentials, the directory the old
    times."""
    await trio.sleep(LIFE)
    async with house.running():
        house.connect()
        house.renewer.see(
            Expiring(
                tenant_id=TENANT,
                channel_id=CHANNEL,
                platform="model",
                credentials_at=now_ms() - LIFE * 900,
                expires_at=now_ms() + LIFE * 100,
            )
        )
        await trio.sleep(DAY)
        assert house.adapter.calls == []
        await trio.sleep(LIFE)
        assert house.token() == "token-2"


async def test_a_stop_waits_for_what_is_under_way_and_begins_nothing(
    house: House, autojump_clock: MockClock
) -> None:
    house.adapter.seconds = 5
    async with house.running():
        house.connect(1)
        house.connect(2)
        house.renewer.hurry(TENANT, 1, now_ms())
        await trio.sleep(1)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.renewer.settle)
            await trio.sleep(1)
            house.renewer.hurry(TENANT, 2, house.accounts[2].credentials_at)
        assert trio.current_time() - began < 5
    assert (house.token(1), house.token(2)) == ("token-2", "token-1")


async def test_an_adapter_that_hangs_is_given_up(house: House, autojump_clock: MockClock) -> None:
    house.adapter.seconds = inf
    async with house.running():
        house.connect()
        house.renewer.hurry(TENANT, CHANNEL, house.accounts[CHANNEL].credentials_at)
        await trio.sleep(70)
        assert house.state().error == "no answer in time"
        house.adapter.seconds = 1
        await trio.sleep(120)
        assert house.token() == "token-2"


def test_the_new_credentials_are_never_shown() -> None:
    assert "secret" not in repr(Renewed(credentials={"access_token": "secret"}, expires_at=1))
