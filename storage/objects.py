"""Received and uploaded files (engine.ports.MediaStore), in a directory or in any object store, by URL.

`obstore` speaks `file:`, `s3:`, `gs:`, `az:` and `memory:`. Its asynchronous half wants asyncio, so its
blocking half runs in threads here, at most `THREADS_MAX` at a time: others wait, no loop does.

Promises   a file appears under its key whole or not at all: what arrives is first gathered apart (in memory
           up to a megabyte, then in a temporary file), measured, hashed, and put into the store in one step.
           A cancelled write either never began that step, or finishes it and returns.
Limits     `bytes_max` of each write, checked as the bytes arrive.
Leaves     who may read what, and signed URLs, to the gateway.
"""

import hashlib
import re
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
import obstore.exceptions
import obstore.store
import trio

from engine.errors import InvalidInput, NotFound, StoreUnavailable
from engine.ports import MediaFile, OpenFile

THREADS_MAX: Final = 8
"""Enough to fill a network; each holds a thread, and a few megabytes while it uploads."""

MEMORY_MAX: Final = 1024 * 1024
"""Most media are photos and voice notes below this: they never touch the temporary directory."""

PIECE_BYTES: Final = 256 * 1024
"""What of a file is in memory while it is sent to somebody, however slowly he reads."""

_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


class Objects:
    """The store behind `url`. A directory is made if it is not there."""

    def __init__(self, url: str) -> None:
        self._local = url.startswith("file:")
        if self._local:
            # What customers sent is nobody's on this machine but ours.
            Path(url2pathname(urlsplit(url).path)).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._store = obstore.store.from_url(url)
        self._threads = trio.CapacityLimiter(THREADS_MAX)

    async def write(
        self, key: str, chunks: Callable[[], Awaitable[bytes]], *, media_type: str, bytes_max: int
    ) -> MediaFile:
        """See engine.ports. What was under the key before is replaced in one step."""
        _check(key)
        digest = hashlib.sha256()
        size = 0
        with tempfile.SpooledTemporaryFile(MEMORY_MAX) as gathered:
            while chunk := await chunks():
                size += len(chunk)
                if size > bytes_max:
                    raise InvalidInput(f"The file is larger than {bytes_max} bytes.", code="too_large")
                digest.update(chunk)
                if size > MEMORY_MAX:
                    await trio.to_thread.run_sync(gathered.write, chunk, limiter=self._threads)
                else:
                    gathered.write(chunk)
            gathered.seek(0)
            await self._run(self._put, key, gathered, media_type)
        return MediaFile(storage_key=key, size=size, sha256=digest.hexdigest(), media_type=media_type)

    async def read(self, key: str) -> bytes:
        """The whole file. Raises NotFound."""
        _check(key)
        content: bytes = await self._run(self._get, key)
        return content

    async def open(self, key: str) -> OpenFile:
        """The file in pieces, for readers of any speed. Raises NotFound."""
        _check(key)
        found = await self._run(obstore.get, self._store, key)
        pieces = iter(found.stream(min_chunk_size=PIECE_BYTES))

        async def chunk() -> bytes:
            return bytes(await self._run(next, pieces, b""))

        return OpenFile(size=found.meta["size"], chunk=chunk)

    async def delete(self, key: str) -> None:
        """Remove the file; it is no error if there is none."""
        _check(key)
        with suppress(NotFound):
            await self._run(self._delete, key)

    async def delete_older(self, prefix: str, before: datetime, *, limit: int) -> int:
        """Remove files under a prefix that were last written before a time, at most `limit`; how many."""
        found: list[str] = await self._run(self._older, prefix, before, limit)
        for key in found:
            await self.delete(key)
        return len(found)

    async def _run(self, fn: Callable[..., Any], *args: object) -> Any:
        try:
            return await trio.to_thread.run_sync(fn, *args, limiter=self._threads)
        except FileNotFoundError:
            raise NotFound("There is no such file.") from None
        except (obstore.exceptions.BaseError, OSError) as error:
            raise StoreUnavailable(f"The object store is not available: {type(error).__name__}.") from error

    def _put(self, key: str, content: Any, media_type: str) -> None:
        # A directory keeps no attributes; whoever serves the file takes the type from its row.
        attributes = None if self._local else {"Content-Type": media_type}
        obstore.put(self._store, key, content, attributes=attributes)

    def _get(self, key: str) -> bytes:
        return bytes(obstore.get(self._store, key).bytes())

    def _older(self, prefix: str, before: datetime, limit: int) -> list[str]:
        found: list[str] = []
        for page in obstore.list(self._store, prefix):
            found += [each["path"] for each in page if each["last_modified"] < before]
            if len(found) >= limit:
                break
        return found[:limit]

    def _delete(self, key: str) -> None:
        obstore.delete(self._store, key)


def _check(key: str) -> None:
    """Keys are ours, not a stranger's; one that leaves the store's directory is a mistake made elsewhere."""
    if not _KEY.fullmatch(key) or ".." in key:
        raise ValueError(f"not a storage key: {key!r}")
