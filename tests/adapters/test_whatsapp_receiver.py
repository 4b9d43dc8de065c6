"""The receiver over the project's own payloads, the field's samples where they are at hand, and mutated
ones."""

import copy
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.whatsapp.receiver import WhatsAppReceiver
from engine.domain.inbound import (
    AccountNotice,
    Contact,
    ContactRenumbered,
    InboundEvent,
    Media,
    MessageDeleted,
    MessageEchoed,
    MessageEdited,
    MessageReceived,
    PlatformError,
    RoutedEvent,
    StatusChanged,
    Unsupported,
)
from engine.errors import InvalidInput
from engine.ports import Endpoint, WebhookRequest
from tests.adapters.contract.case import SAMPLES

PAYLOADS = Path(__file__).parent / "payloads" / "whatsapp"
RECEIVER = WhatsAppReceiver()
NUMBER, WABA = "109000000000001", "209000000000001"
NOURA = Contact(keys=("966500000001", "SA.4401", "SA.ENT.9901"), name="Noura", phone="+966500000001")
DIGEST = hashlib.sha256(b"payload").hexdigest()


def payload(name: str) -> bytes:
    return (PAYLOADS / f"{name}.json").read_bytes()


def events(name: str) -> list[InboundEvent]:
    return [routed.event for routed in RECEIVER.parse(payload(name))]


def only(name: str) -> Any:
    (event,) = events(name)
    return event


def received(name: str) -> MessageReceived:
    event = only(name)
    assert isinstance(event, MessageReceived)
    return event


# ------------------------------------------------------------------ messages


def test_a_text_names_its_account_sender_time_and_body() -> None:
    """phone_number_id and WABA route it; the timestamp becomes milliseconds; the contact has every key."""
    (routed,) = RECEIVER.parse(payload("text"))
    assert routed == RoutedEvent(
        external_id=NUMBER,
        parent_id=WABA,
        event=MessageReceived(
            contact=NOURA,
            platform_id="wamid.TEST0001==",
            at=1_760_000_000_000,
            type="text",
            content={"body": "Is the blue one in stock?"},
            text="Is the blue one in stock?",
        ),
    )


def test_text_of_any_script_arrives_unchanged() -> None:
    """Escaped and plain UTF-8 give the same characters."""
    assert received("text_arabic").text == "السلام عليكم 🌿 هل المتجر مفتوح؟"
    assert received("escaped_compact").text == "مرحبا https://example.com/a"


def test_half_a_surrogate_pair_costs_one_character_and_not_the_delivery() -> None:
    """The cut emoji becomes U+FFFD; an escaped backslash before `ud83d` is no escape and stays."""
    first, second = events("half_an_emoji")
    assert isinstance(first, MessageReceived)
    assert isinstance(second, MessageReceived)
    assert first.text == "cut here \ufffd"
    assert second.text == "whole 🌿 \\ud83d"


@pytest.mark.parametrize(
    ("name", "reply_to", "metadata"),
    [
        ("text_reply", "wamid.OURS0001==", {}),
        ("text_forwarded", None, {"forwarded": True}),
        ("text_forwarded_often", None, {"frequently_forwarded": True}),
        (
            "text_product_question",
            "wamid.OURS0001==",
            {"referred_product": {"catalog_id": "77", "product_retailer_id": "SHIRT-1"}},
        ),
        ("text_group", None, {"group": "GROUP-1"}),
        (
            "text_identity",
            None,
            {"identity": {"acknowledged": False, "created_timestamp": 1760000000, "hash": "DF2lS5v2W6x="}},
        ),
    ],
)
def test_the_context_of_a_message_is_kept(name: str, reply_to: str | None, metadata: dict[str, Any]) -> None:
    """Quoted id as reply_to; forward marks, product, group and identity as metadata."""
    event = received(name)
    assert event.reply_to == reply_to
    assert event.metadata == metadata


def test_an_ad_click_is_kept_whole() -> None:
    """The referral's members are those of the payload."""
    raw = json.loads(payload("text_ad_referral"))["entry"][0]["changes"][0]["value"]["messages"][0]
    assert received("text_ad_referral").metadata == {"referral": raw["referral"]}


def test_a_group_message_names_person_and_group() -> None:
    """The keys are the person's, the group is beside them."""
    contact = received("text_group").contact
    assert contact.group == "GROUP-1"
    assert contact.keys[0] == "966500000001"


def test_a_sender_without_a_number_is_found_by_the_user_id() -> None:
    """The name comes from the contact with that user id, not from the first contact."""
    contact = received("text_user_id_only").contact
    assert contact == Contact(keys=("SA.4401", "SA.ENT.9901"), name="Noura", phone=None)


def test_a_sender_without_a_contact_is_known_by_number() -> None:
    """Contacts may be missing; the number alone is a contact."""
    assert received("text_without_contacts").contact == Contact(keys=("966500000001",), phone="+966500000001")


@pytest.mark.parametrize(
    ("name", "kind", "content", "media"),
    [
        (
            "image",
            "image",
            {"caption": "this one"},
            Media(
                kind="image",
                source_id="3001",
                source_url="https://lookaside.example.com/3001",
                media_type="image/jpeg",
                sha256=DIGEST,
            ),
        ),
        ("video", "video", {}, Media(kind="video", source_id="3002", media_type="video/mp4", sha256=DIGEST)),
        ("audio", "audio", {}, Media(kind="audio", source_id="3003", media_type="audio/mpeg", sha256=DIGEST)),
        (
            "voice",
            "voice",
            {},
            Media(kind="voice", source_id="3004", media_type="audio/ogg; codecs=opus", sha256=DIGEST),
        ),
        (
            "document",
            "document",
            {"caption": "my invoice", "filename": "invoice.pdf"},
            Media(
                kind="document",
                source_id="3005",
                media_type="application/pdf",
                sha256=DIGEST,
                filename="invoice.pdf",
            ),
        ),
        (
            "sticker",
            "sticker",
            {"animated": True},
            Media(kind="sticker", source_id="3006", media_type="image/webp", sha256=DIGEST),
        ),
    ],
)
def test_every_kind_of_file_is_a_reference_to_fetch_later(
    name: str, kind: str, content: dict[str, Any], media: Media
) -> None:
    """Id, address, type and the digest in hex; a voice note is told from an audio file."""
    event = received(name)
    assert (event.type, event.content, event.media) == (kind, content, (media,))
    assert event.text == content.get("caption", "")


@pytest.mark.parametrize(
    ("name", "kind", "content", "text"),
    [
        (
            "location",
            "location",
            {
                "latitude": 21.4858,
                "longitude": 39.1925,
                "name": "Corniche",
                "address": "Jeddah",
                "url": "https://maps.example.com/1",
            },
            "Corniche, Jeddah",
        ),
        ("location_bare", "location", {"latitude": 21.0, "longitude": 39.5}, ""),
        ("button_reply", "interactive", {"kind": "button_reply", "id": "yes", "title": "Yes"}, "Yes"),
        (
            "list_reply",
            "interactive",
            {"kind": "list_reply", "id": "size-m", "title": "Medium", "description": "fits most"},
            "Medium",
        ),
        (
            "form_reply",
            "interactive",
            {
                "kind": "form_reply",
                "title": "flow",
                "description": "Sent",
                "payload": {"flow_token": "t1", "rating": 5},
            },
            "Sent",
        ),
        (
            "template_button",
            "interactive",
            {"kind": "template_button", "title": "Track", "payload": "track-7"},
            "Track",
        ),
        (
            "reaction",
            "reaction",
            {"emoji": "👍", "message_id": None, "platform_message_id": "wamid.OURS0001=="},
            "👍",
        ),
        (
            "reaction_removed",
            "reaction",
            {"emoji": None, "message_id": None, "platform_message_id": "wamid.OURS0001=="},
            "",
        ),
        (
            "reaction_emptied",
            "reaction",
            {"emoji": None, "message_id": None, "platform_message_id": "wamid.OURS0001=="},
            "",
        ),
        (
            "order",
            "order",
            {
                "catalog_id": "77",
                "text": "please wrap it",
                "items": [
                    {"product_id": "SHIRT-1", "quantity": 2, "price": 49.5, "currency": "SAR"},
                    {"product_id": "CAP-1", "quantity": 1, "price": 20, "currency": "SAR"},
                ],
            },
            "please wrap it",
        ),
        (
            "system_identity_changed",
            "system",
            {"kind": "customer_identity_changed", "body": "The security code changed"},
            "The security code changed",
        ),
    ],
)
def test_every_other_type_has_the_public_shape(
    name: str, kind: str, content: dict[str, Any], text: str
) -> None:
    """The content is what engine/domain/content.py promises to clients."""
    event = received(name)
    assert (event.type, event.content, event.text) == (kind, content, text)


def test_contact_cards_keep_what_matters_and_the_raw_card() -> None:
    """Names, phones, e-mails and company; a card without formatted name or phone text makes do."""
    event = received("contacts")
    first, second = event.content["contacts"]
    assert (first["name"], first["phones"], first["emails"], first["organization"]) == (
        "Huda Saleh",
        ["+966 50 000 0002"],
        ["huda@example.com"],
        "Saleh Trading",
    )
    assert (second["name"], second["phones"], second["emails"]) == ("Omar Ali", ["+966500000003"], [])
    assert event.text == "Huda Saleh, Omar Ali"


def test_a_changed_number_is_an_event_of_its_own() -> None:
    """The old number is the contact, the new one the new key."""
    event = only("system_number_changed")
    assert isinstance(event, ContactRenumbered)
    assert event.contact.keys == ("966500000001",)
    assert (event.new_key, event.new_phone) == ("966500000077", "+966500000077")
    assert event.content["kind"] == "user_changed_number"


def test_a_revoke_and_edits_name_the_original() -> None:
    """A deleted message, an edited text and an edited picture."""
    revoke, text, image = only("revoke"), only("edit_text"), only("edit_image")
    assert isinstance(revoke, MessageDeleted)
    assert (revoke.original_id, revoke.by_business) == ("wamid.THEIRS1==", False)
    assert isinstance(text, MessageEdited)
    assert (text.original_id, text.type, text.text, text.by_business) == (
        "wamid.THEIRS1==",
        "text",
        "the green one",
        False,
    )
    assert isinstance(image, MessageEdited)
    assert (image.content, image.media[0].source_id) == ({"caption": "new caption"}, "3011")


def test_what_was_sent_from_the_phone_app_is_an_echo_to_the_customer() -> None:
    """The contact is who it went to; edits and revokes are marked as ours."""
    text, revoke, edit = only("echo_text"), only("echo_revoke"), only("echo_edit")
    assert isinstance(text, MessageEchoed)
    assert text.contact == NOURA
    assert isinstance(revoke, MessageDeleted)
    assert isinstance(edit, MessageEdited)
    assert revoke.by_business
    assert edit.by_business


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("unsupported", "131051"),
        ("unsupported_poll", "poll"),
        ("type_of_tomorrow", "hologram"),
    ],
)
def test_what_is_not_understood_keeps_the_raw_message(name: str, part: str) -> None:
    """With contact and id it can be shown in the conversation; the reason says what it was."""
    event = only(name)
    assert isinstance(event, Unsupported)
    assert event.contact == NOURA
    assert event.platform_id == event.raw["id"]
    assert part in event.reason


def test_an_interactive_message_without_body_and_the_error_beside_it_are_two_events() -> None:
    """Seen in practice (sheet, 4.2): neither is lost, nothing is indexed blindly."""
    message, error = events("interactive_without_body")
    assert isinstance(message, Unsupported)
    assert isinstance(error, AccountNotice)
    assert (error.kind, error.raw["code"]) == ("error", 131000)


# ------------------------------------------------------------------ statuses and notices


@pytest.mark.parametrize("raw", ["sent", "delivered", "read", "played", "failed"])
def test_each_status_is_ranked_and_kept_as_it_came(raw: str) -> None:
    """`played` counts as read."""
    event = only(f"status_{raw}")
    assert isinstance(event, StatusChanged)
    assert event.raw_status == raw
    assert event.status == ("read" if raw == "played" else raw)
    assert event.platform_id == "wamid.OURS0001=="
    assert event.at == 1_760_000_200_000
    assert event.contact == NOURA


def test_our_own_id_comes_back_with_a_status() -> None:
    """biz_opaque_callback_data is the callback; price and conversation are details."""
    event = only("status_sent")
    assert event.callback == "4242"
    assert event.detail["pricing"]["category"] == "service"
    assert event.detail["conversation"]["id"] == "c1"


def test_a_failure_says_why_in_a_sentence() -> None:
    """The code is the platform's, the sentence ours."""
    error = only("status_failed").error
    assert isinstance(error, PlatformError)
    assert error.platform_code == "131026"
    assert error.message.startswith("WhatsApp cannot deliver to this customer")
    assert not error.retryable


def test_a_status_of_tomorrow_makes_no_message() -> None:
    """Without contact and id it stays in the raw delivery."""
    event = only("status_unknown")
    assert isinstance(event, Unsupported)
    assert (event.contact, event.platform_id) == (None, None)


def test_a_group_status_names_participant_and_group() -> None:
    """As for group messages."""
    contact = only("status_group").contact
    assert contact.keys == ("966500000001", "SA.4401")
    assert contact.group == "GROUP-1"


def test_account_fields_are_notices() -> None:
    """Template fields have no number and are routed by WABA; user preferences keep their raw value."""
    (template,) = RECEIVER.parse(payload("template_status"))
    assert (template.external_id, template.parent_id) == (None, WABA)
    assert isinstance(template.event, AccountNotice)
    assert template.event.kind == "message_template_status_update"
    assert template.event.at == 1_760_000_300_000
    (preferences,) = RECEIVER.parse(payload("user_preferences"))
    assert preferences.external_id == NUMBER
    assert isinstance(preferences.event, AccountNotice)


def test_a_batch_of_two_accounts_keeps_order_and_routes() -> None:
    """Five items of one account, one of another, in the payload's order."""
    routed = RECEIVER.parse(payload("batch_two_accounts"))
    assert [one.external_id for one in routed] == [NUMBER] * 5 + ["109000000000002"]
    assert [one.parent_id for one in routed][-1] == "209000000000002"
    assert [type(one.event).__name__ for one in routed] == [
        "MessageReceived",
        "MessageReceived",
        "StatusChanged",
        "StatusChanged",
        "AccountNotice",
        "MessageReceived",
    ]


# ------------------------------------------------------------------ odd input


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b"7",
        b"{",
        b'{"object":"whatsapp_business_account"}',
        b'{"object":"whatsapp_business_account","entry":[]}',
        b'{"object":"whatsapp_business_account","entry":{}}',
        b'{"object":"page","entry":[{}]}',
        b"\xff\xfe{}",
        b'{"object":"whatsapp_business_account","entry":["\xff"]}',
        b"[" * 100_000,
        b'{"object":' * 50_000,
        b'{"object":"whatsapp_business_account","entry":[' + b"[" * 70 + b"]" * 70 + b"]}",
        b'{"object":"whatsapp_business_account","entry":[1e999]}',
    ],
)
def test_what_is_no_delivery_is_invalid_input(body: bytes) -> None:
    """Empty, truncated, not UTF-8, too deep, another platform's: refused, never a crash."""
    with pytest.raises(InvalidInput):
        RECEIVER.parse(body)


ODD_VALUES: list[Any] = [
    None,
    7,
    -1,
    1.5,
    True,
    "",
    "x" * 5_000,
    [],
    {},
    [[]],
    {"id": 5},
    [7],
    {"body": None},
]


def count_items(delivery: Any) -> int:
    """Items of a delivery, counted independently of the receiver."""
    total = 0
    for entry in delivery["entry"]:
        changes = entry.get("changes") if isinstance(entry, dict) else None
        if not isinstance(changes, list) or not changes:
            total += 1
            continue
        for change in changes:
            value = change.get("value") if isinstance(change, dict) else None
            if not isinstance(value, dict) or change.get("field") not in ("messages", "smb_message_echoes"):
                total += 1
                continue
            lists = [value.get(name) for name in ("messages", "message_echoes", "statuses", "errors")]
            inside = sum(len(one) if isinstance(one, list) else one is not None for one in lists)
            total += inside or 1
    return total


def spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a JSON value."""
    found = [path] if path else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        found += spots(child, (*path, key))
    return found


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_items_in_are_items_out_however_they_are_mutated(data: st.DataObject) -> None:
    """Any place of any payload replaced or removed: InvalidInput, or one event for each item. The events are
    JSON that can be stored."""
    name = data.draw(st.sampled_from(sorted(path.stem for path in PAYLOADS.glob("*.json"))))
    if name == "half_an_emoji":
        return
    delivery = json.loads(payload(name))
    for _ in range(data.draw(st.integers(1, 3))):
        places = spots(delivery)
        if not places:
            break
        path = data.draw(st.sampled_from(places))
        holder = delivery
        for step in path[:-1]:
            holder = holder[step]
        if data.draw(st.booleans()):
            holder[path[-1]] = copy.deepcopy(data.draw(st.sampled_from(ODD_VALUES)))
        else:
            del holder[path[-1]]
    try:
        routed = RECEIVER.parse(json.dumps(delivery).encode())
    except InvalidInput:
        return
    assert len(routed) == count_items(delivery)
    for one in routed:
        msgspec.json.encode(one)


@given(st.binary(max_size=300), st.integers(0, 5_000), st.integers(0, 40))
@settings(max_examples=300, deadline=None)
def test_bytes_of_any_kind_never_crash_the_parser(noise: bytes, at: int, cut: int) -> None:
    """A spliced or truncated delivery, or plain noise: events or InvalidInput."""
    whole = payload("batch_two_accounts")
    at %= len(whole)
    for body in (noise, whole[:at] + noise + whole[at + cut :], whole[:at]):
        try:
            RECEIVER.parse(body)
        except InvalidInput:
            continue


def test_one_odd_item_does_not_cost_its_siblings() -> None:
    """A message with a number for a body, between two good ones."""
    delivery = json.loads(payload("batch_two_accounts"))
    messages = delivery["entry"][0]["changes"][0]["value"]["messages"]
    messages.insert(1, {**messages[0], "id": "wamid.ODD", "text": {"body": 7}})
    kinds = [type(one.event).__name__ for one in RECEIVER.parse(json.dumps(delivery).encode())][:3]
    assert kinds == ["MessageReceived", "Unsupported", "MessageReceived"]


# ------------------------------------------------------------------ handshake and signature


def endpoint(number: int = 1, **secrets: str) -> Endpoint:
    return Endpoint(
        platform="whatsapp",
        external_id=str(number),
        parent_id=None,
        tenant_id=number,
        channel_id=number,
        endpoint_key=f"k{number}",
        secrets=secrets,
    )


def request(body: bytes = b"", *, query: str = "", signature: str | None = None) -> WebhookRequest:
    headers = {} if signature is None else {"x-hub-signature-256": signature}
    return WebhookRequest(
        method="POST", path="/api/webhooks/whatsapp", query=query, headers=headers, body=body
    )


def sign(body: bytes, secret: str) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def test_the_challenge_goes_back_for_a_token_of_ours() -> None:
    """Any of the candidates' tokens fits."""
    query = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=t%C3%B62"
    candidates = [endpoint(1, verify_token="t1"), endpoint(2, verify_token="tö2")]
    assert RECEIVER.challenge(request(query=query), candidates) == b"1158201444"


@pytest.mark.parametrize(
    "query",
    [
        "",
        "hub.mode=subscribe&hub.challenge=1",
        "hub.mode=subscribe&hub.challenge=1&hub.verify_token=",
        "hub.mode=subscribe&hub.challenge=1&hub.verify_token=other",
        "hub.mode=unsubscribe&hub.challenge=1&hub.verify_token=t1",
        "hub.mode=subscribe&hub.verify_token=t1",
        "hub.mode=subscribe&hub.verify_token=t1&hub.challenge=" + "1" * 2_000,
    ],
)
def test_a_handshake_without_the_token_is_refused(query: str) -> None:
    """Also when a candidate has no token of its own: empty never equals empty."""
    assert RECEIVER.challenge(request(query=query), [endpoint(1, verify_token="t1"), endpoint(2)]) is None


def test_the_signature_picks_the_endpoints_whose_secret_signed() -> None:
    """Two numbers of one app share the secret; a third has another one."""
    body = payload("text")
    candidates = [endpoint(1, app_secret="a"), endpoint(2, app_secret="b"), endpoint(3, app_secret="a")]
    fitting = RECEIVER.verify(request(body, signature=sign(body, "a")), candidates)
    assert [one.tenant_id for one in fitting] == [1, 3]


def test_the_secret_before_the_present_one_still_fits() -> None:
    """While an app secret is rotated both are accepted."""
    body = b"{}"
    candidate = endpoint(1, app_secret="new", app_secret_previous="old")
    assert RECEIVER.verify(request(body, signature=sign(body, "old")), [candidate]) == [candidate]
    assert RECEIVER.verify(request(body, signature=sign(body, "new")), [candidate]) == [candidate]


@pytest.mark.parametrize(
    "signature",
    [
        None,
        "",
        "sha256=",
        "sha256=00",
        "sha1=" + "0" * 40,
        "sha256=" + "é" * 64,
        sign(b"{} ", "a"),
        sign(b"{}", ""),
    ],
)
def test_a_missing_or_wrong_signature_fits_nobody(signature: str | None) -> None:
    """Also an empty secret never signs."""
    candidates = [endpoint(1, app_secret="a"), endpoint(2, app_secret=""), endpoint(3)]
    assert list(RECEIVER.verify(request(b"{}", signature=signature), candidates)) == []


@given(st.integers(0, 400), st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_any_changed_byte_breaks_the_signature(at: int, change: int) -> None:
    """Over raw bytes: even white space counts."""
    body = payload("text")
    signature = sign(body, "a")
    altered = bytearray(body)
    altered[at % len(body)] ^= change
    assert not RECEIVER.verify(request(bytes(altered), signature=signature), [endpoint(1, app_secret="a")])


# ------------------------------------------------------------------ the field's samples, where they are at
# hand

needs_samples = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason="the platform samples are not beside the repository"
)


@needs_samples
@pytest.mark.parametrize("path", sorted((SAMPLES / "whatsapp").glob("*.json")), ids=lambda path: path.stem)
def test_every_sample_of_the_field_is_understood(path: Path) -> None:
    """One event for each item; only what is named unsupported, and the one without a body, is so."""
    body = path.read_bytes()
    routed = RECEIVER.parse(body)
    assert len(routed) == count_items(json.loads(body))
    odd = [one for one in routed if isinstance(one.event, Unsupported)]
    assert bool(odd) == ("unsupported" in path.stem or "without_body" in path.stem)


@needs_samples
def test_the_samples_signatures_hold() -> None:
    """The vectors cover the exact bytes of the files."""
    vectors = json.loads((SAMPLES / "signature_vectors.json").read_bytes())["vectors"]
    ours = [vector for vector in vectors if vector["platform"] == "whatsapp"]
    assert ours
    for vector in ours:
        body = (SAMPLES / vector["file"]).read_bytes()
        candidate = endpoint(1, app_secret=vector["secret"])
        assert RECEIVER.verify(request(body, signature=vector["value"]), [candidate]) == [candidate]
