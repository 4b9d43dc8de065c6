"""The platform's media store: small real files that customers send, and what the server uploads.

Limits      10 000 objects and 256 MB in all; the oldest go first and are then missing, as expired media are.
            One upload at most the sheet's limit for its kind.
Promises    An address lives `url_seconds`, an object that came by webhook 7 days, an uploaded one 30 days
            (sheet, 5.4). The digest is that of the bytes.
"""

import base64
import hashlib
import secrets
import struct
import zlib
from collections import OrderedDict

from msgspec import Struct

from adapters.simulators.graph_errors import GraphError
from adapters.simulators.http import Response

_DAY_SECONDS = 86_400.0
_OBJECTS_MAX = 10_000
_BYTES_MAX = 256 * 1024 * 1024
_URLS_PER_OBJECT_MAX = 16
"""Look-ups of one object within the five minutes that an address lives; more replace the oldest."""

MEGABYTE = 1_000_000
UPLOAD_LIMITS: dict[str, int] = {
    "image/jpeg": 5 * MEGABYTE,
    "image/png": 5 * MEGABYTE,
    "audio/aac": 16 * MEGABYTE,
    "audio/amr": 16 * MEGABYTE,
    "audio/mpeg": 16 * MEGABYTE,
    "audio/mp4": 16 * MEGABYTE,
    "audio/ogg": 16 * MEGABYTE,
    "video/mp4": 16 * MEGABYTE,
    "video/3gpp": 16 * MEGABYTE,
    "image/webp": 500_000,
    "application/pdf": 100 * MEGABYTE,
    "text/plain": 100 * MEGABYTE,
    "application/msword": 100 * MEGABYTE,
    "application/vnd.ms-excel": 100 * MEGABYTE,
    "application/vnd.ms-powerpoint": 100 * MEGABYTE,
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": 100 * MEGABYTE,
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": 100 * MEGABYTE,
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": 100 * MEGABYTE,
}
"""Media type -> bytes at most (sheet, 5.4)."""


class MediaObject(Struct, kw_only=True):
    """One file. `urls` maps the secret of a handed-out address to the time at which it ends."""

    id: str
    phone_number_id: str
    mime_type: str
    content: bytes
    sha256: bytes
    ends_at: float
    urls: dict[str, float]


def file_response(stored: MediaObject | None) -> Response:
    """The file, or that there is none."""
    if stored is None:
        return Response(404, b"", "text/plain")
    return Response(200, stored.content, stored.mime_type)


class MediaStore:
    """All files of all numbers; `now` is monotonic seconds."""

    def __init__(self, url_seconds: float, first_id: int) -> None:
        self._url_seconds = url_seconds
        self._next_id = first_id
        self._objects: OrderedDict[str, MediaObject] = OrderedDict()
        self._bytes = 0

    def upload(self, phone_number_id: str, mime_type: str, content: bytes, now: float) -> MediaObject:
        """What the server uploads; 131053 for a wrong type or size."""
        bare = mime_type.partition(";")[0].strip().lower()
        limit = UPLOAD_LIMITS.get(bare)
        if limit is None:
            raise GraphError(131053, f"Unsupported media type {bare}")
        if not content or len(content) > limit:
            raise GraphError(
                131053, f"The file has {len(content)} bytes; 1 to {limit} are allowed for {bare}"
            )
        return self.put(phone_number_id, mime_type, content, now, days=30)

    def put(
        self, phone_number_id: str, mime_type: str, content: bytes, now: float, *, days: float = 7
    ) -> MediaObject:
        """Keeps a file and gives it an id."""
        stored = MediaObject(
            id=str(self._next_id),
            phone_number_id=phone_number_id,
            mime_type=mime_type,
            content=content,
            sha256=hashlib.sha256(content).digest(),
            ends_at=now + days * _DAY_SECONDS,
            urls={},
        )
        self._next_id += 1
        self._objects[stored.id] = stored
        self._bytes += len(content)
        while len(self._objects) > _OBJECTS_MAX or self._bytes > _BYTES_MAX:
            _, oldest = self._objects.popitem(last=False)
            self._bytes -= len(oldest.content)
        return stored

    def get(self, media_id: str, now: float) -> MediaObject | None:
        """The file, unless it never was or has ended."""
        stored = self._objects.get(media_id)
        return stored if stored is not None and stored.ends_at > now else None

    def delete(self, media_id: str) -> bool:
        """Whether there was such a file."""
        stored = self._objects.pop(media_id, None)
        if stored is not None:
            self._bytes -= len(stored.content)
        return stored is not None

    def new_url_secret(self, stored: MediaObject, now: float) -> str:
        """The part of a new address that makes it hard to guess and lets it end."""
        secret = secrets.token_urlsafe(16)
        stored.urls[secret] = now + self._url_seconds
        if len(stored.urls) > _URLS_PER_OBJECT_MAX:
            del stored.urls[next(iter(stored.urls))]
        return secret

    def by_url(self, media_id: str, secret: str, now: float) -> MediaObject | None:
        """The file behind an address that has not ended."""
        stored = self.get(media_id, now)
        if stored is None or stored.urls.get(secret, 0.0) <= now:
            return None
        return stored


def sha256_text(stored: MediaObject) -> str:
    """The digest as webhooks spell it: base64."""
    return base64.b64encode(stored.sha256).decode("ascii")


# ── files that customers send ────────────────────────────────────────────────────────────────────────


def png(red: int, green: int, blue: int, side: int = 32) -> bytes:
    """A square of one colour that every decoder opens (PNG specification, 8-bit RGB)."""
    row = b"\x00" + bytes((red, green, blue)) * side

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", head),
            chunk(b"IDAT", zlib.compress(row * side)),
            chunk(b"IEND", b""),
        )
    )


def pdf(title: str) -> bytes:
    """One page with a line of text (PDF 1.4, with a true cross-reference table). `title` is ASCII."""
    text = f"BT /F1 18 Tf 40 100 Td ({title}) Tj ET".encode("ascii", "replace")
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(text), text),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, one in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, table)
    return bytes(out)


def silent_voice_note(seconds: float) -> bytes:
    """Opus silence in an Ogg container (RFC 7845), 20 ms a frame."""
    frames = max(1, int(seconds * 50))
    head = b"OpusHead" + struct.pack("<BBHIhB", 1, 1, 0, 48_000, 0, 0)
    tags = b"OpusTags" + struct.pack("<I", 4) + b"none" + struct.pack("<I", 0)
    pages = [_ogg_page(0x02, 0, 0, [head]), _ogg_page(0, 0, 1, [tags])]
    # 250 packets of 3 bytes stay below the 255 segments that an Ogg page can have (RFC 3533).
    for number, first in enumerate(range(0, frames, 250), 2):
        count = min(250, frames - first)
        last = first + count == frames
        pages.append(_ogg_page(0x04 if last else 0, (first + count) * 960, number, [b"\xf8\xff\xfe"] * count))
    return b"".join(pages)


def _ogg_page(flags: int, granule: int, number: int, packets: list[bytes]) -> bytes:
    lacing = bytes(len(packet) for packet in packets)
    head = b"OggS" + struct.pack("<BBqIII", 0, flags, granule, 1, number, 0) + bytes([len(lacing)]) + lacing
    page = head + b"".join(packets)
    return page[:22] + struct.pack("<I", _ogg_crc(page)) + page[26:]


def _ogg_crc(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = (crc << 8) & 0xFFFFFFFF ^ _CRC_TABLE[(crc >> 24) ^ byte]
    return crc


def _crc_entry(byte: int) -> int:
    value = byte << 24
    for _ in range(8):
        value = (value << 1) ^ 0x04C11DB7 if value & 0x80000000 else value << 1
    return value & 0xFFFFFFFF


_CRC_TABLE = [_crc_entry(byte) for byte in range(256)]


def mp4_beginning(size: int = 2_048) -> bytes:
    """Starts like an MP4 file and has no tracks: enough to be stored and recognised, not to be played."""
    ftyp = struct.pack(">I", 24) + b"ftypisom\x00\x00\x02\x00isommp42"
    return ftyp + struct.pack(">I", size) + b"mdat" + bytes(size - 8)


def webp_pixel() -> bytes:
    """The smallest lossless WebP: one pixel."""
    data = b"\x2f\x00\x00\x00\x10\x07\x10\x11\x11\x88\x88\xfe\x07\x00"
    chunk = b"VP8L" + struct.pack("<I", 13) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk
