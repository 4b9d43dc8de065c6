"""Twilio's signature: the published vectors, the address as it was called, and what must not be believed."""

import hashlib
import json
from collections.abc import Mapping
from urllib.parse import urlencode

import pytest

from adapters.sms.receiver import SmsReceiver
from adapters.sms.signing import signature
from engine.ports import Endpoint, WebhookRequest
from tests.adapters.contract.case import SAMPLES

RECEIVER = SmsReceiver()
FORM = {"MessageSid": "SM1", "AccountSid": "AC1", "Body": "Hello & goodbye", "From": "+14155550123"}
BODY = urlencode(FORM).encode()
TARGET = "/api/webhooks/sms/k1"


def endpoint(token: str = "12345", webhook_url: str | None = None, number: int = 1) -> Endpoint:
    secrets = {"auth_token": token} | ({} if webhook_url is None else {"webhook_url": webhook_url})
    return Endpoint(
        platform="sms",
        external_id=str(number),
        parent_id=None,
        tenant_id=number,
        channel_id=number,
        endpoint_key=f"k{number}",
        secrets=secrets,
    )


def request(
    signed: str,
    *,
    path: str = TARGET,
    query: str = "",
    body: bytes = BODY,
    public_url: str | None = None,
    headers: Mapping[str, str] | None = None,
    raw_path: str | None = None,
) -> WebhookRequest:
    return WebhookRequest(
        method="POST",
        path=path,
        query=query,
        headers={"host": "chat.example", **(headers or {}), "x-twilio-signature": signed},
        body=body,
        raw_path=raw_path,
        public_url=public_url,
    )


def holds(asked: WebhookRequest, *candidates: Endpoint) -> bool:
    return bool(RECEIVER.verify(asked, candidates or (endpoint(),)))


PUBLISHED: list[tuple[str, bytes, str]] = [
    (
        "foo=1&bar=2",
        urlencode(
            {
                "CallSid": "CA1234567890ABCDE",
                "Digits": "1234",
                "From": "+14158675309",
                "To": "+18005551212",
                "Caller": "+14158675309",
            }
        ).encode(),
        "RSOYDt4T1cUTdK1PDd93/VVr8B8=",
    ),
    (
        "foo=1&bar=2",
        b"Sid=CA123&SidAccount=AC123&Digits=5678&Digits=1234&Digits=1234",
        "IK+Dwps556ElfBT0I3Rgjkr1wJU=",
    ),
    (
        "foo=1&bar=2&bodySHA256=0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620",
        b'{"property": "value", "boolean": true}',
        "a9nBmqA0ju/hNViExpshrM61xv4=",
    ),
]
"""Of twilio-python's tests: the address is https://mycompany.com/myapp.php, the token 12345."""


@pytest.mark.parametrize(("query", "body", "signed"), PUBLISHED, ids=["form", "repeated", "JSON"])
def test_the_published_vectors_hold(query: str, body: bytes, signed: str) -> None:
    """And nothing else does: not another body, address, query or token."""
    there = {"path": "/myapp.php", "query": query, "body": body, "public_url": "https://mycompany.com"}
    assert holds(request(signed, **there))  # type: ignore[arg-type]
    for change in (
        {"body": body + b"&x=y"},
        {"path": "/other.php"},
        {"query": query + "&x=y"},
        {"query": ""},
        {"public_url": "https://other.example"},
    ):
        assert not holds(request(signed, **{**there, **change}))  # type: ignore[arg-type]
    assert not holds(request(signed, **there), endpoint("12346"))  # type: ignore[arg-type]


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the platform samples are not beside the repository")
def test_the_fields_vectors_hold() -> None:
    """Over the samples' exact bytes."""
    vectors = json.loads((SAMPLES / "signature_vectors.json").read_bytes())["vectors"]
    found = [each for each in vectors if each["platform"] == "twilio" and "file" in each]
    assert found
    for vector in found:
        base, _, query = vector["url"].partition("?")
        body = (SAMPLES / vector["file"]).read_bytes()
        asked = request(
            vector["value"], path=base.removeprefix("https://example.com"), query=query, body=body
        )
        for public_url in ("https://example.com", "https://example.com:443"):
            known = WebhookRequest(
                method="POST",
                path=asked.path,
                query=query,
                headers=asked.headers,
                body=body,
                public_url=public_url,
            )
            assert holds(known, endpoint(vector["secret"]))


@pytest.mark.parametrize(
    ("public_url", "called"),
    [
        ("https://chat.example.com", "https://chat.example.com"),
        ("https://chat.example.com", "https://chat.example.com:443"),
        ("https://chat.example.com:443", "https://chat.example.com"),
        ("http://chat.example.com", "http://chat.example.com:80"),
        ("https://chat.example.com:8443", "https://chat.example.com:8443"),
        ("https://chat.example.com:8443", "https://chat.example.com"),
        ("https://[2001:db8::1]", "https://[2001:db8::1]:443"),
        ("https://example.com/mijra", "https://example.com/mijra"),
    ],
)
def test_the_public_url_is_what_was_called(public_url: str, called: str) -> None:
    """With the standard port and without one, below a path of a proxy, with the query as it was written."""
    query = "message=7&sender=%2B15005550006"
    signed = signature("12345", f"{called}{TARGET}?{query}", FORM.items())
    assert holds(request(signed, query=query, public_url=public_url))
    assert not holds(request(signed, query=query.replace("%2B", "+"), public_url=public_url))


def test_without_a_public_url_the_host_header_counts_and_nothing_that_a_proxy_adds() -> None:
    """By either scheme, which nobody can tell; X-Forwarded headers are anybody's."""
    forwarded = {
        "x-forwarded-host": "evil.example",
        "x-forwarded-proto": "https",
        "forwarded": "host=evil.example",
    }
    for scheme in ("https", "http"):
        signed = signature("12345", f"{scheme}://chat.example{TARGET}", FORM.items())
        assert holds(request(signed, headers=forwarded))
        assert not holds(request(signed, public_url="https://elsewhere.example"))
        assert not holds(request(signed, headers={"host": ""}))
    evil = signature("12345", f"https://evil.example{TARGET}", FORM.items())
    assert not holds(request(evil, headers=forwarded))


def test_a_path_is_signed_as_it_was_written() -> None:
    signed = signature("12345", "https://chat.example/api/webhooks/sms/k%31", FORM.items())
    assert holds(request(signed, raw_path="/api/webhooks/sms/k%31"))


def test_an_account_may_have_an_address_of_its_own() -> None:
    """Where a relay stands before us. It counts for this account alone, in place of the public URL."""
    relay = "https://relay.example/twilio"
    signed = signature("12345", f"{relay}?message=7", FORM.items())
    asked = request(signed, query="message=7", public_url="https://chat.example")
    ours, theirs = endpoint(webhook_url=relay), endpoint(number=2)
    assert list(RECEIVER.verify(asked, (theirs, ours))) == [ours]


def test_a_body_is_always_covered() -> None:
    """A signature of the address alone does not let a body in that was not signed; nor does a digest that is
    another body's."""
    url = f"https://chat.example{TARGET}"
    bare = signature("12345", url)
    assert holds(request(bare, body=b""))
    assert not holds(request(bare))
    assert not holds(request(bare, body=b'{"a": 1}'))
    digest = hashlib.sha256(b'{"a": 1}').hexdigest()
    by_digest = signature("12345", f"{url}?bodySHA256={digest}")
    assert holds(request(by_digest, query=f"bodySHA256={digest}", body=b'{"a": 1}'))
    assert not holds(request(by_digest, query=f"bodySHA256={digest}", body=b'{"a": 2}'))
    assert not holds(request(by_digest, query=f"bodySHA256={digest}", body=b""))


@pytest.mark.parametrize("signed", ["", "x", "é", "====", "RSOYDt4T1cUTdK1PDd93/VVr8B8", "A" * 10_000])
def test_what_is_no_signature_is_none(signed: str) -> None:
    assert not holds(request(signed))


@pytest.mark.parametrize(
    "body", [b"a=%ff", "a=é".encode(), b"&".join([b"a=b"] * 600), b"a=" + b"x" * 300_000]
)
def test_a_form_that_cannot_be_read_in_one_way_is_not_believed(body: bytes) -> None:
    """Not UTF-8, not ASCII, too many parameters, too long."""
    assert not holds(request(signature("12345", f"https://chat.example{TARGET}"), body=body))
