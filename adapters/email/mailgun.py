"""Mailgun: routes that post mail as a form, webhooks that post events as JSON (sheet, section 1)."""

from collections.abc import Iterator
from typing import Any, Final

from adapters.email.forms import Form
from adapters.email.letter import FILES_MAX, File, Headers, Letter
from adapters.email.mime import file_name, media_type_of, open_mail, report_parts
from adapters.email.parts import source_of
from adapters.email.reading import Brought, event_of, person
from adapters.email.reports import code_in, failure
from adapters.email.statuses import our_account, seconds, standing, status
from adapters.email.threading import token_in_address, without_tag
from adapters.wire import decode_json
from engine.domain.content import compact
from engine.domain.inbound import AccountNotice, InboundEvent, RoutedEvent, Unsupported
from engine.errors import InvalidInput

Json = dict[str, Any]

_STATUSES: Final = {
    "accepted": "sent",
    "delivered": "delivered",
    "opened": "read",
    "clicked": "read",
    "rejected": "failed",
    "complained": "failed",
}
_URL_MAX: Final = 2_000
_NOTICES: Final = frozenset({"stored", "list_member_uploaded", "list_uploaded"})
_SUPPRESSED: Final = {
    "suppress-bounce": "suppressed",
    "suppress-complaint": "complaint",
    "suppress-unsubscribe": "unsubscribed",
}
"""Reasons of failures of mail that Mailgun did not even try to send."""


def is_mail(form: Form) -> bool:
    return "recipient" in form.fields and bool(
        form.fields.keys() & {"message-headers", "body-plain", "body-mime", "stripped-text", "body-html"}
    )


def read_mail(form: Form, body: bytes) -> RoutedEvent:
    """One mail. Files are found again by their fields' names; in a mail that came whole, by number."""
    recipient = (form.text("recipient") or "").strip().lower()
    sender = form.text("sender")
    raw = form.fields.get("body-mime")
    brought = Brought(
        account=without_tag(recipient),
        source=source_of(body, "form" if raw is None else "form-mime"),
        envelope_from=sender.strip() if sender is not None else None,
        envelope_to=(recipient,) if recipient else (),
        at=seconds(form.text("timestamp")) or 0,
        token=token_in_address(recipient),
        facts=_facts(form),
    )
    letter = _letter(form) if raw is None else open_mail(raw)
    account = brought.account if "@" in brought.account else None
    return RoutedEvent(
        external_id=account, parent_id=None, event=event_of(letter, brought), or_addressed=True
    )


def read_event(delivery: Json) -> RoutedEvent:
    """One event about a message of ours."""
    data = delivery.get("event-data")
    data = data if isinstance(data, dict) else {}
    kind = str(data.get("event"))[:40]
    ours = _object(data.get("user-variables"))
    headers = _object(_object(data.get("message")).get("headers"))
    account = our_account(ours) or _address(_object(data.get("envelope")).get("sender"), headers.get("from"))
    event = _status(data, kind, ours, headers)
    if kind == "unsubscribed":
        event = standing(
            recipient=data.get("recipient"),
            at=seconds(data.get("timestamp")),
            error=failure("unsubscribed", ""),
            raw=data,
        )
    if event is None and kind in _NOTICES:
        event = AccountNotice(kind=kind, at=seconds(data.get("timestamp")), raw=data)
    if event is None:
        event = Unsupported(
            contact=None,
            platform_id=None,
            at=None,
            raw=delivery,
            reason=f"an event that is not known: {kind}",
        )
    return RoutedEvent(external_id=account, parent_id=None, event=event, or_addressed=True)


def _status(data: Json, kind: str, ours: Json, headers: Json) -> InboundEvent | None:
    to, raw, error = _STATUSES.get(kind), kind, None
    answer = _object(data.get("delivery-status"))
    if kind == "failed":
        permanent = data.get("severity") != "temporary"
        to, raw = ("failed" if permanent else "sent"), f"failed_{'permanent' if permanent else 'temporary'}"
    if to is None:
        return None
    if to == "failed":
        said = str(answer.get("message") or answer.get("description") or data.get("reason") or "")
        reason = str(data.get("reason") or kind)
        code = _SUPPRESSED.get(reason) or code_in(said, str(answer.get("code") or "")) or reason
        error = failure(
            "complaint" if kind == "complained" else code, said, undeliverable=code == "suppressed"
        )
    return status(
        recipient=data.get("recipient"),
        platform_id=headers.get("message-id"),
        to=to,
        raw=raw,
        at=seconds(data.get("timestamp")),
        ours=ours,
        error=error,
        event_id=data.get("id"),
        reason=data.get("reason"),
        code=answer.get("code"),
        said=answer.get("message"),
        attempt=answer.get("attempt-no"),
    )


def _letter(form: Form) -> Letter:
    headers = Headers(_header_fields(form))
    kind = media_type_of(headers.get("content-type") or "text/plain")
    ids = {
        str(name): str(cid).strip("<> ") for cid, name in _json_object(form.text("content-id-map")).items()
    }
    files = [
        File(
            where=name,
            filename=file_name(upload.filename, media_type_of(upload.media_type), number),
            media_type=media_type_of(upload.media_type),
            content_id=ids.get(name),
        )
        for number, (name, upload) in enumerate(form.files.items())
    ]
    files += _stored(form, len(files))
    return Letter(
        headers=headers,
        text=form.text("body-plain"),
        html=form.text("body-html"),
        files=tuple(files[:FILES_MAX]),
        kind=kind,
        report=report_parts((each.media_type, each.content) for each in form.files.values())
        if kind == "multipart/report"
        else {},
    )


def _stored(form: Form, first: int) -> Iterator[File]:
    """The files of routes that store: addresses at Mailgun instead of bytes."""
    try:
        given = decode_json((form.text("attachments") or "[]").encode())
    except (InvalidInput, UnicodeEncodeError):
        return
    for number, each in enumerate(given if isinstance(given, list) else (), first):
        url = each.get("url") if isinstance(each, dict) else None
        if isinstance(url, str) and url.startswith("https://") and len(url) <= _URL_MAX:
            media_type = media_type_of(each.get("content-type"))
            name = file_name(str(each.get("name") or ""), media_type, number)
            yield File(where=str(number), filename=name, media_type=media_type, url=url)


def _header_fields(form: Form) -> Iterator[tuple[str, str]]:
    """`message-headers` has them all; the fields stand in where it is missing."""
    try:
        pairs = decode_json((form.text("message-headers") or "[]").encode())
    except (InvalidInput, UnicodeEncodeError):
        pairs = []
    found = False
    for pair in pairs if isinstance(pairs, list) else ():
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str):
            found = True
            yield pair[0], str(pair[1])
    if not found:
        for name in ("From", "from", "To", "Cc", "Subject", "subject", "Date", "Message-Id", "In-Reply-To",
                     "References", "Reply-To", "Auto-Submitted", "Precedence", "List-Id"):  # fmt: skip
            value = form.text(name)
            if value is not None:
                yield name, value


def _facts(form: Form) -> Json:
    return compact(
        spf=form.text("X-Mailgun-Spf"),
        dkim=form.text("X-Mailgun-Dkim-Check-Result"),
        spam=True if (form.text("X-Mailgun-Sflag") or "").lower() == "yes" else None,
        spam_score=form.text("X-Mailgun-Sscore"),
    )


def _address(*candidates: object) -> str | None:
    for each in candidates:
        found = person(each) if isinstance(each, str) else None
        if found is not None:
            return without_tag(found.address)
    return None


def _json_object(text: str | None) -> Json:
    try:
        return _object(decode_json((text or "{}").encode()))
    except (InvalidInput, UnicodeEncodeError):
        return {}


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}
