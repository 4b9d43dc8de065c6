"""Twilio's forms: what the contract suite cannot know to ask."""

from typing import Any
from urllib.parse import urlencode

import pytest

from adapters.sms.receiver import SmsReceiver
from engine.domain.inbound import MessageReceived, RoutedEvent, StatusChanged, Unsupported
from engine.ports import WebhookRequest

RECEIVER = SmsReceiver()
ACCOUNT = "AC" + "7d" * 16
SERVICE = "MG" + "5c" * 16
INBOUND = {
    "MessageSid": "SM1",
    "AccountSid": ACCOUNT,
    "SmsStatus": "received",
    "From": "+14155550123",
    "To": "+15005550006",
    "Body": "Hello",
    "NumMedia": "0",
    "NumSegments": "1",
}
STATUS = {
    "MessageSid": "SM2",
    "AccountSid": ACCOUNT,
    "MessageStatus": "delivered",
    "From": "+15005550006",
    "To": "+14155550123",
}
WHATSAPP = {"From": "whatsapp:+14155550123", "To": "whatsapp:+15005550006", "ProfileName": "Zoe Doe"}


def routed(form: dict[str, str], **changes: str) -> RoutedEvent:
    (one,) = RECEIVER.parse(urlencode({**form, **changes}).encode())
    return one


def message(**changes: str) -> MessageReceived:
    event = routed(INBOUND, **changes).event
    assert isinstance(event, MessageReceived)
    return event


def status(query: str = "", **changes: str) -> RoutedEvent:
    body = urlencode({**STATUS, **changes}).encode()
    asked = WebhookRequest(method="POST", path="/", query=query, headers={}, body=body)
    (one,) = RECEIVER.parse_request(asked)
    return one


def test_a_number_may_be_connected_by_its_digits_or_by_its_service() -> None:
    """The number itself comes first; whose it is in the end, the directory says."""
    one = routed(INBOUND, MessagingServiceSid=SERVICE)
    assert (one.external_id, one.parent_id) == ("+15005550006", ACCOUNT)
    assert one.also_known_as == ("15005550006", SERVICE)
    assert routed(INBOUND, To="72975").also_known_as == ()


def test_people_are_known_by_their_digits() -> None:
    contact = message().contact
    assert (contact.keys, contact.phone) == (("14155550123",), "+14155550123")
    assert message(From="PARCELS").contact.keys == ("PARCELS",)
    assert message(From="72975").contact.phone is None


def test_whatsapp_through_twilio_is_read_as_whatsapp() -> None:
    """By the same person's digits, under the account's own address there, and never by the service of the SMS
    number."""
    one = routed(INBOUND, **WHATSAPP, MessagingServiceSid=SERVICE)
    assert isinstance(one.event, MessageReceived)
    assert (one.external_id, one.also_known_as) == ("whatsapp:+15005550006", ())
    assert (one.event.contact.keys, one.event.contact.name) == (("14155550123",), "Zoe Doe")


@pytest.mark.parametrize(
    ("form", "type_", "content"),
    [
        (
            {"MessageType": "button", "ButtonText": "Yes", "ButtonPayload": "confirm", "Body": "Yes"},
            "interactive",
            {"kind": "template_button", "title": "Yes", "payload": "confirm"},
        ),
        (
            {"MessageType": "interactive", "ButtonText": "Yes", "ButtonPayload": "confirm", "Body": "Yes"},
            "interactive",
            {"kind": "button_reply", "id": "confirm", "title": "Yes"},
        ),
        (
            {"MessageType": "interactive", "ListId": "red", "ListTitle": "Red", "Body": "Red"},
            "interactive",
            {"kind": "list_reply", "id": "red", "title": "Red"},
        ),
        (
            {"Latitude": "21.5", "Longitude": "39.2", "Label": "Shop", "Body": ""},
            "location",
            {"latitude": 21.5, "longitude": 39.2, "name": "Shop"},
        ),
        ({"Latitude": "nan", "Longitude": "39.2", "Body": "x"}, "text", {"body": "x"}),
    ],
)
def test_what_whatsapp_has_beside_is_read_where_it_is_plain(
    form: dict[str, str], type_: str, content: dict[str, Any]
) -> None:
    event = message(**WHATSAPP, **form)
    assert (event.type, event.content) == (type_, content)


def test_what_nobody_knows_is_unsupported_and_kept() -> None:
    event = routed(INBOUND, **WHATSAPP, MessageType="hologram").event
    assert isinstance(event, Unsupported)
    assert event.platform_id == "SM1"
    assert event.raw["MessageType"] == "hologram"


def test_a_quote_and_an_advertisement_are_told() -> None:
    event = message(
        **WHATSAPP,
        OriginalRepliedMessageSid="SM0",
        Forwarded="true",
        ReferralSourceId="ad1",
        ReferralHeadline="Sale",
        ReferralNumMedia="0",
    )
    assert event.reply_to == "SM0"
    assert event.metadata == {
        "segments": {"count": 1},
        "forwarded": True,
        "referral": {"sourceid": "ad1", "headline": "Sale"},
    }


def test_files_have_their_kind_and_the_text_is_their_caption() -> None:
    event = message(
        Body="These",
        NumMedia="3",
        MediaUrl0="https://api.twilio.com/a",
        MediaContentType0="image/jpeg",
        MediaUrl1="https://api.twilio.com/b",
        MediaContentType1="application/pdf",
        MediaUrl2="javascript:x",
        MediaContentType2="image/png",
    )
    assert (event.type, event.content) == ("image", {"caption": "These"})
    assert [(one.kind, one.source_url) for one in event.media] == [
        ("image", "https://api.twilio.com/a"),
        ("document", "https://api.twilio.com/b"),
    ]


@pytest.mark.parametrize(
    ("form", "opts", "automated"),
    [
        ({"Body": "STOP"}, "out", True),
        ({"Body": "ايقاف"}, "out", True),
        ({"Body": "Adios", "OptOutType": "STOP"}, "out", False),
        ({"Body": "START"}, "in", True),
        ({"Body": "hola", "OptOutType": "START"}, "in", False),
        ({"Body": "HELP", "OptOutType": "HELP"}, None, False),
        ({"Body": "HELP"}, None, True),
        ({"Body": "STOP", "OptOutType": "HELP"}, None, False),
        ({"Body": "please stop"}, None, True),
    ],
)
def test_opt_outs_are_the_services_or_by_the_word(form: dict[str, str], opts: str, automated: bool) -> None:
    """What the service says counts before the words; where it has answered, no rule does."""
    event = message(**form)
    assert (event.opts, event.automated) == (opts, automated)


def test_a_callback_brings_back_whose_it_is_and_our_message() -> None:
    """By its address, also where the service has chosen the number."""
    one = status(f"message=4242&sender={SERVICE}")
    assert isinstance(one.event, StatusChanged)
    assert (one.external_id, one.event.callback) == (SERVICE, "4242")
    assert status().external_id == "+15005550006"
    assert status("&".join(["a=b"] * 100)).external_id == "+15005550006"


@pytest.mark.parametrize(
    ("told", "known"),
    [
        ("queued", "sent"), ("accepted", "sent"), ("sending", "sent"), ("sent", "sent"), ("delivered",
        "delivered"), ("partially_delivered", "delivered"), ("read", "read"), ("undelivered", "failed"),
        ("failed", "failed"), ("canceled", "failed"),
    ],
)  # fmt: skip
def test_statuses_are_ours_by_name(told: str, known: str) -> None:
    event = status(MessageStatus=told).event
    assert isinstance(event, StatusChanged)
    assert (event.status, event.raw_status) == (known, told)
    assert (event.error is not None) == (known == "failed")


def test_a_failure_says_why() -> None:
    event = status(MessageStatus="undelivered", ErrorCode="21610").event
    assert isinstance(event, StatusChanged)
    assert event.error is not None
    assert (event.error.platform_code, event.error.opted_out) == ("21610", True)
    assert event.error.message.endswith(".")


@pytest.mark.parametrize(("code", "again"), [("30003", True), ("30005", False), ("30008", True)])
def test_a_person_may_try_again_where_that_may_help(code: str, again: bool) -> None:
    """A phone that was switched off may be on later; a number that is unknown stays so."""
    event = status(MessageStatus="undelivered", ErrorCode=code).event
    assert isinstance(event, StatusChanged)
    assert event.error is not None
    assert event.error.retryable is again


def test_a_read_receipt_of_a_richer_channel_counts() -> None:
    event = status(MessageStatus="delivered", EventType="READ", ChannelPrefix="whatsapp").event
    assert isinstance(event, StatusChanged)
    assert event.status == "read"


def test_a_hint_is_whom_a_message_is_for() -> None:
    assert RECEIVER.account_hint(urlencode(INBOUND).encode()) == "+15005550006"
    assert RECEIVER.account_hint(urlencode(STATUS).encode()) is None
    assert RECEIVER.account_hint(b"SmsStatus=received&To=%") == "%"
