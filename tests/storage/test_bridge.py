"""The bridge with each of its sides: results, errors, cancellation, closing."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import cast

import pytest
import trio
import trio.lowlevel
import trio.testing

from engine.errors import StoreUnavailable
from storage.bridge import SWITCH_INTERVAL_SECONDS, Bridge, BridgeKind, TrioCalls
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.real_time


@pytest.fixture(params=["thread", "trio-asyncio"])
def kind(request: pytest.FixtureRequest) -> BridgeKind:
    chosen: BridgeKind = request.param
    return chosen


@pytest.fixture
async def bridge(kind: BridgeKind) -> AsyncIterator[Bridge]:
    async with Bridge(kind, cancel_seconds_max=0.3) as opened:
        yield opened


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


async def test_a_call_returns_what_the_coroutine_returns(bridge: Bridge) -> None:
    """The value crosses back unchanged, and the coroutine really runs on an asyncio loop."""
    assert await bridge.run(double, 21) == 42


async def test_an_exception_crosses_with_its_type_and_traceback(bridge: Bridge) -> None:
    """The caller sees the very exception, and the traceback names the asyncio side's function."""

    async def explode() -> None:
        await asyncio.sleep(0)
        raise ValueError("seventeen")

    with pytest.raises(ValueError, match="seventeen") as caught:
        await bridge.run(explode)
    assert "explode" in [entry.name for entry in caught.traceback]


async def test_many_calls_run_at_the_same_time(bridge: Bridge) -> None:
    """Fifty calls that each wait for all fifty can only end when they run together."""
    arrived = 0
    everyone = asyncio.Event()

    async def arrive(number: int) -> int:
        nonlocal arrived
        arrived += 1
        if arrived == 50:
            everyone.set()
        await everyone.wait()
        return number

    answers: list[int] = []

    async def call(number: int) -> None:
        answers.append(await bridge.run(arrive, number))

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(call, number)
    assert sorted(answers) == list(range(50))
    assert bridge.statistics().peak == 50
    assert bridge.statistics().running == 0


async def test_a_cancelled_wait_cancels_the_call_and_waits_for_its_end(bridge: Bridge) -> None:
    """The clean-up of the coroutine has finished when the cancelled caller goes on."""
    cleaned_up = False

    async def linger() -> None:
        nonlocal cleaned_up
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            cleaned_up = True

    with trio.move_on_after(0.05) as scope:
        await bridge.run(linger)
    assert scope.cancelled_caught
    assert cleaned_up
    assert bridge.statistics().abandoned == 0


async def test_a_call_that_completes_despite_its_cancellation_is_answered(bridge: Bridge) -> None:
    """What happened is returned: a commit that went through must not look like one that did not."""

    async def finish_anyway() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "committed"
        return "slept"

    with trio.move_on_after(0.05):
        assert await bridge.run(finish_anyway) == "committed"


async def test_a_call_that_ignores_its_cancellation_is_given_up_at_the_deadline(bridge: Bridge) -> None:
    """The caller goes on after `cancel_seconds_max`, and the abandoned call is counted."""
    release = asyncio.Event()

    async def refuse() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async def set_free() -> None:
        release.set()

    with trio.fail_after(PATIENCE_SECONDS), trio.move_on_after(0.05) as scope:
        await bridge.run(refuse)
    assert scope.cancelled_caught
    assert bridge.statistics().abandoned == 1
    await bridge.run(set_free)


async def test_a_call_of_a_cancelled_caller_is_never_begun(bridge: Bridge) -> None:
    """Nothing crosses when the caller's scope is cancelled beforehand."""
    begun = False

    async def begin() -> None:
        nonlocal begun
        begun = True

    with trio.CancelScope() as scope:
        scope.cancel()
        await bridge.run(begin)
    await bridge.run(double, 1)
    assert not begun


async def test_closing_answers_the_calls_that_are_under_way(kind: BridgeKind) -> None:
    """A caller that still waits when the bridge closes learns that the store is unavailable."""
    failures: list[StoreUnavailable] = []

    async with trio.open_nursery() as nursery:

        async def call(bridge: Bridge) -> None:
            try:
                await bridge.run(asyncio.sleep, 60)
            except StoreUnavailable as error:
                failures.append(error)

        async with Bridge(kind) as bridge:
            nursery.start_soon(call, bridge)
            await trio.testing.wait_all_tasks_blocked(0.02)
    assert len(failures) == 1
    with pytest.raises(StoreUnavailable):
        await bridge.run(double, 1)


async def test_the_thread_lowers_the_switch_interval_and_puts_it_back() -> None:
    """The interpreter-wide setting is changed only while a thread bridge is open."""
    before = sys.getswitchinterval()
    async with Bridge("thread"):
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_SECONDS)
    assert sys.getswitchinterval() == pytest.approx(before)


class Shouter(asyncio.Protocol):
    """Answers each piece with what trio makes of it."""

    def __init__(self, calls: TrioCalls, shout: Callable[[bytes], Awaitable[bytes]]) -> None:
        self.calls = calls
        self.shout = shout
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        task = self.calls.loop.create_task(self.answer(data))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def answer(self, data: bytes) -> None:
        try:
            said = await self.calls(self.shout, data)
        except (ValueError, StoreUnavailable) as error:
            said = str(error).encode()
        if not self.transport.is_closing():
            self.transport.write(said)


async def test_a_server_of_asyncio_calls_back_into_trio(bridge: Bridge) -> None:
    """Results and errors cross; the end closes the listener, cuts the connections and cancels the calls."""
    stuck, left = trio.Event(), trio.Event()

    async def shout(data: bytes) -> bytes:
        if data == b"no":
            raise ValueError("refused")
        if data == b"wait":
            stuck.set()
            try:
                await trio.sleep_forever()
            finally:
                left.set()
        await trio.lowlevel.checkpoint()
        return data.upper()

    async with trio.open_nursery() as nursery:
        serve = partial(bridge.serve, lambda calls: Shouter(calls, shout), "127.0.0.1", 0)
        port = await nursery.start(serve)
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            for said, answered in ((b"hello", b"HELLO"), (b"no", b"refused")):
                with trio.fail_after(PATIENCE_SECONDS):
                    await stream.send_all(said)
                assert await stream.receive_some() == answered
            await stream.send_all(b"wait")
            await stuck.wait()
            nursery.cancel_scope.cancel()
    assert left.is_set()
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream("127.0.0.1", port)


async def test_a_port_that_is_taken_is_an_error(bridge: Bridge) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            await bridge.serve(lambda calls: asyncio.Protocol(), "127.0.0.1", port)
