"""What services tell of addresses: dead ones, and people who want no more mail."""

import json
from typing import Any

import pytest

from adapters.email.receiver import EmailReceiver
from engine.domain.inbound import InboundEvent, StandingChanged, StatusChanged

Json = dict[str, Any]
ZOE = "zoe@example.org"


def event(delivery: Any) -> InboundEvent:
    (routed,) = EmailReceiver().parse(json.dumps(delivery).encode())
    return routed.event


def mailgun(kind: str, **data: Any) -> Json:
    message = {"headers": {"message-id": "m@shop.example"}}
    known = {"event": kind, "id": "e", "timestamp": 1_767_690_700.25, "recipient": ZOE, "message": message}
    return {"signature": {}, "event-data": {**known, **data}}


def sendgrid(kind: str, **data: Any) -> list[Json]:
    return [{"email": ZOE, "timestamp": 1_767_700_000, "event": kind, "sg_message_id": "abc.filter1", **data}]


def postmark(kind: str, **data: Any) -> Json:
    times = {"ChangedAt": "2026-01-06T11:09:00Z", "BouncedAt": "2026-01-06T11:09:00Z"}
    return {"RecordType": kind, "MessageID": "m-1", "Email": ZOE, "Recipient": ZOE, **times, **data}


def failed(code: int, said: str, reason: str = "bounce", severity: str = "permanent") -> Json:
    return mailgun(
        "failed", severity=severity, reason=reason, **{"delivery-status": {"code": code, "message": said}}
    )


@pytest.mark.parametrize(
    "delivery",
    [
        failed(550, "5.1.1 The mailbox does not exist"),
        failed(550, "5.2.1 disabled"),
        failed(605, "Not delivering to previously bounced address", reason="suppress-bounce"),
        sendgrid("bounce", status="5.1.1", type="bounce", reason="550 5.1.1 unknown user"),
        sendgrid("bounce", status="5.0.0", type="bounce", bounce_classification="Invalid Address"),
        sendgrid("dropped", reason="Bounced Address"),
        postmark("Bounce", Type="HardBounce", Details="smtp;550 unknown", Inactive=True),
        postmark("Bounce", Type="BadEmailAddress"),
        postmark("Bounce", Type="ManuallyDeactivated", Inactive=True),
    ],
)
def test_an_address_that_is_dead(delivery: Any) -> None:
    told = event(delivery)
    assert isinstance(told, StatusChanged)
    assert told.status == "failed"
    assert told.error is not None
    assert (told.error.undeliverable, told.error.opted_out) == (True, False)


@pytest.mark.parametrize(
    "delivery",
    [
        failed(550, "5.7.1 refused by policy"),
        failed(552, "5.2.2 The mailbox is full"),
        failed(550, "Rejected"),
        failed(450, "4.2.1 too quickly", severity="temporary"),
        sendgrid("bounce", status="5.7.1", type="blocked", reason="550 5.7.1 policy"),
        sendgrid("deferred", response="451 try later"),
        postmark("Bounce", Type="SoftBounce", Details="smtp;552 5.2.2 full", Inactive=False),
        postmark("Bounce", Type="Transient"),
    ],
)
def test_a_failure_that_is_about_one_message_alone(delivery: Any) -> None:
    told = event(delivery)
    assert isinstance(told, StatusChanged)
    assert told.error is None or not (told.error.undeliverable or told.error.opted_out)


@pytest.mark.parametrize(
    "delivery",
    [
        mailgun("complained"),
        failed(607, "", reason="suppress-complaint"),
        failed(606, "", reason="suppress-unsubscribe"),
        sendgrid("spamreport"),
        sendgrid("dropped", reason="Unsubscribed Address"),
        sendgrid("dropped", reason="Spam Reporting Address"),
        postmark("SpamComplaint", Type="SpamComplaint", Inactive=True),
    ],
)
def test_somebody_who_wants_no_more_of_it(delivery: Any) -> None:
    told = event(delivery)
    assert isinstance(told, StatusChanged)
    assert told.error is not None
    assert (told.error.undeliverable, told.error.opted_out) == (False, True)


@pytest.mark.parametrize(
    ("delivery", "marks"),
    [
        (mailgun("unsubscribed"), (True, False)),
        (sendgrid("unsubscribe"), (True, False)),
        (sendgrid("group_unsubscribe", asm_group_id=10), (True, False)),
        (sendgrid("group_resubscribe", asm_group_id=10), None),
        (postmark("Bounce", Type="Unsubscribe"), (True, False)),
        (
            postmark("SubscriptionChange", SuppressSending=True, SuppressionReason="ManualSuppression"),
            (True, False),
        ),
        (
            postmark("SubscriptionChange", SuppressSending=True, SuppressionReason="SpamComplaint"),
            (True, False),
        ),
        (postmark("SubscriptionChange", SuppressSending=True, SuppressionReason="HardBounce"), (False, True)),
        (postmark("SubscriptionChange", SuppressSending=False), None),
    ],
)
def test_what_is_told_beside_any_message(delivery: Any, marks: tuple[bool, bool] | None) -> None:
    told = event(delivery)
    assert isinstance(told, StandingChanged)
    assert told.contact.keys == (ZOE,)
    found = (told.error.opted_out, told.error.undeliverable) if told.error is not None else None
    assert found == marks
