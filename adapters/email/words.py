"""Bytes of mail into text: charsets as they are declared, guessed where that fails, headers' encoded words
(RFC 2047) and parameters (RFC 2231).

Promises    Any bytes become text that PostgreSQL and JSON take: no NUL, no half of a pair, no control
            characters but tabs and line ends. Linear in the input.
"""

import base64
import binascii
import codecs
import re
from typing import Final
from urllib.parse import unquote_to_bytes

_WORD: Final = re.compile(r"=\?([^?\s]{1,80})\?([bBqQ])\?([^?\n]*)\?=")
_BETWEEN_WORDS: Final = re.compile(r"(\?=)\s+(?==\?[^?\s]{1,80}\?[bBqQ]\?)")
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufeff]")
_HIGH: Final = re.compile(rb"[\x80-\xff]+")
_ARABIC: Final = re.compile("[\u0621-\u064a]")

_ALIASES: Final = {
    "unicode-1-1-utf-7": "utf-7",
    "x-unknown": "utf-8",
    "unknown-8bit": "utf-8",
    "default": "utf-8",
    "ansi": "windows-1252",
    "x-mac-arabic": "mac_arabic",
    "iso-8859-8-i": "iso-8859-8",
    "iso-8859-6-i": "iso-8859-6",
    "cp-850": "cp850",
    "ks_c_5601-1987": "cp949",
    "gb2312": "gb18030",
    "us-ascii": "ascii",
    # What is declared as Latin-1 is Microsoft's set in truth; browsers read it so too.
    "iso-8859-1": "windows-1252",
    "latin-1": "windows-1252",
}


def text_of(data: bytes, charset: str | None) -> str:
    """`data` in its declared charset; where that is missing, unknown or wrong: UTF-8, then Windows-1256 where
    that looks like Arabic, then Latin-1, which takes any byte."""
    for name in (charset, "utf-8"):
        found = _decoded(data, name) if name else None
        if found is not None:
            return clean(found)
    if _looks_arabic(data):
        return clean(data.decode("windows-1256", "replace"))
    return clean(data.decode("windows-1252", "replace") if charset else data.decode("latin-1"))


def clean(text: str) -> str:
    """Without what cannot be stored, lines ending in LF."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def header_text(raw: str) -> str:
    """A header's value for people: unfolded, encoded words decoded, on one line. `raw` is as the parser of
    the standard library gives it: bytes above 127 stand as halves of pairs."""
    value = _unescaped(raw)
    if "=?" in value:
        value = _BETWEEN_WORDS.sub(r"\1", value)
        value = _decode_words(value)
    return " ".join(clean(value).split())


def parameter_text(value: object) -> str:
    """A parameter, such as a file name, as `Message.get_param` gives it: text, or RFC 2231's triple."""
    if isinstance(value, tuple) and len(value) == 3:
        charset, _, text = value
        data = str(text).encode("latin-1", "replace")
        return " ".join(text_of(data, str(charset) if charset else None).split())
    return header_text(str(value))


def extended_value(value: str) -> str:
    """RFC 5987's CHARSET'LANGUAGE'PERCENT-ENCODED, in `filename*=` of forms."""
    charset, _, rest = value.partition("'")
    _, _, encoded = rest.partition("'")
    return text_of(unquote_to_bytes(encoded), charset or None)


def _decoded(data: bytes, charset: str) -> str | None:
    name = charset.strip().strip("\"'").lower()
    try:
        codec = codecs.lookup(_ALIASES.get(name, name))
        if not codec._is_text_encoding:
            return None
        return codec.decode(data, "strict")[0]
    except (LookupError, ValueError, UnicodeError):
        return None


def _looks_arabic(data: bytes) -> bool:
    """In Arabic nearly all bytes above 127 stand beside others and are letters; in French or German they
    stand alone."""
    runs = _HIGH.findall(data[:20_000])
    high = b"".join(runs)
    if len(high) < 2:
        return False
    in_words = sum(len(run) for run in runs if len(run) > 1)
    letters = len(_ARABIC.findall(high.decode("windows-1256", "replace")))
    return in_words >= 0.7 * len(high) and letters >= 0.7 * len(high)


def _unescaped(raw: str) -> str:
    """Bytes that stood raw in a header."""
    if raw.isascii():
        return raw
    try:
        return text_of(raw.encode("utf-8", "surrogateescape"), None)
    except UnicodeEncodeError:
        return clean(raw)


def _decode_words(value: str) -> str:
    """Neighbours of one charset are decoded as one: some programs cut within a character."""
    out: list[str] = []
    pending = b""
    pending_charset = ""
    at = 0
    for word in _WORD.finditer(value):
        charset = word[1].partition("*")[0].lower()  # RFC 2231 adds a language
        if pending and (word.start() != at or charset != pending_charset):
            out.append(text_of(pending, pending_charset))
            pending = b""
        out.append(value[at : word.start()])
        pending += _word_bytes(word[2], word[3])
        pending_charset = charset
        at = word.end()
    if pending:
        out.append(text_of(pending, pending_charset))
    out.append(value[at:])
    return "".join(out)


def _word_bytes(encoding: str, text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    if encoding in "bB":
        return loose_base64(data)
    return binascii.a2b_qp(data.replace(b"_", b" "))


def loose_base64(data: bytes) -> bytes:
    """Whatever can be read of it: other characters are passed over, an incomplete end is dropped."""
    kept = _NOT_BASE64.sub(b"", data)
    kept, _, _ = kept.partition(b"=")
    if len(kept) % 4 == 1:
        kept = kept[:-1]
    return base64.b64decode(kept + b"=" * (-len(kept) % 4))


_NOT_BASE64: Final = re.compile(rb"[^A-Za-z0-9+/=]+")
