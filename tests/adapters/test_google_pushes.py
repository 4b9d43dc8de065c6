"""Whose push is believed: every claim has its refusal, and the keys are there whatever becomes of Google."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import jwt
import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from adapters.google_business.keys import ASK_SECONDS, FIRST_SECONDS, KEYS_MAX, PublicKeys, read_set
from adapters.google_business.receiver import GoogleReceiver
from adapters.guard import Guard
from adapters.simulators.http import HttpServer, Request, Response
from engine.errors import InvalidInput, Unavailable
from engine.ports import Endpoint, WebhookRequest
from tests.adapters.google_tokens import AUDIENCE, EMAIL, key_set, private_key, push_token
from tests.patience import PATIENCE_SECONDS

URL = "https://keys.example/certs"


class FixedKeys(PublicKeys):
    """Keys as if they had been fetched."""

    def __init__(self, *kids: str) -> None:
        super().__init__()
        self._known = read_set(key_set(*kids))
        self.asked: list[str] = []

    def find(self, account: tuple[int, int], kid: str) -> jwt.PyJWK | None:
        self.asked.append(kid)
        return self._known.get(kid)


def endpoint(number: int = 1, **secrets: str) -> Endpoint:
    return Endpoint(
        platform="google-business",
        external_id=f"accounts/1/locations/{number}",
        parent_id=None,
        tenant_id=number,
        channel_id=number,
        endpoint_key=f"k{number}",
        secrets={"push_audience": AUDIENCE, "push_email": EMAIL, **secrets},
    )


def request(token: str | None, scheme: str = "Bearer") -> WebhookRequest:
    headers = {} if token is None else {"authorization": f"{scheme} {token}"}
    return WebhookRequest(
        method="POST", path="/api/webhooks/google-business", query="", headers=headers, body=b"{}"
    )


def verified(asked: WebhookRequest, *endpoints: Endpoint, keys: PublicKeys | None = None) -> list[Endpoint]:
    receiver = GoogleReceiver("google-business", (), keys or FixedKeys("k1"))
    return list(receiver.verify(asked, endpoints or (endpoint(),)))


def test_a_push_of_the_subscription_is_believed() -> None:
    """For all accounts that share it, and for nobody else's."""
    ours, sister = endpoint(1), endpoint(2)
    strangers = (
        endpoint(3, push_email="someone@else.example"),
        endpoint(4, push_audience="https://else.example"),
        endpoint(5, push_email=""),
        endpoint(6, push_audience=""),
    )
    assert verified(request(push_token()), ours, *strangers, sister) == [ours, sister]
    assert verified(request(push_token(), "bearer"), ours) == [ours]
    assert verified(request(push_token(iss="accounts.google.com")), ours) == [ours]


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "https://shop.example/api/webhooks/google-businesS"},
        {"aud": [AUDIENCE]},
        {"aud": ""},
        {"aud": None},
        {"email": "other@shop-example.iam.gserviceaccount.com"},
        {"email": [EMAIL]},
        {"email": None},
        {"email_verified": False},
        {"email_verified": "true"},
        {"email_verified": None},
        {"iss": "https://accounts.google.com.evil.example"},
        {"iss": None},
        {"exp": 1_705_316_400},
        {"exp": None},
        {"exp": "soon"},
        {"iat": 9_999_999_999},
        {"iat": None},
    ],
    ids=str,
)
def test_each_claim_has_its_refusal(change: dict[str, Any]) -> None:
    assert verified(request(push_token(**change))) == []


def test_only_googles_keys_sign() -> None:
    """Not another key under the name of Google's, and none at all."""
    assert verified(request(push_token("k1", signer="k2"))) == []
    header, payload, _ = push_token().split(".")
    for signature in ("", "AA", push_token(sub="2").split(".")[2]):
        assert verified(request(f"{header}.{payload}.{signature}")) == []


def test_any_changed_character_refuses() -> None:
    """Of a token; it may also ask for a key that is not there."""
    token = push_token()
    for place in range(0, len(token), 7):
        other = "A" if token[place] != "A" else "B"
        forged = token[:place] + other + token[place + 1 :]
        try:
            assert verified(request(forged)) == [] or _decodes_alike(token, forged)
        except Unavailable:
            assert place < token.index(".")


def _decodes_alike(token: str, forged: str) -> bool:
    """The last character of a part has bits that stand for nothing."""

    def parts(text: str) -> list[bytes]:
        return [base64.urlsafe_b64decode(part + "==") for part in text.split(".")]

    return parts(token) == parts(forged)


def made_by_hand(header: dict[str, Any], secret: bytes) -> str:
    """A token as libraries refuse to make it."""

    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    body = push_token().split(".")[1].encode()
    signed = part(json.dumps(header).encode()) + b"." + body
    digest = hmac.new(secret, signed, hashlib.sha256).digest() if secret else b""
    return (signed + b"." + part(digest)).decode()


def test_the_algorithm_is_not_the_callers_choice() -> None:
    """No token without a signature, and none that takes the public key for a shared secret."""
    public = private_key("k1").public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert verified(request(made_by_hand({"alg": "none", "kid": "k1"}, b""))) == []
    for secret in (pem, key_set("k1")):
        assert verified(request(made_by_hand({"alg": "HS256", "kid": "k1"}, secret))) == []
        # Named as Google names it, and signed otherwise.
        assert verified(request(made_by_hand({"alg": "RS256", "kid": "k1"}, secret))) == []
    for algorithm in ("RS384", "RS512", "PS256"):
        token = jwt.encode(
            jwt.decode(push_token(), options={"verify_signature": False}),
            private_key("k1"),
            algorithm=algorithm,
            headers={"kid": "k1"},
        )
        assert verified(request(token)) == []


@pytest.mark.parametrize("header", [{}, {"kid": 1}, {"kid": ""}, {"kid": "k" * 300}, {"kid": None}])
def test_a_token_names_its_key(header: dict[str, Any]) -> None:
    assert verified(request(made_by_hand({"alg": "RS256", **header}, b"x"))) == []


@pytest.mark.parametrize("token", [None, "", "x", "a.b", "a.b.c", "..", "x" * 10_000, "é.é.é", "e30.e30."])
def test_what_is_no_token_is_refused(token: str | None) -> None:
    assert verified(request(token)) == []
    assert verified(request(push_token(), "Basic")) == []


def test_a_push_with_an_unknown_key_is_repeated() -> None:
    """It is neither believed nor refused for good; and only one that could be right asks for the key."""
    keys = FixedKeys("k1")
    with pytest.raises(Unavailable) as caught:
        verified(request(push_token("k2")), keys=keys)
    assert caught.value.code == "keys_unknown"
    assert keys.asked == ["k2"]
    assert verified(request(push_token("k3", aud="https://else.example")), keys=keys) == []
    assert verified(request(push_token("k3", email_verified=False)), keys=keys) == []
    assert keys.asked == ["k2"]


# ------------------------------------------------------------------ the handshake


def test_the_handshake_gives_the_secret_back() -> None:
    """To who knows the client token of one of our agents."""
    receiver = GoogleReceiver("google-business", (), PublicKeys())
    agents = [endpoint(1), endpoint(2, client_token="token-2")]

    def asked(body: object, method: str = "POST") -> WebhookRequest:
        return WebhookRequest(method=method, path="/x", query="", headers={}, body=json.dumps(body).encode())

    good = asked({"clientToken": "token-2", "secret": "1234567890abcdef"})
    assert receiver.is_handshake(good)
    assert receiver.challenge(good, agents) == b"1234567890abcdef"
    for other in ("token-1", "", "TOKEN-2"):
        assert receiver.challenge(asked({"clientToken": other, "secret": "s"}), agents) is None
    for long in ("", "s" * 2_000):
        assert receiver.challenge(asked({"clientToken": "token-2", "secret": long}), agents) is None
    for none in (
        asked({"clientToken": "token-2", "secret": "s"}, "GET"),
        asked({"clientToken": "token-2"}),
        asked({"clientToken": "token-2", "secret": "s", "agent": "brands/1/agents/1"}),
        asked({"clientToken": 1, "secret": "s"}),
        asked(["clientToken", "secret"]),
    ):
        assert not receiver.is_handshake(none)


# ------------------------------------------------------------------ keeping the keys

ACCOUNT = (1, 2)


class Certs:
    """A key server: what it answers now, and how often it was asked."""

    def __init__(self) -> None:
        self.answer = Response(200, key_set("k1"), headers={"Cache-Control": "public, max-age=3600"})
        self.asked = 0

    async def take(self, request: Request) -> Response:
        self.asked += 1
        return self.answer


class Clock:
    """Real time, and what is added to it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return trio.current_time() + self.ahead


@asynccontextmanager
async def kept(answer: Response | None = None) -> AsyncIterator[tuple[PublicKeys, Certs, Clock]]:
    certs, clock, stopping = Certs(), Clock(), trio.Event()
    certs.answer = answer or certs.answer
    keys = PublicKeys(clock)
    async with trio.open_nursery() as nursery:
        server = HttpServer(certs.take, body_limit=lambda method, path: 0)
        url = await nursery.start(server.run)
        keys.use(ACCOUNT, f"{url}/certs")
        nursery.start_soon(keys.run, Guard(allowed=[url.removeprefix("http://")]), stopping)
        yield keys, certs, clock
        stopping.set()
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def later(keys: PublicKeys, clock: Clock, seconds: float) -> None:
    """So much time has passed, and whoever waits for it is told."""
    clock.ahead += seconds
    keys.use((9, 9), f"http://127.0.0.1:9/{clock.ahead}")
    await trio.sleep(0.1)


@pytest.mark.real_time
async def test_keys_are_fetched_when_an_account_is_there() -> None:
    """Before the first push; and once, however many ask."""
    async with kept() as (keys, certs, _):
        await until(lambda: keys.find(ACCOUNT, "k1"))
        assert keys.find((7, 7), "k1") is None
        assert certs.asked == 1


@pytest.mark.real_time
async def test_an_unknown_key_is_asked_for_but_not_all_the_time() -> None:
    async with kept() as (keys, certs, clock):
        await until(lambda: keys.find(ACCOUNT, "k1"))
        certs.answer = Response(200, key_set("k1", "k2"))
        for _ in range(20):
            assert keys.find(ACCOUNT, "k2") is None
            await trio.sleep(0.005)
        assert certs.asked == 1
        await later(keys, clock, ASK_SECONDS)
        await until(lambda: keys.find(ACCOUNT, "k2"))
        assert certs.asked == 2


@pytest.mark.real_time
@pytest.mark.parametrize("answer", [Response(500), Response(200, b"<html>"), Response(200, b'{"keys": []}')])
async def test_keys_outlive_an_outage(answer: Response) -> None:
    """Of Google, and of its senses; they are asked for again until they come."""
    async with kept() as (keys, certs, clock):
        await until(lambda: keys.find(ACCOUNT, "k1"))
        certs.answer = answer
        for seconds in (3_600.0, ASK_SECONDS):
            asked = certs.asked
            await later(keys, clock, seconds)
            with trio.fail_after(PATIENCE_SECONDS):
                while certs.asked == asked:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            assert keys.find(ACCOUNT, "k1") is not None
        certs.answer = Response(200, key_set("k2"))
        await later(keys, clock, ASK_SECONDS)
        await until(lambda: keys.find(ACCOUNT, "k2"))
        # What Google has taken out of its set counts no more.
        assert keys.find(ACCOUNT, "k1") is None


@pytest.mark.real_time
async def test_keys_are_as_old_as_their_answer_says() -> None:
    """Within bounds."""
    async with kept() as (keys, certs, clock):
        await until(lambda: keys.find(ACCOUNT, "k1"))
        await later(keys, clock, 3_500.0)
        assert certs.asked == 1
        certs.answer = Response(200, key_set("k1"), headers={"Cache-Control": "max-age=999999999"})
        await later(keys, clock, 200.0)
        await until(lambda: certs.asked == 2 and keys._next_due() < inf)  # and its answer was read
        await later(keys, clock, 86_500.0)
        await until(lambda: certs.asked == 3)


@pytest.mark.real_time
async def test_the_first_keys_are_asked_for_sooner() -> None:
    """While nothing can be believed at all."""
    async with kept(Response(503)) as (keys, certs, clock):
        await until(lambda: certs.asked == 1)
        certs.answer = Response(200, key_set("k1"))
        await later(keys, clock, FIRST_SECONDS)
        await until(lambda: keys.find(ACCOUNT, "k1"))


@pytest.mark.real_time
async def test_a_disconnected_account_believes_nothing() -> None:
    async with kept() as (keys, _, _):
        await until(lambda: keys.find(ACCOUNT, "k1"))
        keys.drop(ACCOUNT)
        keys.drop(ACCOUNT)
        assert keys.find(ACCOUNT, "k1") is None


def test_a_set_has_keys_that_can_be_used() -> None:
    """Weak ones, those for other purposes and other algorithms are left out; a set without any is none."""
    weak = rsa.generate_private_key(public_exponent=65_537, key_size=1_024)
    short = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(weak.public_key()))
    good = json.loads(key_set("k1"))["keys"][0]
    unusable = [
        {**short, "kid": "short"},
        {**good, "kid": "other", "use": "enc"},
        {**good, "kid": "alg", "alg": "RS512"},
        {**good, "kid": 5},
        {"kty": "oct", "k": "AAAA", "kid": "shared"},
        {"kty": "RSA", "kid": "broken", "n": "?", "e": 3},
        None,
    ]
    assert list(read_set(json.dumps({"keys": [*unusable, good]}).encode())) == ["k1"]
    for odd in (b"", b"[]", b"{}", json.dumps({"keys": unusable}).encode(), b'{"keys": 1}'):
        with pytest.raises(InvalidInput):
            read_set(odd)
    many = [{**good, "kid": f"k{number}"} for number in range(KEYS_MAX + 10)]
    assert len(read_set(json.dumps({"keys": many}).encode())) == KEYS_MAX
