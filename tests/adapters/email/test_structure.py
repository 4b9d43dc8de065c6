"""What mailbox servers tell of a mail, as they write it and as nobody should."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.email.structure import leaves_of, told_of

DOVECOT = (
    b'2 (UID 7 BODYSTRUCTURE (("text" "plain" ("charset" "utf-8") NIL NIL "8bit" 29 1 NIL NIL NIL NIL)'
    b'(("text" "html" ("charset" "utf-8") NIL NIL "quoted-printable" 120 4 NIL NIL NIL NIL)'
    b'("image" "png" ("name" "a \\"b\\".png") "<cid@x>" NIL "base64" 4000 NIL'
    b' ("inline" ("filename" "a.png")) NIL NIL)'
    b' "related" ("boundary" "b2") NIL NIL NIL)'
    b'("message" "rfc822" NIL NIL NIL "7bit" 900 ("Mon, 1 Jan 2024 00:00:00 +0000"'
    b' "Inner" NIL NIL NIL NIL NIL NIL NIL NIL)'
    b' ("text" "plain" NIL NIL NIL "7bit" 20 1 NIL NIL NIL NIL) 20 NIL NIL NIL NIL)'
    b' "mixed" ("boundary" "b1") NIL NIL NIL))'
)


def test_nested_parts_are_numbered_as_they_are_fetched() -> None:
    told = told_of(7, [DOVECOT])
    assert told is not None
    leaves = leaves_of(told["BODYSTRUCTURE"])
    assert [(each.section, each.media_type, each.bytes) for each in leaves] == [
        ("1", "text/plain", 29),
        ("2.1", "text/html", 120),
        ("2.2", "image/png", 4000),
        ("3", "message/rfc822", 900),
    ]
    assert not any(each.alone for each in leaves)


def test_strings_may_come_as_literals_and_news_of_other_mails_in_between() -> None:
    """As imaplib hands them over: a pair for each literal, and what follows it."""
    told = told_of(
        7,
        [
            b"1 (FLAGS (\\Seen))",
            (b'2 (BODYSTRUCTURE ("APPLICATION" "PDF" ("NAME" {9}', b'a "x).pdf'),
            b') NIL NIL "BASE64" 50000000 NIL) UID 7)',
            b"3 (UID 8 FLAGS ())",
        ],
    )
    assert told is not None
    (leaf,) = leaves_of(told["BODYSTRUCTURE"])
    assert (leaf.section, leaf.media_type, leaf.bytes, leaf.alone) == (
        "1",
        "application/pdf",
        50_000_000,
        True,
    )
    assert told_of(9, [b"2 (UID 7 FLAGS ())"]) is None


def test_sections_come_as_literals_strings_or_nothing() -> None:
    data = [(b"2 (UID 7 BODY[1.MIME]<0> {4}", b"a: b"), b' BODY[1]<0> "short" BODY[2]<0> NIL)']
    told = told_of(7, data)
    assert told is not None
    assert [told[f"BODY[{name}]<0>"] for name in ("1.MIME", "1", "2")] == [b"a: b", b"short", None]


@pytest.mark.parametrize(
    "text",
    [
        b"2 (UID 7 BODYSTRUCTURE " + b"(" * 100_000,
        b"2 (UID 7 BODYSTRUCTURE " + b"(" * 300 + b")" * 300 + b")",
        b"2 (UID 7 BODYSTRUCTURE " + b'("a" "b" NIL NIL NIL "7bit" 1)' * 5_000 + b")",
        b'2 (UID 7 BODYSTRUCTURE ("a" "b" NIL NIL NIL "7bit" "much"))',
        b'2 (UID 7 BODYSTRUCTURE ("a" "b"))',
        b"2 (UID 7 BODYSTRUCTURE NIL)",
        b"2 (UID 7 BODYSTRUCTURE {5}",
        b"))))",
    ],
)
def test_what_cannot_be_read_tells_of_no_parts(text: bytes) -> None:
    told = told_of(7, [text]) or {}
    assert leaves_of(told.get("BODYSTRUCTURE")) == ()


@given(
    st.lists(
        st.sampled_from(
            [b"(", b")", b'"', b" ", b"NIL", b"7", b"UID ", b"BODYSTRUCTURE ", b'"a"', b"{3}", b"\\"]
        )
    )
)
def test_nothing_is_raised_whatever_the_bytes(pieces: list[bytes]) -> None:
    told = told_of(7, [b"2 (UID 7 " + b"".join(pieces)]) or {}
    for each in told.values():
        leaves_of(each)
