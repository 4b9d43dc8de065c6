"""A mail's bytes into its parts (RFC 2045 to 2049, 2183, 2231), with the limits that hostile mail asks for.

Promises    `open_mail` and `part_of` raise nothing, whatever the bytes; what is beyond a limit or cannot be
            read is named in the letter's `flaws`, and the raw mail keeps it. Parts are numbered in their
            order, so that `part_of` finds again what `open_mail` has named.
Limits      Nesting, parts and size of headers, below. Time is linear in the size within them.
Leaves      what a part's text means to `reading`.
"""

import re
from collections.abc import Iterable, Iterator
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from itertools import islice
from typing import Any, Final

from adapters.email.letter import FILES_MAX, File, Headers, Letter
from adapters.email.words import clean, header_text, parameter_text, text_of

HEAD_BYTES_MAX: Final = 256 * 1024
"""Of the mail itself. Long chains of relays and signatures have some 30 KB; servers refuse at 64 KB or
more."""
HEADERS_MAX: Final = 1_000
MULTIPARTS_MAX: Final = 60
"""Nested or side by side. Each open one costs a comparison for every line, so depth times lines is the price;
people's mail, forwarded many times, has about ten."""
PARTS_MAX: Final = 250
TEXT_BYTES_MAX: Final = 1024 * 1024
"""Of a part that is shown as text; a novel. The raw mail keeps all."""

_MULTIPART: Final = re.compile(rb"content-type:[ \t\r\n]{0,20}(?:multipart|message)/", re.IGNORECASE)
_END_OF_HEAD: Final = re.compile(rb"\r?\n\r?\n")
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]{1,80}/[a-z0-9!#$&^_.+-]{1,80}")
_FILENAME_MAX: Final = 200
_REPORTS: Final = frozenset(
    {"message/delivery-status", "message/feedback-report", "message/disposition-notification",
     "message/global-delivery-status", "text/rfc822-headers", "message/rfc822", "message/global-headers"}
)  # fmt: skip
_REPORT_BYTES_MAX: Final = 64 * 1024

_EXTENSIONS: Final = {
    "text/calendar": "invite.ics",
    "text/html": "page.html",
    "text/plain": "text.txt",
    "text/csv": "table.csv",
    "text/vcard": "contact.vcf",
    "text/x-vcard": "contact.vcf",
    "application/pdf": "document.pdf",
    "application/ms-tnef": "winmail.dat",
    "application/vnd.ms-tnef": "winmail.dat",
    "application/pkcs7-mime": "smime.p7m",
    "application/x-pkcs7-mime": "smime.p7m",
    "application/pkcs7-signature": "smime.p7s",
    "application/x-pkcs7-signature": "smime.p7s",
    "application/pgp-signature": "signature.asc",
    "application/pgp-encrypted": "version.asc",
    "image/jpeg": "image.jpg",
    "image/png": "image.png",
    "image/gif": "image.gif",
    "image/webp": "image.webp",
    "audio/mpeg": "audio.mp3",
    "video/mp4": "video.mp4",
}

_AS_IS: Final = compat32.clone(mangle_from_=False, max_line_length=0)

_BROKEN: Final = (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError)
"""What the standard library's parser has raised over the years for broken mail."""


def open_mail(raw: bytes) -> Letter:
    """The whole mail. Bytes that are none give a letter with the bytes as its text."""
    raw, flaws, readable = _within_limits(raw)
    if not readable:
        return Letter(headers=_head_only(raw), text=_rest_as_text(raw), flaws=flaws)
    try:
        message = _parse(raw)
        return _Opening(message, flaws).letter()
    except _BROKEN as error:
        flaw = f"The mail's structure could not be read ({type(error).__name__})."
        return Letter(headers=_head_only(raw), text=_rest_as_text(raw), flaws=(*flaws, flaw))


def part_of(raw: bytes, number: int) -> bytes | None:
    """The decoded bytes of a part, by its number in `File.where`; None when there is no such part."""
    limited, _, readable = _within_limits(raw)
    if not readable:
        return None
    try:
        for at, part in enumerate(_leaves(_parse(limited))):
            if at == number:
                return _content(part)
    except _BROKEN:
        return None
    return None


def head_of(raw: bytes) -> Message:
    """A head alone, as a message without content."""
    return BytesParser(policy=compat32).parsebytes(raw[:HEAD_BYTES_MAX], headersonly=True)


def is_text(part: Message) -> bool:
    """Whether a part is shown as the mail's text, rather than kept as a file."""
    disposition = str(part.get("Content-Disposition", "")).partition(";")[0].strip().lower()
    shown = media_type_of(part.get_content_type()) in ("text/plain", "text/html")
    return shown and disposition != "attachment" and not _name_of(part)


def report_parts(parts: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    """Of a report's parts, as (media type, bytes), those that programs read, by their media type."""
    found: dict[str, bytes] = {}
    for media_type, content in parts:
        if media_type_of(media_type) in _REPORTS:
            found.setdefault(media_type_of(media_type), content[:_REPORT_BYTES_MAX])
    return found


def media_type_of(text: object) -> str:
    """A media type in lower case; application/octet-stream for what is none."""
    name = str(text or "").partition(";")[0].strip().lower()
    return name if _MEDIA_TYPE.fullmatch(name) else "application/octet-stream"


def file_name(given: str, media_type: str, number: int) -> str:
    """A name that is only a name: no folders, no control characters, of bounded length, its ending kept."""
    name = clean(given).replace("\\", "/").rpartition("/")[2].strip().strip(".") or ""
    if not name:
        usual = _EXTENSIONS.get(media_type)
        if usual is None:
            usual = "message.eml" if media_type == "message/rfc822" else f"attachment-{number}"
        return usual
    if len(name) > _FILENAME_MAX:
        stem, dot, ending = name.rpartition(".")
        keep = f"{dot}{ending}" if dot and len(ending) <= 10 else ""
        name = (stem if keep else name)[: _FILENAME_MAX - len(keep)] + keep
    return name


def _within_limits(raw: bytes) -> tuple[bytes, tuple[str, ...], bool]:
    """The mail, cut to what may be parsed, and whether its parts may be."""
    flaws: list[str] = []
    raw = raw.lstrip(b"\r\n")
    if raw[:5] == b"From ":  # a mailbox file's line
        raw = raw.partition(b"\n")[2]
    end = _END_OF_HEAD.search(raw, 0, HEAD_BYTES_MAX)
    if end is None and len(raw) > HEAD_BYTES_MAX:
        flaws.append(f"The headers are larger than {HEAD_BYTES_MAX} bytes; they were cut.")
        raw = raw[:HEAD_BYTES_MAX] + b"\r\n\r\n"
    elif end is not None and raw.count(b"\n", 0, end.end()) > 20 * HEADERS_MAX:
        flaws.append("The headers have too many lines; they were cut.")
        raw = b"".join(raw[: end.end()].splitlines(keepends=True)[: 20 * HEADERS_MAX]) + raw[end.start() :]
    if next(islice(_MULTIPART.finditer(raw), MULTIPARTS_MAX, None), None) is None:
        return raw, tuple(flaws), True
    flaws.append(f"The mail has more than {MULTIPARTS_MAX} containers; its parts were not read.")
    return raw, tuple(flaws), False


def _parse(raw: bytes) -> Message:
    return BytesParser(policy=compat32).parsebytes(raw)


def _head_only(raw: bytes) -> Headers:
    end = _END_OF_HEAD.search(raw)
    try:
        return _headers(BytesParser(policy=compat32).parsebytes(raw[: end.end() if end else len(raw)], True))
    except _BROKEN:
        return Headers(())


def _rest_as_text(raw: bytes) -> str:
    end = _END_OF_HEAD.search(raw)
    return text_of(raw[end.end() if end else 0 :][:TEXT_BYTES_MAX], None)


def _headers(message: Message) -> Headers:
    fields = [(str(name), str(value)) for name, value in message.raw_items()]
    return Headers(fields[:HEADERS_MAX])


def _leaves(message: Message) -> Iterator[Message]:
    """Parts that hold something, in order, without recursion. A mail within the mail is one part."""
    waiting = [message]
    while waiting:
        part = waiting.pop()
        inside = part.get_payload()
        if isinstance(inside, list) and part.get_content_maintype() == "multipart":
            waiting.extend(each for each in reversed(inside) if isinstance(each, Message))
        else:
            yield part


def _content(part: Message) -> bytes:
    """A part's decoded bytes, as far as they can be decoded."""
    if part.is_multipart():
        # A mail within the mail, or a report's blocks of headers.
        inside = part.get_payload()
        return b"\n".join(each.as_bytes(policy=_AS_IS) for each in inside if isinstance(each, Message))
    try:
        data = part.get_payload(decode=True)
    except _BROKEN:
        del part["Content-Transfer-Encoding"]
        data = part.get_payload(decode=True)
    return data if isinstance(data, bytes) else b""


class _Opening:
    """One mail being opened."""

    def __init__(self, message: Message, flaws: tuple[str, ...]) -> None:
        self._message = message
        self._flaws = list(flaws)
        self._plain: list[str] = []
        self._html: list[str] = []
        self._files: list[File] = []
        self._report: dict[str, bytes] = {}

    def letter(self) -> Letter:
        message = self._message
        kind = media_type_of(message.get_content_type())
        is_report = kind == "multipart/report"
        for number, part in enumerate(_leaves(message)):
            if number >= PARTS_MAX:
                self._flaws.append(
                    f"The mail has more than {PARTS_MAX} parts; the others are in the raw mail."
                )
                break
            self._take(number, part, is_report)
        return Letter(
            headers=_headers(message),
            text="\n".join(self._plain) if self._plain else None,
            html="\n".join(self._html) if self._html else None,
            files=tuple(self._files),
            flaws=tuple(self._flaws),
            kind=kind,
            encrypted=_encrypted(message, kind),
            report=self._report,
        )

    def _take(self, number: int, part: Message, is_report: bool) -> None:
        media_type = media_type_of(part.get_content_type())
        if is_report and media_type in _REPORTS:
            self._report.setdefault(media_type, _content(part)[:_REPORT_BYTES_MAX])
        if is_text(part):
            self._read(part, media_type)
        elif part.is_multipart() and media_type.startswith("multipart/"):
            self._flaws.append("A container of parts has none.")
        else:
            self._keep(number, part, media_type, _name_of(part))

    def _read(self, part: Message, media_type: str) -> None:
        data = _content(part)
        if len(data) > TEXT_BYTES_MAX:
            self._flaws.append(f"A text is longer than {TEXT_BYTES_MAX} bytes; the raw mail has all of it.")
            data = data[:TEXT_BYTES_MAX]
        text = text_of(data, _parameter(part, "charset") or None)
        if media_type == "text/plain" and _parameter(part, "format").lower() == "flowed":
            text = _unflowed(text)
        (self._plain if media_type == "text/plain" else self._html).append(text)

    def _keep(self, number: int, part: Message, media_type: str, given: str) -> None:
        if len(self._files) >= FILES_MAX:
            flaw = f"The mail has more than {FILES_MAX} attachments; the others are in the raw mail."
            if flaw not in self._flaws:
                self._flaws.append(flaw)
            return
        if media_type == "message/rfc822" and not given:
            given = _subject_of_inner(part)
        content_id = header_text(str(part.get("Content-ID", ""))).strip("<> ") or None
        self._files.append(
            File(
                where=str(number),
                filename=file_name(given, media_type, number),
                media_type=media_type,
                content_id=content_id[:250] if content_id is not None else None,
            )
        )


def _name_of(part: Message) -> str:
    for header, name in (("Content-Disposition", "filename"), ("Content-Type", "name")):
        try:
            value: Any = part.get_param(name, None, header)
        except _BROKEN:
            value = None
        if value:
            return parameter_text(value)
    return ""


def _parameter(part: Message, name: str) -> str:
    try:
        value: Any = part.get_param(name, None)
    except _BROKEN:
        return ""
    return parameter_text(value)[:100] if value else ""


def _subject_of_inner(part: Message) -> str:
    inside = part.get_payload()
    if isinstance(inside, list) and inside and isinstance(inside[0], Message):
        subject = header_text(str(dict(inside[0].raw_items()).get("Subject", "")))
        if subject:
            return f"{subject[:100].replace('/', '-')}.eml"
    return ""


def _encrypted(message: Message, kind: str) -> str | None:
    if kind == "multipart/encrypted":
        return "pgp"
    if kind in ("application/pkcs7-mime", "application/x-pkcs7-mime"):
        return None if _parameter(message, "smime-type").lower() == "signed-data" else "smime"
    return None


def _unflowed(text: str) -> str:
    """RFC 3676: a line that ends in a space goes on in the next, unless it is the mark of a signature or the
    next one is quoted otherwise."""
    out: list[str] = []
    joined = False
    for line in text.split("\n"):
        depth = len(line) - len(line.lstrip(">"))
        bare = line[depth:]
        bare = bare.removeprefix(" ") if depth or bare.startswith(" ") else bare
        if joined and depth == 0 and bare != "-- ":
            out[-1] += bare
        else:
            out.append(f"{'>' * depth} {bare}" if depth else bare)
        joined = depth == 0 and bare.endswith(" ") and bare != "-- "
    return "\n".join(out)
