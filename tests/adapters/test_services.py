"""The services of adapters, with toys: what a crash, a stop and a change of accounts do to them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import trio
from msgspec import structs

from adapters.cursors import CURSOR_BYTES_MAX, DurableCursors
from adapters.port import Account
from adapters.service import AccountService, Service
from adapters.services import LOOK_SECONDS, RESTART_SECONDS, STEADY_SECONDS, Services
from engine.domain.rows import ChannelCursorRow
from engine.errors import CommitFailed, Fenced, InvalidInput, StoreUnavailable
from tests.logs import capture_logs


def account(channel_id: int = 1, **changes: Any) -> Account:
    plain = Account(
        tenant_id=7,
        channel_id=channel_id,
        platform="toy",
        external_id=f"account-{channel_id}",
        credentials={"password": "first"},
        settings={},
    )
    return structs.replace(plain, **changes)


class House:
    """Accounts that can be changed, and a diary of what the toys did."""

    def __init__(self, *accounts: Account) -> None:
        self.accounts: list[Account] = list(accounts)
        self.looks = 0
        self.fail_looks = 0
        self.diary: list[tuple[float, str]] = []
        self.services = Services({}, self.on, Random(1))

    async def on(self, platform: str) -> Sequence[Account]:
        assert platform == "toy"
        self.looks += 1
        if self.fail_looks:
            self.fail_looks -= 1
            raise StoreUnavailable("The store is away.")
        return list(self.accounts)

    def note(self, what: str) -> None:
        self.diary.append((round(trio.current_time() - self.began, 1), what))

    @property
    def noted(self) -> list[str]:
        return [what for _, what in self.diary]

    @asynccontextmanager
    async def running(self, *services: Service | AccountService) -> AsyncIterator[None]:
        self.began = trio.current_time()
        self.services = Services({"toy": services}, self.on, Random(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.services.run)
            await trio.testing.wait_all_tasks_blocked()
            yield
            nursery.cancel_scope.cancel()

    def poller(self, run: Callable[[Account, trio.Event], Awaitable[None]] | None = None) -> AccountService:
        async def poll(account: Account, stopping: trio.Event) -> None:
            name = f"{account.channel_id} {account.credentials['password']}"
            self.note(f"begin {name}")
            try:
                await stopping.wait()
            finally:
                self.note(f"end {name}")

        return AccountService(name="poller", wants=lambda one: "skip" not in one.settings, run=run or poll)


async def test_a_crash_is_logged_and_the_service_runs_again_after_a_pause_that_grows(
    autojump_clock: trio.testing.MockClock,
) -> None:
    house = House()

    async def run(stopping: trio.Event) -> None:
        house.note("run")
        raise ValueError("a bug")

    async def other(stopping: trio.Event) -> None:
        house.note("other")
        await stopping.wait()

    with capture_logs() as lines:
        async with house.running(Service(name="toy", run=run), Service(name="other", run=other)):
            await trio.sleep(1_500)
    assert house.noted.count("other") == 1
    moments = [at for at, what in house.diary if what == "run"]
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    first, longest = RESTART_SECONDS
    assert first <= pauses[0] <= 1.2 * first
    # Each is twice the one before, give or take the dice, up to the longest.
    assert all(1.5 <= later / earlier <= 2.5 for earlier, later in pairwise(pauses[:7]))
    assert longest <= max(pauses) <= 1.2 * longest
    crashed = [line for line in lines if line["event"] == "service.crashed"]
    assert len(crashed) == len(moments)
    assert crashed[0]["service"] == "toy"
    assert isinstance(crashed[0]["exc_info"], ValueError)


async def test_one_that_was_steady_before_it_failed_is_back_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    house = House()

    async def run(stopping: trio.Event) -> None:
        house.note("run")
        await trio.sleep(STEADY_SECONDS if len(house.diary) > 4 else 0)
        raise StoreUnavailable("The store is away.")

    async with house.running(Service(name="toy", run=run)):
        await trio.sleep(200)
    moments = [at for at, _ in house.diary]
    assert moments[4] - moments[3] >= 8
    assert moments[5] - moments[4] <= STEADY_SECONDS + 1.2 * RESTART_SECONDS[0]


async def test_one_that_returns_has_nothing_to_do(autojump_clock: trio.testing.MockClock) -> None:
    house = House()

    async def run(stopping: trio.Event) -> None:
        house.note("run")

    async with house.running(Service(name="toy", run=run)):
        await trio.sleep(1_000)
    assert house.noted == ["run"]


async def test_a_stop_asks_first_and_cancels_then(autojump_clock: trio.testing.MockClock) -> None:
    house = House(account())

    async def polite(stopping: trio.Event) -> None:
        await stopping.wait()
        await trio.sleep(2)
        house.note("polite ended")

    async def deaf(stopping: trio.Event) -> None:
        try:
            await trio.sleep_forever()
        finally:
            house.note("deaf cancelled")

    services = (Service(name="polite", run=polite), Service(name="deaf", run=deaf), house.poller())
    async with house.running(*services):
        await trio.sleep(10)
        await house.services.stop(5)
        assert round(trio.current_time() - house.began) == 15
    assert house.diary[1:] == [(10.0, "end 1 first"), (12.0, "polite ended"), (15.0, "deaf cancelled")]


async def test_a_service_that_fails_at_its_end_ends_nothing_else(
    autojump_clock: trio.testing.MockClock,
) -> None:
    house = House(account())

    async def run(account: Account, stopping: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("a bug on the way out")

    with capture_logs() as lines:
        async with house.running(house.poller(run)):
            house.accounts = []
            house.services.changed()
            await trio.sleep(1)
            house.accounts = [account(2)]
            house.services.changed()
            await trio.sleep(1)
            await house.services.stop(1)
    assert [line["event"] for line in lines] == ["service.crashed"] * 2


async def test_an_account_has_a_service_while_it_is_connected_and_active(
    autojump_clock: trio.testing.MockClock,
) -> None:
    house = House(account(1), account(2, settings={"skip": True}), account(3, active=False))
    async with house.running(house.poller()):
        assert house.noted == ["begin 1 first"]
        house.accounts = [account(1), account(3)]
        house.services.changed()
        await trio.sleep(1)
        assert house.noted[1:] == ["begin 3 first"]
        house.accounts = [account(3)]
        house.services.changed()
        await trio.sleep(1)
        assert house.noted[2:] == ["end 1 first"]
        house.accounts = [account(1), account(3)]
        await trio.sleep(LOOK_SECONDS)
        assert house.noted[3:] == ["begin 1 first"], "what nobody told is noticed at the next look"


async def test_new_credentials_begin_anew_after_the_old_service_has_ended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    house = House(account())

    async def slow_to_leave(account: Account, stopping: trio.Event) -> None:
        name = account.credentials["password"]
        house.note(f"begin {name}")
        try:
            await stopping.wait()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
            house.note(f"end {name}")

    async with house.running(house.poller(slow_to_leave)):
        house.accounts = []
        house.services.changed()
        await trio.sleep(1)
        # Connected again, with something else, while the first is still leaving.
        house.accounts = [account(credentials={"password": "second"})]
        house.services.changed()
        await trio.sleep(5)
        assert house.diary == [(0.0, "begin first"), (3.0, "end first"), (3.0, "begin second")]
        house.services.changed()
        await trio.sleep(5)
        assert len(house.diary) == 3, "a change of something else is none"


async def test_one_that_had_nothing_to_do_for_an_account_is_asked_again_when_that_changes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    house = House(account())

    async def run(account: Account, stopping: trio.Event) -> None:
        house.note(account.credentials["password"])

    async with house.running(house.poller(run)):
        await trio.sleep(10 * LOOK_SECONDS)
        assert house.noted == ["first"]
        house.accounts = [account(credentials={"password": "second"})]
        house.services.changed()
        await trio.sleep(1)
        assert house.noted == ["first", "second"]


async def test_while_the_accounts_cannot_be_read_those_known_go_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    house = House(account())
    async with house.running(house.poller()):
        house.fail_looks = 3
        house.services.changed()
        await trio.sleep(4 * LOOK_SECONDS)
        assert house.looks >= 5
        assert house.noted == ["begin 1 first"]


# ---------------------------------------------------------------- cursors


class Store:
    """A committer of one database, and what it has."""

    def __init__(self) -> None:
        self.values: dict[tuple[int, int], str] = {}
        self.refuse: CommitFailed | None = None
        self.full = False
        self.waiting: list[Callable[[], None]] = []

    async def load_cursor(self, tenant_id: int, channel_id: int) -> str | None:
        return self.values.get((tenant_id, channel_id))

    def has_room(self, tenant_id: int) -> bool:
        return not self.full

    def when_room(self, call: Callable[[], None]) -> None:
        self.waiting.append(call)

    def submit(
        self,
        address: object,
        generation: int,
        rows: Sequence[object],
        done: Callable[[CommitFailed | None], None],
    ) -> None:
        (row,) = rows
        assert isinstance(row, ChannelCursorRow)
        if self.refuse is None:
            self.values[row.tenant_id, row.channel_id] = row.value
        done(self.refuse)


async def test_a_cursor_is_read_as_it_was_put() -> None:
    store = Store()
    cursors = DurableCursors(store, store, lambda: 1)  # type: ignore[arg-type]  # what is used of a Committer
    assert await cursors.get(account()) is None
    await cursors.put(account(), "17:42")
    await cursors.put(account(2), "1")
    assert await cursors.get(account()) == "17:42"


async def test_a_cursor_does_not_move_where_another_process_has_the_tenant() -> None:
    store = Store()
    store.refuse = Fenced("Another node took the tenant.")
    cursors = DurableCursors(store, store, lambda: 1)  # type: ignore[arg-type]
    with pytest.raises(Fenced):
        await cursors.put(account(), "2")
    assert await cursors.get(account()) is None


async def test_a_cursor_waits_for_room_and_has_a_limit() -> None:
    store = Store()
    store.full = True
    cursors = DurableCursors(store, store, lambda: 1)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        await cursors.put(account(), "ä" * (CURSOR_BYTES_MAX // 2 + 1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cursors.put, account(), "ä" * (CURSOR_BYTES_MAX // 2))
        await trio.testing.wait_all_tasks_blocked()
        assert store.values == {}
        store.full = False
        store.waiting.pop()()
    assert len(store.values) == 1
