"""The dialect: shapes, bytes and signatures of the platform's webhooks."""

import base64
import json
from typing import Any

import pytest

from adapters.simulators import builders
from adapters.simulators.builders import Json, MediaRef, Person
from adapters.simulators.graph_errors import webhook_error
from tests.adapters.contract.case import SAMPLES as WHERE
from tests.simulators.receiver import ACCOUNT, OTHER

PERSON = Person(
    name="Test User", wa_id="16505551234", user_id="US.13491208655302741918", parent_user_id="US.ENT.118157"
)
MEDIA = MediaRef(id="1003512345678904", mime_type="image/jpeg", sha256="SfInY0g=", url="https://x.example/m")
PLAIN = MediaRef(id="1003512345678904", mime_type="audio/ogg", sha256="SfInY0g=")
QUOTE = builders.quote("15550783881", "wamid.Q")
PICTURE = {
    "context": {"id": "M0"},
    "type": "image",
    "image": {"caption": "c", "mime_type": "m", "sha256": "s", "id": "1", "url": "u"},
}
ERROR = webhook_error(131047, "Too late")
UNSUPPORTED = {"code": 1, "title": "t", "message": "m", "error_data": {"details": "d"}}


def _say(message: Json, **members: Any) -> Json:
    return builders.message_webhook(ACCOUNT, [PERSON], [message], **members)


def _told(status: str, **more: Any) -> Json:
    built = builders.status("wamid.S", status, 5, "16505551234", conversation_id="c", window_ends=9, **more)
    return builders.status_webhook(ACCOUNT, [PERSON], [built])


_CARD = builders.contact_card("Contact", "One", "15555550100")
_TEXT = builders.text_message(PERSON, "wamid.T", 1, "Body")
_REVOKE = builders.revoke_message(PERSON, "wamid.T", 1, "wamid.O")
_APPROVED = builders.template_status_value("order_confirmation", "en_US", "APPROVED", 1, "UTILITY")
_EMPTY = builders.interactive_without_content_message(PERSON, "i", 1, context=QUOTE)
_AD = builders.ad_referral("1", "h", "b", "c")

BUILT: dict[str, Json] = {
    "message_text": _say(_TEXT),
    "message_text_reply": _say(builders.text_message(PERSON, "i", 1, "b", context=QUOTE)),
    "message_text_forwarded_many_times": _say(
        builders.text_message(PERSON, "i", 1, "b", context=builders.forwarded(many_times=True))
    ),
    "message_text_ad_referral": _say(builders.text_message(PERSON, "i", 1, "b", referral=_AD)),
    "message_image_with_caption": _say(builders.image_message(PERSON, "i", 1, MEDIA, "caption")),
    "message_video_forwarded": _say(
        builders.video_message(PERSON, "i", 1, PLAIN, "c", context=builders.forwarded())
    ),
    "message_audio_voice_note": _say(builders.audio_message(PERSON, "i", 1, PLAIN)),
    "message_audio_file": _say(
        builders.audio_message(PERSON, "i", 1, PLAIN, voice=False, context=builders.forwarded())
    ),
    "message_document": _say(
        builders.document_message(PERSON, "i", 1, PLAIN, "f.pdf", "c", context=builders.forwarded())
    ),
    "message_sticker_animated": _say(builders.sticker_message(PERSON, "i", 1, PLAIN, animated=True)),
    "message_location_named": _say(
        builders.location_message(PERSON, "i", 1, 24.7, 46.6, name="n", address="a", url="u")
    ),
    "message_contacts": _say(builders.contacts_message(PERSON, "i", 1, [_CARD])),
    "message_interactive_button_reply": _say(
        builders.button_reply_message(PERSON, "i", 1, "b", "t", context=QUOTE)
    ),
    "message_interactive_list_reply": _say(
        builders.list_reply_message(PERSON, "i", 1, "r", "t", "d", context=QUOTE)
    ),
    "message_interactive_without_body_plus_value_errors": _say(_EMPTY, errors=[UNSUPPORTED]),
    "message_template_quick_reply_button": _say(
        builders.template_button_message(PERSON, "i", 1, "p", "t", context=QUOTE)
    ),
    "message_reaction_added": _say(builders.reaction_message(PERSON, "i", 1, "wamid.R", "😮")),
    "message_reaction_removed": _say(builders.reaction_message(PERSON, "i", 1, "wamid.R", None)),
    "message_order": _say(
        builders.order_message(PERSON, "i", 1, "3541", [builders.order_item("SODA", 2, 10, "ILS")])
    ),
    "message_system_user_changed_number": builders.message_webhook(
        ACCOUNT, [], [builders.number_changed_message(PERSON, "i", 1, "16505559876")]
    ),
    "message_revoke": _say(_REVOKE),
    "message_edit_image": _say(builders.edit_message(PERSON, "i", 1, "wamid.O", PICTURE)),
    "message_unsupported": _say(builders.unsupported_message(PERSON, "i", 1)),
    "message_unsupported_with_type": _say(builders.unsupported_message(PERSON, "i", 1, "poll")),
    "smb_message_echo_text": builders.echo_webhook(
        ACCOUNT, [PERSON], [builders.echo(ACCOUNT, PERSON, _TEXT)]
    ),
    "smb_message_echo_revoke": builders.echo_webhook(
        ACCOUNT, [PERSON], [builders.echo(ACCOUNT, Person(name="n", wa_id="1"), _REVOKE)]
    ),
    "status_sent": _told("sent", callback_data="message-0001"),
    "status_delivered": _told("delivered"),
    "status_read": _told("read"),
    "status_played": _told("played"),
    "status_failed": _told("failed", error=ERROR),
    "status_failed_outside_window": _told("failed", error=ERROR),
    "template_status_update_approved": builders.template_status_webhook(ACCOUNT, _APPROVED, 1),
}

SAMPLES = WHERE / "whatsapp"


def _shape(node: object, path: str = "") -> set[str]:
    """Every path with the JSON type found there; array positions do not matter."""
    if isinstance(node, dict):
        return {f"{path}:object"}.union(*(_shape(value, f"{path}.{name}") for name, value in node.items()))
    if isinstance(node, list):
        return {f"{path}:array"}.union(*(_shape(one, f"{path}[]") for one in node))
    kind = {int: "number", float: "number", bool: "bool", str: "string"}[type(node)]
    return {f"{path}:{kind}"}


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the sample payloads are not beside this clone")
@pytest.mark.parametrize("name", sorted(BUILT))
def test_a_built_webhook_has_exactly_the_shape_of_the_sample(name: str) -> None:
    """Same members with the same JSON types, no more and no fewer."""
    sample = json.loads((SAMPLES / f"{name}.json").read_text())
    assert _shape(BUILT[name]) == _shape(sample)


def test_every_sample_has_a_builder() -> None:
    """No message kind of the sheet is left out; two samples are compared in other tests."""
    if not SAMPLES.is_dir():
        pytest.skip("the sample payloads are not beside this clone")
    elsewhere = {"batch_two_accounts_messages_and_statuses", "message_text_arabic_compact_escaped"}
    assert {path.stem for path in SAMPLES.glob("*.json")} - elsewhere == set(BUILT)


def test_every_built_message_has_the_common_members_and_its_content() -> None:
    """Section 4.1 and 4.2 of the sheet, without the samples."""
    for name, built in BUILT.items():
        value = built["entry"][0]["changes"][0]["value"]
        for message in value.get("messages", ()):
            assert message.keys() >= {"from", "id", "timestamp", "type"}, name
            assert isinstance(message["timestamp"], str)
            if "without_body" not in name and name != "message_unsupported":
                assert message["type"] in message, name


def test_the_bytes_are_escaped_as_the_platform_escapes_them() -> None:
    r"""Lower-case \uXXXX with surrogate pairs, \/ for slashes, no spaces; the content survives."""
    said = "مرحبا 👋 https://example.com/a"
    body = builders.webhook_bytes(_say(builders.text_message(PERSON, "wamid.a/b+c=", 1, said)))
    expected = rb'"body":"\u0645\u0631\u062d\u0628\u0627 \ud83d\udc4b https:\/\/example.com\/a"'
    assert expected in body
    assert body.isascii()
    assert json.loads(body)["entry"][0]["changes"][0]["value"]["messages"][0]["text"]["body"] == said


def test_the_signature_is_the_documented_one() -> None:
    """HMAC-SHA256 of the exact bytes, against a value computed with OpenSSL."""
    expected = "sha256=f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8"
    assert builders.signature("key", b"The quick brown fox jumps over the lazy dog") == expected


@pytest.mark.parametrize("said", ["plain", 'a "quoted" \\ / 👋 مرحبا\n\x00', ""])
def test_the_short_way_gives_the_same_bytes(said: str) -> None:
    """The fast path for load and the dicts agree, byte for byte."""
    person = Person(name=f"Zoë {said}", wa_id="15550100")
    message = builders.text_message(person, "wamid.A/B==", 1_697_043_223, said)
    slow = builders.webhook_bytes(builders.message_webhook(ACCOUNT, [person], [message]))
    fast = builders.text_webhook_bytes(ACCOUNT, "15550100", person.name, "wamid.A/B==", 1_697_043_223, said)
    assert fast == slow


def test_a_hidden_number_leaves_only_user_ids() -> None:
    """Users with a username have no `from` and no `wa_id`."""
    hidden = Person(name="n", user_id="US.1", parent_user_id="US.ENT.2", username="u")
    message = builders.text_message(hidden, "i", 1, "b")
    assert "from" not in message
    assert (message["from_user_id"], message["from_parent_user_id"]) == ("US.1", "US.ENT.2")
    assert builders.contact(hidden) == {
        "profile": {"name": "n", "username": "u"},
        "user_id": "US.1",
        "parent_user_id": "US.ENT.2",
    }


def test_merging_keeps_every_item_and_groups_by_business() -> None:
    """Neighbours of one number join, other kinds stay apart, another business gets its own entry."""
    said = [
        builders.value(ACCOUNT, [PERSON], messages=[builders.text_message(PERSON, f"m{n}", 1, "b")])
        for n in range(2)
    ]
    read = builders.value(ACCOUNT, [PERSON], statuses=[builders.status("s", "read", 1, "16505551234")])
    foreign = builders.value(OTHER, [PERSON], messages=[builders.text_message(PERSON, "m9", 1, "b")])
    parts = [(ACCOUNT.waba_id, builders.change(one)) for one in (*said, read)]
    payload = builders.merged([*parts, (OTHER.waba_id, builders.change(foreign))])
    own, other = payload["entry"]
    assert [len(change["value"].get("messages", ())) for change in own["changes"]] == [2, 0]
    assert own["changes"][0]["value"]["contacts"] == [builders.contact(PERSON)]
    assert other["changes"][0]["value"]["messages"][0]["id"] == "m9"
    assert len(said[0]["messages"]) == 1


def test_message_ids_look_like_the_platforms_and_tell_directions_apart() -> None:
    """Base64 with the number inside."""
    inbound = builders.wamid("16505551234", "3A01", inbound=True)
    assert inbound != builders.wamid("16505551234", "3A01", inbound=False)
    assert b"16505551234" in base64.b64decode(inbound.removeprefix("wamid."))
