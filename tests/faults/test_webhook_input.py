"""What anybody can throw at the webhook address: the answer, a log line, and no harm.

The answers are those of the API's contract: 401 for whom nobody vouches (nothing stored), 413 over the limit,
200 for what is authentic but not understood or for nobody here, kept where a person can look at it.
"""

import json
from collections.abc import Callable

import httpx
import pytest
import trio

from adapters.simulators import builders
from adapters.simulators.builders import Person
from storage.databases import DatabaseServer
from tests.fixtures.system import Body, Json, Line
from tests.ledger import Books, books_of
from tests.patience import PATIENCE_SECONDS
from tests.plain import PLAIN

DEPTH = 100_000
BODY_BYTES_MAX = 3 * 1024 * 1024


def person_of(phone: Line) -> Person:
    return Person(name="Nobody", wa_id=phone.new_customer())


def valid(phone: Line) -> bytes:
    person = person_of(phone)
    return phone.text_webhook(person, f"wamid.{person.wa_id}")


async def still_works(phone: Line, books: Books, before: int) -> None:
    """Nothing was stored as a message by the fault, and the next customer is heard."""
    assert len(await books.messages()) == before
    await phone.opened("After the fault")
    phone.server.no_tracebacks()


# ------------------------------------------------------------------ nobody vouches for it


@pytest.mark.parametrize(
    "signature_of",
    [
        lambda phone, body: None,
        lambda phone, body: "",
        lambda phone, body: "sha256=",
        lambda phone, body: "sha256=" + "0" * 64,
        lambda phone, body: "sha256=" + "zz" * 32,
        lambda phone, body: "sha1=" + "0" * 40,
        lambda phone, body: builders.signature("another secret", body),
        lambda phone, body: phone.sign(body + b" "),
        lambda phone, body: phone.sign(body)[7:],
    ],
    ids=["none", "empty", "no digest", "zeros", "no hex", "sha1", "other secret", "other body", "no scheme"],
)
async def test_an_unsigned_or_badly_signed_webhook_is_refused(
    any_phone: Line, database: DatabaseServer, signature_of: Callable[[Line, bytes], str | None]
) -> None:
    """401, one log line with the reason, no row anywhere."""
    books = await books_of(any_phone.business, any_phone.sim, any_phone.channel_id, database)
    body = valid(any_phone)
    answer = await any_phone.post(body, signature_of(any_phone, body))
    assert (answer.status_code, answer.json()["code"]) == (401, "bad_signature")
    trace = answer.headers["X-Request-Id"]
    line = await any_phone.server.logged("webhook.refused", trace=trace)
    assert (line["reason"], line["status"], line["level"]) == ("bad_signature", 401, "warning")
    assert not await books.rows("SELECT 1 FROM deliveries WHERE trace = $1", trace)
    await still_works(any_phone, books, 0)


async def test_a_truncated_webhook_does_not_match_its_signature(
    any_phone: Line, database: DatabaseServer
) -> None:
    """The signature is that of the whole body, so what arrived in part is refused and will be repeated."""
    books = await books_of(any_phone.business, any_phone.sim, any_phone.channel_id, database)
    body = valid(any_phone)
    answer = await any_phone.post(body[:-20], any_phone.sign(body))
    assert answer.status_code == 401
    await still_works(any_phone, books, 0)


async def test_a_connection_that_ends_in_the_middle_of_a_body_leaves_nothing(
    any_phone: Line, database: DatabaseServer
) -> None:
    """Half a body and a hang-up: no message, and the server goes on."""
    books = await books_of(any_phone.business, any_phone.sim, any_phone.channel_id, database)
    body = valid(any_phone)
    head = (
        f"POST /api/webhooks/whatsapp HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        f"X-Hub-Signature-256: {any_phone.sign(body)}\r\n\r\n"
    )
    stream = await trio.open_tcp_stream("127.0.0.1", any_phone.server.port)
    await stream.send_all(head.encode() + body[: len(body) // 2])
    await stream.aclose()
    await still_works(any_phone, books, 0)


# ------------------------------------------------------------------ too much


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
async def test_an_oversized_webhook_is_refused(any_phone: Line, chunked: bool) -> None:
    """413, also when the length is not told beforehand."""
    body = b'{"object":"' + b"x" * BODY_BYTES_MAX + b'"}'
    framing = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body))}
    request = httpx.Request(
        "POST",
        any_phone.webhook_url,
        headers={
            "Host": f"127.0.0.1:{any_phone.server.port}",
            "X-Hub-Signature-256": any_phone.sign(body),
            **framing,
        },
        stream=Body(*(body[at : at + 65_536] for at in range(0, len(body), 65_536))),
    )
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, **PLAIN) as platform:
        answer = await platform.send(request)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    await any_phone.opened("After the fault")
    any_phone.server.no_tracebacks()


# ------------------------------------------------------------------ authentic and not understood


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json at all",
        b'{"object":"whatsapp_business_account","entry":[',
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        b"12345678901234567890123456789012345678901234567890",
        b'{"object":"page","entry":[]}',
        b'{"object":"whatsapp_business_account"}',
        b'{"object":"whatsapp_business_account","entry":{}}',
        b'{"object":"whatsapp_business_account","entry":"x"}',
        b'{"object":"whatsapp_business_account","entry":[1,null,"x"]}',
        b"[" * DEPTH,
        b"[" * DEPTH + b"]" * DEPTH,
        b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
    ],
    ids=[
        "empty", "no json", "cut json", "no utf8", "null", "list", "object", "string", "number",
        "other object", "no entries", "entries object", "entries text", "entries mixed", "deep cut",
        "deep lists", "deep objects",
    ],
)  # fmt: skip
async def test_a_signed_body_that_is_not_understood_is_kept_and_acknowledged(
    any_phone: Line, database: DatabaseServer, body: bytes
) -> None:
    """200, so that the platform does not repeat it for days, a log line, and the raw body for a person."""
    books = await books_of(any_phone.business, any_phone.sim, any_phone.channel_id, database)
    answer = await any_phone.post(body, any_phone.sign(body))
    assert answer.status_code == 200, answer.text
    trace = answer.headers["X-Request-Id"]
    lines = [one for one in any_phone.server.log_lines() if one.get("trace") == trace]
    assert lines
    kept = await books.rows("SELECT body, storage_key FROM deliveries WHERE trace = $1", trace)
    for row in kept:
        if row["storage_key"] is not None:  # too large for a row
            row["body"] = await trio.Path(
                any_phone.server.data_dir, "objects", row["storage_key"]
            ).read_bytes()
    parked = await database.pool(database.landlord_database).fetch(
        "SELECT body FROM unrouted_deliveries WHERE trace = $1", trace
    )
    assert [bytes(row["body"]) for row in [*kept, *map(dict, parked)]] == [body], lines
    await still_works(any_phone, books, 0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: value.update(messages="x"),
        lambda value: value.update(messages=[None]),
        lambda value: value.update(messages=[{}]),
        lambda value: value.update(messages=[{"id": 7, "type": ["text"], "from": None}]),
        lambda value: value["messages"][0].update(text="no object"),
        lambda value: value["messages"][0].update(timestamp="tomorrow"),
        lambda value: value["messages"][0].update(type="hologram", hologram={"d": 3}),
        lambda value: value.update(contacts={"wa_id": 1}),
        lambda value: value.update(statuses=[{"id": None}]),
        lambda value: value.pop("metadata"),
    ],
    ids=[
        "text",
        "null",
        "empty",
        "types",
        "no object",
        "time",
        "new type",
        "contacts",
        "status",
        "no account",
    ],
)
async def test_wrongly_typed_items_do_not_spoil_their_neighbours(
    any_phone: Line, database: DatabaseServer, spoil: Callable[[Json], object]
) -> None:
    """A delivery with one bad and one good entry is acknowledged; the good one is stored."""
    good = person_of(any_phone)
    bad_one = json.loads(valid(any_phone))
    spoil(bad_one["entry"][0]["changes"][0]["value"])
    good_one = json.loads(any_phone.text_webhook(good, f"wamid.{good.wa_id}", "I am well"))
    body = json.dumps({**good_one, "entry": [*bad_one["entry"], *good_one["entry"]]}).encode()
    answer = await any_phone.post(body, any_phone.sign(body))
    assert answer.status_code == 200, answer.text
    stored = await any_phone.stored(f"wamid.{good.wa_id}")
    assert stored["content"] == {"body": "I am well"}
    any_phone.server.no_tracebacks()


async def test_an_event_for_an_unknown_account_is_parked_visibly(
    any_phone: Line, database: DatabaseServer
) -> None:
    """200, a warning, and the raw delivery with the landlord under the account's id."""
    stranger = "999000111222333"
    payload = json.loads(valid(any_phone))
    payload["entry"][0]["id"] = "888"
    payload["entry"][0]["changes"][0]["value"]["metadata"]["phone_number_id"] = stranger
    body = builders.webhook_bytes(payload)
    answer = await any_phone.post(body, any_phone.sign(body))
    assert answer.status_code == 200
    trace = answer.headers["X-Request-Id"]
    line = await any_phone.server.logged("webhook.parked", trace=trace)
    assert (line["reason"], line["external_id"], line["level"]) == ("unknown_account", stranger, "warning")
    (parked,) = await database.pool(database.landlord_database).fetch(
        "SELECT external_id, body FROM unrouted_deliveries WHERE trace = $1", trace
    )
    assert (parked["external_id"], bytes(parked["body"])) == (stranger, body)


# ------------------------------------------------------------------ the address itself


async def test_other_methods_platforms_and_tokens_are_refused(any_phone: Line) -> None:
    """404 for no platform and no key of ours, 405 for other methods, 403 for a wrong verify token."""
    handshake = {"hub.mode": "subscribe", "hub.challenge": "42", "hub.verify_token": "guessed"}
    async with httpx.AsyncClient(
        base_url=any_phone.server.base_url, timeout=PATIENCE_SECONDS, **PLAIN
    ) as anybody:
        assert (await anybody.post("/api/webhooks/telex", content=b"{}")).status_code == 404
        assert (await anybody.post("/api/webhooks/whatsapp/guessed", content=b"{}")).status_code == 404
        assert (await anybody.put("/api/webhooks/whatsapp", content=b"{}")).status_code == 405
        assert (await anybody.get("/api/webhooks/whatsapp", params=handshake)).status_code == 403
        handshake["hub.verify_token"] = any_phone.account.verify_token
        accepted = await anybody.get("/api/webhooks/whatsapp", params=handshake)
        assert (accepted.status_code, accepted.text) == (200, "42")
