"""Mail as bytes into one event: charsets, structures, quotes, threads, reports, and whatever else comes."""

import base64
import textwrap
from email.message import EmailMessage
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.email.mime import MULTIPARTS_MAX, PARTS_MAX, part_of
from adapters.email.parts import place_of, source_of
from adapters.email.reading import BODY_CHARACTERS_MAX, read_message
from adapters.email.recognising import recognise
from adapters.email.threading import message_id_for, open_token, reply_address, reply_token
from engine.domain.inbound import (
    AccountNotice,
    Contact,
    InboundEvent,
    MessageReceived,
    StatusChanged,
    Unsupported,
)
from engine.ports import Endpoint

ACCOUNT = "help@shop.example"
SECRET = "reply-secret"
HEAD = b"From: Zoe <zoe@example.org>\r\nTo: help@shop.example\r\nMessage-ID: <1@example.org>\r\n"


def read(raw: bytes, **changes: Any) -> InboundEvent:
    known = {"account": ACCOUNT, "envelope_from": "zoe@example.org", "envelope_to": (ACCOUNT,)}
    return read_message(raw, source=source_of(raw), **{**known, **changes})


def message(raw: bytes, **changes: Any) -> MessageReceived:
    event = read(raw, **changes)
    assert isinstance(event, MessageReceived)
    return event


def mail(body: str = "Hello", **headers: str) -> bytes:
    """A mail of one text, with headers by name (`_` for `-`)."""
    made = EmailMessage()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {"From": "Zoe <zoe@example.org>", "To": ACCOUNT, "Message-ID": "<1@example.org>", **given}
    for name, value in fields.items():
        made[name] = value
    made.set_content(body)
    return made.as_bytes()


def part_bytes(raw: bytes, event: MessageReceived, number: int = 0) -> bytes | None:
    place = place_of(event.media[number].source_id or "")
    assert place is not None
    return part_of(raw, int(place.where))


# ------------------------------------------------------------------ text and charsets


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("windows-1256", "مرحبا، أين الطلب؟"),
        ("iso-8859-1", "Grüße an Zoë"),
        ("koi8-r", "Где мой заказ"),
        ("gb2312", "订单在哪里"),
        ("utf-8", "أهلا 👋"),
    ],
)
@pytest.mark.parametrize("coding", ["base64", "quoted-printable", "8bit"])
def test_text_is_read_in_its_charset(charset: str, text: str, coding: str) -> None:
    data = text.encode(charset)
    body = {
        "base64": base64.encodebytes(data),
        "quoted-printable": "".join(f"={byte:02X}" for byte in data).encode(),
        "8bit": data,
    }[coding]
    head = f"Content-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: {coding}\r\n\r\n"

    assert message(HEAD + head.encode() + body).content["body"] == text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("مرحبا أين الطلب".encode("windows-1256"), "مرحبا أين الطلب"),
        ("Zoë et Chloé, à bientôt".encode("latin-1"), "Zoë et Chloé, à bientôt"),
        ("plain æøå".encode(), "plain æøå"),
    ],
)
@pytest.mark.parametrize("declared", ["", "; charset=nonsense", "; charset=us-ascii"])
def test_a_missing_or_wrong_charset_is_guessed(data: bytes, text: str, declared: str) -> None:
    raw = HEAD + f"Content-Type: text/plain{declared}\r\n\r\n".encode() + data

    assert message(raw).content["body"] == text


def test_headers_are_decoded_also_where_a_character_was_cut_in_two() -> None:
    whole = "مرحبا".encode()
    first, second = (base64.b64encode(piece).decode() for piece in (whole[:3], whole[3:]))
    raw = HEAD + f"Subject: Re: =?utf-8?B?{first}?=\r\n =?utf-8?B?{second}?= =?x?Q?_=3D?=\r\n\r\nx".encode()

    assert message(raw).content["subject"].startswith("Re: مرحبا")


def test_raw_bytes_in_a_header_are_read() -> None:
    raw = b"From: Zo\xeb <zoe@example.org>\r\nSubject: Gr\xc3\xbc\xc3\x9fe\r\n\r\nx"

    event = message(raw)
    assert (event.contact.name, event.content["subject"]) == ("Zoë", "Grüße")


def test_a_mail_of_html_alone_has_a_text_too_and_nothing_in_it_runs_or_loads() -> None:
    html = (
        "<html><head><title>T</title><style>p{}</style></head><body onload=x()><p dir=rtl>Hello<br>Zoe</p>"
        "<script>alert(1)</script><img src='http://spy.example/1.gif'><img src='data:image/png;base64,AA'>"
        "<a href='javascript:x()'>a</a><a href='https://shop.example'>shop</a><form><input></form>"
        "<div style='background:url(http://spy.example)'>x</div><iframe src='http://spy.example'></iframe>"
    )
    event = message(HEAD + b"Content-Type: text/html; charset=utf-8\r\n\r\n" + html.encode())

    shown = event.content["html"]
    assert event.content["body"].startswith("Hello\nZoe")
    for word in ("script", "onload", "javascript", "data:", "url(", "iframe", "form", "input", '"http://spy'):
        assert word not in shown
    assert '<p dir="rtl">' in shown
    assert 'src="remote:http://spy.example/1.gif"' in shown
    assert 'href="https://shop.example"' in shown


def test_html_that_is_deep_or_endless_costs_little_and_its_text_stays() -> None:
    for html in ("<div>" * 50_000 + "deep", "<b><i>" * 40_000 + "deep", "&" * 400_000 + "deep"):
        event = message(HEAD + b"Content-Type: text/html\r\n\r\n" + html.encode())
        assert "html" not in event.content
        assert event.content["truncated"] is True


def test_a_long_text_is_cut_and_says_so() -> None:
    event = message(HEAD + b"\r\n" + b"word " * 100_000)

    assert len(event.content["body"]) == BODY_CHARACTERS_MAX
    assert event.content["truncated"] is True


# ------------------------------------------------------------------ quotes and signatures


@pytest.mark.parametrize(
    ("text", "new", "quoted"),
    [
        (
            "Yes.\n\nOn Mon, 5 Jan 2026, Help wrote:\n> Fits?\n",
            "Yes.",
            "On Mon, 5 Jan 2026, Help wrote:\n> Fits?",
        ),
        ("Yes.\n\nOn Mon, 5 Jan 2026 at 18:00, Help\n<help@shop.example> wrote:\n\n> Fits?", "Yes.", None),
        ("Ja.\n\nAm 05.01.26 um 18:00 schrieb Help:\n> Passt es?", "Ja.", None),
        ("نعم\n\nفي الاثنين، 5 يناير 2026 كتب Help:\n> هل يناسب؟", "نعم", None),
        ("Oui.\n\nLe lun. 5 janv. 2026, Help a écrit :\n> Ça va ?", "Oui.", None),
        ("Yes.\n\n-----Original Message-----\nFrom: Help\nSent: Monday\n\nFits?", "Yes.", None),
        ("Yes.\n\nFrom: Help <h@x>\nSent: Monday\nTo: Zoe\nSubject: Order\n\nFits?", "Yes.", None),
        ("Yes.\n> Fits?", "Yes.", "> Fits?"),
        ("Hello,\nOn Monday I wrote: see below\nbye", "Hello,\nOn Monday I wrote: see below\nbye", None),
    ],
)
def test_what_was_quoted_is_folded(text: str, new: str, quoted: str | None) -> None:
    content = message(mail(text)).content

    assert content["body"] == new
    if quoted is not None:
        assert content["quoted"] == quoted
    elif new != text:
        assert "Help" in content["quoted"]


def test_an_answer_between_the_quoted_lines_is_all_new() -> None:
    text = "On Mon, Help wrote:\n> Which size?\nTwo.\n> Which color?\nRed.\n\nAnd please hurry.\nI need it."

    assert message(mail(text)).content["body"] == text


def test_a_forward_without_a_word_is_all_new() -> None:
    text = "---------- Forwarded message ---------\nFrom: Kim <kim@example.org>\nSubject: Hi\n\nLook at this."

    assert "Look at this." in message(mail(text)).content["body"]


@pytest.mark.parametrize("signature", ["-- \nZoe\nShop", "Sent from my iPhone", "أُرسلت من الـ iPhone"])
def test_a_signature_is_folded(signature: str) -> None:
    content = message(mail(f"Hello\n\n{signature}\n")).content

    assert content["body"] == "Hello"
    assert content["signature"] == signature.removeprefix("-- \n")


def test_flowed_lines_are_joined() -> None:
    raw = HEAD + b"Content-Type: text/plain; format=flowed\r\n\r\nA long \r\nline.\r\nAnother.\r\n"

    assert message(raw).content["body"] == "A long line.\nAnother."


# ------------------------------------------------------------------ structure


def nested() -> bytes:
    made = EmailMessage()
    made["From"], made["To"], made["Message-ID"] = "zoe@example.org", ACCOUNT, "<1@example.org>"
    made.set_content("See the photo")
    made.add_alternative("<p>See <img src='cid:photo@x'></p>", subtype="html")
    inner: Any = made.get_payload(1)
    inner.add_related(b"\x89PNG", "image", "png", cid="<photo@x>", filename="photo.png")
    made.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="فاتورة رقم ١.pdf")
    made.add_attachment(b"x\x9f", maintype="application", subtype="ms-tnef")
    forwarded = EmailMessage()
    forwarded["Subject"] = "Inner"
    forwarded.set_content("From the inside\n")
    made.add_attachment(forwarded)
    made.add_attachment("BEGIN:VCALENDAR", subtype="calendar", filename=None)
    return made.as_bytes()


def test_a_mail_of_many_kinds_is_a_text_with_its_files() -> None:
    raw = nested()
    event = message(raw)

    assert event.content["body"] == "See the photo"
    assert event.content["inline"] == {"photo@x": 0}
    assert [(each.kind, each.filename) for each in event.media] == [
        ("image", "photo.png"),
        ("document", "فاتورة رقم ١.pdf"),
        ("document", "winmail.dat"),
        ("document", "Inner.eml"),
        ("document", "invite.ics"),
    ]
    assert all(each.in_delivery for each in event.media)
    assert part_bytes(raw, event, 0) == b"\x89PNG"
    assert part_bytes(raw, event, 1) == b"%PDF"
    assert b"From the inside" in (part_bytes(raw, event, 3) or b"")


def test_an_encrypted_mail_is_kept_and_said_to_be_one() -> None:
    raw = (
        HEAD
        + textwrap.dedent("""\
        Content-Type: multipart/encrypted; protocol="application/pgp-encrypted"; boundary=b

        --b
        Content-Type: application/pgp-encrypted

        Version: 1
        --b
        Content-Type: application/octet-stream; name=encrypted.asc

        -----BEGIN PGP MESSAGE-----
        --b--
        """).encode()
    )
    event = message(raw)

    assert event.metadata["email"]["encrypted"] == "pgp"
    assert [each.filename for each in event.media] == ["version.asc", "encrypted.asc"]


def test_file_names_are_only_names() -> None:
    first = b'Content-Disposition: attachment; filename="../../etc/pass\x00wd"\r\n\r\nx\r\n'
    second = (
        b"Content-Disposition: attachment;\r\n filename*0*=utf-8''%D9%85;\r\n filename*1*=.pdf\r\n\r\nx\r\n"
    )
    kind = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    raw = HEAD + kind + b"--b\r\n" + first + b"--b\r\n" + second + b"--b--\r\n"

    assert [each.filename for each in message(raw).media] == ["passwd", "م.pdf"]


def test_broken_codings_give_what_can_be_read() -> None:
    raw = HEAD + b"Content-Transfer-Encoding: base64\r\n\r\nSGVs!!bG8gWm9l=\x00=garbage"
    assert message(raw).content["body"].startswith("Hello Zoe"[:5])
    raw = HEAD + b"Content-Transfer-Encoding: quoted-printable\r\n\r\n50=25 =XX =\r\nmore="
    assert message(raw).content["body"].startswith("50% =XX more")


def test_a_boundary_that_never_ends_loses_nothing() -> None:
    raw = HEAD + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nHello\r\n--b\r\n\r\nZoe"
    assert message(raw).content["body"] == "Hello\nZoe"
    raw = HEAD + b"Content-Type: multipart/mixed\r\n\r\nno boundary at all"
    assert isinstance(read(raw), MessageReceived)


@pytest.mark.parametrize("hostile", ["nested", "many", "wide_head", "long_header", "rfc822"])
def test_hostile_mail_is_bounded_and_says_what_was_left_out(hostile: str) -> None:
    match hostile:
        case "nested":
            parts = [f"Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n" for n in range(3_000)]
            raw = HEAD + "".join(parts).encode()
        case "many":
            raw = (
                HEAD
                + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
                + (b"--b\r\nContent-Disposition: attachment\r\n\r\nx\r\n" * (PARTS_MAX * 4))
            )
        case "wide_head":
            raw = HEAD + b"X-A: b\r\n" * 200_000 + b"\r\nx"
        case "long_header":
            raw = HEAD + b"Subject: " + b"(" * 3_000_000 + b"\r\n\r\nx"
        case _:
            raw = HEAD + b"Content-Type: message/rfc822\r\n\r\n" * (MULTIPARTS_MAX * 50)
    event = message(raw)
    assert event.metadata["email"]["flaws"]
    assert len(event.media) <= 100
    msgspec.json.encode(event)


# ------------------------------------------------------------------ people and ids


def test_the_same_mail_has_the_same_id_by_any_way() -> None:
    assert message(mail()).platform_id == "1@example.org"
    without = HEAD.replace(b"Message-ID: <1@example.org>\r\n", b"Date: Tue, 06 Jan 2026 10:00:00 +0000\r\n")
    first = message(without + b"\r\nHello  Zoe")
    again = message(b"Received: by elsewhere\r\n" + without + b"\r\nHello Zoe\r\n")
    other = message(without + b"\r\nHello Kim")
    assert first.platform_id == again.platform_id != other.platform_id
    assert first.thread is not None
    assert first.thread.message_id is None


def test_ids_are_compared_without_what_does_not_matter() -> None:
    raw = mail(Message_ID="< A+b@Example.ORG >")
    assert message(raw).platform_id == "A+b@example.org"
    assert len(message(mail(Message_ID=f"<{'x' * 900}@example.org>")).platform_id) < 100


def test_who_wrote_is_found_where_it_can_be() -> None:
    assert message(b"\r\nHello", envelope_from="zoe@example.org").contact.keys == ("zoe@example.org",)
    assert message(b"From: Zoe ZOE@Example.org\r\n\r\nx").contact.keys == ("zoe@example.org",)
    assert message(b'From: "a@b.example" <zoe@example.org>\r\n\r\nx').contact.keys == ("zoe@example.org",)
    nobody = read(b"Subject: x\r\n\r\nx", envelope_from=None)
    assert isinstance(nobody, Unsupported)
    assert nobody.contact is None


def test_answers_go_where_the_customer_wants_them() -> None:
    event = message(mail(Reply_To="Orders <orders@example.org>"))

    assert event.thread is not None
    assert event.thread.address == "orders@example.org"
    assert event.contact.keys == ("zoe@example.org",)


# ------------------------------------------------------------------ threads


def endpoint(secret: str = SECRET) -> Endpoint:
    return Endpoint(
        platform="email",
        external_id=ACCOUNT,
        parent_id=None,
        tenant_id=1,
        channel_id=1,
        endpoint_key="k",
        secrets={"reply_secret": secret},
    )


def test_a_token_names_one_message_of_one_account() -> None:
    token = reply_token(7_000_000_000_001, account=ACCOUNT, secret=SECRET)

    assert len(token) == 30
    assert open_token(token.upper(), account=ACCOUNT, secret=SECRET) == 7_000_000_000_001
    assert open_token(token, account="other@shop.example", secret=SECRET) is None
    assert open_token(token, account=ACCOUNT, secret="another") is None
    assert open_token(token, account=ACCOUNT, secret="") is None
    for at in range(1, 30):
        forged = token[:at] + ("a" if token[at] != "a" else "b") + token[at + 1 :]
        assert open_token(forged, account=ACCOUNT, secret=SECRET) is None


ID = message_id_for(42, account=ACCOUNT, secret=SECRET)


@pytest.mark.parametrize(
    "headers",
    [
        {"In_Reply_To": f"<{ID}>"},
        {"References": f"<a@example.org> <{ID}> <b@example.org>"},
        {"To": reply_address(42, account=ACCOUNT, secret=SECRET).upper()},
        {"In_Reply_To": "<rewritten@relay.example>", "References": f"<{ID}> <c@example.org>"},
    ],
)
def test_an_answer_proves_what_it_answers(headers: dict[str, str]) -> None:
    event = recognise(message(mail(**headers)), endpoint())

    assert isinstance(event, MessageReceived)
    assert event.answers == 42
    assert "reply_token" not in event.metadata


def test_a_token_that_does_not_hold_proves_nothing() -> None:
    event = recognise(message(mail(In_Reply_To=f"<{ID}>")), endpoint("another"))

    assert isinstance(event, MessageReceived)
    assert event.answers is None


def test_our_own_mail_is_no_customers() -> None:
    assert isinstance(recognise(message(mail(Message_ID=f"<{ID}>")), endpoint()), AccountNotice)
    marked = message(mail(X_Mijra_Loop=ACCOUNT))
    assert (marked.automated, marked.metadata["email"]["automatic"]) == (False, "own")
    ours = recognise(message(mail(From=ACCOUNT)), endpoint())
    assert isinstance(ours, MessageReceived)
    assert not ours.automated


def test_references_are_bounded_and_keep_the_first() -> None:
    ids = [f"{n}@example.org" for n in range(60)]
    event = message(mail(References=" ".join(f"<{each}>" for each in ids)))

    assert event.thread is not None
    assert len(event.thread.references) == 20
    assert event.thread.references[-1] == "59@example.org"


# ------------------------------------------------------------------ robots and reports


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        ({"Auto_Submitted": "auto-replied (vacation)"}, "auto_replied"),
        ({"Auto_Submitted": "auto-generated"}, "auto_submitted"),
        ({"Precedence": "bulk"}, "precedence"),
        ({"List_Id": "<news.example.org>"}, "list"),
        ({"X_Auto_Response_Suppress": "All"}, "x-auto-response-suppress"),
        ({"X_Autoreply": "yes"}, "x-autoreply"),
        ({"From": "no-reply@example.org"}, "robot_address"),
        ({"From": "MAILER-DAEMON@example.org"}, "robot_address"),
        ({"Return_Path": "<>"}, "empty_sender"),
    ],
)
def test_robots_are_known_and_never_answered(headers: dict[str, str], word: str) -> None:
    event = message(mail(**headers))

    assert not event.automated
    assert event.metadata["email"]["automatic"] == word


@pytest.mark.parametrize("headers", [{}, {"Auto_Submitted": "no"}, {"X_Auto_Response_Suppress": "None"}])
def test_people_are_answered(headers: dict[str, str]) -> None:
    assert message(mail(**headers)).automated
    assert not message(mail(**headers), envelope_from="").automated


def report(kind: str, block: str, returned: str = "Message-ID: <first@shop.example>") -> bytes:
    return (
        textwrap.dedent(f"""\
        From: MAILER-DAEMON@mx.example
        To: {ACCOUNT}
        Message-ID: <r@mx.example>
        Date: Tue, 06 Jan 2026 10:00:00 +0000
        Content-Type: multipart/report; boundary=b

        --b
        Content-Type: text/plain

        Sorry.
        --b
        Content-Type: message/{kind}

        @BLOCK@
        --b
        Content-Type: text/rfc822-headers

        {returned}

        --b--
        """)
        .replace("@BLOCK@", block)
        .encode()
    )


DSN = "Reporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; Zoe@example.org\nAction: {}\nStatus: {}\n"


def test_a_bounce_fails_the_message_that_it_returns() -> None:
    block = DSN.format("failed", "5.1.1") + "Diagnostic-Code: smtp; 550 5.1.1 unknown\n"
    event = read(report("delivery-status", block), envelope_from="")

    assert isinstance(event, StatusChanged)
    assert (event.status, event.platform_id) == ("failed", "first@shop.example")
    assert event.contact.keys == ("zoe@example.org",)
    assert event.error is not None
    assert event.error.platform_code == "5.1.1"
    assert event.error.message.startswith("There is no such mailbox.")
    assert event.at == 1767693600000


def test_the_more_exact_code_decides() -> None:
    block = DSN.format("failed", "4.2.2") + "Diagnostic-Code: smtp; 552 5.2.2 full\n"
    event = read(report("delivery-status", block))

    assert isinstance(event, StatusChanged)
    assert event.error is not None
    assert (event.error.platform_code, event.error.retryable) == ("4.2.2", True)


@pytest.mark.parametrize(
    ("action", "status"), [("delayed", "sent"), ("relayed", "sent"), ("delivered", "delivered")]
)
def test_a_delay_is_no_failure(action: str, status: str) -> None:
    event = read(report("delivery-status", DSN.format(action, "4.4.1")))

    assert isinstance(event, StatusChanged)
    assert (event.status, event.raw_status, event.error) == (status, f"dsn_{action}", None)


def test_a_complaint_fails_the_message_and_says_what_it_is() -> None:
    block = "Feedback-Type: abuse\nUser-Agent: x\nOriginal-Rcpt-To: <zoe@example.org>\n"
    event = read(report("feedback-report", block))

    assert isinstance(event, StatusChanged)
    assert event.error is not None
    assert (event.status, event.error.platform_code) == ("failed", "complaint")


def test_a_receipt_of_reading_is_one() -> None:
    block = (
        "Final-Recipient: rfc822; zoe@example.org\nOriginal-Message-ID: <first@shop.example>\n"
        "Disposition: manual-action/MDN-sent-manually; displayed\n"
    )
    event = read(report("disposition-notification", block, returned="Subject: x"))

    assert isinstance(event, StatusChanged)
    assert event.status == "read"


def test_a_report_about_a_token_of_ours_names_our_message() -> None:
    event = read(report("delivery-status", DSN.format("failed", "5.1.1"), f"Message-ID: <{ID}>"))

    recognised = recognise(event, endpoint())
    assert isinstance(recognised, StatusChanged)
    assert recognised.callback == "42"


def test_a_report_that_names_no_message_is_a_robots_mail() -> None:
    event = message(report("delivery-status", DSN.format("failed", "5.1.1"), "Subject: x"))

    assert not event.automated


# ------------------------------------------------------------------ anything


@given(raw=st.binary(max_size=2_000))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_an_event(raw: bytes) -> None:
    for whole in (raw, HEAD + raw, HEAD + b"\r\n" + raw):
        msgspec.json.encode(recognise(read(whole), endpoint()))


SEEDS = [nested(), report("delivery-status", DSN.format("failed", "5.1.1")), mail(References=f"<{ID}>")]


@given(data=st.data(), noise=st.binary(max_size=60), at=st.integers(0, 4_000), cut=st.integers(0, 60))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_mail_is_an_event_and_its_files_are_bytes(
    data: st.DataObject, noise: bytes, at: int, cut: int
) -> None:
    seed = data.draw(st.sampled_from(SEEDS))
    at %= len(seed)
    raw = seed[:at] + noise + seed[at + cut :]
    event = read(raw)
    encoded = msgspec.json.encode(event)
    assert b"\\u0000" not in encoded
    assert read(raw) == event
    if isinstance(event, MessageReceived):
        for number in range(len(event.media)):
            assert part_bytes(raw, event, number) is not None


@pytest.mark.parametrize(
    "named",
    [{"callback": "42", "platform_id": "a-uuid"}, {"platform_id": "abc", "detail": {"smtp_id": f"<{ID}>"}}],
)
def test_whatever_a_provider_calls_a_message_it_is_known_by_its_own_id(named: dict[str, Any]) -> None:
    event = StatusChanged(
        contact=Contact(keys=("zoe@example.org",)), status="failed", at=1, raw_status="bounce", **named
    )

    known = recognise(event, endpoint())
    assert isinstance(known, StatusChanged)
    assert (known.callback, known.platform_id) == ("42", ID)
