"""A tenant's media fetcher: brings what customers sent from the platform into our own store.

Owns       the tenant's pending attachments while they are in memory.
Limits     5,000 attachments in memory; the rest is read from the store again, where each is a committed row.
           Eight downloads at a time; each within five minutes, the byte limit and five redirects. 20 attempts
           over seven days at most, since the platform forgets the file then (WhatsApp sheet, 5.4).
Promises   A download never blocks or repeats its message: it has rows and retries of its own. What is stored
           has the promised digest. Every address goes through the guard (adapters/guard.py). The conversation
           hears the end, stored or failed, and commits it.
Restart    reads the store afresh; a download that was cut is begun again, and leaves nothing visible before.
Stop       lets downloads end within the runtime's deadline, then cuts them.
"""

import copy
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from heapq import heappop, heappush
from math import inf
from random import Random
from typing import Any, Final

import httpx
import structlog
import trio
from msgspec import Struct

from adapters.committing import Commit, room
from adapters.guard import AddressRefused, BodyTooLarge, Guard, guarded_client, origin_of
from adapters.port import AccountOf, Declined, ErrorClass, FoundMedia, MediaSource
from adapters.reporting import Ask, Leaving, report
from engine.domain.conversation.messages import MediaVerdict, address_of
from engine.domain.outbox import MEDIA_KIND, Fetch, Wake
from engine.domain.rows import AttachmentPatch, AttachmentRow
from engine.errors import CommitFailed, InvalidInput, MijraError, Unavailable
from engine.ports import MediaFile, MediaStore, OutboxStore, chunks_of
from engine.runtime import Address, Committer, Envelope, Inbox, Restart, Worker

log = structlog.get_logger()

ROWS_MAX: Final = 5_000
"""About 5 MB."""
CONCURRENCY: Final = 8
"""Enough for a burst of photos, few enough that one tenant's videos leave bandwidth to the others."""
ATTEMPTS_MAX: Final = 20
"""With waits doubling from 2 s to an hour: nine hours of trying."""
GONE_ATTEMPTS_MAX: Final = 3
"""When the platform says that there is no such file: it may not be everywhere yet, but it will not come
later."""
AGE_MS_MAX: Final = 7 * 86_400_000
"""Media ids that came by webhook live seven days (WhatsApp sheet, 5.4)."""

_DOWNLOAD_SECONDS_MAX: Final = 300.0
"""100 MB at a third of a MB a second."""
_WAIT_SECONDS: Final = (2.0, 3_600.0)
_PAGE: Final = 500
_IDLE_SECONDS_MAX: Final = 300.0
_STORE_RETRY_SECONDS: Final = 5.0
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,64}/[A-Za-z0-9!#$&^_.+-]{1,64}(;[ -~]{0,100})?")
_UNNAMED = "application/octet-stream"

_GONE: Final = frozenset({ErrorClass.BAD_REQUEST, ErrorClass.RECIPIENT})


class FetcherStatistics(Struct, frozen=True, kw_only=True):
    """One tenant's fetcher at this moment; counts since it became active."""

    tenant_id: int
    waiting: int
    in_hand: int
    stored: int
    failed: int
    retried: int


class _Failed(Exception):
    """One attempt failed. `final`: no other one helps."""

    def __init__(self, code: str, sentence: str, *, final: bool = False, gone: bool = False) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence
        self.final = final
        self.gone = gone


class Fetchers:
    """What the tenants' fetchers share; makes the runtime's spec of them. Use as an async context manager.

    `sources` are the platforms' adapters by name; `accounts` opens an account's credentials.
    """

    def __init__(
        self,
        *,
        ask: Ask,
        committer: Committer,
        store: OutboxStore,
        media: MediaStore,
        sources: Mapping[str, MediaSource],
        accounts: AccountOf,
        guard: Guard,
        wall_ms: Callable[[], int],
        random: Random,
        bytes_max: int,
        rows_max: int = ROWS_MAX,
    ) -> None:
        self.ask = ask
        self.committer = committer
        self.store = store
        self.media = media
        self.sources = sources
        self.accounts = accounts
        self.wall_ms = wall_ms
        self.random = random
        self.bytes_max = bytes_max
        self.rows_max = rows_max
        # Sixteen tenants with full hands.
        self.client = guarded_client(guard, connections_max=128, timeout=httpx.Timeout(30.0, connect=5.0))
        self._live: dict[int, _Fetcher] = {}

    async def __aenter__(self) -> "Fetchers":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    def worker(self) -> Worker:
        """The spec for the tenants' supervisor."""
        return Worker(
            kind=MEDIA_KIND,
            run=self._run,
            restart=Restart.TRANSIENT,
            mailbox_max=4_096,
            # A cut download costs nothing but its repetition.
            stop_seconds_max=3.0,
            lazily=True,
        )

    def statistics(self) -> list[FetcherStatistics]:
        """The tenants whose fetchers are active now."""
        return [fetcher.statistics() for fetcher in self._live.values()]

    async def _run(self, inbox: Inbox) -> None:
        tenant_id = inbox.address.tenant
        fetcher = _Fetcher(self, inbox, tenant_id)
        self._live[tenant_id] = fetcher
        try:
            await fetcher.run()
        finally:
            del self._live[tenant_id]


class _Fetcher:
    """One activation."""

    def __init__(self, shared: Fetchers, inbox: Inbox, tenant_id: int) -> None:
        self._shared = shared
        self._inbox = inbox
        self._tenant_id = tenant_id
        self._rows: dict[int, AttachmentRow] = {}
        self._queue: list[tuple[float, int]] = []
        self._in_hand = 0
        self._closing = False
        # Something may be in the store that is not here; also true at the start.
        self._behind = True
        self._reading = False
        self._ended: set[int] = set()
        self._changed = trio.Event()
        self._stored = self._failed = self._retried = 0
        self._log = log.bind(tenant=tenant_id, actor="media")

    def statistics(self) -> FetcherStatistics:
        return FetcherStatistics(
            tenant_id=self._tenant_id,
            waiting=len(self._rows) - self._in_hand,
            in_hand=self._in_hand,
            stored=self._stored,
            failed=self._failed,
            retried=self._retried,
        )

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._schedule, nursery)
            nursery.start_soon(self._read_store)
            await self._read_inbox()
            self._closing = True
            self._stir()
            while self._in_hand:
                await self._changed.wait()
            nursery.cancel_scope.cancel()

    async def _read_inbox(self) -> None:
        while True:
            with trio.move_on_after(_IDLE_SECONDS_MAX) as nap:
                batch = await self._inbox.take(256)
                if not batch:
                    return
                self._take_in(batch)
            if nap.cancelled_caught and not self._rows and not self._behind:
                return

    def _take_in(self, batch: Sequence[Envelope]) -> None:
        for envelope in batch:
            match envelope.message:
                case Fetch(row=row):
                    self._admit(row)
                case Wake():
                    self._behind = True
                case other:
                    self._log.error("media.misaddressed", message_type=type(other).__name__)
            envelope.reply(None)
        self._stir()

    def _admit(self, row: AttachmentRow) -> None:
        if row.id in self._rows or row.id in self._ended:
            return
        if len(self._rows) >= self._shared.rows_max:
            self._behind = True
            return
        # A copy: attempts are counted here, and the row that was told belongs to whoever told it.
        self._rows[row.id] = copy.copy(row)
        late_ms = (row.next_try_at or 0) - self._shared.wall_ms()
        heappush(self._queue, (trio.current_time() + max(0, late_ms) / 1000, row.id))

    async def _read_store(self) -> None:
        while True:
            while not self._behind or 2 * len(self._rows) > self._shared.rows_max:
                await self._changed.wait()
            self._behind = False
            self._reading = True
            after = 0
            while len(self._rows) < self._shared.rows_max:
                try:
                    page = await self._shared.store.load_pending_media(
                        self._tenant_id, after_id=after, limit=_PAGE
                    )
                except Unavailable as error:
                    self._log.warning(
                        "media.store_unavailable", error=error.message, seconds=_STORE_RETRY_SECONDS
                    )
                    await trio.sleep(_STORE_RETRY_SECONDS)
                    continue
                for row in page:
                    after = row.id
                    self._admit(row)
                self._stir()
                if len(page) < _PAGE:
                    break
            else:
                self._behind = True
            self._reading = False
            self._ended.clear()

    def _stir(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _schedule(self, nursery: trio.Nursery) -> None:
        while True:
            now = trio.current_time()
            while (
                self._queue and self._queue[0][0] <= now and self._in_hand < CONCURRENCY and not self._closing
            ):
                _, row_id = heappop(self._queue)
                self._in_hand += 1
                nursery.start_soon(self._work, self._rows[row_id])
            full = self._closing or self._in_hand >= CONCURRENCY
            wake_at = inf if full or not self._queue else self._queue[0][0]
            changed = self._changed
            with trio.move_on_at(wake_at):
                await changed.wait()

    # -------------------------------------------------------------- one attempt

    async def _work(self, row: AttachmentRow) -> None:
        attempts = row.attempts + 1
        try:
            try:
                stored = await self._fetch(row)
            except _Failed as failure:
                await self._failed_attempt(row, attempts, failure)
            else:
                self._log.info("media.stored", **_names(row), attempt=attempts, size=stored.size)
                self._stored += 1
                await self._end(row, attempts, stored=stored)
        except CommitFailed as error:
            # Nothing depends on this row's count: the attempt is made again.
            self._log.error("media.commit_failed", **_names(row), code=error.code)
            self._later(row, _STORE_RETRY_SECONDS)
        except Leaving:
            self._forget(row)
        finally:
            self._in_hand -= 1
            self._stir()

    async def _failed_attempt(self, row: AttachmentRow, attempts: int, failure: _Failed) -> None:
        too_old = self._shared.wall_ms() - row.created_at >= AGE_MS_MAX
        most = GONE_ATTEMPTS_MAX if failure.gone else ATTEMPTS_MAX
        if failure.final or too_old or attempts >= most:
            self._log.warning("media.failed", **_names(row), attempt=attempts, code=failure.code)
            self._failed += 1
            await self._end(row, attempts, error=failure.sentence)
            return
        first, longest = _WAIT_SECONDS
        wait = min(longest, first * 2.0 ** (attempts - 1)) * (1.0 + 0.2 * self._shared.random.random())
        next_try_at = self._shared.wall_ms() + round(wait * 1000)
        self._log.warning(
            "media.retry", **_names(row), attempt=attempts, code=failure.code, seconds=round(wait, 1)
        )
        self._retried += 1
        await self._patch(row, attempts=attempts, next_try_at=next_try_at, error=failure.sentence)
        row.attempts, row.next_try_at = attempts, next_try_at
        self._later(row, wait)

    def _later(self, row: AttachmentRow, seconds: float) -> None:
        heappush(self._queue, (trio.current_time() + seconds, row.id))

    async def _fetch(self, row: AttachmentRow) -> MediaFile:
        """Looks up and downloads. An address that has ended (404) is looked up once more within the
        attempt."""
        account = self._shared.accounts(self._tenant_id, row.channel_id)
        source = self._shared.sources.get(account.platform) if account is not None else None
        if account is None or source is None:
            raise _Failed("no_account", "The account it came in on is no longer connected.", final=True)
        for again in (True, False):
            found = await source.look_up(row.source_id, row.source_url, account)
            if isinstance(found, Declined):
                raise _Failed(found.platform_code, found.message, gone=found.error_class in _GONE)
            stored = await self._download(row, found)
            if stored is not None:
                return stored
            if not again:
                break
        raise _Failed("http_404", "The platform no longer has the file.", gone=True)

    async def _download(self, row: AttachmentRow, found: FoundMedia) -> MediaFile | None:
        """None: there is nothing at this address (any more)."""
        if found.content is not None:
            return await self._store_content(row, found, found.content)
        if found.size is not None and found.size > self._shared.bytes_max:
            raise self._too_large()
        try:
            bounded = {
                "body_bytes_max": self._shared.bytes_max,
                "meant_for": origin_of(httpx.URL(found.url)),
            }
            with trio.fail_after(_DOWNLOAD_SECONDS_MAX):
                async with self._shared.client.stream(
                    "GET", found.url, headers=found.headers, follow_redirects=True, extensions=bounded
                ) as answer:
                    if answer.status_code in (404, 410):
                        return None
                    if (
                        answer.status_code != 200
                        or answer.headers.get("content-encoding", "identity") != "identity"
                    ):
                        raise _Failed(f"http_{answer.status_code}", "The platform did not hand out the file.")
                    stored = await self._store(row, found, answer)
        except BodyTooLarge as error:
            raise self._too_large() from error
        except AddressRefused as error:
            raise _Failed(
                "address_refused", "The file's address is not one that may be fetched.", final=True
            ) from error
        except (
            httpx.HTTPError,
            httpx.StreamError,
            httpx.InvalidURL,
            UnicodeError,
            trio.TooSlowError,
        ) as error:
            raise _Failed(
                "unreachable", f"The file could not be downloaded ({type(error).__name__})."
            ) from error
        promised = row.sha256 or found.sha256
        if promised is not None and stored.sha256 != promised:
            await self._delete(stored.storage_key)
            raise _Failed("digest", "The downloaded file is not the one that was announced.")
        return stored

    async def _store_content(self, row: AttachmentRow, found: FoundMedia, content: bytes) -> MediaFile:
        """What came in a delivery that is kept: no address is called."""
        return await self._write(row, chunks_of(content), _media_type(found.media_type, row.media_type))

    async def _store(self, row: AttachmentRow, found: FoundMedia, answer: httpx.Response) -> MediaFile:
        length = answer.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > self._shared.bytes_max:
            raise self._too_large()
        # As the chunks come: gathering them into larger ones would only add a copy.
        body = answer.aiter_raw()

        async def chunk() -> bytes:
            async for one in body:
                if one:
                    return one
            return b""

        media_type = _media_type(answer.headers.get("content-type"), found.media_type, row.media_type)
        return await self._write(row, chunk, media_type)

    async def _write(
        self, row: AttachmentRow, chunk: Callable[[], Awaitable[bytes]], media_type: str
    ) -> MediaFile:
        try:
            return await self._shared.media.write(
                storage_key(self._tenant_id, row),
                chunk,
                media_type=media_type,
                bytes_max=self._shared.bytes_max,
            )
        except InvalidInput as error:
            raise self._too_large() from error
        except Unavailable as error:
            raise _Failed("store_unavailable", "The file store cannot be reached.") from error

    def _too_large(self) -> _Failed:
        limit = self._shared.bytes_max
        return _Failed("too_large", f"The file is larger than {limit} bytes.", final=True)

    async def _delete(self, key: str) -> None:
        try:
            await self._shared.media.delete(key)
        except MijraError as error:
            # The next attempt writes under the same key; what is left if there is none is an orphan and no
            # harm.
            self._log.warning("media.delete_failed", code=error.code)

    # -------------------------------------------------------------- ending

    async def _end(
        self, row: AttachmentRow, attempts: int, *, stored: MediaFile | None = None, error: str | None = None
    ) -> None:
        """Tells the conversation; where it cannot take the verdict, the row is ended from here."""
        verdict = MediaVerdict(
            attachment_id=row.id,
            conversation_id=row.conversation_id,
            message_id=row.message_id,
            stored=stored is not None,
            attempts=attempts,
            storage_key=stored.storage_key if stored is not None else None,
            media_type=stored.media_type if stored is not None else None,
            size=stored.size if stored is not None else None,
            sha256=stored.sha256 if stored is not None else None,
            error=error,
        )
        failure = await report(
            self._shared.ask,
            address_of(self._tenant_id, row.channel_id, row.contact_key),
            verdict,
            random=self._shared.random,
            closing=lambda: self._closing,
            delayed=lambda trouble, seconds: self._log.warning(
                "media.report_delayed", **_names(row), code=trouble.code, seconds=seconds
            ),
        )
        if failure is not None:
            self._log.error("media.report_failed", **_names(row), code=failure.code, error=failure.message)
            await self._patch(
                row,
                state="stored" if stored is not None else "failed",
                attempts=attempts,
                storage_key=verdict.storage_key,
                media_type=verdict.media_type,
                size=verdict.size,
                sha256=verdict.sha256,
                error=error,
            )
        if self._reading:
            self._ended.add(row.id)
        self._forget(row)

    def _forget(self, row: AttachmentRow) -> None:
        self._rows.pop(row.id, None)

    async def _patch(self, row: AttachmentRow, **columns: Any) -> None:
        await room(self._shared.committer, self._tenant_id)
        patch = AttachmentPatch(tenant_id=self._tenant_id, id=row.id, **columns)
        # An address for each attachment, as for outbox items: one failing set abandons no other's.
        address = Address("attachment", self._tenant_id, row.id)
        await Commit(self._shared.committer, address, self._shared.wall_ms(), (patch,)).wait()


def storage_key(tenant_id: int, row: AttachmentRow) -> str:
    """Where an attachment is stored: by tenant and day, so that retention can remove whole days."""
    day = datetime.fromtimestamp(row.created_at / 1000, UTC).date().isoformat()
    return f"{tenant_id}/{day}/{row.id}"


def _media_type(*candidates: str | None) -> str:
    """The first that is one and says something."""
    for candidate in candidates:
        if candidate is not None and _MEDIA_TYPE.fullmatch(candidate) and candidate != _UNNAMED:
            return candidate
    return _UNNAMED


def _names(row: AttachmentRow) -> dict[str, Any]:
    return {"conversation": row.conversation_id, "message": row.message_id, "attachment": row.id}
