"""Mail into one event, however it was brought.

Promises    Pure; whatever the bytes, an event, and the same one each time. A large mail takes up to some
            seconds: call it in a thread where the loop must not wait.
Leaves      what only the account can know to `recognising` (which reply tokens are real); bringing the files
            from the object store to `media`.
"""

import hashlib
import html as entities
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import getaddresses, parsedate_tz
from typing import Any, Final

from msgspec import Struct

from adapters.email.automatic import why_automatic
from adapters.email.html import HTML_CHARACTERS_MAX, harmless, plain_text
from adapters.email.letter import File, Headers, LeftOut, Letter
from adapters.email.mime import open_mail
from adapters.email.quoting import fold
from adapters.email.reports import report_of
from adapters.email.threading import ids_in, normalised, token_in_address, trimmed
from adapters.email.words import clean, header_text
from engine.domain.content import compact
from engine.domain.inbound import Contact, InboundEvent, Media, MessageReceived, StatusChanged, Unsupported
from engine.domain.outbound import Thread

Json = dict[str, Any]

BODY_CHARACTERS_MAX: Final = 100_000
"""About forty pages. Everything that is stored is pushed to screens; the raw mail keeps the rest."""
QUOTED_CHARACTERS_MAX: Final = 50_000
KEPT_HTML_MAX: Final = 128 * 1024
"""After cleaning. Gmail shows 102 KB of a mail."""
SUBJECT_MAX: Final = 500
ADDRESSES_MAX: Final = 50
"""Of To and of Cc."""

WARNING: Final = "The sender's address is not proven: the mail may be from somebody else."
"""Where nothing speaks for the sender and something against: the fact `warning`."""

_ADDRESS: Final = re.compile(r"[^\s@<>,;:\"()\[\]\\]{1,64}@[^\s@<>,;:\"()\[\]\\]{1,189}")
_FACT_MAX: Final = 500
_HEADER_CHARACTERS_MAX: Final = 20_000
_TAGS: Final = re.compile(r"<[^<>]*>")
_YEARS: Final = range(1995, 2200)
_PLAIN_BROKEN: Final = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)


class Person(Struct, frozen=True, kw_only=True):
    """An address, in lower case, with the name beside it."""

    address: str
    name: str | None = None


class Brought(Struct, frozen=True, kw_only=True):
    """What is known of a mail beside itself. `account` is the address that it came in on; `envelope_from` the
    SMTP sender ("" for the empty one, None unknown), `envelope_to` the SMTP recipients; `source` what files'
    ids begin with; `at` a time in ms for mail without a date; `token` a reply token that a provider found;
    `facts` what the provider says of it (spam, SPF, its own id); `left_out` what was not brought of it."""

    account: str
    source: str
    envelope_from: str | None = None
    envelope_to: tuple[str, ...] = ()
    at: int = 0
    token: str | None = None
    facts: Json = {}
    left_out: LeftOut | None = None


def read_message(
    raw: bytes,
    *,
    account: str,
    envelope_from: str | None,
    envelope_to: Sequence[str],
    source: str,
    at: int = 0,
    left_out: LeftOut | None = None,
    facts: Json | None = None,
) -> InboundEvent:
    """The event of one mail. `account` is the address that it came in on, lower-case. `envelope_from` is the
    SMTP sender ("" for the empty one, None where nobody knows it), `envelope_to` the SMTP recipients.
    `source` says where the bytes will be kept: `adapters.email.parts.source_of(raw)`. `at`: when it came, in
    ms, for mail without a date that can be read."""
    brought = Brought(
        account=account.lower(),
        source=source,
        envelope_from=envelope_from,
        envelope_to=tuple(envelope_to[:ADDRESSES_MAX]),
        at=at,
        left_out=left_out,
        facts=facts or {},
    )
    return event_of(open_mail(raw), brought)


def event_of(letter: Letter, brought: Brought) -> InboundEvent:
    """A status for a report that names a message; a message for all else; `Unsupported` for mail without any
    sender, which only the raw delivery keeps."""
    headers = letter.headers
    at = date_of(headers.get("date")) or brought.at
    report = report_of(letter)
    if report is not None and (report.recipient or brought.envelope_from):
        return StatusChanged(
            contact=Contact(keys=(report.recipient or str(brought.envelope_from).lower(),)),
            platform_id=report.about,
            status=report.status or "sent",
            at=at,
            raw_status=report.raw_status,
            error=report.error,
            detail=dict(report.detail),
        )
    sender = sender_of(headers, brought.envelope_from)
    if sender is None:
        return Unsupported(
            contact=None,
            platform_id=None,
            at=at or None,
            raw=compact(source=brought.source, subject=_subject(headers)),
            reason="mail without a sender's address",
        )
    return _message(letter, brought, sender, at)


def _message(letter: Letter, brought: Brought, sender: Person, at: int) -> MessageReceived:
    headers = letter.headers
    subject = _subject(headers)
    left_out = brought.left_out
    files = [each for each in letter.files if left_out is None or each.where not in left_out.sizes]
    content, text = _content(letter, subject, files)
    if left_out is not None:
        content |= _left_out(letter, left_out)
    own_id = normalised(headers.get("message-id") or "")
    automatic = why_automatic(
        letter, sender=sender.address, envelope_from=brought.envelope_from, account=brought.account
    )
    references = _references(headers)
    facts = _with_warning(brought.facts)
    mail = compact(
        **{"from": _shown(sender)},
        to=[_shown(each) for each in people(headers, "to")] or None,
        cc=[_shown(each) for each in people(headers, "cc")] or None,
        delivered_to=[clean(each)[:254] for each in brought.envelope_to] or None,
        message_id=own_id,
        automatic=automatic,
        encrypted=letter.encrypted,
        flaws=list(letter.flaws) or None,
        **{name: clean(fact)[:_FACT_MAX] if isinstance(fact, str) else fact for name, fact in facts.items()},
    )
    return MessageReceived(
        contact=Contact(keys=(sender.address,), name=sender.name, email=sender.address),
        platform_id=own_id or _digest(sender, headers, subject, content),
        at=at,
        type="text",
        content=content,
        text=text,
        media=tuple(_media(each, brought.source) for each in files),
        reply_to=_answered(headers, references),
        metadata=compact(email=mail, reply_token=_token(headers, brought)),
        automated=automatic is None,
        thread=Thread(
            message_id=own_id,
            subject=subject,
            references=trimmed(references),
            address=_answer_address(headers, sender),
        ),
    )


def _with_warning(facts: Json) -> Json:
    """SPF alone says little: whoever forwards mail breaks it. Where it fails and no signature holds, nobody
    has vouched for the sender."""
    spf, dkim = facts.get("spf"), facts.get("dkim")
    if "dmarc" in facts or not isinstance(spf, str) or not isinstance(dkim, str):
        return facts
    failed = spf.strip().lower().startswith(("fail", "softfail"))
    return {**facts, "warning": WARNING} if failed and "pass" not in dkim.lower() else facts


# ------------------------------------------------------------------ content


def _content(letter: Letter, subject: str | None, files: Sequence[File]) -> tuple[Json, str]:
    """The message's content and its text for searching."""
    html = harmless(clean(letter.html)) if letter.html else None
    text = letter.text if letter.text and letter.text.strip() else None
    if text is None and letter.html:
        text = plain_text(html) if html is not None else _without_tags(letter.html)
    folded = fold(clean(text or ""))
    body = folded.new
    inline = {each.content_id: at for at, each in enumerate(files) if each.content_id}
    kept = html if html and len(html) <= KEPT_HTML_MAX else None
    cut = len(body) > BODY_CHARACTERS_MAX or (letter.html is not None and kept is None and bool(html != ""))
    content = compact(
        body=body[:BODY_CHARACTERS_MAX],
        subject=subject,
        quoted=folded.quoted[:QUOTED_CHARACTERS_MAX] if folded.quoted else None,
        signature=folded.signature,
        html=kept,
        inline=inline if kept and inline else None,
        truncated=True if cut else None,
    )
    return content, body[:BODY_CHARACTERS_MAX] or subject or ""


def _left_out(letter: Letter, left_out: LeftOut) -> Json:
    """Members of the content that tell the agent what is missing."""
    files = [
        {"filename": each.filename, "media_type": each.media_type, "bytes": left_out.sizes[each.where]}
        for each in letter.files
        if each.where in left_out.sizes
    ]
    return compact(
        left_out=compact(why=left_out.why, files=files or None), truncated=True if left_out.cut else None
    )


def _without_tags(html: str) -> str:
    """For HTML that is too large or too deep to be read as such."""
    return entities.unescape(_TAGS.sub(" ", html[:HTML_CHARACTERS_MAX]))


def _media(file: File, source: str) -> Media:
    kind = file.media_type.partition("/")[0]
    # An SVG is a program in a picture's clothes.
    shown = kind in ("image", "audio", "video") and "svg" not in file.media_type
    return Media(
        kind=kind if shown else "document",
        source_id=f"{source}:{file.where}" if file.url is None else None,
        source_url=file.url,
        media_type=file.media_type,
        filename=file.filename,
        in_delivery=file.url is None,
    )


def _subject(headers: Headers) -> str | None:
    value = headers.get("subject")
    return (header_text(value[:_HEADER_CHARACTERS_MAX])[:SUBJECT_MAX] or None) if value else None


def _digest(sender: Person, headers: Headers, subject: str | None, content: Json) -> str:
    """An id for mail without one: the same whenever and however the mail comes."""
    date = " ".join((headers.get("date") or "").split())
    said = "\0".join((sender.address, date, subject or "", " ".join(str(content["body"]).split())))
    return f"sha256:{hashlib.sha256(said.encode('utf-8', 'replace')).hexdigest()}"


# ------------------------------------------------------------------ people and times


def sender_of(headers: Headers, envelope_from: str | None) -> Person | None:
    """Who wrote: From, else Sender, else the SMTP sender."""
    for name in ("from", "sender"):
        found = people(headers, name)
        if found:
            return found[0]
    return person(envelope_from) if envelope_from else None


def people(headers: Headers, name: str) -> list[Person]:
    """The addresses in all headers of a name, at most `ADDRESSES_MAX`."""
    found: dict[str, Person] = {}
    for value in headers.all(name)[:5]:
        for one in _addresses(value[:_HEADER_CHARACTERS_MAX]):
            found.setdefault(one.address, one)
            if len(found) == ADDRESSES_MAX:
                return list(found.values())
    return list(found.values())


def person(text: str) -> Person | None:
    """The first address in a text such as `Name <address>`."""
    found = _addresses(text[:_HEADER_CHARACTERS_MAX])
    return found[0] if found else None


def _addresses(value: str) -> list[Person]:
    value = " ".join(value.split())
    try:
        pairs = getaddresses([value])
    except _PLAIN_BROKEN:
        pairs = []
    found = [one for name, address in pairs if (one := _person(name, address)) is not None]
    if not found:
        loose = _ADDRESS.search(header_text(value))
        if loose is not None:
            one = _person(value.partition("<")[0], loose[0])
            return [one] if one is not None else []
    return found


def _person(name: str, address: str) -> Person | None:
    address = header_text(address).strip("<> ").lower()
    if not _ADDRESS.fullmatch(address):
        return None
    shown = header_text(name).strip("\"' ")[:200]
    return Person(address=address, name=shown if shown and shown.lower() != address else None)


def _shown(one: Person) -> Json:
    return compact(address=one.address, name=one.name)


def date_of(value: str | None) -> int:
    """A Date header in ms; 0 for none, or one that cannot be right."""
    if not value:
        return 0
    try:
        found = parsedate_tz(value[:200])
        if found is None or found[0] not in _YEARS:
            return 0
        moment = datetime(*found[:6], tzinfo=UTC)
        return max(0, round(moment.timestamp() * 1000) - (found[9] or 0) * 1000)
    except _PLAIN_BROKEN:
        return 0


# ------------------------------------------------------------------ threads


def _references(headers: Headers) -> tuple[str, ...]:
    """The messages before this one, oldest first; In-Reply-To where there are no References (RFC 5322)."""
    found = ids_in(headers.get("references") or "")
    answered = ids_in(headers.get("in-reply-to") or "")
    return tuple(dict.fromkeys((*found, *answered[:1])))


def _answered(headers: Headers, references: tuple[str, ...]) -> str | None:
    direct = ids_in(headers.get("in-reply-to") or "")
    return direct[0] if direct else (references[-1] if references else None)


def _token(headers: Headers, brought: Brought) -> str | None:
    """The reply token in an address that it was sent to; unproven."""
    addresses = (
        *brought.envelope_to,
        *(each.address for name in ("to", "cc") for each in people(headers, name)),
    )
    tokens = (token_in_address(each) for each in addresses)
    return brought.token or next((each for each in tokens if each is not None), None)


def _answer_address(headers: Headers, sender: Person) -> str | None:
    """Reply-To, where it is another address."""
    wanted = people(headers, "reply-to")
    return wanted[0].address if wanted and wanted[0].address != sender.address else None
