"""The media fetcher on the real runtime: over real HTTP against the played platform, and in virtual time with
a model."""

import hashlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from adapters.fetcher import Fetchers, storage_key
from adapters.guard import Guard
from adapters.port import Account, Declined, ErrorClass, FoundMedia, MediaSource
from adapters.simulators import Fault, Settings, Simulator, demo_account
from adapters.simulators.http import HttpServer, Request, Response
from adapters.simulators.media import png
from adapters.whatsapp.media import WhatsAppMedia
from engine.domain.conversation.messages import KIND as CONVERSATION_KIND
from engine.domain.conversation.messages import MediaVerdict
from engine.domain.outbox import Fetch, Wake, media_address
from engine.domain.rows import AttachmentPatch, AttachmentRow
from engine.errors import CommitFailed, InvalidInput, NotFound, StoreUnavailable
from engine.ports import MediaFile
from engine.runtime import Address, Context, Decider, Effects, Lane, LoadRequest, Supervisor, System
from tests.adapters.model import BASE_MS, TENANT, wall_ms
from tests.patience import PATIENCE_SECONDS

ACCOUNT = demo_account()
DAY_MS = 86_400_000


class Files:
    """A `MediaStore` in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.away = 0

    async def write(
        self, key: str, chunks: Callable[[], Awaitable[bytes]], *, media_type: str, bytes_max: int
    ) -> MediaFile:
        content = b""
        while chunk := await chunks():
            content += chunk
            if len(content) > bytes_max:
                raise InvalidInput("too large", code="too_large")
        if self.away:
            self.away -= 1
            raise StoreUnavailable("away")
        self.files[key] = content
        digest = hashlib.sha256(content).hexdigest()
        return MediaFile(storage_key=key, size=len(content), sha256=digest, media_type=media_type)

    async def read(self, key: str) -> bytes:
        raise NotFound("fetchers only write")

    async def delete(self, key: str) -> None:
        self.files.pop(key, None)


def row(number: int, source_id: str | None = "1", **more: Any) -> AttachmentRow:
    columns: dict[str, Any] = {
        "tenant_id": TENANT,
        "id": number,
        "conversation_id": 500,
        "message_id": 10_000 + number,
        "channel_id": 70,
        "contact_key": "a",
        "type": "image",
        "state": "pending",
        "source_id": source_id,
        "source_url": None,
        "sha256": None,
        "filename": None,
        "media_type": "image/png",
        "size": None,
        "width": None,
        "height": None,
        "duration": None,
        "storage_key": None,
        "attempts": 0,
        "next_try_at": None,
        "error": None,
        "created_at": wall_ms(),
    }
    return AttachmentRow(**{**columns, **more})


class World:
    """One tenant's fetcher with its store; the conversations write down the verdicts and end the rows."""

    def __init__(
        self, source: MediaSource, guard: Guard, base_url: str = "", *, bytes_max: int = 1_000_000
    ) -> None:
        self.files = Files()
        self.rows: dict[int, AttachmentRow] = {}
        self.patches: list[AttachmentPatch] = []
        self.verdicts: list[MediaVerdict] = []
        self.verdict_errors: deque[Exception] = deque()
        self.away = False
        self._news = trio.Event()
        account = Account(
            tenant_id=TENANT,
            channel_id=70,
            platform="whatsapp",
            external_id=ACCOUNT.phone_number_id,
            credentials={"access_token": ACCOUNT.access_token},
            settings={"base_url": base_url},
        )
        self.fetchers = Fetchers(
            ask=self._ask,
            committer=self,
            store=self,
            media=self.files,
            sources={"whatsapp": source},
            accounts=lambda tenant_id, channel_id: account if channel_id == 70 else None,
            guard=guard,
            wall_ms=wall_ms,
            random=Random(1),
            bytes_max=bytes_max,
            rows_max=50,
        )
        ids = iter(range(1, 10**9))
        conversation = Decider(kind=CONVERSATION_KIND, decide=self._decide, load=_load)
        self.system: System = System(
            tenant=Supervisor(name="tenant", children=[conversation, self.fetchers.worker()]),
            committer=self,
            ids=lambda: next(ids),
            wall_ms=wall_ms,
            random=Random(2),
            config_for=lambda tenant: None,
            dead_letter=lambda letter: (),
        )

    async def _ask(self, address: Address, message: object, *, timeout_seconds: float) -> Any:
        return await self.system.ask(address, message, timeout_seconds=timeout_seconds)

    def _decide(self, state: object, message: object, context: Context) -> Effects | None:
        assert isinstance(message, MediaVerdict)
        if self.verdict_errors:
            raise self.verdict_errors.popleft()
        self.verdicts.append(message)
        patch = AttachmentPatch(
            tenant_id=TENANT, id=message.attachment_id, state="stored" if message.stored else "failed"
        )
        return Effects(commit=(patch,))

    def submit(
        self,
        address: Address,
        generation: int,
        rows: Sequence[object],
        done: Callable[[CommitFailed | None], None],
    ) -> None:
        for one in rows:
            if isinstance(one, AttachmentPatch):
                self.patches.append(one)
                for name in ("state", "attempts", "next_try_at", "error"):
                    if (value := getattr(one, name)) is not None:
                        setattr(self.rows[one.id], name, value)
        trio.lowlevel.current_trio_token().run_sync_soon(done, None)
        self._news.set()
        self._news = trio.Event()

    def has_room(self, tenant: int, lane: Lane = Lane.NORMAL) -> bool:
        return True

    def when_room(self, callback: Callable[[], None]) -> None:
        callback()

    async def load_outbox(
        self, tenant_id: int, channel_id: int, *, after_id: int, limit: int
    ) -> Sequence[Any]:
        return []

    async def load_pending_media(
        self, tenant_id: int, *, after_id: int, limit: int
    ) -> Sequence[AttachmentRow]:
        await trio.sleep(0.001)
        if self.away:
            raise StoreUnavailable("away")
        return [
            one for number, one in sorted(self.rows.items()) if number > after_id and one.state == "pending"
        ][:limit]

    async def open_work(self, tenant_id: int) -> Any:
        raise NotImplementedError("not a fetcher's business")

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        async with self.fetchers, trio.open_nursery() as nursery:
            await nursery.start(self.system.run)
            yield self
            await self.system.stop(seconds_max=10)
            nursery.cancel_scope.cancel()

    def fetch(self, *rows: AttachmentRow) -> None:
        for one in rows:
            self.rows[one.id] = one
            assert self.system.offer(media_address(TENANT), Fetch(one, "whatsapp"))

    async def verdict(self, count: int = 1) -> list[MediaVerdict]:
        while len(self.verdicts) < count:
            await self._news.wait()
        return self.verdicts


async def _load(requests: Sequence[LoadRequest]) -> Sequence[object]:
    return [object() for _ in requests]


# ------------------------------------------------------------------ real HTTP


@asynccontextmanager
async def playing(bytes_max: int = 1_000_000) -> AsyncIterator[tuple[Simulator, World]]:
    async with Simulator([ACCOUNT], settings=Settings(window_enforced=False)).running() as simulator:
        guard = Guard(allowed=[simulator.base_url.removeprefix("http://")])
        async with (
            WhatsAppMedia(guard) as source,
            World(source, guard, simulator.base_url, bytes_max=bytes_max).running() as world,
        ):
            with trio.fail_after(PATIENCE_SECONDS):
                yield simulator, world


def put(simulator: Simulator, content: bytes) -> str:
    return simulator.media.put(ACCOUNT.phone_number_id, "image/png", content, trio.current_time()).id


@pytest.mark.real_time
async def test_a_file_is_fetched_and_stored_under_tenant_day_and_id() -> None:
    """With the promised digest, the platform's media type and its size; the conversation hears it."""
    content = png(10, 20, 30)
    digest = hashlib.sha256(content).hexdigest()
    async with playing() as (simulator, world):
        one = row(1, put(simulator, content), sha256=digest, created_at=BASE_MS)
        world.fetch(one)
        (verdict,) = await world.verdict()
    key = f"{TENANT}/2025-10-09/1"
    assert storage_key(TENANT, one) == key
    assert world.files.files == {key: content}
    assert (verdict.stored, verdict.storage_key, verdict.media_type, verdict.size, verdict.sha256) == (
        True,
        key,
        "image/png",
        len(content),
        digest,
    )
    assert (verdict.attachment_id, verdict.message_id, verdict.attempts) == (1, 10_001, 1)


@pytest.mark.real_time
async def test_a_download_that_fails_is_tried_again_on_its_own() -> None:
    """An error of the look-up, then a cut download: two retries with their rows, then stored."""
    async with playing() as (simulator, world):
        simulator.fault(Fault(kind="error", route="media_look_up", code=131000, times=1))
        world.fetch(row(1, put(simulator, png(1, 1, 1))))
        world.fetch(row(2, put(simulator, png(2, 2, 2))))
        await world.verdict(2)
        (statistics,) = world.fetchers.statistics()
    assert {verdict.attachment_id: verdict.stored for verdict in world.verdicts} == {1: True, 2: True}
    (patch,) = [patch for patch in world.patches if patch.next_try_at is not None]
    assert patch.attempts == 1
    assert patch.next_try_at is not None
    assert (statistics.stored, statistics.retried) == (2, 1)


@pytest.mark.real_time
async def test_an_address_that_has_ended_is_looked_up_again_at_once() -> None:
    """404 for the first download: a fresh look-up within the same attempt."""
    async with playing() as (simulator, world):
        simulator.fault(Fault(kind="error", route="media_download", code=100, status=404, times=1))
        world.fetch(row(1, put(simulator, png(1, 1, 1))))
        (verdict,) = await world.verdict()
    assert (verdict.stored, verdict.attempts) == (True, 1)


@pytest.mark.real_time
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_file_over_the_limit_is_given_up() -> None:
    """Whether the size is announced by the look-up or only seen while reading."""
    async with playing(bytes_max=1_000) as (simulator, world):
        world.fetch(row(1, put(simulator, bytes(5_000))))
        (verdict,) = await world.verdict()
    assert not verdict.stored
    assert verdict.error == "The file is larger than 1000 bytes."
    assert world.files.files == {}


class Direct:
    """A `MediaSource` whose addresses the test chooses."""

    platform = "whatsapp"

    def __init__(self, *found: FoundMedia | Declined) -> None:
        self.found = deque(found)
        self.calls: list[float] = []

    async def look_up(
        self, source_id: str | None, source_url: str | None, account: Account
    ) -> FoundMedia | Declined:
        self.calls.append(trio.current_time())
        return self.found.popleft() if len(self.found) > 1 else self.found[0]


@pytest.mark.real_time
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (
            Response(200, bytes(2_000), headers={"Content-Type": "image/png"}),
            "The file is larger than 1000 bytes.",
        ),
        (
            Response(302, headers={"Location": "http://169.254.169.254/latest"}),
            "The file's address is not one",
        ),
        (Response(302, headers={"Location": "file:///etc/passwd"}), "The file"),
    ],
)
async def test_what_must_not_be_fetched_is_given_up_at_once(answer: Response, error: str) -> None:
    """A large body that was not announced; a redirect to a metadata service."""

    async def give(request: Request) -> Response:
        return answer

    server = HttpServer(give, body_limit=lambda method, path: 10)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        source = Direct(FoundMedia(url=server.base_url, headers={}))
        guard = Guard(allowed=[f"127.0.0.1:{server.port}"])
        with trio.fail_after(PATIENCE_SECONDS):
            async with World(source, guard, bytes_max=1_000).running() as world:
                world.fetch(row(1))
                if "file:" in str(answer.headers):
                    while not world.patches:
                        await world._news.wait()
                    assert world.files.files == {}
                else:
                    (verdict,) = await world.verdict()
                    assert not verdict.stored
                    assert (verdict.error or "").startswith(error)
        nursery.cancel_scope.cancel()
    assert world.files.files == {}


# ------------------------------------------------------------------ virtual time, no sockets

GONE = Declined(error_class=ErrorClass.BAD_REQUEST, platform_code="100", message="gone")
TROUBLE = Declined(error_class=ErrorClass.TRANSIENT, platform_code="131000", message="trouble")


async def test_trouble_is_retried_with_growing_waits_and_an_end(autojump_clock: MockClock) -> None:
    """Twenty attempts over some hours; then the attachment has failed, with the reason."""
    source = Direct(TROUBLE)
    async with World(source, Guard()).running() as world:
        world.fetch(row(1))
        (verdict,) = await world.verdict()
    waits = [later - at for at, later in zip(source.calls, source.calls[1:], strict=False)]
    assert len(source.calls) == 20
    assert all(least <= wait < least * 1.2 + 1 for wait, least in zip(waits, (2, 4, 8, 16), strict=False))
    assert max(waits) < 3600 * 1.2 + 1
    assert (verdict.stored, verdict.attempts, verdict.error) == (False, 20, "trouble")


async def test_a_file_that_came_in_a_delivery_is_stored_without_a_call(autojump_clock: MockClock) -> None:
    """Within the same limit and with the same digest as one that is downloaded."""
    source = Direct(FoundMedia(content=b"%PDF", media_type="application/pdf"), FoundMedia(content=b"%PDF+"))
    async with World(source, Guard(), bytes_max=4).running() as world:
        world.fetch(row(1))
        (verdict,) = await world.verdict()
        world.fetch(row(2))
        (_, refused) = await world.verdict(2)
    assert (verdict.stored, verdict.size, verdict.media_type) == (True, 4, "application/pdf")
    assert world.files.files[verdict.storage_key or ""] == b"%PDF"
    assert not refused.stored
    assert refused.attempts == 1


async def test_a_file_that_is_gone_is_given_up_soon(autojump_clock: MockClock) -> None:
    """Three attempts, since it may not be everywhere yet."""
    source = Direct(GONE)
    async with World(source, Guard()).running() as world:
        world.fetch(row(1))
        (verdict,) = await world.verdict()
    assert len(source.calls) == 3
    assert not verdict.stored


async def test_a_week_is_the_end(autojump_clock: MockClock) -> None:
    """The platform has forgotten the file: one attempt and no more."""
    source = Direct(TROUBLE)
    async with World(source, Guard()).running() as world:
        world.fetch(row(1, created_at=BASE_MS - 7 * DAY_MS))
        await world.verdict()
    assert len(source.calls) == 1


async def test_a_start_continues_what_is_pending(autojump_clock: MockClock) -> None:
    """Rows from the store, each at its time and with its attempts; more than fit in memory; a store that is
    away at first."""
    source = Direct(GONE)
    world = World(source, Guard())
    for number in range(1, 121):
        world.rows[number] = row(number, attempts=2)
    world.rows[200] = row(200, attempts=2, next_try_at=BASE_MS + 600_000)
    world.away = True
    async with world.running():
        assert world.system.offer(media_address(TENANT), Wake())
        await trio.sleep(60)
        assert source.calls == []
        world.away = False
        await world.verdict(121)
    assert sorted(verdict.attachment_id for verdict in world.verdicts) == [*range(1, 121), 200]
    assert source.calls[-1] >= 600


async def test_a_conversation_that_breaks_does_not_repeat_the_download(autojump_clock: MockClock) -> None:
    """Parked after three crashes: the row is ended by the fetcher."""
    source = Direct(GONE)
    async with World(source, Guard()).running() as world:
        world.verdict_errors.extend([ZeroDivisionError("planted")] * 3)
        world.fetch(row(1, attempts=2))
        await trio.sleep(10_000)
    assert len(source.calls) == 1
    assert world.rows[1].state == "failed"


async def test_an_account_that_is_gone_ends_its_downloads(autojump_clock: MockClock) -> None:
    """Nobody could authorize them."""
    source = Direct(TROUBLE)
    async with World(source, Guard()).running() as world:
        world.fetch(row(1, channel_id=71))
        (verdict,) = await world.verdict()
    assert source.calls == []
    assert not verdict.stored


async def test_the_told_row_is_not_changed(autojump_clock: MockClock) -> None:
    """It belongs to the conversation that told it."""
    source = Direct(GONE)
    world = World(source, Guard())
    async with world.running():
        told = row(1)
        world.rows[1] = row(1)
        assert world.system.offer(media_address(TENANT), Fetch(told, "whatsapp"))
        await world.verdict()
    assert (told.attempts, told.next_try_at) == (0, None)
