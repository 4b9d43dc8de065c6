"""What we send, as another program reads it."""

import base64
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from adapters.email.composing import OutFile, compose, mime_of, subject_of
from adapters.email.dkim import signed
from adapters.email.reading import read_message
from adapters.email.threading import open_token, token_in_address, token_in_id
from adapters.port import Account
from engine.domain.inbound import MessageReceived
from engine.domain.outbound import OutboxItem, SendText, Thread
from engine.errors import InvalidInput

ADDRESS = "support@shop.example"
AT = 1_760_000_000_000


def account(**settings: Any) -> Account:
    return Account(
        tenant_id=7,
        channel_id=70,
        platform="email",
        external_id=ADDRESS,
        credentials={"reply_secret": "secret"},
        settings={"from_name": "The Shop", **settings},
    )


def item(**changes: Any) -> OutboxItem:
    plain = OutboxItem(
        id=1,
        tenant_id=7,
        channel_id=70,
        conversation_id=5,
        contact_key="amelia@mail.example",
        message_id=4242,
        recipient="amelia@mail.example",
        lane=0,
        state="queued",
        attempts=0,
        not_before=0,
        send=SendText(body="x"),
        reply_to=None,
        trace="t",
        created_at=AT,
        by_person=True,
    )
    return structs.replace(plain, **changes)


THREAD = Thread(message_id="two@mail.example", subject="RE: Order", references=("one@mail.example",))


def read(raw: bytes) -> EmailMessage:
    return message_from_bytes(raw, _class=EmailMessage, policy=default)


def test_an_answer_is_in_the_customers_thread() -> None:
    """With one `Re:`, ids that name what it answers, and an id of ours that is the same at each attempt."""
    mail = compose(item(thread=THREAD), account(), "Yes, it is.")
    got = read(mime_of(mail, AT))
    assert got["In-Reply-To"] == "<two@mail.example>"
    assert got["References"].split() == ["<one@mail.example>", "<two@mail.example>"]
    assert got["Subject"] == "Re: Order"
    assert str(got["From"]) == "The Shop <support@shop.example>"
    assert got["Message-ID"] == f"<{mail.message_id}>"
    token = token_in_id(mail.message_id)
    assert token is not None
    assert open_token(token, account=ADDRESS, secret="secret") == 4242
    assert compose(item(thread=THREAD), account(), "Yes").message_id == mail.message_id
    assert got["Auto-Submitted"] is None
    assert got.get_content() == "Yes, it is.\r\n"


def test_what_a_rule_answers_says_so() -> None:
    """RFC 3834, so that other robots keep quiet; and we ourselves know such mail."""
    raw = mime_of(compose(item(by_person=False, thread=THREAD), account(), "We are closed."), AT)
    got = read(raw)
    assert got["Auto-Submitted"] == "auto-replied"
    assert got["X-Auto-Response-Suppress"] == "All"
    event = read_message(raw, account="other@x.example", envelope_from=None, envelope_to=(), source="mime:0")
    assert isinstance(event, MessageReceived)
    assert not event.automated


def test_answers_go_to_an_address_with_a_token_where_such_arrive() -> None:
    assert read(mime_of(compose(item(), account(), "Hi"), AT))["Reply-To"] is None
    reply_to = read(mime_of(compose(item(), account(plus_addresses=True), "Hi"), AT))["Reply-To"]
    (address,) = reply_to.addresses
    token = token_in_address(address.addr_spec)
    assert token is not None
    assert open_token(token, account=ADDRESS, secret="secret") == 4242


def test_the_customer_says_where_answers_go() -> None:
    wanted = structs.replace(THREAD, address="office@mail.example")
    assert read(mime_of(compose(item(thread=wanted), account(), "Hi"), AT))["To"] == "office@mail.example"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Order", "Re: Order"),
        ("Re: Re: AW: Sv: Order", "Re: Order"),
        ("RE[2]: Order", "Re: Order"),
        ("رد: طلب رقم 5", "Re: طلب رقم 5"),
        ("回复：订单", "Re: 订单"),
        ("Result: fine", "Re: Result: fine"),
        ("Fwd: Order", "Re: Fwd: Order"),
        (None, "Re:"),
        ("Order\r\nBcc: all@x.example", "Re: Order Bcc: all@x.example"),
    ],
)
def test_a_subject_has_one_prefix(before: str | None, after: str) -> None:
    assert subject_of(structs.replace(THREAD, subject=before), "New") == after


def test_mail_that_begins_a_thread_has_the_accounts_subject() -> None:
    assert (
        read(mime_of(compose(item(), account(new_subject="Your shop"), "Hi"), AT))["Subject"] == "Your shop"
    )
    assert read(mime_of(compose(item(), account(), "Hi"), AT))["Subject"] == "The Shop"


def test_files_keep_their_names_and_bytes() -> None:
    """RFC 2231; names in any script."""
    files = [
        OutFile(filename="فاتورة رقم ١٠٤٢.pdf", media_type="application/pdf", content=b"%PDF\r\n.\r\n"),
        OutFile(filename='a"b;c.txt', media_type="text/plain", content=b"\xff\x00x"),
    ]
    got = read(mime_of(compose(item(), account(html=True), "Hello\n\n<b> & co", files), AT))
    found = [(part.get_filename(), part.get_payload(decode=True)) for part in got.iter_attachments()]
    assert found == [(each.filename, each.content) for each in files]
    html = got.get_body(("html",))
    assert isinstance(html, EmailMessage)
    assert "&lt;b&gt; &amp; co" in html.get_content()


@given(
    name=st.text(max_size=60),
    subject=st.text(max_size=60),
    reference=st.text(max_size=60),
    text=st.text(max_size=200),
    filename=st.text(max_size=40),
)
def test_nothing_that_anybody_says_adds_a_header(
    name: str, subject: str, reference: str, text: str, filename: str
) -> None:
    """Whatever is in a name, a subject, an id, a text or a file's name."""
    thread = Thread(message_id=f"a{reference}@x", subject=subject, references=(reference,))
    file = OutFile(filename=filename or "f", media_type="image/png", content=b"x")
    mail = compose(item(thread=thread), account(from_name=f"N{name}"), f"{text}.", [file])
    raw = mime_of(mail, AT)
    head, _, _ = raw.partition(b"\r\n\r\n")
    names = {line.partition(b":")[0] for line in head.split(b"\r\n") if line[:1] not in b" \t"}
    assert names <= {
        b"Message-ID", b"X-Mijra-Loop", b"In-Reply-To", b"References", b"From", b"To", b"Subject", b"Date",
        b"MIME-Version", b"Content-Type",
    }  # fmt: skip
    assert max(len(line) for line in raw.split(b"\r\n")) <= 998
    assert b"\n" not in raw.replace(b"\r\n", b"")


@pytest.mark.parametrize(
    "address", ["", "nobody", "a b@x.example", "a@x.example\r\nBcc: b@x", "مثال@x.example"]
)
def test_an_address_that_no_server_takes_is_refused(address: str) -> None:
    with pytest.raises(InvalidInput):
        compose(item(recipient=address), account(), "Hi")


def test_a_domain_of_another_script_is_written_as_servers_know_it() -> None:
    assert compose(item(recipient="a@bücher.example"), account(), "Hi").to == "a@xn--bcher-kva.example"


def test_a_signature_holds_and_covers_what_matters() -> None:
    key = rsa.generate_private_key(65_537, 1_024)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    record = b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)
    shop = structs.replace(
        account(dkim_selector="s1"), credentials={"reply_secret": "s", "dkim_private_key": private.decode()}
    )
    raw = signed(mime_of(compose(item(thread=THREAD), shop, "Hi"), AT), shop)

    def names(name: bytes, timeout: int = 5) -> bytes:
        assert name == b"s1._domainkey.shop.example."
        return record

    assert dkim.verify(raw, dnsfunc=names)
    assert not dkim.verify(raw.replace(b"Subject: Re: Order", b"Subject: Re: Other"), dnsfunc=names)
    with pytest.raises(InvalidInput):
        signed(raw, structs.replace(shop, credentials={"dkim_private_key": "no key"}))
