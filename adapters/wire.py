"""The careful reading of platforms' JSON, shared by the adapters.

Promises    `decode_json` raises InvalidInput and nothing else, whatever the bytes, and gives nothing that is
            nested too deeply for recursive encoders further on. `decoded` raises nothing.
"""

import re
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec

from engine.errors import InvalidInput

Json = dict[str, Any]
"""A JSON object, of which nothing more is known."""

T = TypeVar("T")

DEPTH_MAX: Final = 64
"""Platforms nest about ten levels. Deeper content would exhaust recursive encoders further on."""

CONTAINERS_MAX: Final = 50_000
BYTES_PER_CONTAINER_MIN: Final = 16
"""Platforms write forty bytes and more for each object or list; brackets in texts are counted too. Three
bytes make an empty one, and three megabytes of those take the time of hundreds of deliveries to decode."""

EVENTS_MAX: Final = 5_000
"""Of one delivery. Meta names a thousand; SendGrid's batches end at 768 kB, some 3,000. The largest body
could hold a million empty items, and reading each costs time that is everybody's."""

_ID_MAX: Final = 512
"""Message ids have 60 to 200 characters; an index entry of the database holds some 2,700 bytes."""


def decoded(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw) -> T | None:
    """A platform's answer by its type; None where it is not of that type."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def decode_json(body: bytes) -> Any:
    """JSON, with halves of emoji mended. Raises InvalidInput and nothing else."""
    containers = body.count(b"{") + body.count(b"[")
    if containers > max(CONTAINERS_MAX, len(body) // BYTES_PER_CONTAINER_MIN):
        raise InvalidInput("the JSON is nothing but brackets", code="not_json")
    try:
        decoded = _decode_lenient(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput("the body is not JSON that can be read", code="not_json") from error
    # A body with fewer brackets than the limit cannot be nested deeper, and nearly all have.
    if containers > DEPTH_MAX and _deeper_than(decoded, DEPTH_MAX):
        raise InvalidInput(f"the JSON is nested deeper than {DEPTH_MAX} levels", code="not_json")
    return decoded


def bounded(events: Iterable[T]) -> list[T]:
    """All of them, if they are no more than a platform puts into a delivery. Raises InvalidInput."""
    found = list(islice(events, EVENTS_MAX + 1))
    if len(found) > EVENTS_MAX:
        raise InvalidInput(f"the delivery has more than {EVENTS_MAX} items", code="not_understood")
    return found


def _decode_lenient(body: bytes) -> Any:
    """A text that was cut in the middle of an emoji leaves half a surrogate pair, which strict decoders
    refuse with the whole delivery. The half becomes U+FFFD, as every display would show it."""
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        if b"\\u" not in body:
            raise
        repaired = _ESCAPE.sub(_whole_surrogates, body)
        if repaired == body:
            raise
        return msgspec.json.decode(repaired)


_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL
)


def _whole_surrogates(match: re.Match[bytes]) -> bytes:
    escape = match.group()
    lone = len(escape) == 6 and escape[2:3] in b"dD" and escape[3:4] in b"89abcdefABCDEF"
    return b"\\ufffd" if lone else escape


def _deeper_than(value: Any, levels: int) -> bool:
    """Level by level instead of by recursion: the input may be as deep as its author liked."""
    level = [value]
    for _ in range(levels + 1):
        following: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                following.extend(one.values())
            elif isinstance(one, list):
                following.extend(one)
        if not following:
            return False
        level = following
    return True


def read_json_text(text: str) -> Any:
    """JSON inside a JSON string (`response_json`); the text itself where it is none."""
    try:
        return decode_json(text.encode())
    except (InvalidInput, UnicodeEncodeError):
        return text


def usable_id(value: object) -> str | None:
    """`value` if it can serve as an id: text, not empty, of bounded length."""
    return value if isinstance(value, str) and 0 < len(value) <= _ID_MAX else None


_YEAR_2286_SECONDS: Final = 10**10
_YEAR_10000_MS: Final = 253_402_300_800_000


def moment(value: Any) -> int | None:
    """A time in ms. What is too small for milliseconds of this century are seconds."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 15:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        return None
    ms = value * 1_000 if value < _YEAR_2286_SECONDS else value
    return ms if ms < _YEAR_10000_MS else None
