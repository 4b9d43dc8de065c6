"""The words by which people say that they want no more messages, or want them again.

Promises    Only a message that is nothing but the word counts: "please cancel my order" is no opt-out. Case,
            Arabic letter forms, diacritics, direction marks and punctuation around the word do not matter.
Source      The English words are those that Twilio acts on by itself, so a message after one of them would be
            refused there too (error 21610); the Arabic ones are ours.
"""

import re
import unicodedata
from typing import Final

from engine.domain.folding import fold

STOP, START, HELP = "stop", "start", "help"

_WORDS: Final = {
    STOP: (
        "stop stopall unsubscribe cancel end quit revoke optout arret",
        ("stop all", "opt out", "opt-out"),
        "إيقاف ايقاف أوقف أوقفوا توقف توقفوا قف وقف إلغاء الغاء ألغ الغي",
        ("إلغاء الاشتراك", "الغاء اشتراك", "إيقاف الرسائل", "أوقف الرسائل", "لا ترسل"),
    ),
    START: (
        "start yes unstop optin",
        ("opt in", "opt-in"),
        "ابدأ ابدا بدء اشتراك اشترك تفعيل استئناف",
        ("إعادة الاشتراك",),
    ),
    HELP: ("help info aide", (), "مساعدة المساعدة", ()),
}

_CHARACTERS_MAX: Final = 60
"""The longest of them, with all that people put around."""
_MARKS: Final = re.compile("[\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_AROUND: Final = re.compile(r"^[\W_]+|[\W_]+$")


def keyword(text: str) -> str | None:
    """`STOP`, `START` or `HELP` where the whole message says so."""
    if len(text) > _CHARACTERS_MAX:
        return None
    return _MEANINGS.get(_plain(text))


def _plain(text: str) -> str:
    written = fold(_MARKS.sub("", unicodedata.normalize("NFKC", text)))
    return " ".join(_AROUND.sub("", written).split())


_MEANINGS: Final = {
    _plain(word): meaning
    for meaning, (words, phrases, arabic, arabic_phrases) in _WORDS.items()
    for word in (*words.split(), *phrases, *arabic.split(), *arabic_phrases)
}
