"""What happened, twice: as a hash of everything, and as lines that a person can read.

The hash takes in every committed statement with its rows, every answer, every call of the platform, every
frame that a screen got, every log line and every fault, each with its time. Two runs with one hash did the
same things in the same order at the same moments.
"""

import hashlib
from typing import Any, Final

import msgspec
import trio
from msgspec import Struct

_SHOWN_MAX: Final = 240

_encode = msgspec.json.Encoder(enc_hook=repr).encode


class Line(Struct, frozen=True):
    """One thing that happened. `about` names conversations, contacts and messages, for whoever looks for one
    of them; no names: it concerned everybody."""

    at: float
    who: str
    what: str
    about: frozenset[Any]


class Record:
    """Filled by everybody, read by nobody before the end."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.steps = 0
        self._hash = hashlib.sha256()

    def now(self) -> float:
        try:
            return trio.current_time()
        except RuntimeError:
            return 0.0

    def add(self, *what: object) -> None:
        """Into the hash alone."""
        self.steps += 1
        self._hash.update(_encode((self.now(), what)))

    def tell(self, who: str, what: str, *about: Any) -> None:
        """Into the hash and the timeline."""
        self.add(who, what)
        self.lines.append(Line(self.now(), who, what, frozenset(one for one in about if one is not None)))

    def hash(self) -> str:
        return self._hash.hexdigest()

    def timeline(self, about: frozenset[Any] | None = None, *, lines_max: int = 400) -> list[str]:
        """The newest lines; with names, those that mention one of them or concern everybody."""
        chosen = [line for line in self.lines if about is None or not line.about or line.about & about]
        return [f"{clock(line.at)}  {line.who:<9} {_one_line(line.what)}" for line in chosen[-lines_max:]]


def _one_line(what: str) -> str:
    """Tracebacks and bodies have many, and their end says most."""
    line = " ".join(what.split())
    return line if len(line) <= _SHOWN_MAX else f"{line[: _SHOWN_MAX // 2]} … {line[-_SHOWN_MAX // 2 :]}"


def clock(seconds: float) -> str:
    """Time since the day began: days, hours, minutes, seconds, milliseconds."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{f'{days}d ' if days else ''}{hour:02}:{minute:02}:{second:02}.{milliseconds:03}"
