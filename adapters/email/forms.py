"""The forms that Mailgun and SendGrid post: urlencoded, or multipart with files.

Promises    `read_form` raises InvalidInput for what is no form, and nothing else. What kind it is is seen in
            the bytes, so that a stored delivery can be read again without its headers.
Limits      Fields and files in number; their size is the delivery's.
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

from msgspec import Struct
from werkzeug.exceptions import HTTPException
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from adapters.email.words import text_of
from engine.errors import InvalidInput

PARTS_MAX: Final = 2_000
"""Mailgun posts each header of a mail as a field of its own, beside its attachments."""

PART_HEAD_BYTES_MAX: Final = 16 * 1024
"""Of a field or file: a name and a type. One of megabytes takes seconds, and nobody is believed yet."""

_END_OF_HEAD: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_BOUNDARY: Final = re.compile(rb"\s*--([^\r\n]{1,200}?)[ \t]*\r?\n")


class Upload(Struct, frozen=True, kw_only=True):
    filename: str
    media_type: str
    content: bytes


class Form(Struct, frozen=True, kw_only=True):
    """Fields by name, the first of each, as bytes: each may have a charset of its own. Files likewise."""

    fields: Mapping[str, bytes]
    files: Mapping[str, Upload]

    def text(self, name: str, charset: str | None = None) -> str | None:
        value = self.fields.get(name)
        return text_of(value, charset) if value is not None else None


def is_multipart(body: bytes) -> bool:
    return _BOUNDARY.match(body[:300]) is not None


def read_form(body: bytes) -> Form:
    """The form that a body is. Raises InvalidInput."""
    boundary = _BOUNDARY.match(body[:300])
    if boundary is not None:
        return _multipart(body, boundary[1])
    try:
        pairs = parse_qsl(
            body,
            keep_blank_values=True,
            max_num_fields=PARTS_MAX,
        )
    except ValueError as error:
        raise InvalidInput("the form has too many fields", code="not_understood") from error
    fields: dict[str, bytes] = {}
    for name, value in pairs:
        fields.setdefault(text_of(name, None), value)
    if not fields:
        raise InvalidInput("the body is no form", code="not_understood")
    return Form(fields=fields, files={})


def _multipart(body: bytes, boundary: bytes) -> Form:
    _check_heads(body, boundary)
    decoder = MultipartDecoder(boundary, max_parts=PARTS_MAX)
    fields: dict[str, bytes] = {}
    files: dict[str, Upload] = {}
    part: Field | File | None = None
    chunks: list[bytes] = []
    try:
        decoder.receive_data(body)
        while not isinstance(event := decoder.next_event(), Epilogue | NeedData):
            if isinstance(event, Field | File):
                part, chunks = event, []
            elif isinstance(event, Data) and part is not None:
                chunks.append(event.data)
                if not event.more_data:
                    _take(part, b"".join(chunks), fields, files)
                    part = None
    except (ValueError, LookupError, HTTPException, AttributeError) as error:
        raise InvalidInput("the body is no form that can be read", code="not_understood") from error
    if not fields and not files:
        raise InvalidInput("the body is no form", code="not_understood")
    return Form(fields=fields, files=files)


def _check_heads(body: bytes, boundary: bytes) -> None:
    """Raises InvalidInput for a part whose head is too long."""
    for begun in re.finditer(rb"(?:\A|[\r\n])--" + re.escape(boundary) + rb"[ \t]*[\r\n]", body):
        start = begun.end() - 1
        if _END_OF_HEAD.search(body, start, start + PART_HEAD_BYTES_MAX) is None:
            raise InvalidInput("a part of the form has a head without end", code="not_understood")


def _take(part: Field | File, data: bytes, fields: dict[str, bytes], files: dict[str, Upload]) -> None:
    name = part.name
    if isinstance(part, Field):
        fields.setdefault(name, data)
        return
    upload = Upload(
        filename=part.filename or "",
        media_type=part.headers.get("content-type") or "application/octet-stream",
        content=data,
    )
    files.setdefault(name, upload)
