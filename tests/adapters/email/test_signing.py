"""Whom the e-mail adapter believes: signatures of Mailgun and SendGrid, Postmark's login, secret
addresses."""

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.email.forms import read_form
from adapters.email.receiver import EmailReceiver
from adapters.email.signing import Tokens
from engine.errors import InvalidInput
from engine.ports import Endpoint, WebhookRequest
from tests.adapters.contract.case import SAMPLES

OWN = Path(__file__).parents[1] / "payloads" / "email"
PRIVATE = ec.generate_private_key(ec.SECP256R1())
PUBLIC = base64.b64encode(
    PRIVATE.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode()
EVENTS = b'[{"email":"zoe@example.org","event":"delivered","timestamp":1767700000,"sg_message_id":"a"}]\r\n'
POSTMARK = (OWN / "postmark_delivery.json").read_bytes()
PARSE = (OWN / "sendgrid_parse.txt").read_bytes()


def endpoint(number: int = 1, **secrets: str) -> Endpoint:
    return Endpoint(
        platform="email",
        external_id=f"help{number}@shop.example",
        parent_id=None,
        tenant_id=number,
        channel_id=number,
        endpoint_key=f"key{number}",
        secrets=secrets,
    )


def request(body: bytes, key: str = "key1", **headers: str) -> WebhookRequest:
    path = f"/api/webhooks/email/{key}" if key else "/api/webhooks/email"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return WebhookRequest(method="POST", path=path, query="", headers=named, body=body)


def believes(one: Endpoint, asked: WebhookRequest, receiver: EmailReceiver | None = None) -> bool:
    return list((receiver or EmailReceiver()).verify(asked, (one,))) == [one]


def mailgun(key: str, *, token: str = "t" * 50, message: str = "<1@example.org>", **more: str) -> bytes:
    signature = hmac.new(key.encode(), f"1767690000{token}".encode(), hashlib.sha256).hexdigest()
    fields = {
        "recipient": "help1@shop.example",
        "body-plain": "Hello",
        "Message-Id": message,
        "timestamp": "1767690000",
        "token": token,
        "signature": signature,
    }
    return urlencode({**fields, **more}).encode()


# ------------------------------------------------------------------ Mailgun


def test_mailgun_signs_time_and_token_under_the_accounts_key() -> None:
    assert believes(endpoint(mailgun_signing_key="a"), request(mailgun("a")))
    assert believes(endpoint(mailgun_signing_key="a"), request(mailgun("a"), key=""))
    assert not believes(endpoint(mailgun_signing_key="b"), request(mailgun("a")))
    assert not believes(endpoint(mailgun_signing_key=""), request(mailgun("")))


def test_mailgun_without_a_key_is_not_believed_at_any_address() -> None:
    assert not believes(endpoint(), request(mailgun("a")))


@pytest.mark.parametrize("field", ["timestamp", "token", "signature"])
def test_a_changed_field_breaks_mailguns_signature(field: str) -> None:
    fields = {**dict(parse_qsl(mailgun("a").decode())), field: "1767690001"}
    assert not believes(endpoint(mailgun_signing_key="a"), request(urlencode(fields).encode()))


def test_a_token_of_mailguns_is_good_for_one_mail_however_often_that_comes() -> None:
    receiver, ours = EmailReceiver(), endpoint(mailgun_signing_key="a")
    assert believes(ours, request(mailgun("a")), receiver)
    assert believes(ours, request(mailgun("a", **{"body-plain": "Again"})), receiver)
    assert not believes(ours, request(mailgun("a", message="<2@example.org>")), receiver)
    assert believes(ours, request(mailgun("a", token="u" * 50, message="<2@example.org>")), receiver)


def test_a_token_that_never_held_takes_no_place() -> None:
    receiver, ours = EmailReceiver(), endpoint(mailgun_signing_key="a")
    assert not believes(ours, request(mailgun("forged", message="<2@example.org>")), receiver)
    assert believes(ours, request(mailgun("a")), receiver)


def test_tokens_are_remembered_up_to_a_number() -> None:
    tokens = Tokens(most=2)
    for token in (b"1", b"2", b"3"):
        assert tokens.is_first_use(token, b"x")
    assert not tokens.is_first_use(b"3", b"y")
    assert tokens.is_first_use(b"1", b"y")


# ------------------------------------------------------------------ SendGrid


def signed(body: bytes, timestamp: str = "1767700000") -> dict[str, str]:
    signature = PRIVATE.sign(timestamp.encode() + body, ec.ECDSA(SHA256()))
    return {
        "x_twilio_email_event_webhook_signature": base64.b64encode(signature).decode(),
        "x_twilio_email_event_webhook_timestamp": timestamp,
    }


def test_sendgrids_events_are_believed_by_their_signature() -> None:
    ours = endpoint(sendgrid_public_key=PUBLIC)
    assert believes(ours, request(EVENTS, **signed(EVENTS)))
    assert not believes(ours, request(EVENTS))
    assert not believes(endpoint(sendgrid_public_key="bm8ga2V5"), request(EVENTS, **signed(EVENTS)))


@given(at=st.integers(0, len(EVENTS) - 1), change=st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_any_changed_byte_breaks_sendgrids_signature(at: int, change: int) -> None:
    altered = bytearray(EVENTS)
    altered[at] ^= change
    assert not believes(endpoint(sendgrid_public_key=PUBLIC), request(bytes(altered), **signed(EVENTS)))


def test_sendgrids_parse_is_believed_at_its_secret_address_unless_it_is_to_be_signed() -> None:
    assert believes(endpoint(sendgrid_public_key=PUBLIC), request(PARSE))
    assert not believes(endpoint(sendgrid_public_key=PUBLIC), request(PARSE, key=""))
    assert not believes(endpoint(sendgrid_public_key=PUBLIC), request(PARSE, key="key2"))
    strict = endpoint(sendgrid_parse_key=PUBLIC)
    assert not believes(strict, request(PARSE))
    assert believes(strict, request(PARSE, **signed(PARSE)))


# ------------------------------------------------------------------ Postmark, and between providers


def test_postmark_is_believed_by_its_login_or_its_secret_address() -> None:
    login = {"authorization": f"Basic {base64.b64encode(b'hook:secret').decode()}"}
    closed = endpoint(postmark_webhook_login="hook:secret")
    assert believes(closed, request(POSTMARK, **login))
    assert not believes(closed, request(POSTMARK))
    assert not believes(closed, request(POSTMARK, authorization="Basic aG9vazpvdGhlcg=="))
    assert believes(endpoint(), request(POSTMARK))
    assert not believes(endpoint(), request(POSTMARK, key=""))


def test_an_account_of_one_provider_does_not_believe_what_looks_like_anothers() -> None:
    """Or the shape of a delivery would choose whether it has to be signed."""
    assert not believes(endpoint(mailgun_signing_key="a"), request(POSTMARK))
    assert not believes(endpoint(mailgun_signing_key="a"), request(PARSE))
    assert not believes(endpoint(postmark_server_token="p"), request(EVENTS))
    assert not believes(endpoint(sendgrid_public_key=PUBLIC), request(POSTMARK))


def test_what_is_no_providers_is_kept_at_a_secret_address_that_asks_for_no_signature() -> None:
    assert believes(endpoint(), request(b"\x00\x01"))
    assert not believes(endpoint(mailgun_signing_key="a"), request(b"\x00\x01"))


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the platform samples are not beside the repository")
@pytest.mark.parametrize("provider", ["mailgun", "sendgrid"])
def test_the_fields_vectors_hold(provider: str) -> None:
    vectors: list[dict[str, Any]] = json.loads((SAMPLES / "signature_vectors.json").read_bytes())["vectors"]
    ours = [each for each in vectors if each["platform"] == provider]
    assert ours
    for vector in ours:
        body = (SAMPLES / vector["file"]).read_bytes()
        if provider == "mailgun":
            assert believes(endpoint(mailgun_signing_key=vector["secret"]), request(body, key=""))
            continue
        headers = {
            vector["header"].lower().replace("-", "_"): vector["value"],
            vector["timestamp_header"].lower().replace("-", "_"): vector["timestamp"],
        }
        assert believes(endpoint(sendgrid_public_key=vector["public_key"]), request(body, key="", **headers))


@pytest.mark.parametrize("filler", [b"a=b; ", b"X-A: b\r\n"])
def test_a_forms_part_whose_head_goes_on_and_on_is_nobodys(filler: bytes) -> None:
    """Not read at all: that would take seconds, before anybody is believed. Content may be of any length."""
    head = b'--B\r\nContent-Disposition: form-data; name="text"'
    end = b"\r\n--B--\r\n"
    with pytest.raises(InvalidInput):
        read_form(head + b"; " + filler * 10_000 + b"\r\n\r\nx" + end)
    content = filler * 10_000 + b"--Bx\r\n--"
    assert read_form(head + b"\r\n\r\n" + content + end).fields["text"] == content
