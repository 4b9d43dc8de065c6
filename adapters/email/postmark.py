"""Postmark: mail as JSON with its attachments inside, and events (sheet, section 3)."""

from collections.abc import Iterator
from typing import Any, Final

from adapters.email.letter import FILES_MAX, File, Headers, Letter
from adapters.email.mime import file_name, media_type_of, open_mail, report_parts
from adapters.email.parts import source_of
from adapters.email.reading import ADDRESSES_MAX, Brought, event_of, person
from adapters.email.reports import code_in, failure
from adapters.email.statuses import moment, our_account, standing, status
from adapters.email.threading import token_in_address, token_in_hash, without_tag
from adapters.email.words import loose_base64
from engine.domain.content import compact
from engine.domain.inbound import AccountNotice, InboundEvent, PlatformError, RoutedEvent, Unsupported

Json = dict[str, Any]

_NOTICES: Final = frozenset({"Inbound", "SMTPApiError"})
_REASONS: Final = {"HardBounce": "suppressed", "SpamComplaint": "complaint"}
"""Why Postmark sends nothing more; what a person set by hand is taken for the customer's wish."""
_DEAD: Final = frozenset({"HardBounce", "BadEmailAddress"})
_COMPLAINTS: Final = frozenset({"SpamComplaint", "SpamNotification"})
_NO_FAILURES: Final = frozenset(
    {
        "Transient",
        "Subscribe",
        "Unsubscribe",
        "AutoResponder",
        "AddressChange",
        "OpenRelayTest",
        "ChallengeVerification",
    }
)
"""Types of a bounce that do not say that the message will not arrive (branch on `Type`: the sheet, 3.3)."""


def is_mail(delivery: Json) -> bool:
    return (
        "RecordType" not in delivery
        and "MessageID" in delivery
        and ("From" in delivery or "FromFull" in delivery)
    )


def read_mail(delivery: Json, body: bytes) -> RoutedEvent:
    recipient = str(delivery.get("OriginalRecipient") or _first_recipient(delivery) or "").strip().lower()
    raw = delivery.get("RawEmail")
    whole = raw if isinstance(raw, str) and raw else None
    letter = open_mail(whole.encode("utf-8", "replace")) if whole is not None else _letter(delivery)
    return_path = letter.headers.get("return-path")
    brought = Brought(
        account=without_tag(recipient),
        source=source_of(body, "postmark" if whole is None else "postmark-mime"),
        envelope_from=return_path.strip("<> ") if return_path is not None else None,
        envelope_to=(recipient,) if "@" in recipient else (),
        token=token_in_hash(str(delivery.get("MailboxHash") or "")) or token_in_address(recipient),
        facts=compact(
            provider_id=_text(delivery.get("MessageID")),
            spf=(letter.headers.get("received-spf") or "").partition(" ")[0].lower() or None,
            spam=True if (letter.headers.get("x-spam-status") or "").lower().startswith("yes") else None,
            spam_score=letter.headers.get("x-spam-score"),
        ),
    )
    account = brought.account if "@" in brought.account else None
    return RoutedEvent(
        external_id=account, parent_id=None, event=event_of(letter, brought), or_addressed=True
    )


def read_event(delivery: Json) -> RoutedEvent:
    kind = str(delivery.get("RecordType"))[:40]
    metadata = delivery.get("Metadata")
    ours = metadata if isinstance(metadata, dict) else {}
    sender = person(str(delivery.get("From") or ""))
    account = our_account(ours) or (without_tag(sender.address) if sender is not None else None)
    event = _standing(delivery, kind) or _status(delivery, kind, ours)
    if event is None and kind in _NOTICES:
        event = AccountNotice(kind=kind, at=moment(delivery.get("ChangedAt")), raw=delivery)
    if event is None:
        event = Unsupported(
            contact=None,
            platform_id=None,
            at=None,
            raw=delivery,
            reason=f"an event that is not known: {kind}",
        )
    return RoutedEvent(external_id=account, parent_id=None, event=event, or_addressed=True)


def _standing(delivery: Json, kind: str) -> InboundEvent | None:
    if kind == "Bounce" and delivery.get("Type") == "Unsubscribe":
        return standing(
            recipient=delivery.get("Email"),
            at=moment(delivery.get("BouncedAt")),
            error=failure("unsubscribed", ""),
            raw=delivery,
        )
    if kind != "SubscriptionChange":
        return None
    error: PlatformError | None = None
    if delivery.get("SuppressSending") is True:
        reason = _REASONS.get(str(delivery.get("SuppressionReason")), "unsubscribed")
        error = failure(reason, "", undeliverable=reason == "suppressed")
    at = moment(delivery.get("ChangedAt"))
    return standing(recipient=delivery.get("Recipient"), at=at, error=error, raw=delivery)


def _status(delivery: Json, kind: str, ours: Json) -> InboundEvent | None:
    error = None
    match kind:
        case "Delivery":
            to, raw, recipient, time = "delivered", "delivery", delivery.get("Recipient"), "DeliveredAt"
        case "Open" | "Click":
            to, raw, recipient, time = "read", kind.lower(), delivery.get("Recipient"), "ReceivedAt"
        case "Bounce" | "SpamComplaint":
            type_ = str(delivery.get("Type") or kind)[:40]
            gone = type_ not in _NO_FAILURES or delivery.get("Inactive") is True
            to, raw = ("failed" if gone else "sent"), f"bounce_{type_}"
            recipient, time = delivery.get("Email"), "BouncedAt"
            if gone:
                said = str(delivery.get("Details") or delivery.get("Description") or "")
                complained = type_ in _COMPLAINTS
                error = failure(
                    "complaint" if complained else code_in(said) or type_,
                    said,
                    undeliverable=not complained and (type_ in _DEAD or delivery.get("Inactive") is True),
                )
        case _:
            return None
    return status(
        recipient=recipient,
        platform_id=delivery.get("MessageID"),
        to=to,
        raw=raw,
        at=moment(delivery.get(time)),
        ours=ours,
        error=error,
        said=delivery.get("Details"),
        description=delivery.get("Description"),
        inactive=delivery.get("Inactive"),
        bounce_id=delivery.get("ID"),
    )


def attachments(delivery: Json) -> list[Json]:
    given = delivery.get("Attachments")
    return [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []


def content_of(attachment: Json) -> bytes:
    return loose_base64(str(attachment.get("Content") or "").encode("ascii", "ignore"))


def _letter(delivery: Json) -> Letter:
    headers = Headers(_header_fields(delivery))
    kind = media_type_of(headers.get("content-type") or "text/plain")
    files = []
    for number, each in enumerate(attachments(delivery)[:FILES_MAX]):
        media_type = media_type_of(each.get("ContentType"))
        content_id = str(each.get("ContentID") or "").removeprefix("cid:").strip("<> ")[:250]
        files.append(
            File(
                where=str(number),
                filename=file_name(str(each.get("Name") or ""), media_type, number),
                media_type=media_type,
                content_id=content_id or None,
            )
        )
    report = {}
    if kind == "multipart/report":
        report = report_parts(
            (media_type_of(each.get("ContentType")), content_of(each)) for each in attachments(delivery)
        )
    return Letter(
        headers=headers,
        text=_text(delivery.get("TextBody")),
        html=_text(delivery.get("HtmlBody")),
        files=tuple(files),
        kind=kind,
        report=report,
    )


def _header_fields(delivery: Json) -> Iterator[tuple[str, str]]:
    """The mail's own headers, and those that Postmark takes out of them into members."""
    given = delivery.get("Headers")
    for each in given if isinstance(given, list) else ():
        if isinstance(each, dict) and isinstance(each.get("Name"), str):
            yield each["Name"], str(each.get("Value") or "")
    sender = delivery.get("FromFull")
    if isinstance(sender, dict) and sender.get("Email"):
        yield "From", _mailbox(sender)
    elif delivery.get("From"):
        yield "From", str(delivery["From"])
    for name, member in (("To", "ToFull"), ("Cc", "CcFull")):
        people = delivery.get(member)
        if isinstance(people, list) and people:
            yield name, ", ".join(_mailbox(one) for one in people[:ADDRESSES_MAX] if isinstance(one, dict))
    for name, member in (("Subject", "Subject"), ("Date", "Date"), ("Reply-To", "ReplyTo")):
        if isinstance(delivery.get(member), str) and delivery[member]:
            yield name, delivery[member]


def _mailbox(one: Json) -> str:
    name = str(one.get("Name") or "").replace("\\", "").replace('"', "")
    return f'"{name}" <{one.get("Email") or ""}>' if name else str(one.get("Email") or "")


def _first_recipient(delivery: Json) -> str | None:
    people = delivery.get("ToFull")
    first = people[0] if isinstance(people, list) and people else None
    return _text(first.get("Email")) if isinstance(first, dict) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
