"""Files: uploads to be sent, and the links behind attachments.

Files are streamed to and from the object store: nothing holds a whole one in memory, neither on the way in
nor for those who fetch it.
What is served never runs in a browser: only media that browsers render passively is shown inline, under a
policy that forbids everything, and all else is a download.
"""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Final, cast
from urllib.parse import quote

import trio
from msgspec import Meta, Struct
from quart import Response
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from engine.domain.ids import ID_MAX
from engine.domain.resources import rfc3339
from engine.domain.rows import FileRow
from engine.errors import InvalidInput, MailboxFull, NotFound
from engine.ports import OpenFile
from gateway.envelope import Answer
from gateway.permissions import Permission
from gateway.routing import Access, Routes, TenantCall
from gateway.schemas import Input, invalid

routes = Routes("files")

UPLOAD_SECONDS_MAX: Final = 300.0
"""100 MB over a slow office line (3 Mbit/s)."""

UPLOADS_AT_ONCE: Final = 32
URL_SAFE: Final = "%/:?#[]@!$&'()*+,;=~"
"""What stays as it is in an address that is one (RFC 3986); all else, line feeds among it, is escaped."""

FIELD_BYTES_MAX: Final = 16 * 1024
FILENAME_CHARACTERS_MAX: Final = 240

INLINE_TYPES: Final = frozenset(
    {
        "image/jpeg", "image/png", "image/gif", "image/webp",
        "audio/aac", "audio/amr", "audio/mp4", "audio/mpeg", "audio/ogg",
        "video/3gpp", "video/mp4", "video/webm",
        "text/plain",
    }
)  # fmt: skip
"""SVG, HTML, XML and PDF are missing on purpose: they can carry scripts."""

_MEDIA_TYPE: Final = re.compile(r"^[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}$")

_uploads = trio.Semaphore(UPLOADS_AT_ONCE)


class FileOut(Struct, frozen=True, kw_only=True):
    id: int
    filename: str
    media_type: str
    size: int
    url: str
    created_at: str


class LinkQuery(Input, frozen=True, kw_only=True):
    expires: Annotated[int, Meta(ge=0, le=ID_MAX)]
    signature: Annotated[str, Meta(min_length=1, max_length=128)]


@routes.post(
    "/upload", needs=Permission.FILES_UPLOAD, answer=FileOut, status=201, seconds_max=UPLOAD_SECONDS_MAX
)
async def upload(call: TenantCall) -> Answer:
    """Upload a file (multipart/form-data, part `file`), to be sent by its id."""
    try:
        _uploads.acquire_nowait()
    except trio.WouldBlock:
        raise MailboxFull("Too many uploads at once; try again in a moment.", retry_after_seconds=5) from None
    try:
        return await _store(call)
    finally:
        _uploads.release()


@routes.get("/files/<id:file_id>", needs=Access.PUBLIC, media="*/*", also=(302, 403))
async def download(call: TenantCall, file_id: int, query: LinkQuery) -> Response:
    """Fetch a file or an attachment by its signed link."""
    call.site.links.check(call.tenant.id, file_id, query.expires, query.signature)
    attachment = await call.deps.reads.attachment(call.tenant.id, file_id)
    file = await call.deps.reads.file(call.tenant.id, file_id) if attachment is None else None
    found = attachment or file
    if found is None or found.storage_key is None:
        if attachment is not None and attachment.source_url is not None and attachment.source_id is None:
            return Response(
                b"", status=302, headers={"Location": quote(attachment.source_url, safe=URL_SAFE)}
            )
        raise NotFound("There is no such file.")
    opened = await call.deps.media.open(found.storage_key)
    headers = {**_headers(found.media_type, found.filename), "Content-Length": str(opened.size)}
    return Response(_pieces(opened), headers=headers)


async def _pieces(opened: OpenFile) -> AsyncIterator[bytes]:
    """The next one only when the last has been taken: links are shared, and readers may be slow."""
    while chunk := await opened.chunk():
        yield chunk


async def _store(call: TenantCall) -> Answer:
    parts = _Parts(call)
    part = await parts.file()
    now = call.deps.engine.now()
    file_id = call.deps.engine.new_id()
    day = datetime.fromtimestamp(now / 1000, UTC).date().isoformat()
    stored = await call.deps.media.write(
        f"{call.tenant.id}/{day}/{file_id}",
        parts.chunk,
        media_type=_media_type(part.headers.get("Content-Type")),
        bytes_max=call.deps.upload_bytes_max,
    )
    row = FileRow(
        tenant_id=call.tenant.id,
        id=file_id,
        filename=_filename(part.filename),
        media_type=stored.media_type,
        size=stored.size,
        sha256=stored.sha256,
        storage_key=stored.storage_key,
        user_id=call.caller.user_id,
        created_at=now,
    )
    await call.deps.engine.commit(call.tenant.id, [row])
    shown = FileOut(
        id=row.id,
        filename=row.filename,
        media_type=row.media_type,
        size=row.size,
        url=call.sign()(call.tenant.id, row.id),
        created_at=rfc3339(now) or "",
    )
    return Answer(data=shown, status=201, message="Uploaded")


class _Parts:
    """The parts of a multipart body as they arrive. A body that is none raises InvalidInput."""

    def __init__(self, call: TenantCall) -> None:
        request = call.request
        if request.mimetype != "multipart/form-data":
            raise InvalidInput("An upload must be multipart/form-data.", code="unsupported_media_type")
        boundary = request.mimetype_params.get("boundary", "")
        if not 1 <= len(boundary) <= 70 or not boundary.isascii():  # RFC 2046, 5.1.1
            raise InvalidInput("The multipart boundary is missing.", code="unsupported_media_type")
        self._body = cast(AsyncIterator[bytes], request.body)
        self._decoder = MultipartDecoder(boundary.encode(), max_parts=10)
        self._skipped = 0
        self._ended = False

    async def file(self) -> File:
        """The part called `file`; small fields before it are passed over."""
        while True:
            event = await self._next()
            if isinstance(event, File) and event.name == "file":
                return event
            if isinstance(event, Epilogue):
                raise invalid("file", "Is required.")
            if isinstance(event, Field | File):
                continue
            self._skipped += len(event.data) if isinstance(event, Data) else 0
            if self._skipped > FIELD_BYTES_MAX:
                raise invalid("file", "Must be the first large part.")

    async def chunk(self) -> bytes:
        """The file's next bytes; b"" at its end."""
        while not self._ended:
            event = await self._next()
            if not isinstance(event, Data):
                raise InvalidInput("The multipart body ends in the middle of the file.", code="not_multipart")
            self._ended = not event.more_data
            if event.data:
                return bytes(event.data)
        return b""

    async def _next(self) -> Event:
        try:
            while isinstance(event := self._decoder.next_event(), NeedData):
                try:
                    data: bytes | None = await anext(self._body)
                except StopAsyncIteration:
                    data = None
                self._decoder.receive_data(data)
        except ValueError as error:
            raise InvalidInput("The body is not multipart/form-data.", code="not_multipart") from error
        return event


def _media_type(claimed: str | None) -> str:
    kind = (claimed or "").partition(";")[0].strip().lower()
    return kind if _MEDIA_TYPE.match(kind) else "application/octet-stream"


def _filename(claimed: str | None) -> str:
    """The last part of whatever path the client sent, without control characters."""
    name = re.split(r"[/\\]", claimed or "")[-1]
    name = "".join(char for char in name if char.isprintable()).strip()
    return name[-FILENAME_CHARACTERS_MAX:] or "file"


def _headers(media_type: str | None, filename: str | None) -> dict[str, str]:
    kind = (media_type or "").partition(";")[0].strip().lower()
    inline = kind in INLINE_TYPES
    disposition = "inline" if inline else "attachment"
    if filename:
        disposition += f"; filename*=UTF-8''{quote(_filename(filename), safe='')}"  # RFC 6266, RFC 5987
    return {
        "Content-Type": kind if inline else "application/octet-stream",
        "Content-Disposition": disposition,
        "Content-Security-Policy": "default-src 'none'; sandbox",
        # The link names one file for ever and dies by itself; it is nobody else's to keep.
        "Cache-Control": "private, max-age=3600, immutable",
    }
