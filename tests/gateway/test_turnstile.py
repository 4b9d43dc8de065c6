"""One tenant's deliveries in work, beside others' and alone."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from gateway.turnstile import AT_ONCE, SHARED_SECONDS, Turnstile


class Works:
    """Deliveries that stay in work until they are let go."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.turnstile = Turnstile()
        self.entered: list[tuple[int, int]] = []
        self.let_go: dict[tuple[int, int], trio.Event] = {}
        self.scopes: dict[tuple[int, int], trio.CancelScope] = {}
        self._nursery = nursery

    async def come(self, tenant: int, numbers: range) -> None:
        for number in numbers:
            self._nursery.start_soon(self._work, (tenant, number))
            # One after the other: trio starts tasks of one moment in any order.
            await wait_all_tasks_blocked()

    async def finish(self, tenant: int, numbers: range) -> None:
        for number in numbers:
            self.let_go[tenant, number].set()
            await wait_all_tasks_blocked()

    def of(self, tenant: int) -> list[int]:
        return [number for each, number in self.entered if each == tenant]

    async def _work(self, name: tuple[int, int]) -> None:
        self.let_go[name] = trio.Event()
        with trio.CancelScope() as self.scopes[name]:
            async with self.turnstile.passed(name[0]):
                self.entered.append(name)
                await self.let_go[name].wait()


async def test_alone_nobody_waits(autojump_clock: MockClock) -> None:
    """Also later, and also after others have been gone for a while."""
    async with trio.open_nursery() as nursery:
        works = Works(nursery)
        await works.come(1, range(5 * AT_ONCE))
        assert len(works.of(1)) == 5 * AT_ONCE
        await works.come(2, range(1))
        await works.finish(2, range(1))
        await trio.sleep(SHARED_SECONDS)
        await works.come(1, range(5 * AT_ONCE, 6 * AT_ONCE))
        assert len(works.of(1)) == 6 * AT_ONCE
        nursery.cancel_scope.cancel()


async def test_beside_others_a_flood_waits_in_order_and_the_others_do_not(autojump_clock: MockClock) -> None:
    """At most `AT_ONCE` of it are in work, and each that ends lets the next one in."""
    async with trio.open_nursery() as nursery:
        works = Works(nursery)
        await works.come(2, range(1))
        await works.come(1, range(3 * AT_ONCE))
        assert works.of(1) == list(range(AT_ONCE))
        assert works.turnstile.waiting(1) == 2 * AT_ONCE
        await works.come(2, range(1, 4))
        await works.come(3, range(1))
        assert (works.of(2), works.of(3)) == ([0, 1, 2, 3], [0])
        await works.finish(1, range(3))
        assert works.of(1) == list(range(AT_ONCE + 3))
        nursery.cancel_scope.cancel()


async def test_a_flood_that_is_alone_again_goes_through_at_once(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        works = Works(nursery)
        await works.come(2, range(1))
        await works.come(1, range(3 * AT_ONCE))
        await works.finish(2, range(1))
        await trio.sleep(SHARED_SECONDS)
        await works.finish(1, range(1))
        # All at one moment, so trio starts them in any order.
        assert sorted(works.of(1)) == list(range(3 * AT_ONCE))
        nursery.cancel_scope.cancel()


async def test_who_gives_up_while_waiting_takes_no_place(autojump_clock: MockClock) -> None:
    """Nor does one that is cancelled in work; in the end nothing is remembered of anybody."""
    async with trio.open_nursery() as nursery:
        works = Works(nursery)
        await works.come(2, range(1))
        await works.come(1, range(AT_ONCE + 3))
        works.scopes[1, AT_ONCE].cancel()
        works.scopes[1, 0].cancel()
        await wait_all_tasks_blocked()
        assert works.of(1) == [*range(AT_ONCE), AT_ONCE + 1]
        assert works.turnstile.waiting(1) == 1
        for name in list(works.let_go):
            works.let_go[name].set()
            await wait_all_tasks_blocked()
    assert works.of(1) == [*range(AT_ONCE), AT_ONCE + 1, AT_ONCE + 2]
    assert (works.turnstile._working, works.turnstile._lines) == ({}, {})
