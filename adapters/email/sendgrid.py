"""SendGrid: Inbound Parse, which posts mail as a form, and the Event Webhook's lists (sheet, section 2)."""

import re
from collections.abc import Iterator
from email.parser import HeaderParser
from email.policy import compat32
from typing import Any, Final

from adapters.email.forms import Form
from adapters.email.letter import FILES_MAX, File, Headers, Letter
from adapters.email.mime import HEADERS_MAX, file_name, media_type_of, open_mail, report_parts
from adapters.email.parts import source_of
from adapters.email.reading import Brought, event_of
from adapters.email.reports import code_in, failure
from adapters.email.statuses import our_account, seconds, standing, status
from adapters.email.threading import token_in_address, without_tag
from adapters.wire import decode_json
from engine.domain.content import compact
from engine.domain.inbound import AccountNotice, InboundEvent, RoutedEvent, Unsupported
from engine.errors import InvalidInput

Json = dict[str, Any]

RECIPIENTS_MAX: Final = 20
"""Of one mail. A form names all of our addresses that the mail went to."""

_STATUSES: Final = {
    "processed": "sent",
    "deferred": "sent",
    "delivered": "delivered",
    "open": "read",
    "click": "read",
    "bounce": "failed",
    "blocked": "failed",
    "dropped": "failed",
    "spamreport": "failed",
}
_NOTICES: Final = frozenset({"account_status_change"})
_STANDINGS: Final = {
    "unsubscribe": failure("unsubscribed", ""),
    "group_unsubscribe": failure("unsubscribed", ""),
    "group_resubscribe": None,
}
_DROPPED: Final = {
    "bounced address": "suppressed",
    "spam reporting address": "complaint",
    "unsubscribed address": "unsubscribed",
}
"""Reasons for which SendGrid does not even try to send."""
_SENT_ID: Final = re.compile(r"^(.+?)\.(?:filter|recv)")


def is_mail(form: Form) -> bool:
    return bool(form.fields.keys() & {"envelope", "headers", "email", "charsets"}) and bool(
        form.fields.keys() & {"from", "text", "html", "email", "headers"}
    )


def read_mail(form: Form, body: bytes) -> Iterator[RoutedEvent]:
    """The mail, once for each account of ours that it went to."""
    envelope = _json_object(form.text("envelope"))
    given = envelope.get("to")
    to = [each.strip().lower() for each in given if isinstance(each, str)] if isinstance(given, list) else []
    sender = envelope.get("from")
    raw = form.fields.get("email")
    letter = _letter(form) if raw is None else open_mail(raw)
    by_account: dict[str, list[str]] = {}
    for address in to[:RECIPIENTS_MAX]:
        if "@" in address:
            by_account.setdefault(without_tag(address), []).append(address)
    for account, addresses in (by_account or {"": []}).items():
        tokens = (token_in_address(each) for each in addresses)
        brought = Brought(
            account=account,
            source=source_of(body, "form" if raw is None else "form-mime"),
            envelope_from=sender if isinstance(sender, str) else None,
            envelope_to=tuple(addresses),
            token=next((each for each in tokens if each is not None), None),
            facts=_facts(form),
        )
        yield RoutedEvent(
            external_id=account or None, parent_id=None, event=event_of(letter, brought), or_addressed=True
        )


def read_events(delivery: list[Any]) -> Iterator[RoutedEvent]:
    """A batch of events about messages of ours."""
    for item in delivery:
        one = item if isinstance(item, dict) else {}
        kind = str(one.get("event"))[:40]
        event = _status(one, kind)
        if kind in _STANDINGS:
            event = standing(
                recipient=one.get("email"),
                at=seconds(one.get("timestamp")),
                error=_STANDINGS[kind],
                raw=one,
            )
        if event is None and kind in _NOTICES:
            event = AccountNotice(kind=kind, at=seconds(one.get("timestamp")), raw=one)
        if event is None:
            raw = item if isinstance(item, dict) else {"value": item}
            event = Unsupported(
                contact=None,
                platform_id=None,
                at=None,
                raw=raw or {"value": item},
                reason=f"an event that is not known: {kind}",
            )
        yield RoutedEvent(external_id=our_account(one), parent_id=None, event=event, or_addressed=True)


def _status(one: Json, kind: str) -> InboundEvent | None:
    to, error = _STATUSES.get(kind), None
    if kind == "open" and one.get("sg_machine_open") is True:
        to = "delivered"  # a mail program that loads pictures before anybody looks
    if to is None:
        return None
    if to == "failed":
        said = str(one.get("reason") or one.get("response") or "")
        code = "complaint" if kind == "spamreport" else code_in(str(one.get("status") or ""), said)
        if kind == "dropped":
            code = _DROPPED.get(said.strip().lower(), code)
        error = failure(
            code or str(one.get("type") or kind),
            said,
            undeliverable=code == "suppressed" or one.get("bounce_classification") == "Invalid Address",
        )
    return status(
        recipient=one.get("email"),
        platform_id=_sent_id(one.get("sg_message_id")) or one.get("smtp-id"),
        to=to,
        raw=kind,
        at=seconds(one.get("timestamp")),
        ours=one,
        error=error,
        event_id=one.get("sg_event_id"),
        said=one.get("reason") or one.get("response"),
        code=one.get("status"),
        attempt=one.get("attempt"),
        kind=one.get("type"),
        smtp_id=one.get("smtp-id"),
    )


def _sent_id(value: object) -> str | None:
    """The X-Message-Id that was answered to the send: the part before `.filter` or `.recv`."""
    if not isinstance(value, str) or not value:
        return None
    found = _SENT_ID.match(value)
    return found[1] if found is not None else value


def _letter(form: Form) -> Letter:
    charsets = _json_object(form.text("charsets"))

    def text(name: str) -> str | None:
        charset = charsets.get(name)
        return form.text(name, charset if isinstance(charset, str) else None)

    block = text("headers")
    if block:
        parsed = HeaderParser(policy=compat32).parsestr(block.lstrip("\n")[:256_000])
        fields = [(str(name), str(value)) for name, value in parsed.raw_items()][:HEADERS_MAX]
    else:
        fields = []
    present = {name.lower() for name, _ in fields}
    fields += [(name, value) for name in ("from", "to", "cc", "subject")
               if name not in present and (value := text(name)) is not None]  # fmt: skip
    headers = Headers(fields)
    kind = media_type_of(headers.get("content-type") or "text/plain")
    info = _json_object(form.text("attachment-info"))
    cids = {str(name): str(cid).strip("<> ") for cid, name in _json_object(form.text("content-ids")).items()}
    files = []
    for number, (name, upload) in enumerate(form.files.items()):
        about = info.get(name)
        about = about if isinstance(about, dict) else {}
        media_type = media_type_of(about.get("type") or upload.media_type)
        named = about.get("filename") or about.get("name") or upload.filename
        cid = cids.get(name) or about.get("content-id")
        files.append(
            File(
                where=name,
                filename=file_name(str(named or ""), media_type, number),
                media_type=media_type,
                content_id=str(cid).strip("<> ")[:250] if cid else None,
            )
        )
    return Letter(
        headers=headers,
        text=text("text"),
        html=text("html"),
        files=tuple(files[:FILES_MAX]),
        kind=kind,
        report=report_parts((each.media_type, each.content) for each in form.files.values())
        if kind == "multipart/report"
        else {},
    )


def _facts(form: Form) -> Json:
    return compact(spf=form.text("SPF"), dkim=form.text("dkim"), spam_score=form.text("spam_score"))


def _json_object(text: str | None) -> Json:
    try:
        found = decode_json((text or "{}").encode())
    except (InvalidInput, UnicodeEncodeError):
        return {}
    return found if isinstance(found, dict) else {}
