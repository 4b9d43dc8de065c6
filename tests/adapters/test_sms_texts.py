"""Texts: how many parts they have, and which of them are opt-outs."""

import pytest

from adapters.sms.optout import HELP, START, STOP, keyword
from adapters.sms.segments import GSM_7, UCS_2, segments


@pytest.mark.parametrize(
    ("text", "encoding", "units", "count"),
    [
        ("", GSM_7, 0, 1),
        ("a" * 160, GSM_7, 160, 1),
        ("a" * 161, GSM_7, 161, 2),
        ("a" * 306, GSM_7, 306, 2),
        ("a" * 307, GSM_7, 307, 3),
        ("@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ", GSM_7, 31, 1),
        ("€" * 80, GSM_7, 160, 1),
        ("€" * 81, GSM_7, 162, 2),
        # An escape and its character stay together: the 153rd septet is left empty.
        ("a" * 152 + "€" * 77, GSM_7, 306, 3),
        ("^{}\\[~]|€\f", GSM_7, 20, 1),
        ("م" * 70, UCS_2, 70, 1),
        ("م" * 71, UCS_2, 71, 2),
        ("م" * 134, UCS_2, 134, 2),
        ("م" * 135, UCS_2, 135, 3),
        ("a" * 159 + "ç", UCS_2, 160, 3),
        ("👍", UCS_2, 2, 1),
        ("👍" * 35, UCS_2, 70, 1),
        # Half an emoji is none: 33 of them and a unit left over in each part.
        ("👍" * 36, UCS_2, 72, 2),
        ("👍" * 67, UCS_2, 134, 3),
        ("👨‍👩‍👧", UCS_2, 8, 1),
        ("’", UCS_2, 1, 1),
    ],
)
def test_a_text_is_cut_into_so_many_parts(text: str, encoding: str, units: int, count: int) -> None:
    found = segments(text)
    assert (found.encoding, found.units, found.count) == (encoding, units, count)


@pytest.mark.parametrize(
    "text",
    [
        "STOP", "stop", " Stop. ", "“STOP”", "STOP!!!", "ＳＴＯＰ", "stop\n", "StopAll", "Unsubscribe",
        "cancel", "END", "quit", "opt-out", "OPTOUT", "Revoke",
        "إيقاف", "ايقاف", "إيقـــاف", "إِيقَاف", "\u200fإيقاف\u200f", "إيقاف.", "الغاء", "إلغاء",
        "إلغاء الاشتراك", "الغاء الإشتراك", "توقف", "توقّف", "قف", "أوقف",
    ],
)  # fmt: skip
def test_a_message_that_is_nothing_but_the_word_is_an_opt_out(text: str) -> None:
    """Whatever the case, the letter forms, and what people and keyboards put around."""
    assert keyword(text) == STOP


@pytest.mark.parametrize("text", ["START", "unstop", "Yes", "ابدأ", "إشتراك", "اشترك"])
def test_people_may_come_back(text: str) -> None:
    assert keyword(text) == START


@pytest.mark.parametrize("text", ["HELP", "info?", "مساعدة", "مساعده"])
def test_people_may_ask_for_help(text: str) -> None:
    assert keyword(text) == HELP


@pytest.mark.parametrize(
    "text",
    [
        "", "please stop", "Stop by at five", "don't stop", "cancel my order", "the end", "yes please",
        "stopp", "أريد إيقاف الطلب", "إلغاء الطلب", "توقفت السيارة", "لا", "stop " * 30, "STOP 2",
    ],
)  # fmt: skip
def test_the_word_within_a_message_is_none(text: str) -> None:
    """Nobody is cut off for saying it."""
    assert keyword(text) is None
