"""The files of received mail are found again in the delivery that brought them, whoever posted it."""

import hashlib
import json
from pathlib import Path
from urllib.parse import urlencode

import pytest

from adapters.email.media import EmailMedia
from adapters.email.parts import source_of
from adapters.email.receiver import EmailReceiver
from adapters.port import Account, Declined, ErrorClass, FoundMedia
from engine.domain.inbound import MessageReceived
from engine.domain.intake import delivery_key
from tests.adapters.contract.files import Files

OWN = Path(__file__).parents[1] / "payloads" / "email"
RAW = (
    b"From: zoe@example.org\r\nMessage-ID: <1@example.org>\r\n"
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/plain\r\n\r\nHi\r\n"
    b"--b\r\nContent-Type: application/pdf; name=a.pdf\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\nJVBERg==\r\n"
    b"--b--\r\n"
)


def account(**credentials: str) -> Account:
    return Account(
        tenant_id=7,
        channel_id=1,
        platform="email",
        external_id="help@shop.example",
        credentials=credentials,
        settings={},
    )


async def files_of(body: bytes) -> list[bytes | None]:
    """The contents of the files that a delivery brings."""
    store = Files({delivery_key(7, hashlib.sha256(body).hexdigest()): body})
    source = EmailMedia(store)
    found = []
    for routed in EmailReceiver().parse(body):
        assert isinstance(routed.event, MessageReceived)
        for each in routed.event.media:
            result = await source.look_up(each.source_id, each.source_url, account())
            assert isinstance(result, FoundMedia)
            found.append(result.content)
    return found


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("mailgun_files.txt", [b"\x89PNG", b"%PDF-1.4 demo"]),
        ("mailgun_mime.txt", [b"BEGIN:VCALENDAR", b'x\x9f>"']),
        ("sendgrid_parse.txt", [b"%PDF-1.4", b"%PDF-1.4"]),
        ("postmark_reply.json", [b"a;b\n"]),
    ],
)
async def test_files_are_parts_of_the_delivery(name: str, contents: list[bytes]) -> None:
    found = await files_of((OWN / name).read_bytes())

    assert len(found) == len(contents)
    for content, begins in zip(found, contents, strict=True):
        assert content is not None
        assert content.startswith(begins)


async def test_files_of_a_mail_within_a_form_are_found() -> None:
    body = urlencode({"email": RAW, "envelope": '{"to":["help@shop.example"],"from":"zoe@example.org"}'})
    assert await files_of(body.encode()) == [b"%PDF"]


async def test_a_file_of_a_mail_as_such_is_found() -> None:
    source = source_of(RAW)
    store = Files({delivery_key(7, source.partition(":")[2]): RAW})
    found = await EmailMedia(store).look_up(f"{source}:1", None, account())
    assert isinstance(found, FoundMedia)
    assert found.content == b"%PDF"


@pytest.mark.parametrize("source_id", [None, "", "x", "mime:short:1", f"mime:{'0' * 64}:1"])
async def test_what_is_not_kept_is_gone(source_id: str | None) -> None:
    found = await EmailMedia(Files({})).look_up(source_id, None, account())
    assert isinstance(found, Declined)
    assert found.error_class is ErrorClass.BAD_REQUEST


async def test_a_part_that_is_not_there_is_gone() -> None:
    source = source_of(RAW)
    store = Files({delivery_key(7, source.partition(":")[2]): RAW})
    for where in ("9", "attachment-1", "-1"):
        assert isinstance(await EmailMedia(store).look_up(f"{source}:{where}", None, account()), Declined)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://storage.eu.mailgun.net/v3/x", True),
        ("http://storage.mailgun.net/v3/x", False),
        ("https://mailgun.net.evil.example/x", False),
        ("https://evilmailgun.net/x", False),
    ],
)
async def test_the_key_goes_to_mailguns_hosts_alone(url: str, told: bool) -> None:
    found = await EmailMedia(Files({})).look_up(None, url, account(mailgun_api_key="k"))
    assert isinstance(found, FoundMedia)
    assert bool(found.headers) is told


async def test_files_that_mailgun_stores_are_addresses() -> None:
    stored = [
        {
            "url": "https://storage.mailgun.net/v3/1",
            "name": "a.pdf",
            "content-type": "application/pdf",
            "size": 4,
        },
        {"url": "ftp://elsewhere", "name": "b"},
        "odd",
    ]
    fields = {"recipient": "help@shop.example", "from": "zoe@example.org", "body-plain": "x"}
    body = urlencode({**fields, "attachments": json.dumps(stored)}).encode()
    (routed,) = EmailReceiver().parse(body)

    assert isinstance(routed.event, MessageReceived)
    (file,) = routed.event.media
    assert (file.source_id, file.in_delivery, file.filename) == (None, False, "a.pdf")
    found = await EmailMedia(Files({})).look_up(None, file.source_url, account(mailgun_api_key="k"))
    assert isinstance(found, FoundMedia)
    assert found.url == "https://storage.mailgun.net/v3/1"
